// Attention: softmax(q·kᵀ)·v with masks of every kind, never T×S in memory.
//
// The rows of a task are query tokens times the query heads of one kv head (row = t·R + r), so that grouped heads read
// the keys and values once. A task walks over its keys in blocks of kKeys: the block's keys are turned to columns, its
// values copied, both in f32, and every strip of up to kStrip rows then takes scores, online softmax and values while
// the block stays in the first-level cache. When there are too few tasks for a large machine, the context is cut into
// pieces whose size depends on the shapes alone, and the pieces are merged by their maxima and sums.
//
// isa: portable avx2 avx512 amx
#include "../parallel.h"
#include "../registry.h"
#include "attention_vec.h"

#if defined(__AMX_BF16__) || defined(OCTAVO_AMX_EMULATED)
#define OCTAVO_TILES 1
#include "attention_amx.h"
#else
#define OCTAVO_TILES 0
#endif

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
constexpr int kMostRows = OCTAVO_TILES ? 16 : kStrip;  // rows of any strip
constexpr int kParts3 = OCTAVO_TILES ? 3 : 2;     // halves of a number's room: three bf16 with tiles, else one f32
constexpr int kPanel = 2 * kW;                     // columns of a register tile
constexpr int kKeys = 64;                          // keys per block
constexpr int kRows = 128 / kStrip * kStrip;       // rows per task
constexpr int64_t kLeastPiece = 256;               // least keys per piece when the context is cut
constexpr int64_t kEnoughTasks = 64;               // cut the context when there are fewer
constexpr int64_t kMostPieces = 256;               // tasks times pieces
constexpr int kMergeRows = 16;                     // rows merged by one task

struct Job {
  Tensor q, k, v, bias;
  const uint8_t* mask;
  const int32_t* segments;
  const float* slopes;
  float* y;
  int64_t B, T, H, G, R, S, D, E;
  int64_t Ew;  // E rounded up to whole vectors
  int64_t Dw;  // room for a query or key: D, or with tiles D in three bf16 parts and whole tiles
  bool tiles;
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
  b.acc = take((kRows + (OCTAVO_TILES ? kMostRows : 0)) * j.Ew);
  b.k = take(kKeys * j.Dw);
  b.v = take(kKeys * j.Ew * kParts3 / 2);
  b.sum = take(kRows * kW);
  b.s = take(kMostRows * kKeys);
  b.p = OCTAVO_TILES ? take(kMostRows * kKeys * kParts3 / 2) : nullptr;
  b.keep = (int32_t*)take(kKeys);
  b.seg = (int32_t*)take(kKeys);
  b.top = take(kRows);
  if (bytes != nullptr) *bytes = (size_t)((char*)at - base);
  return b;
}
Bench bench_at(const Job& j, int worker) {
  return lay_out(j, j.scratch + (size_t)worker * j.worker_bytes, nullptr);
}

// c[MR][NR vectors] = (c * alpha) + a·b. a(row, k) = a[row * kRow + k * kStep], b(k) = NR vectors at b + k * NR * kW.
// kFetch: memory at `ahead` is asked for on the way, ahead_step bytes per step (at most 128).
// Not inlined: within a larger function g++ runs out of registers here that it has.
template <int MR, int NR, int kRow, int kStep, bool kAdd, bool kFetch>
__attribute__((noinline)) void tile(const float* a, const float* b, int64_t n, float* c, int64_t ldc, const float* alpha,
                                    const char* ahead, int64_t ahead_step) {
  static_assert(NR == 1 || NR == 2);
  VF acc0[MR], acc1[MR];
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) {
    acc0[r] = kAdd ? vload(c + r * ldc) * alpha[r] : VF{};
    if constexpr (NR == 2) acc1[r] = kAdd ? vload(c + r * ldc + kW) * alpha[r] : VF{};
  }
  for (int64_t k = 0; k < n; k++, a += kStep, b += NR * kW) {
    if constexpr (kFetch) {
      __builtin_prefetch(ahead);
      if (kW == 16) __builtin_prefetch(ahead + 64);
      ahead += ahead_step;
    }
    const VF b0 = vload(b), b1 = NR == 2 ? vload(b + kW) : b0;
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
      const VF x = vset(a[r * kRow]);
      acc0[r] += x * b0;
      if constexpr (NR == 2) acc1[r] += x * b1;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) {
    vstore(c + r * ldc, acc0[r]);
    if constexpr (NR == 2) vstore(c + r * ldc + kW, acc1[r]);
  }
}

// Keys [0, n) of a block as columns: panels of kPanel keys (the last may be kW wide), each [D][width].
template <class Stored>
void pack_keys(const typename Stored::type* k, int64_t stride, int n, int64_t D, bool fetch, float* out) {
  for (int j = 0; j < n; j += kW) {
    const int panel = j / kPanel;
    const int64_t width = round_up(n, kW) - panel * kPanel >= kPanel ? kPanel : kW;
    float* base = out + panel * kPanel * D + (j - panel * kPanel);
    const int keys = n - j < kW ? n - j : kW;
    for (int64_t d = 0; d < D; d += kW) {
      const int part = D - d < kW ? (int)(D - d) : kW;
      VF v[kW];
      if (keys == kW && part == kW) {
        if (fetch && d * (int64_t)sizeof(*k) % 64 == 0)
          for (int i = 0; i < kW; i++) __builtin_prefetch(k + (j + i + kKeys) * stride + d);
#pragma GCC unroll 16
        for (int i = 0; i < kW; i++) v[i] = Stored::load(k + (j + i) * stride + d);
      } else {
        for (int i = 0; i < kW; i++) v[i] = i < keys ? load_part<Stored>(k + (j + i) * stride + d, part) : VF{};
      }
      transpose(v);
      if (part == kW) {
#pragma GCC unroll 16
        for (int i = 0; i < kW; i++) vstore(base + (d + i) * width, v[i]);
      } else {
        for (int i = 0; i < part; i++) vstore(base + (d + i) * width, v[i]);
      }
    }
  }
}

// Values of keys [0, n): panels of kPanel columns (the last may be kW wide), each [kKeys][width]. A key that nobody
// sees gives zeros, whatever lies there.
template <class Stored>
void pack_values(const typename Stored::type* v, int64_t stride, int n, int64_t E, const int32_t* keep, bool fetch,
                 float* out) {
  const int64_t whole = round_up(E, kW);
  for (int64_t e = 0; e < whole; e += kPanel) {
    const bool two = whole - e >= kPanel;
    const int64_t width = two ? kPanel : kW;
    float* base = out + e * kKeys;
    for (int j = 0; j < n; j++) {
      const typename Stored::type* row = v + j * stride + e;
      float* to = base + j * width;
      if (fetch && e * (int64_t)sizeof(*v) % 64 == 0) {
        __builtin_prefetch(row + kKeys * stride);
        if (sizeof(*v) == 4 && two) __builtin_prefetch(row + kKeys * stride + kW);
      }
      if (keep != nullptr && keep[j] == 0) {
        for (int64_t i = 0; i < width; i += kW) vstore(to + i, VF{});
      } else if (e + width <= E) {
        vstore(to, Stored::load(row));
        if (two) vstore(to + kW, Stored::load(row + kW));
      } else {
        for (int64_t i = 0; i < width; i += kW) {
          const int64_t part = E - e - i;
          vstore(to + i, part >= kW ? Stored::load(row + i) : load_part<Stored>(row + i, (int)part));
        }
      }
    }
  }
}

// One block of keys as a strip of rows meets it.
struct Meeting {
  const Job* job;
  int64_t b, g, row;  // first row of the strip
  int64_t j0;         // first key of the block
  int n;              // keys of the block
  int nk;             // keys of the block that some row of the strip may see: the first nk
  bool partial;       // not every row sees all nk
  const int32_t* keep;
  const int32_t* seg;
  const char *ahead_k, *ahead_v;  // the next block, where strips ask for it (kFetch)
  int64_t step_k, step_v;
};

// Softcap, slopes, bias, and -infinity for what the row does not see.
void adjust_row(const Meeting& m, int64_t row, float* s) {
  const Job& job = *m.job;
  const int64_t t = row / job.R, h = m.g * job.R + row % job.R, i = job.past + t;
  const int count = (int)round_up(m.nk, kW);
  if (job.softcap > 0) {
    const float inverse = 1.0f / job.softcap;
    for (int j = 0; j < count; j += kW) vstore(s + j, job.softcap * vtanh_any(vload(s + j) * inverse));
  }
  if (job.slopes != nullptr) {
    const float slope = job.slopes[h];
    float distance[kW];
    for (int l = 0; l < kW; l++) distance[l] = (float)(m.j0 - i + l);
    const VF base = vload(distance);
    for (int j = 0; j < count; j += kW) vstore(s + j, vload(s + j) + (base + (float)j) * slope);
  }
  if (job.bias) {
    const Tensor& bias = job.bias;
    const float* p = bias.as<float>() + m.b * bias.stride[0] + h * bias.stride[1] + t * bias.stride[2] + m.j0 * bias.stride[3];
    const int64_t step = bias.stride[3];
    if (step == 1) {
      int j = 0;
      for (; j + kW <= m.nk; j += kW) vstore(s + j, vload(s + j) + vload(p + j));
      for (; j < m.nk; j++) s[j] += p[j];
    } else {
      for (int j = 0; j < m.nk; j++) s[j] += p[j * step];
    }
  }
  if (m.partial) {
    const int64_t low = job.low(t) - m.j0, high = job.high(t) - m.j0;
    const VI from = viset((int32_t)(low > 0 ? (low < kKeys ? low : kKeys) : 0));
    const VI to = viset((int32_t)(high < m.nk ? (high > 0 ? high : 0) : m.nk));
    const bool outside = m.seg != nullptr && i < 0;  // a query before all keys has no segment
    const int32_t segment = m.seg != nullptr && !outside ? job.segments[m.b * job.S + i] : 0;
    int32_t index[kW];
    for (int l = 0; l < kW; l++) index[l] = l;
    const VI base = viload(index);
    for (int j = 0; j < count; j += kW) {
      const VI at = base + (int32_t)j;
      VI visible = (at >= from) & (at < to);
      if (m.keep != nullptr) visible &= viload(m.keep + j) != 0;
      if (m.seg != nullptr) visible &= outside ? VI{} : (VI)(viload(m.seg + j) == segment);
      vstore(s + j, visible ? vload(s + j) : vset(-INFINITY));
    }
  }
}

// Scores to weights, and the rows' maxima and sums; `alpha` is what the sums so far are to be multiplied by.
void soften(const Meeting& m, const Bench& w, int64_t local, int rows, float* alpha) {
  const Job& job = *m.job;
  if (job.general || m.partial)
    for (int r = 0; r < rows; r++) adjust_row(m, m.row + r, w.s + r * kKeys);

  const int count = (int)round_up(m.nk, kW);
  float top[kMostRows];
  for (int r = 0; r < rows; r++) {
    const float* s = w.s + r * kKeys;
    VF best = vload(s);
    for (int j = kW; j < count; j += kW) {
      const VF x = vload(s + j);
      best = best > x ? best : x;
    }
    const float x = vhighest(best), old = w.top[local + r];
    const float now = x > old ? x : old;
    w.top[local + r] = now;
    top[r] = now == -INFINITY ? 0.0f : now;
    alpha[r] = old - top[r];
  }
  for (int r = 0; r < rows; r += kW) vstore(alpha + r, vexp_down(vload(alpha + r)));
  for (int r = 0; r < rows; r++) {
    float* s = w.s + r * kKeys;
    const VF high = vset(top[r]);
    VF sum = vload(w.sum + (local + r) * kW) * alpha[r];
    for (int j = 0; j < count; j += kW) {
      const VF p = vexp_down(vload(s + j) - high);
      vstore(s + j, p);
      sum += p;
    }
    vstore(w.sum + (local + r) * kW, sum);
  }
}

template <int MR, bool kFetch>
void strip(const Meeting& m, const Bench& w, int64_t local) {
  const Job& job = *m.job;
  const int whole = (int)round_up(m.n, kW);  // as packed
  const float* q = w.q + local * job.D;
  for (int j = 0; j < m.nk; j += kPanel) {
    const float* k = w.k + j * job.D;
    const char* ahead = m.ahead_k + j / kPanel * job.D * m.step_k;
    if (whole - j >= kPanel)
      tile<MR, 2, 1, MR, false, kFetch>(q, k, job.D, w.s + j, kKeys, nullptr, ahead, m.step_k);
    else
      tile<MR, 1, 1, MR, false, kFetch>(q, k, job.D, w.s + j, kKeys, nullptr, ahead, m.step_k);
  }
  float alpha[kMostRows + kW] = {};
  soften(m, w, local, MR, alpha);
  for (int64_t e = 0; e < job.Ew; e += kPanel) {
    const float* v = w.v + e * kKeys;
    float* c = w.acc + local * job.Ew + e;
    const char* ahead = m.ahead_v + e / kPanel * kKeys * m.step_v;
    if (job.Ew - e >= kPanel)
      tile<MR, 2, kKeys, 1, true, kFetch>(w.s, v, m.nk, c, job.Ew, alpha, ahead, m.step_v);
    else
      tile<MR, 1, kKeys, 1, true, kFetch>(w.s, v, m.nk, c, job.Ew, alpha, ahead, m.step_v);
  }
}

#if OCTAVO_TILES
void tile_strip(const Meeting& m, const Bench& w, int64_t local, int rows) {
  const Job& job = *m.job;
  const int count = (int)round_up(m.nk, kW);
  const VU *q = (const VU*)(w.q + local * job.Dw), *k = (const VU*)w.k, *v = (const VU*)w.v;
  switch (job.k.dtype) {
    case DType::f16: scores_tiles<kParts<StoredF16>>(q, k, job.D, count, kKeys, w.s); break;
    case DType::bf16: scores_tiles<kParts<StoredBF16>>(q, k, job.D, count, kKeys, w.s); break;
    default: scores_tiles<kParts<StoredF32>>(q, k, job.D, count, kKeys, w.s);
  }
  float alpha[kMostRows + kW] = {};
  soften(m, w, local, rows, alpha);
  VU* p = (VU*)w.p;
  split_probabilities(w.s, rows, count, kKeys, p);
  float* acc = w.acc + local * job.Ew;
  for (int r = 0; r < rows; r++) {
    if (alpha[r] == 1) continue;
    for (int64_t e = 0; e < job.Ew; e += kW) vstore(acc + r * job.Ew + e, vload(acc + r * job.Ew + e) * alpha[r]);
  }
  const int keys = (int)round_up(count, 32);
  switch (job.v.dtype) {
    case DType::f16: values_tiles<kParts<StoredF16>>(p, v, job.Ew, keys, kKeys, acc); break;
    case DType::bf16: values_tiles<kParts<StoredBF16>>(p, v, job.Ew, keys, kKeys, acc); break;
    default: values_tiles<kParts<StoredF32>>(p, v, job.Ew, keys, kKeys, acc);
  }
}
#endif

template <bool kFetch>
void any_strip(int rows, const Meeting& m, const Bench& w, int64_t local) {
  switch (rows) {
    case 1: return strip<1, kFetch>(m, w, local);
    case 2: return strip<2, kFetch>(m, w, local);
    case 3: return strip<3, kFetch>(m, w, local);
    case 4: return strip<4, kFetch>(m, w, local);
    default: break;
  }
  if constexpr (kStrip >= 6) {
    if (rows == 5) return strip<5, kFetch>(m, w, local);
    if (rows == 6) return strip<6, kFetch>(m, w, local);
  }
  if constexpr (kStrip >= 8) {
    if (rows == 7) return strip<7, kFetch>(m, w, local);
    if (rows == 8) return strip<8, kFetch>(m, w, local);
  }
}

void pack_block(const Job& job, const Bench& w, int64_t b, int64_t g, int64_t j0, int n, const int32_t* keep,
                bool fetch_k, bool fetch_v) {
  const int64_t ko = b * job.k.stride[0] + g * job.k.stride[1] + j0 * job.k.stride[2];
  const int64_t vo = b * job.v.stride[0] + g * job.v.stride[1] + j0 * job.v.stride[2];
  const int64_t ks = job.k.stride[2], vs = job.v.stride[2];
#if OCTAVO_TILES
  if (job.tiles) {
    VU *k = (VU*)w.k, *v = (VU*)w.v;
    switch (job.k.dtype) {
      case DType::f16: pack_keys_tiles<StoredF16>(job.k.as<uint16_t>() + ko, ks, n, job.D, kKeys, fetch_k, k); break;
      case DType::bf16: pack_keys_tiles<StoredBF16>(job.k.as<uint16_t>() + ko, ks, n, job.D, kKeys, fetch_k, k); break;
      default: pack_keys_tiles<StoredF32>(job.k.as<float>() + ko, ks, n, job.D, kKeys, fetch_k, k);
    }
    switch (job.v.dtype) {
      case DType::f16: pack_values_tiles<StoredF16>(job.v.as<uint16_t>() + vo, vs, n, job.E, keep, kKeys, fetch_v, v); break;
      case DType::bf16: pack_values_tiles<StoredBF16>(job.v.as<uint16_t>() + vo, vs, n, job.E, keep, kKeys, fetch_v, v); break;
      default: pack_values_tiles<StoredF32>(job.v.as<float>() + vo, vs, n, job.E, keep, kKeys, fetch_v, v);
    }
    return;
  }
#endif
  switch (job.k.dtype) {
    case DType::f16: pack_keys<StoredF16>(job.k.as<uint16_t>() + ko, ks, n, job.D, fetch_k, w.k); break;
    case DType::bf16: pack_keys<StoredBF16>(job.k.as<uint16_t>() + ko, ks, n, job.D, fetch_k, w.k); break;
    default: pack_keys<StoredF32>(job.k.as<float>() + ko, ks, n, job.D, fetch_k, w.k);
  }
  switch (job.v.dtype) {
    case DType::f16: pack_values<StoredF16>(job.v.as<uint16_t>() + vo, vs, n, job.E, keep, fetch_v, w.v); break;
    case DType::bf16: pack_values<StoredBF16>(job.v.as<uint16_t>() + vo, vs, n, job.E, keep, fetch_v, w.v); break;
    default: pack_values<StoredF32>(job.v.as<float>() + vo, vs, n, job.E, keep, fetch_v, w.v);
  }
}

// The rows of a block are dealt to strips as evenly as can be.
struct Strips {
  int64_t rows, count;
  bool tiles;  // whole tiles then, but for the last
  Strips(int64_t n, bool with_tiles)
      : rows(n), count((n + (with_tiles ? 16 : kStrip) - 1) / (with_tiles ? 16 : kStrip)), tiles(with_tiles) {}
  int64_t start(int64_t s) const { return s == count ? rows : tiles ? s * 16 : s * rows / count; }
};

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

  // Queries, scaled, each strip turned to [D][rows of the strip].
  for (int64_t s = 0; s < strips.count; s++) {
    const int64_t from = strips.start(s), n = strips.start(s + 1) - from;
#if OCTAVO_TILES
    if (job.tiles) {
      const float* row[16];
      for (int64_t r = 0; r < n; r++) {
        const int64_t at = row0 + from + r;
        row[r] = job.q.as<float>() + b * job.q.stride[0] + at / job.R * job.q.stride[1] +
                 (g * job.R + at % job.R) * job.q.stride[2];
      }
      pack_queries_tiles(row, (int)n, job.scale, job.D, (VU*)(w.q + from * job.Dw));
      continue;
    }
#endif
    for (int64_t r = 0; r < n; r++) {
      const int64_t row = row0 + from + r;
      const float* q = job.q.as<float>() + b * job.q.stride[0] + row / job.R * job.q.stride[1] +
                       (g * job.R + row % job.R) * job.q.stride[2];
      float* to = w.q + from * job.D + r;
      for (int64_t d = 0; d < job.D; d++) to[d * n] = q[d] * job.scale;
    }
  }
  const int64_t zeros = (OCTAVO_TILES ? round_up(rows, 16) : rows) * job.Ew;
  for (int64_t i = 0; i < zeros; i += kW) vstore(w.acc + i, VF{});
  for (int64_t r = 0; r < rows; r++) {
    w.top[r] = -INFINITY;
    vstore(w.sum + r * kW, VF{});
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
  const int64_t size_k = job.k.dtype == DType::f32 ? 4 : 2, size_v = job.v.dtype == DType::f32 ? 4 : 2;
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
      m.partial = partial || m.nk % kW != 0 || job.high(ta) < end || job.low(tb) > j0;
      m.keep = keep;
      m.seg = seg;
#if OCTAVO_TILES
      if (job.tiles) {
        tile_strip(m, w, at, count);
        continue;
      }
#endif
      if (s == 0 && (fetch_k || fetch_v)) {
        m.ahead_k = fetch_k ? job.k.data + size_k * (b * job.k.stride[0] + g * job.k.stride[1] + next * job.k.stride[2]) : (const char*)w.s;
        m.ahead_v = fetch_v ? job.v.data + size_v * (b * job.v.stride[0] + g * job.v.stride[1] + next * job.v.stride[2]) : (const char*)w.s;
        m.step_k = fetch_k ? size_k * kPanel : 0;
        m.step_v = fetch_v ? size_v * kPanel : 0;
        any_strip<true>(count, m, w, at);
      } else {
        m.ahead_k = m.ahead_v = nullptr;
        m.step_k = m.step_v = 0;
        any_strip<false>(count, m, w, at);
      }
    }
  }

  for (int64_t r = 0; r < rows; r++) {
    const float sum = vsum(vload(w.sum + r * kW));
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
    for (int64_t e = 0; e < job.Ew; e += kW) vstore(sums + e, VF{});
    for (int64_t p = 0; p < job.pieces; p++) {
      const float* piece = part + p * step;
      if (piece[job.Ew + 1] == 0) continue;
      const VF weight = vexp_down(vset(piece[job.Ew] - top));
      sum += weight[0] * piece[job.Ew + 1];
      for (int64_t e = 0; e < job.Ew; e += kW) vstore(sums + e, vload(sums + e) + weight * vload(piece + e));
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
  job.mask = call.t[4].as<uint8_t>();
  job.segments = call.t[5].as<int32_t>();
  job.slopes = call.t[6].as<float>();
  job.bias = call.t[7];
  job.y = call.t[8].as<float>();
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
  job.scale = call.attr[0].f;
  job.causal = call.attr[1].i != 0;
  job.window = call.attr[2].i > 0 ? call.attr[2].i : 0;
  job.softcap = call.attr[3].f;
  job.general = job.softcap > 0 || job.slopes != nullptr || (bool)job.bias;
  job.past = job.S - job.T;
  if (call.t[3]) {
    job.past = *call.t[3].as<int32_t>();
    if (job.past < 0) return "the cursor of attention is negative";
    if (job.past + job.T > job.S) return "the cursor of attention points past the end of the keys";
  }
  job.total = job.past + job.T;
  job.R = job.H / job.G;
  job.Ew = round_up(job.E, kW);
  job.rows = job.T * job.R;
  job.Dw = OCTAVO_TILES ? round_up(job.D, 32) * kParts3 / 2 : job.D;
  job.tiles = OCTAVO_TILES && job.rows >= 16;
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
#if OCTAVO_TILES
    if (job.tiles) tiles_begin();
#endif
    for (int64_t i = begin; i < end; i++) attend(job, i, worker);
#if OCTAVO_TILES
    if (job.tiles) tiles_end();
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
                "attention: q[B,T,H,D]:f32~ k[B,G,S,D]:f32|f16|bf16~ v[B,G,S,E]:f32|f16|bf16~ cursor[1]:i32? mask[B,S]:u8? "
                "segments[B,S]:i32? slopes[H]:f32? bias[B,H,T,S]:f32~? ; scale:f32 causal:i32 window:i32 softcap:f32 -> "
                "y[B,T,H,E]:f32",
                attention})

}  // namespace octavo::OCTAVO_ISA
