// Vectors as wide as the machine's registers (f32x16 of vec.h is wider than those of AVX2, NEON and SSE, and a compiler
// keeps a wider value in memory, not in registers): what a register tile is made of.
#pragma once

#include "../simd/vec.h"

namespace octavo::OCTAVO_ISA {

#if defined(__AVX512F__)
constexpr int kW = 16;
#elif defined(__AVX2__)
constexpr int kW = 8;
#else
constexpr int kW = 4;
#endif
typedef float VF __attribute__((vector_size(4 * kW)));
typedef int32_t VI __attribute__((vector_size(4 * kW)));
typedef uint32_t VU __attribute__((vector_size(4 * kW)));
typedef uint16_t VH __attribute__((vector_size(2 * kW)));

// x - 0 is x for a compiler; 0 + x is not (it turns -0 to 0) and would cost an addition.
OCTAVO_INLINE VF vset(float x) { return x - VF{}; }
OCTAVO_INLINE VI viset(int32_t x) { return x - VI{}; }
// Unaligned views (g++ 12 keeps the target of a memcpy in memory when loops are unrolled around it).
typedef float VFU __attribute__((vector_size(4 * kW), aligned(4), may_alias));
typedef int32_t VIU __attribute__((vector_size(4 * kW), aligned(4), may_alias));
typedef uint16_t VHU __attribute__((vector_size(2 * kW), aligned(2), may_alias));
OCTAVO_INLINE VF vload(const float* p) { return *(const VFU*)p; }
OCTAVO_INLINE VI viload(const int32_t* p) { return *(const VIU*)p; }
OCTAVO_INLINE VH vhload(const uint16_t* p) { return *(const VHU*)p; }
OCTAVO_INLINE void vstore(float* p, VF v) { *(VFU*)p = v; }

// The halves of the two vectors interleaved: a0 b0 a1 b1 .. and the same of the upper halves.
OCTAVO_INLINE VF zip_low(VF a, VF b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif defined(__AVX2__)
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
  return __builtin_shufflevector(a, b, 0, 4, 1, 5);
#endif
}
OCTAVO_INLINE VF zip_high(VF a, VF b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif defined(__AVX2__)
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  return __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}

template <int kStages>
OCTAVO_INLINE void zip_stages(VF* v) {
  if constexpr (kStages > 0) {
    VF next[kW];
#pragma GCC unroll 8
    for (int i = 0; i < kW / 2; i++) {
      next[2 * i] = zip_low(v[i], v[i + kW / 2]);
      next[2 * i + 1] = zip_high(v[i], v[i + kW / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kW; i++) v[i] = next[i];
    zip_stages<kStages - 1>(v);
  }
}
// A kW x kW block turned: log2(kW) perfect shuffles.
OCTAVO_INLINE void transpose(VF* v) { zip_stages<kW == 16 ? 4 : kW == 8 ? 3 : 2>(v); }

OCTAVO_INLINE float vsum(VF v) {
  float lane[kW];
  vstore(lane, v);
  for (int width = kW / 2; width > 0; width >>= 1)
    for (int i = 0; i < width; i++) lane[i] += lane[i + width];
  return lane[0];
}
OCTAVO_INLINE float vhighest(VF v) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const __m256 half = _mm256_max_ps((__m256)__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                                    (__m256)__builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
#else
  const __m256 half = (__m256)v;
#endif
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
#else
  float best = v[0];
  for (int i = 1; i < kW; i++) best = v[i] > best ? v[i] : best;
  return best;
#endif
}

// (In the AVX-512 parts the forms with a full mask are those that g++ 12 does not warn about.)
//
// e^x for x <= 0 (for a softmax): within 2 ulp, exactly 1 at 0, exactly 0 below -87.3; NaN stays NaN.
OCTAVO_INLINE VF vexp_down(VF x) {
  VF t = x * 1.44269504f;
  t = vset(-150.0f) > t ? vset(-150.0f) : t;  // in this order NaN passes
#if defined(__AVX512F__)
  const VF n = (VF)_mm512_maskz_roundscale_ps(0xffff, (__m512)t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const VF magic = vset(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const VF shifted = t + magic;
  const VF n = shifted - magic;
#endif
  const VF r = t - n;
  VF p = vset(0.001326472731307149f);
  p = p * r + 0.009671512991189957f;
  p = p * r + 0.05550733581185341f;
  p = p * r + 0.24022242426872253f;
  p = p * r + 0.6931470036506653f;
  p = p * r + 1.0f;
#if defined(__AVX512F__)
  const VF y = (VF)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)n);
#else
  const VF y = (VF)((VI)p + ((VI)shifted << 23));
#endif
  return t < -126.0f ? VF{} : y;
}

// tanh; near zero, where 1 - e loses digits, by a series.
OCTAVO_INLINE VF vtanh_any(VF x) {
  const VF a = (VF)((VU)x & 0x7fffffffu);
  const VF e = vexp_down(-2.0f * a);
  const VF big = (1.0f - e) / (1.0f + e);
  const VF s = a * a;
  const VF small = a * (1.0f + s * (-0.33333334f + s * (0.13333334f + s * (-0.053968254f + s * 0.021869488f))));
  const VF y = a < vset(0.25f) ? small : big;
  return (VF)((VU)y | ((VU)x & 0x80000000u));
}

// How numbers are stored: kW of them widened, or the first n with zeros after them.
struct StoredF32 {
  typedef float type;
  static OCTAVO_INLINE VF load(const float* p) { return vload(p); }
};
struct StoredBF16 {
  typedef uint16_t type;
  static OCTAVO_INLINE VF load(const uint16_t* p) {
    // g++ 12 widens a whole vector in halves when asked in general terms.
#if defined(__AVX512F__)
    return (VF)((VU)_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256((const __m256i*)p)) << 16);
#elif defined(__AVX2__)
    return (VF)((VU)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)) << 16);
#else
    return (VF)(__builtin_convertvector(vhload(p), VU) << 16);
#endif
  }
};
struct StoredF16 {
  typedef uint16_t type;
  static OCTAVO_INLINE VF load(const uint16_t* p) {
#if defined(__AVX512F__)
    return (VF)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__) && defined(__F16C__)
    return (VF)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#elif defined(__ARM_NEON) && defined(__aarch64__)
    return (VF)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
#else
    VF v;
    for (int i = 0; i < kW; i++) v[i] = widen_f16(p[i]);
    return v;
#endif
  }
};
template <class Stored>
OCTAVO_INLINE VF load_part(const typename Stored::type* p, int n) {
  typename Stored::type lane[kW] = {};
  for (int i = 0; i < n; i++) lane[i] = p[i];
  return Stored::load(lane);
}

}  // namespace octavo::OCTAVO_ISA
