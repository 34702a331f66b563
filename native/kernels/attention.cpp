// Attention: softmax(q·kᵀ)·v with masks of every kind, never T×S in memory.
//
// The rows of a task are query tokens times the query heads of one kv head (row = t·R + r), so that grouped heads read
// the keys and values once. A task walks over its keys in blocks of kKeys: the block's keys are turned to columns, its
// values copied, both in f32, and every strip of up to kStrip rows then takes scores, online softmax and values while
// the block stays in the first-level cache. When there are too few tasks for a large machine, the context is cut into
// pieces whose size depends on the shapes alone, and the pieces are merged by their maxima and sums.
//
// A cache of codes in i8 is read as numbers times one scale per key: scores are multiplied by the keys' scales, weights by
// the values'. Where bytes multiply, the products stay in codes (attention/codes.h). Where the caller allows it and the
// machine multiplies such pairs, a cache in bf16 meets queries and weights in bf16 (attention/pairs.h).
//
// isa: portable avx2 avx512 avx512bf16 amx
#include "../parallel.h"
#include "../registry.h"
#include "attention/pack.h"
#include "attention/strip.h"

namespace octavo::OCTAVO_ISA {
namespace {

// One task: a block of rows and a piece of the keys.
void attend(const Job& job, int64_t index, int worker) {
  const Bench w = bench_at(job, worker);
  // Late rows have the most keys to see: they go first.
  const int64_t piece = index % job.pieces;
  const int64_t block = job.blocks - 1 - index / job.pieces % job.blocks;
  const int64_t bg = index / (job.pieces * job.blocks), b = bg / job.G, g = bg % job.G;
  const int64_t row0 = block * kRows;
  const int64_t rows = job.rows - row0 < kRows ? job.rows - row0 : kRows;
  const int64_t t0 = row0 / job.R, t1 = (row0 + rows - 1) / job.R;
  const Strips strips(rows, job.tiles);

  pack_queries(job, w, b, g, row0, strips);
  const int64_t zeros = (kTiles ? round_up(rows, 16) : rows) * job.Ew;
  for (int64_t i = 0; i < zeros; i += kPartLanes) store_part(w.acc + i, f32p{});
  for (int64_t r = 0; r < rows; r++) {
    w.top[r] = -INFINITY;
    store_part(w.sum + r * kPartLanes, f32p{});
  }

  int32_t segment_min = 0, segment_max = 0;  // of the queries
  if (job.segments != nullptr) {
    bool any = false;
    for (int64_t t = t0; t <= t1; t++) {
      const int64_t i = job.past + t;
      if (i < 0) continue;
      const int32_t x = job.segments[b * job.S + i];
      if (!any || x < segment_min) segment_min = x;
      if (!any || x > segment_max) segment_max = x;
      any = true;
    }
  }

  // With few rows memory is what takes time, so the next block comes in while this one is worked on; with many rows a
  // request per row while a block is packed does.
  const int64_t size_k = width_of(job.k.dtype), size_v = width_of(job.v.dtype);
  const bool fetch_k = !job.tiles && strips.count <= 2 && job.k.stride[2] == job.D, fetch_v = !job.tiles && strips.count <= 2 && job.v.stride[2] == job.E;

  int64_t from = job.first + piece * job.piece, to = job.pieces > 1 ? from + job.piece : job.total;
  if (to > job.high(t1)) to = job.high(t1);
  const int64_t low = job.low(t0) / kKeys * kKeys;
  if (from < low) from = low;
  for (int64_t j0 = from; j0 < to; j0 += kKeys) {
    const int n = (int)(to - j0 < kKeys ? to - j0 : kKeys);
    bool partial = false;
    const int32_t* keep = nullptr;
    if (job.mask != nullptr) {
      const uint8_t* mask = job.mask + b * job.S + j0;
      int kept = 0;
      for (int j = 0; j < kKeys; j++) w.keep[j] = j < n && mask[j] != 0 ? -1 : 0;
      for (int j = 0; j < n; j++) kept -= w.keep[j];
      if (kept == 0) continue;
      if (kept < n) {
        keep = w.keep;
        partial = true;
      }
    }
    const int32_t* seg = nullptr;
    if (job.segments != nullptr) {
      const int32_t* p = job.segments + b * job.S + j0;
      int32_t least = p[0], most = p[0];
      for (int j = 0; j < n; j++) {
        w.seg[j] = p[j];
        least = p[j] < least ? p[j] : least;
        most = p[j] > most ? p[j] : most;
      }
      for (int j = n; j < kKeys; j++) w.seg[j] = 0;
      if (most < segment_min || least > segment_max) continue;
      if (least != most || segment_min != segment_max || job.past + t0 < 0) {
        seg = w.seg;
        partial = true;
      }
    }
    const int64_t next = j0 + kKeys;
    pack_block(job, w, b, g, j0, n, keep, !fetch_k, !fetch_v);
    for (int64_t s = 0; s < strips.count; s++) {
      const int64_t at = strips.start(s);
      const int count = (int)(strips.start(s + 1) - at);
      const int64_t ta = (row0 + at) / job.R, tb = (row0 + at + count - 1) / job.R;
      const int64_t end = job.high(tb) < j0 + n ? job.high(tb) : j0 + n;
      if (end <= j0 || job.low(ta) >= end) continue;
      Meeting m;
      m.job = &job;
      m.b = b;
      m.g = g;
      m.row = row0 + at;
      m.j0 = j0;
      m.n = n;
      m.nk = (int)(end - j0);
      m.partial = partial || m.nk % kPartLanes != 0 || job.high(ta) < end || job.low(tb) > j0;
      m.keep = keep;
      m.seg = seg;
#if defined(OCTAVO_AMX)
      if (job.tiles) {
        tile_strip(m, w, at, count);
        continue;
      }
#endif
      const bool ask_k = s == 0 && fetch_k, ask_v = s == 0 && fetch_v;
      m.ahead_k = !ask_k ? (const char*)w.s
                         : job.k.data + size_k * (b * job.k.stride[0] + g * job.k.stride[1] + next * job.k.stride[2]);
      m.ahead_v = !ask_v ? (const char*)w.s
                         : job.v.data + size_v * (b * job.v.stride[0] + g * job.v.stride[1] + next * job.v.stride[2]);
      m.size_k = ask_k ? size_k : 0;
      m.size_v = ask_v ? size_v : 0;
#if defined(OCTAVO_CODE_ATTENTION)
      if (job.codes) {
        any_code_strip(count, m, w, at);
        continue;
      }
#endif
#if defined(OCTAVO_PAIR_ATTENTION)
      if (job.pairs) {
        if (ask_k || ask_v)
          any_strip<Pairs, true>(count, m, w, at);
        else
          any_strip<Pairs, false>(count, m, w, at);
        continue;
      }
#endif
      if (ask_k || ask_v)
        any_strip<Floats, true>(count, m, w, at);
      else
        any_strip<Floats, false>(count, m, w, at);
    }
  }

  for (int64_t r = 0; r < rows; r++) {
    const float sum = sum_part(load_part(w.sum + r * kPartLanes));
    const float* acc = w.acc + r * job.Ew;
    const int64_t row = row0 + r;
    if (job.pieces > 1) {
      float* out = job.partial + ((bg * job.pieces + piece) * job.rows + row) * (job.Ew + 2);
      std::memcpy(out, acc, sizeof(float) * (size_t)job.Ew);
      out[job.Ew] = w.top[r];
      out[job.Ew + 1] = sum;
    } else {
      float* out = job.y + ((b * job.T + row / job.R) * job.H + g * job.R + row % job.R) * job.E;
      const float inverse = sum != 0 ? 1.0f / sum : 0.0f;
      for (int64_t e = 0; e < job.E; e++) out[e] = acc[e] * inverse;
    }
  }
}

// Pieces of one context put together: each weighted by e^(its maximum - the highest).
void merge(const Job& job, int64_t index, int worker) {
  float* sums = bench_at(job, worker).acc;
  const int64_t last = (index + 1) * kMergeRows, all = job.B * job.G * job.rows;
  for (int64_t at = index * kMergeRows; at < all && at < last; at++) {
    const int64_t bg = at / job.rows, row = at % job.rows, step = job.rows * (job.Ew + 2);
    const float* part = job.partial + (bg * job.pieces * job.rows + row) * (job.Ew + 2);
    float top = -INFINITY;
    for (int64_t p = 0; p < job.pieces; p++) {
      const float x = part[p * step + job.Ew];
      top = x > top ? x : top;
    }
    if (top == -INFINITY) top = 0;
    float sum = 0;
    for (int64_t e = 0; e < job.Ew; e += kPartLanes) store_part(sums + e, f32p{});
    for (int64_t p = 0; p < job.pieces; p++) {
      const float* piece = part + p * step;
      if (piece[job.Ew + 1] == 0) continue;
      const f32p weight = exp_down(splat_part(piece[job.Ew] - top));
      sum += weight[0] * piece[job.Ew + 1];
      for (int64_t e = 0; e < job.Ew; e += kPartLanes) store_part(sums + e, load_part(sums + e) + weight * load_part(piece + e));
    }
    const float inverse = sum != 0 ? 1.0f / sum : 0.0f;
    float* out = job.y + ((bg / job.G * job.T + row / job.R) * job.H + bg % job.G * job.R + row % job.R) * job.E;
    for (int64_t e = 0; e < job.E; e++) out[e] = sums[e] * inverse;
  }
}

const char* attention(const Call& call) {
  Job job;
  job.q = call.t[0];
  job.k = call.t[1];
  job.v = call.t[2];
  job.mask = call.t[5].as<uint8_t>();
  job.segments = call.t[6].as<int32_t>();
  job.slopes = call.t[7].as<float>();
  job.bias = call.t[8];
  job.y = call.t[9].as<float>();
  job.B = job.q.dim[0];
  job.T = job.q.dim[1];
  job.H = job.q.dim[2];
  job.D = job.q.dim[3];
  job.G = job.k.dim[1];
  job.S = job.k.dim[2];
  job.E = job.v.dim[3];
  if (job.G < 1 || job.H % job.G != 0) return "the number of query heads must be a multiple of the number of key heads";
  if ((job.q.stride[3] != 1 && job.D > 1) || (job.k.stride[3] != 1 && job.D > 1) || (job.v.stride[3] != 1 && job.E > 1))
    return "attention needs the last dimension of q, k and v to be contiguous";
  const float* scales = call.t[3].as<float>();
  if ((job.k.dtype == DType::i8 || job.v.dtype == DType::i8) && scales == nullptr) return "keys or values in i8 need scales";
  job.k_scales = job.k.dtype == DType::i8 ? scales : nullptr;
  job.v_scales = job.v.dtype == DType::i8 ? scales + job.B * job.G * job.S : nullptr;
  job.scale = call.attr[0].f;
  job.causal = call.attr[1].i != 0;
  job.window = call.attr[2].i > 0 ? call.attr[2].i : 0;
  job.softcap = call.attr[3].f;
  job.general = job.softcap > 0 || job.slopes != nullptr || (bool)job.bias;
  job.past = job.S - job.T;
  if (call.t[4]) {
    job.past = *call.t[4].as<int32_t>();
    if (job.past < 0) return "the cursor of attention is negative";
    if (job.past + job.T > job.S) return "the cursor of attention points past the end of the keys";
  }
  job.total = job.past + job.T;
  job.R = job.H / job.G;
  job.Ew = round_up(job.E, kPartLanes);
  job.rows = job.T * job.R;
  job.Dw = kTiles ? round_up(job.D, 32) * kParts3 / 2 : job.D;
  job.tiles = kTiles && job.rows >= 16;
  job.codes = job.pairs = false;
#if defined(OCTAVO_PAIR_ATTENTION)
  job.pairs = call.attr[4].i == 1 && job.k.dtype == DType::bf16 && job.v.dtype == DType::bf16;
#endif
#if defined(OCTAVO_CODE_ATTENTION)
  job.codes = !job.tiles && job.k.dtype == DType::i8 && job.v.dtype == DType::i8;
  const int64_t parts = round_up(job.D, 64) / 4 * kQueryParts;
  if (job.codes && job.Dw < parts) job.Dw = parts;
#endif
  if (job.B == 0 || job.rows == 0 || job.E == 0) return nullptr;
  job.blocks = (job.rows + kRows - 1) / kRows;
  job.first = job.low(0) / kKeys * kKeys;
  job.piece = job.total;
  job.pieces = 1;
  const int64_t tasks = job.B * job.G * job.blocks, span = job.total - job.first;
  if (tasks < kEnoughTasks && span > kLeastPiece) {
    const int64_t most = kMostPieces / tasks;
    job.piece = round_up((span + most - 1) / most, kLeastPiece);
    job.pieces = (span + job.piece - 1) / job.piece;
  }
  const int workers = call.pool != nullptr ? call.pool->threads() : 1;
  lay_out(job, nullptr, &job.worker_bytes);
  const size_t partial = job.pieces > 1 ? (size_t)(job.B * job.G * job.pieces * job.rows * (job.Ew + 2)) : 0;
  job.scratch = call.need(job.worker_bytes * (size_t)workers + partial * sizeof(float));
  if (job.scratch == nullptr) return "out of memory for the scratch of attention";
  job.partial = (float*)(job.scratch + job.worker_bytes * (size_t)workers);
  parallel(call, tasks * job.pieces, 1, [&](int64_t begin, int64_t end, int worker) {
#if defined(OCTAVO_AMX)
    if (job.tiles) matrix_begin();
#endif
    for (int64_t i = begin; i < end; i++) attend(job, i, worker);
#if defined(OCTAVO_AMX)
    if (job.tiles) matrix_end();
#endif
  });
  if (job.pieces > 1)
    parallel(call, (job.B * job.G * job.rows + kMergeRows - 1) / kMergeRows, 1, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t i = begin; i < end; i++) merge(job, i, worker);
    });
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(attention,
               {"attention",
                "attention: q[B,T,H,D]:f32~ k[B,G,S,D]:f32|f16|bf16|i8~ v[B,G,S,E]:f32|f16|bf16|i8~ scales[2,B,G,S]:f32? "
                "cursor[1]:i32? mask[B,S]:u8? segments[B,S]:i32? slopes[H]:f32? bias[B,H,T,S]:f32~? ; "
                "scale:f32 causal:i32 window:i32 softcap:f32 compute:i32 -> y[B,T,H,E]:f32",
                attention})

}  // namespace octavo::OCTAVO_ISA
