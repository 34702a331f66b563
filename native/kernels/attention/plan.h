// What one call of attention is, how it is cut into tasks, and what a worker has at hand.
#pragma once

#include "../../call.h"
#include "../../simd/amx.h"

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
constexpr int kParts3 = kTiles ? 3 : 2;           // halves of a number's room: three bf16 with tiles, else one f32
constexpr int kPanel = 2 * kPartLanes;            // columns of a register tile
constexpr int kKeys = 64;                         // keys per block
constexpr int kRows = 128 / kStrip * kStrip;      // rows per task
constexpr int64_t kLeastPiece = 256;              // least keys per piece when the context is cut
constexpr int64_t kEnoughTasks = 64;              // cut the context when there are fewer
constexpr int64_t kMostPieces = 256;              // tasks times pieces
constexpr int kMergeRows = 16;                    // rows merged by one task

struct Job {
  Tensor q, k, v, bias;
  const float *k_scales, *v_scales;  // [B,G,S]: absmax of rows of codes; null for numbers
  const uint8_t* mask;
  const int32_t* segments;
  const float* slopes;
  float* y;
  int64_t B, T, H, G, R, S, D, E;
  int64_t Ew;  // E rounded up to whole vectors
  int64_t Dw;  // floats of room for a query or key: D; with tiles D in three bf16 parts and whole tiles; with codes parts
  bool tiles;
  bool codes;  // products of codes in i8 (codes.h)
  bool pairs;  // queries and weights rounded to bf16, as keys and values are (pairs.h; with tiles one part of three)
  int64_t past, total;
  float scale, softcap;
  int64_t window;  // 0: none
  bool causal, general;

  int64_t rows;    // T * R
  int64_t blocks;  // of rows
  int64_t first;   // first key that any row may see
  int64_t piece, pieces;
  char* scratch;
  size_t worker_bytes;
  float* partial;  // [B*G][pieces][rows][Ew + 2]: sums, then maximum and sum of weights

  // Steps of a product over the dims, where those are not codes.
  OCTAVO_INLINE int64_t steps() const { return pairs ? (D + 1) / 2 : D; }
  OCTAVO_INLINE int64_t low(int64_t t) const {
    const int64_t j = window > 0 ? past + t - window + 1 : 0;
    return j > 0 ? j : 0;
  }
  OCTAVO_INLINE int64_t high(int64_t t) const {
    const int64_t j = causal && past + t + 1 < total ? past + t + 1 : total;
    return j > 0 ? j : 0;
  }
};

// What one worker has at hand.
struct Bench {
  float *q, *acc, *top, *sum, *k, *v, *s, *p;
  float *k_scale, *v_scale;  // of the block's keys: what a code counts; zero for keys that nobody sees
  float* q_unit;             // with codes: what a step of each query's first part counts
  int32_t* q_sum;            // and -128 times the sum of each part
  int32_t *keep, *seg;
};

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// All of whole cache lines.
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

// The rows of a block are dealt to strips as evenly as can be.
struct Strips {
  int64_t rows, count;
  bool tiles;  // whole tiles then, but for the last
  Strips(int64_t n, bool with_tiles)
      : rows(n), count((n + (with_tiles ? 16 : kStrip) - 1) / (with_tiles ? 16 : kStrip)), tiles(with_tiles) {}
  int64_t start(int64_t s) const { return s == count ? rows : tiles ? s * 16 : s * rows / count; }
};

// Bytes of an element of q, k or v.
constexpr int64_t width_of(DType type) { return type == DType::f32 ? 4 : type == DType::i8 ? 1 : 2; }

// f is called with the dtype as a type.
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
