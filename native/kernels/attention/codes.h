// Attention over an i8 cache on machines that multiply bytes (VNNI): keys and values stay codes. Queries are split into three
// 8-bit parts (127, 127*254 and 127*254^2 steps to their absmax, about the precision of f32), the weights of a block of keys
// into two (65280 steps to the block's largest, finer than bf16 or f16), and the integer sums of the parts are added in f32.
// This needs a quarter of the transpositions of f32, and fewer multiplications.
#pragma once

#include "../../simd/transpose.h"
#include "job.h"

#if defined(OCTAVO_CODE_ATTENTION)

namespace octavo::OCTAVO_ISA {
namespace {

// Up to 64 bytes, padded with zeros.
OCTAVO_INLINE __m512i load_codes(const int8_t* p, int64_t n) {
  if (n >= 64) return _mm512_loadu_si512(p);
  return n > 0 ? _mm512_maskz_loadu_epi8((__mmask64)(((uint64_t)1 << n) - 1), p) : _mm512_setzero_si512();
}

// Keys [0, n) as panels of 16 keys, each [room / 4][16 keys] of four dims, with 128 added to each code.
inline void pack_key_codes(const Places& keys_at, int n, int64_t D, u32p* out) {
  const int64_t chunks = round_up(D, 64) / 64;
  for (int j = 0; j < n; j += 16) {
    const int8_t* k = elements<DType::i8>(keys_at, j);
    for (int64_t c = 0; c < chunks; c++) {
      f32p v[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++)
        v[i] = (f32p)(j + i < n ? load_codes(k + i * keys_at.step + c * 64, D - c * 64) : _mm512_setzero_si512());
      transpose_square(v);
      u32p* to = out + (j / 16 * chunks + c) * 16;
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) to[i] = (u32p)v[i] ^ 0x80808080u;
    }
  }
}

// Values of keys [0, n) as panels of 16 columns, each [kKeys / 4][16 columns] of four keys.
inline void pack_value_codes(const Places& values_at, int n, int64_t E, u32p* out) {
  constexpr int kSteps = kKeys / 4;
  for (int64_t e = 0; e < E; e += 64)
    for (int j = 0; j < n; j += 4) {
      __m512i row[4];
      const int8_t* v = elements<DType::i8>(values_at, j) + e;
      for (int i = 0; i < 4; i++)
        row[i] = j + i < n ? load_codes(v + i * values_at.step, E - e) : _mm512_setzero_si512();
      const __m512i a = _mm512_unpacklo_epi8(row[0], row[1]), b = _mm512_unpackhi_epi8(row[0], row[1]);
      const __m512i c = _mm512_unpacklo_epi8(row[2], row[3]), d = _mm512_unpackhi_epi8(row[2], row[3]);
      // Quarter i of each of these holds four columns of 16 i ..: quarters are exchanged.
      const __m512i p0 = _mm512_unpacklo_epi16(a, c), p1 = _mm512_unpackhi_epi16(a, c);
      const __m512i p2 = _mm512_unpacklo_epi16(b, d), p3 = _mm512_unpackhi_epi16(b, d);
      const __m512i t0 = _mm512_maskz_shuffle_i32x4(0xffff, p0, p1, 0x44), t1 = _mm512_maskz_shuffle_i32x4(0xffff, p0, p1, 0xee);
      const __m512i t2 = _mm512_maskz_shuffle_i32x4(0xffff, p2, p3, 0x44), t3 = _mm512_maskz_shuffle_i32x4(0xffff, p2, p3, 0xee);
      u32p* to = out + e / 16 * kSteps + j / 4;
      to[0] = (u32p)_mm512_maskz_shuffle_i32x4(0xffff, t0, t2, 0x88);
      if (E - e > 16) to[kSteps] = (u32p)_mm512_maskz_shuffle_i32x4(0xffff, t0, t2, 0xdd);
      if (E - e > 32) to[2 * kSteps] = (u32p)_mm512_maskz_shuffle_i32x4(0xffff, t1, t3, 0x88);
      if (E - e > 48) to[3 * kSteps] = (u32p)_mm512_maskz_shuffle_i32x4(0xffff, t1, t3, 0xdd);
    }
}

OCTAVO_INLINE f32p nearest(f32p x) {
  return (f32p)_mm512_maskz_roundscale_ps(0xffff, (__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
OCTAVO_INLINE void store_codes(void* to, f32p whole) {
  _mm_storeu_si128((__m128i*)to, _mm512_maskz_cvtepi32_epi8(0xffff, _mm512_maskz_cvtps_epi32(0xffff, (__m512)whole)));
}

// One query of a strip of `rows`: codes go to [D / 64][rows][kQueryParts][64 bytes] from `to` on, its row's sums times -128
// (keys are 128 too large) to sums[kQueryParts]; returns the unit of the first part's codes.
inline float pack_query_codes(const float* q, float scale, int64_t D, int rows, char* to, int32_t* sums) {
  f32p high = {}, poison = {};
  const auto part = [&](int64_t d) { return D - d >= 16 ? load_part(q + d) * scale : (f32p)load_n(q + d, (int)(D - d)) * scale; };
  for (int64_t d = 0; d < D; d += 16) {
    const f32p v = part(d);
    high = max_part(abs_part(v), high);
    poison += v * 0.0f;  // NaN if a number is not finite
  }
  const float absmax = highest_part(high);
  const float factor = absmax > 0 ? 127.0f / absmax : 0.0f;
  u32p sum[kQueryParts] = {};
  const int64_t room = round_up(D, 64);
  for (int64_t d = 0; d < room; d += 16) {
    f32p left = d < D ? part(d) * factor : f32p{};
    char* at = to + d / 64 * rows * kQueryParts * 64 + d % 64;
    for (int p = 0; p < kQueryParts; p++) {
      const f32p whole = nearest(left);
      store_codes(at + p * 64, whole);
      sum[p] += (u32p)_mm512_maskz_cvtps_epi32(0xffff, (__m512)whole);
      left = (left - whole) * 254.0f;
    }
  }
  for (int p = 0; p < kQueryParts; p++) sums[p] = (int32_t)(-128u * (uint32_t)sum_part((i32p)sum[p]));
  return absmax * (1.0f / 127.0f) + sum_part(poison);
}

// Weights of one row over a block of keys, at most `most`, as [kWeightParts][64 bytes]; returns the unit of the first part's
// codes.
inline float pack_weight_codes(const float* weights, int count, float most, char* to) {
  const float factor = most > 0 ? 255.0f / most : 0.0f;
  const f32p limit = splat_part(255.0f);
  for (int j = 0; j < count; j += 16) {
    const f32p x = min_part(load_part(weights + j) * factor, limit);
    const f32p whole = (f32p)_mm512_maskz_roundscale_ps(0xffff, (__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    store_codes(to + j, whole);
    store_codes(to + 64 + j, min_part(nearest((x - whole) * 256.0f), limit));
  }
  return most * (1.0f / 255.0f);
}

// Integer sums of MR rows in kParts parts over `steps` steps of four, with NR panels. kKeysFirst: the panels hold
// unsigned codes and the rows signed ones; else the other way round. Memory at `ahead`, one pointer per panel, is
// prefetched on the way.
template <int MR, int NR, int kParts, bool kKeysFirst>
OCTAVO_INLINE void code_steps(const char* a, const u32p* b, int64_t panel, int64_t steps, const char* const* ahead,
                              int64_t ahead_step, i32p (&acc)[MR][kParts][NR]) {
  int64_t asked = 0;
  for (int64_t s = 0; s < steps; s += 16, a += MR * kParts * 64, b += 16) {
    const int64_t n = steps - s < 16 ? steps - s : 16;
    for (int64_t i = 0; i < n; i++, asked += ahead_step) {
#pragma GCC unroll 4
      for (int c = 0; c < NR; c++) __builtin_prefetch(ahead[c] + asked);
      __m512i w[NR];
#pragma GCC unroll 4
      for (int c = 0; c < NR; c++) w[c] = (__m512i)b[c * panel + i];
#pragma GCC unroll 8
      for (int r = 0; r < MR; r++)
#pragma GCC unroll 4
        for (int p = 0; p < kParts; p++) {
          int32_t four;
          std::memcpy(&four, a + (r * kParts + p) * 64 + i * 4, 4);
          const __m512i x = _mm512_set1_epi32(four);
#pragma GCC unroll 4
          for (int c = 0; c < NR; c++)
            acc[r][p][c] = (i32p)(kKeysFirst ? _mm512_dpbusd_epi32((__m512i)acc[r][p][c], w[c], x)
                                             : _mm512_dpbusd_epi32((__m512i)acc[r][p][c], x, w[c]));
        }
    }
  }
}

// scores[MR][kKeys] of NR panels of 16 keys.
template <int MR, int NR>
__attribute__((noinline)) void score_tile(const char* q, const u32p* k, int64_t D, const float* unit, const int32_t* sums,
                                          float* scores, const char* const* ahead, int64_t ahead_step) {
  const int64_t panel = round_up(D, 64) / 4;
  i32p acc[MR][kQueryParts][NR];
  for (int r = 0; r < MR; r++)
    for (int p = 0; p < kQueryParts; p++)
      for (int c = 0; c < NR; c++) acc[r][p][c] = (i32p)splat_bits((uint32_t)sums[r * kQueryParts + p]);
  code_steps<MR, NR, kQueryParts, true>(q, k, panel, (D + 3) / 4, ahead, ahead_step, acc);
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++)
    for (int c = 0; c < NR; c++) {
      f32p x = to_f32(acc[r][kQueryParts - 1][c]);
      for (int p = kQueryParts - 2; p >= 0; p--) x = x * (1.0f / 254.0f) + to_f32(acc[r][p][c]);
      store_part(scores + r * kKeys + c * 16, x * unit[r]);
    }
}

// c[MR][Ew] = c * alpha + weights times NR panels of 16 columns.
template <int MR, int NR>
__attribute__((noinline)) void value_tile(const char* weights, const u32p* v, int keys, const float* unit,
                                          const float* alpha, float* c, int64_t Ew, const char* const* ahead,
                                          int64_t ahead_step) {
  i32p acc[MR][kWeightParts][NR] = {};
  code_steps<MR, NR, kWeightParts, false>(weights, v, kKeys / 4, (keys + 3) / 4, ahead, ahead_step, acc);
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++)
    for (int n = 0; n < NR; n++) {
      const f32p x = to_f32(acc[r][1][n]) * (1.0f / 256.0f) + to_f32(acc[r][0][n]);
      store_part(c + r * Ew + n * 16, load_part(c + r * Ew + n * 16) * alpha[r] + x * unit[r]);
    }
}

}  // namespace
}  // namespace octavo::OCTAVO_ISA

#endif
