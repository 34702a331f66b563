// A call of attention, how it is cut into tasks, and a worker's state.
//
// Lanes of one row with consecutive positions form a run, whose queries share a walk over the row's keys. Keys are cut into
// chunks at absolute multiples of kChunk. Each chunk has a softmax of its own, and the chunks' results are merged in order:
// so the bits of a token depend on its query and its prefix, not on the number of lanes, tasks or threads.
#pragma once

#include "../../call.h"
#include "../../simd/amx.h"
#include "../../simd/wide.h"

namespace octavo::OCTAVO_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kStrip = 8;
#elif defined(__AVX2__)
constexpr int kStrip = 6;
#elif defined(__aarch64__)
constexpr int kStrip = 8;
#else
constexpr int kStrip = 4;
#endif
#if defined(OCTAVO_AMX)
constexpr bool kTiles = true;
#else
constexpr bool kTiles = false;
#endif
#if defined(__AVX512VNNI__)
#define OCTAVO_CODE_ATTENTION 1  // codes.h
#endif
#if defined(__AVX512BF16__)
#define OCTAVO_PAIR_ATTENTION 1  // pairs.h
#endif
constexpr int kQueryParts = 3, kWeightParts = 2;  // of 8 bits
constexpr int kMostRows = kTiles ? 16 : kStrip;   // rows of any strip
constexpr int kParts3 = kTiles ? 3 : 2;           // 16-bit halves per number: three bf16 with tiles, else one f32
constexpr int kPanel = 2 * kPartLanes;            // columns of a register tile
constexpr int kKeys = 64;                         // keys per block
constexpr int kRows = 128 / kStrip * kStrip;      // rows per task
constexpr int kPlaces = kKeys / 16;               // per block: groups of 16 adjacent keys
constexpr int64_t kChunk = 512;                   // keys per chunk
constexpr int64_t kEnoughTasks = 64;              // with fewer, chunks become tasks of their own
constexpr int64_t kMostPartial = 8 << 20;         // most floats of their results
constexpr int kMergeRows = 16;                    // rows merged by one task

// Operands and attributes of the op, in the order of its signature.
enum { Q, K, V, SCALES, LANES, TABLE, MASK, SEGMENTS, SLOPES, DISTANCES, BIAS, SINKS, Y };
enum { SCALE, CAUSAL, WINDOW, SOFTCAP, COMPUTE };
// Flags of `compute`: products in bf16, and the same bits from all paths.
constexpr int kBf16 = 1, kDeterministic = 4;

// Lanes t0, t0 + 1, ... of b: tokens past, past + 1, ... of one row.
struct Run {
  int64_t b, t0, count;
  const int32_t* pages;  // ids of the row's pages; null: all keys lie in page b
  int64_t past;          // position of the first token
  int64_t total;         // end of the keys seen by any token
  int64_t rows;          // of queries: count * R
  int64_t blocks;        // of rows
  int64_t first, chunks; // number of the first chunk seen by any token, and of chunks
  int64_t task;          // number of its first task
  int64_t merged;        // rows of the runs before it, over all heads
  int64_t partial;       // offset of its chunks' results
  bool tiles;            // matrix units
  bool codes;            // products of i8 codes (codes.h)
};

struct Job {
  Tensor q, k, v, bias;
  const float *k_scales, *v_scales;  // [P,G,S]: absmax of rows of codes; null for floats
  const uint8_t* mask;
  const int32_t* segments;
  const float *slopes, *distances, *sinks;
  float* y;
  int64_t B, T, H, G, R, S, D, E;
  int64_t columns;  // pages of a row of the table
  int64_t reach;    // largest distance with a bias of its own
  int64_t Ew;       // E rounded up to whole vectors
  int64_t Dw;       // floats per query or key: D; with tiles whole tiles of three bf16 parts; with codes its parts
  bool pairs;       // queries and weights rounded to bf16, as keys and values are (pairs.h; with tiles one part of three)
  bool gather;      // 16 keys may be in several pieces
  float scale, softcap;
  int64_t window;  // 0: none
  bool causal, general;
  bool split;      // each chunk is a task of its own

  Run* runs;
  int64_t count;  // of runs
  char* scratch;
  size_t worker_bytes;
  float* partial;  // [run][G][chunk][rows][part()]: sums of values, of weights, and the maximum

  OCTAVO_INLINE int64_t part() const { return Ew + 2 * kPartLanes; }

  // Steps of a product over the dims, except for codes.
  OCTAVO_INLINE int64_t steps() const { return pairs ? (D + 1) / 2 : D; }
  // Keys [low, high) that token t of a run sees.
  OCTAVO_INLINE int64_t low(const Run& run, int64_t t) const {
    const int64_t j = window > 0 ? run.past + t - window + 1 : 0;
    return j > 0 ? j : 0;
  }
  OCTAVO_INLINE int64_t high(const Run& run, int64_t t) const {
    if (!causal && window == 0) return run.total;
    const int64_t j = run.past + t + (causal ? 1 : window);
    return j < 0 ? 0 : j < run.total ? j : run.total;
  }
};

// Where the keys and values of a block lie: in groups of 16 adjacent ones, `step` elements apart.
struct Places {
  const char* at[kPlaces];
  int64_t step;
  bool one;  // the whole block is one piece
};
struct KeyBlock {
  int n;                      // keys
  Places k, v;
  Places next_k, next_v;      // those of the next block, to be prefetched
  const float *k_scale[kPlaces], *v_scale[kPlaces];
};

// The state of one worker.
struct Bench {
  float *q, *acc, *top, *sum, *k, *v, *s, *p;
  float *whole, *whole_top, *whole_sum;  // room for acc, top and sum of a second chunk
  char *gathered_k, *gathered_v;         // copies of scattered keys and values of a block
  float *gathered_k_scale, *gathered_v_scale;
  float *k_scale, *v_scale;  // units of the block's codes; zero for keys that no row sees
  float* q_unit;             // with codes: the unit of each query's first part
  int32_t* q_sum;            // and -128 times the sum of each part
  int32_t *keep, *seg;
};

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Sizes are whole cache lines.
Bench lay_out(const Job& j, char* base, size_t* bytes) {
  float* at = (float*)base;
  const auto take = [&](int64_t floats) {
    float* p = at;
    at += round_up(floats, 16);
    return p;
  };
  Bench b;
  b.q = take(kRows * j.Dw);
  b.q_unit = take(kRows);
  b.q_sum = (int32_t*)take(kRows * kQueryParts);
  b.acc = take((kRows + (kTiles ? kMostRows : 0)) * j.Ew);
  b.whole = take((kRows + (kTiles ? kMostRows : 0)) * j.Ew);
  b.whole_top = take(kRows);
  b.whole_sum = take(kRows * kPartLanes);
  b.gathered_k = (char*)take(j.gather ? kKeys * j.D : 0);
  b.gathered_v = (char*)take(j.gather ? kKeys * j.E : 0);
  b.gathered_k_scale = take(kKeys);
  b.gathered_v_scale = take(kKeys);
  b.k = take(kKeys * j.Dw);
  b.v = take(kKeys * j.Ew * kParts3 / 2);
  b.sum = take(kRows * kPartLanes);
  b.s = take(kMostRows * kKeys);
  b.p = kTiles ? take(kMostRows * kKeys * kParts3 / 2) : nullptr;
  b.keep = (int32_t*)take(kKeys);
  b.seg = (int32_t*)take(kKeys);
  b.top = take(kRows);
  b.k_scale = take(kKeys);
  b.v_scale = take(kKeys);
  if (bytes != nullptr) *bytes = (size_t)((char*)at - base);
  return b;
}
Bench bench_at(const Job& j, int worker) {
  return lay_out(j, j.scratch + (size_t)worker * j.worker_bytes, nullptr);
}

// The rows of a block are divided evenly among strips.
struct Strips {
  int64_t rows, count;
  bool tiles;  // then whole tiles, except the last
  Strips(int64_t n, bool with_tiles)
      : rows(n), count((n + (with_tiles ? 16 : kStrip) - 1) / (with_tiles ? 16 : kStrip)), tiles(with_tiles) {}
  int64_t start(int64_t s) const { return s == count ? rows : tiles ? s * 16 : s * rows / count; }
};

// Bytes of an element of q, k or v.
constexpr int64_t width_of(DType type) { return type == DType::f32 ? 4 : type == DType::i8 ? 1 : 2; }

// Element 0 of key j of a block; key j + 1 is `step` elements further, up to the next multiple of 16.
template <DType kType>
OCTAVO_INLINE const Element<kType>* elements(const Places& places, int j) {
  return (const Element<kType>*)places.at[j / 16] + (j % 16) * places.step;
}

// Calls f with the dtype as a type.
template <DType kType>
struct TypeOf {
  static constexpr DType type = kType;
};
template <class F>
OCTAVO_INLINE void by_type(DType type, const F& f) {
  switch (type) {
    case DType::f16: return f(TypeOf<DType::f16>());
    case DType::bf16: return f(TypeOf<DType::bf16>());
    case DType::i8: return f(TypeOf<DType::i8>());
    default: return f(TypeOf<DType::f32>());
  }
}

}  // namespace
}  // namespace octavo::OCTAVO_ISA
