// Attention over a bf16 cache if the caller allows bf16 products: queries and weights are rounded to bf16 as well, and factors
// are stored in pairs (dims of a query and a key, or keys of a weight and a value). This takes half the instructions and half
// the transpositions of f32.
#pragma once

#include "../../simd/transpose.h"
#include "job.h"

#if defined(OCTAVO_PAIR_ATTENTION)

namespace octavo::OCTAVO_ISA {
namespace {

// Up to 32 numbers, padded with zeros.
OCTAVO_INLINE __m512i load_halves(const uint16_t* p, int64_t n) {
  if (n >= 32) return _mm512_loadu_si512(p);
  return n > 0 ? _mm512_maskz_loadu_epi16((__mmask32)((1u << n) - 1u), p) : _mm512_setzero_si512();
}

// Keys [0, n) of a block as columns: panels like those of pack_keys, each [pairs of dims][width].
inline void pack_key_pairs(const Places& keys_at, int n, int64_t D, const Places* next, u32p* out) {
  const int64_t stride = keys_at.step;
  const int64_t pairs = (D + 1) / 2;
  for (int j = 0; j < n; j += kPartLanes) {
    const int panel = j / kPanel;
    const int64_t width = round_up(n, kPartLanes) - panel * kPanel >= kPanel ? 2 : 1;
    u32p* base = out + panel * 2 * pairs + (j % kPanel) / kPartLanes;
    const uint16_t* k = elements<DType::bf16>(keys_at, j);
    const uint16_t* ahead = next != nullptr ? elements<DType::bf16>(*next, j) : nullptr;
    for (int64_t d = 0; d < D; d += 32) {
      f32p v[kPartLanes];
      if (n - j >= kPartLanes && D - d >= 32) {
        if (ahead != nullptr)
          for (int i = 0; i < kPartLanes; i++) __builtin_prefetch(ahead + i * stride + d);
#pragma GCC unroll 16
        for (int i = 0; i < kPartLanes; i++) v[i] = (f32p)_mm512_loadu_si512(k + i * stride + d);
      } else {
        for (int i = 0; i < kPartLanes; i++)
          v[i] = j + i < n ? (f32p)load_halves(k + i * stride + d, D - d) : f32p{};
      }
      transpose_square(v);
      const int64_t some = pairs - d / 2 < kPartLanes ? pairs - d / 2 : kPartLanes;
      u32p* to = base + d / 2 * width;
      if (some == kPartLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < kPartLanes; i++) to[i * width] = (u32p)v[i];
      } else {
        for (int i = 0; i < some; i++) to[i * width] = (u32p)v[i];
      }
    }
  }
}

// Values of keys [0, n): panels of kPanel columns (the last may be kPartLanes wide), each [kKeys / 2][width] of pairs of
// keys. A key that no row sees becomes zeros, whatever its memory holds; so does the one after an odd last.
inline void pack_value_pairs(const Places& values_at, int n, int64_t E, const int32_t* keep, const Places* next, u32p* out) {
  const int64_t stride = values_at.step;
  alignas(64) uint16_t order[2][32];
  for (int i = 0; i < 32; i++) {
    order[0][i] = (uint16_t)(i / 2 + i % 2 * 32);
    order[1][i] = (uint16_t)(order[0][i] + 16);
  }
  const __m512i low = _mm512_load_si512(order[0]), high = _mm512_load_si512(order[1]);
  const int64_t whole = round_up(E, kPartLanes);
  for (int64_t e = 0; e < whole; e += kPanel) {
    const int64_t width = whole - e >= kPanel ? 2 : 1;
    u32p* to = out + e / kPartLanes * (kKeys / 2);
    const uint16_t *row = nullptr, *ahead = nullptr;
    for (int j = 0; j < n; j += 2, to += width, row += 2 * stride, ahead += 2 * stride) {
      if (j % 16 == 0) {
        row = elements<DType::bf16>(values_at, j) + e;
        ahead = next != nullptr ? elements<DType::bf16>(*next, j) + e : row;
      }
      if (next != nullptr) {
        __builtin_prefetch(ahead);
        __builtin_prefetch(ahead + stride);
      }
      const bool one = keep == nullptr || keep[j] != 0, two = j + 1 < n && (keep == nullptr || keep[j + 1] != 0);
      const __m512i a = one ? load_halves(row, E - e) : _mm512_setzero_si512();
      const __m512i b = two ? load_halves(row + stride, E - e) : _mm512_setzero_si512();
      to[0] = (u32p)_mm512_permutex2var_epi16(a, low, b);
      if (width == 2) to[1] = (u32p)_mm512_permutex2var_epi16(a, high, b);
    }
  }
}

// The queries of a strip, scaled: [pairs of dims][rows].
inline void pack_query_pairs(const float* const* q, int rows, float scale, int64_t D, float* to) {
  for (int64_t d = 0; d < D; d += 32, to += 16 * rows) {
    const int64_t left = D - d;
    alignas(64) u32p pairs[kStrip];
    for (int r = 0; r < rows; r++) {
      const float* x = q[r] + d;
      const f32x16 a = left >= 16 ? load(x) : load_n(x, (int)left);
      const f32x16 b = left >= 32 ? load(x + 16) : left > 16 ? load_n(x + 16, (int)left - 16) : zero();
      pairs[r] = (u32p)_mm512_cvtne2ps_pbh((__m512)(b * scale), (__m512)(a * scale));
    }
    rows_to_steps((const char*)pairs, 64, rows, left < 32 ? left * 2 : 64, (uint32_t*)to, rows, AsIs{});
  }
}

// Weights of `rows` rows over `count` keys (a multiple of 16) rounded, in place: [rows][kKeys / 2] pairs of keys, rows
// still kKeys apart.
inline void pack_weight_pairs(float* s, int rows, int count) {
  for (int r = 0; r < rows; r++, s += kKeys)
    for (int j = 0; j < count; j += 32) {
      const f32p a = load_part(s + j), b = j + 16 < count ? load_part(s + j + 16) : f32p{};
      store_part(s + j / 2, (u32p)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a));
    }
}

}  // namespace
}  // namespace octavo::OCTAVO_ISA

#endif
