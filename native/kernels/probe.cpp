// isa: portable avx2 avxvnni avx512 avx512bf16
// The limits of this machine, measured by loops that do nothing else: reading memory, f32 multiply-adds, and dot products of
// 8-bit codes and of bf16 pairs on registers. Not ops of any model: src/eval/machine.ts runs them so that benchmarks can
// compare kernels with them.
#include "../parallel.h"
#include "../registry.h"
#include "../simd/dot.h"
#include "../simd/vec.h"

namespace octavo::OCTAVO_ISA {

constexpr int64_t kChunk = 1 << 18;  // floats per piece: 1 MB

// Four streams side by side, each prefetched: one stream alone does not keep enough lines in flight.
static float sum_of(const float* x, int64_t n) {
  constexpr int kStreams = 4, kAhead = 1024;  // floats
  const int64_t part = n / kStreams / 32 * 32;
  f32x16 s[2 * kStreams] = {};
  for (int64_t i = 0; i < part; i += 32) {
    OCTAVO_UNROLL for (int j = 0; j < kStreams; j++) {
      const float* p = x + j * part + i;
      __builtin_prefetch(p + kAhead);
      __builtin_prefetch(p + kAhead + 16);
      s[2 * j] += load(p);
      s[2 * j + 1] += load(p + 16);
    }
  }
  float total = 0;
  for (int64_t i = kStreams * part; i < n; i++) total += x[i];
  for (int j = 1; j < 2 * kStreams; j++) s[0] += s[j];
  return total + sum(s[0]);
}

static const char* probe_read(const Call& call) {
  const Tensor& x = call.t[0];
  const int64_t n = x.dim[0], chunks = (n + kChunk - 1) / kChunk;
  float* partial = (float*)call.need((size_t)chunks * sizeof(float));
  if (partial == nullptr) return "out of memory";
  parallel(call, chunks, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t c = begin; c < end; c++) {
      const int64_t from = c * kChunk;
      partial[c] = sum_of(x.as<float>() + from, n - from < kChunk ? n - from : kChunk);
    }
  });
  float total = 0;
  for (int64_t c = 0; c < chunks; c++) total += partial[c];
  *call.t[1].as<float>() = total;
  return nullptr;
}

constexpr int kChains = 12;  // enough to hide the latency of a multiply-add on all known machines

// Multiply-accumulates of one weight format on registers, as the matrix kernels do them. Pieces that began alike a compiler would compute
// once on a single thread.
template <class Dot, class V>
static float spin(int64_t rounds, int64_t piece, V zero_value) {
  Dot dot;
  const float table[16] = {};
  dot.prepare(table);
  V acc[kChains];
  for (V& a : acc) a = zero_value;
  // Different weights in every round and different values in every chain: compilers would merge equal products.
  u32p raw = splat_bits(0x3f003f00u + (uint32_t)piece), x[kChains];  // half as f32, twice half as bf16
  const u32p next = splat_bits(1);
  for (int j = 0; j < kChains; j++) x[j] = splat_bits(0x3f003f00u + (uint32_t)j);
  for (int64_t i = 0; i < rounds; i++) {
    const auto w = dot.weight(raw, 0);
    OCTAVO_UNROLL for (int j = 0; j < kChains; j++) acc[j] = dot.mac(acc[j], w, x[j]);
    raw += next;
  }
  float total = 0;
  for (const V& a : acc) total += (float)a[0];
  return total;
}

// Runs `rounds` rounds of f in each of `pieces` pieces. y[0] only keeps the results alive; y[1] is the number of
// operations (multiplications and additions) of one round.
template <class Dot, class F>
static const char* on_all(const Call& call, const F& f) {
  const int64_t pieces = call.attr[0].i, rounds = call.attr[1].i;
  float* out = call.t[0].as<float>();
  float* partial = (float*)call.need((size_t)pieces * sizeof(float));
  if (partial == nullptr) return "out of memory";
  parallel(call, pieces, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t p = begin; p < end; p++) partial[p] = f(rounds * kParts, p);
  });
  out[0] = 0;
  for (int64_t p = 0; p < pieces; p++) out[0] += partial[p];
  out[1] = 2.0f * kChains * 16 * Dot::kPerStep / Dot::kSub;
  return nullptr;
}

static const char* probe_f32(const Call& call) {
  return on_all<DotF32>(call, [](int64_t rounds, int64_t piece) { return spin<DotF32>(rounds, piece, f32p{}); });
}
static const char* probe_int8(const Call& call) {
  return on_all<DotI8>(call, [](int64_t rounds, int64_t piece) { return spin<DotI8>(rounds, piece, i32p{}); });
}
#if defined(OCTAVO_BF16_DOT)
static const char* probe_bf16(const Call& call) {
  return on_all<DotBf16Pair>(call, [](int64_t rounds, int64_t piece) { return spin<DotBf16Pair>(rounds, piece, f32p{}); });
}
#endif

OCTAVO_KERNELS(probe,
  {"probe_read", "probe_read: x[N]:f32 -> y[1]:f32", probe_read},
  {"probe_f32", "probe_f32: y[2]:f32! ; pieces:i32 rounds:i32 ->", probe_f32},
  {"probe_int8", "probe_int8: y[2]:f32! ; pieces:i32 rounds:i32 ->", probe_int8},
#if defined(OCTAVO_BF16_DOT)
  {"probe_bf16", "probe_bf16: y[2]:f32! ; pieces:i32 rounds:i32 ->", probe_bf16},
#endif
)

}  // namespace octavo::OCTAVO_ISA
