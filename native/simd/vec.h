// Sixteen lanes of f32 as one value, for every instruction set. The compiler's generic vectors do plain arithmetic (a 512-bit
// value becomes two or four narrower ones on machines without it); only operations that they cannot express have per-ISA parts
// here. Kernel files are compiled once per instruction set with OCTAVO_ISA naming the namespace, so nothing here may have
// external linkage.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#ifndef OCTAVO_ISA
#error "kernel files are compiled with -DOCTAVO_ISA=<namespace>"
#endif

#define OCTAVO_INLINE inline __attribute__((always_inline))

namespace octavo::OCTAVO_ISA {

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef int8_t i8x16 __attribute__((vector_size(16)));
constexpr int kLanes = 16;

// Compilers drop x - 0; 0 + x (which turns -0 to 0) costs an addition.
OCTAVO_INLINE f32x16 splat(float x) { return x - f32x16{}; }
OCTAVO_INLINE f32x16 zero() { return f32x16{}; }

OCTAVO_INLINE f32x16 load(const float* p) {
  f32x16 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
OCTAVO_INLINE void store(float* p, f32x16 v) { std::memcpy(p, &v, sizeof v); }

// First n lanes (n <= 16); the others are zero. No byte past p[n-1] is read or written.
OCTAVO_INLINE f32x16 load_n(const float* p, int n) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
#else
  f32x16 v = zero();
  std::memcpy(&v, p, sizeof(float) * (size_t)n);
  return v;
#endif
}
OCTAVO_INLINE void store_n(float* p, f32x16 v, int n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), (__m512)v);
#else
  std::memcpy(p, &v, sizeof(float) * (size_t)n);
#endif
}

// a * b + c, in one rounding where the machine has it (all our instruction sets but portable x86).
OCTAVO_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
  return a * b + c;
#endif
}

OCTAVO_INLINE f32x16 vmax(f32x16 a, f32x16 b) { return a > b ? a : b; }
OCTAVO_INLINE f32x16 vmin(f32x16 a, f32x16 b) { return a < b ? a : b; }
OCTAVO_INLINE f32x16 vabs(f32x16 a) { return (f32x16)((u32x16)a & 0x7fffffffu); }

// Sums in a fixed tree order: the same on every instruction set.
OCTAVO_INLINE float sum(f32x16 v) {
  float lane[16];
  store(lane, v);
  for (int width = 8; width > 0; width >>= 1)
    for (int i = 0; i < width; i++) lane[i] += lane[i + width];
  return lane[0];
}
OCTAVO_INLINE float highest(f32x16 v) {
  float lane[16];
  store(lane, v);
  for (int width = 8; width > 0; width >>= 1)
    for (int i = 0; i < width; i++) lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
  return lane[0];
}

OCTAVO_INLINE float widen_bf16(uint16_t bits) {
  uint32_t u = (uint32_t)bits << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
OCTAVO_INLINE uint16_t narrow_bf16(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
  return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
OCTAVO_INLINE float widen_f16(uint16_t bits) {
#if defined(__F16C__)
  return _cvtsh_ss(bits);
#else
  const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
  const uint32_t magnitude = bits & 0x7fffu;
  uint32_t u;
  float f;
  if (magnitude >= 0x7c00u) {
    u = sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13) | (magnitude > 0x7c00u ? 0x400000u : 0u);
  } else if (magnitude >= 0x400u) {
    u = sign | ((magnitude << 13) + 0x38000000u);
  } else {
    f = (float)magnitude * 0x1p-24f;
    std::memcpy(&u, &f, 4);
    u |= sign;
  }
  std::memcpy(&f, &u, 4);
  return f;
#endif
}
OCTAVO_INLINE uint16_t narrow_f16(float f) {
#if defined(__F16C__)
  return (uint16_t)_cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT);
#else
  uint32_t u;
  std::memcpy(&u, &f, 4);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
  if (magnitude >= 0x47800000u) return (uint16_t)(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    float a;
    std::memcpy(&a, &magnitude, 4);
    return (uint16_t)(sign | (uint32_t)std::nearbyintf(a * 0x1p24f));
  }
  return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13));
#endif
}

// Sixteen halves widened to f32.
OCTAVO_INLINE f32x16 load_bf16(const uint16_t* p) {
#if defined(__AVX512F__)  // g++ 12 splits the generic form into halves
  return (f32x16)((u32x16)_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256((const __m256i*)p)) << 16);
#else
  u16x16 h;
  std::memcpy(&h, p, sizeof h);
  return (f32x16)(__builtin_convertvector(h, u32x16) << 16);
#endif
}
OCTAVO_INLINE f32x16 load_f16(const uint16_t* p) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i*)p));
#elif defined(__F16C__)
  f32x16 v;
  __m256 low = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
  __m256 high = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)));
  std::memcpy(&v, &low, 32);
  std::memcpy((char*)&v + 32, &high, 32);
  return v;
#else
  f32x16 v;
  for (int i = 0; i < 16; i++) v[i] = widen_f16(p[i]);
  return v;
#endif
}

// e^x: range reduction by ln 2 in two parts and a degree-6 polynomial; within 2 ulp for |x| < 88. Below -87.3 it gives
// zero, above 88.7 infinity; NaN stays NaN.
OCTAVO_INLINE f32x16 vexp(f32x16 x) {
  const f32x16 clamped = vmin(vmax(x, splat(-87.3365f)), splat(88.7228f));
  const f32x16 t = clamped * 1.44269504f;
  const f32x16 magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const f32x16 n = (t + magic) - magic;
  f32x16 r = fma(n, splat(-0.693359375f), clamped);
  r = fma(n, splat(2.12194440e-4f), r);
  f32x16 p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r + 1.0f);
  // 2^n in two steps, so that n = 128 does not overflow the exponent field.
  const i32x16 e = __builtin_convertvector(n, i32x16);
  const i32x16 half = e >> 1;
  f32x16 y = p * (f32x16)((half + 127) << 23) * (f32x16)((e - half + 127) << 23);
  y = x < splat(-87.3365f) ? zero() : y;
  y = x > splat(88.7228f) ? splat(INFINITY) : y;
  return x == x ? y : x;
}

OCTAVO_INLINE f32x16 vsigmoid(f32x16 x) { return 1.0f / (1.0f + vexp(-x)); }

// tanh through e^(-2|x|): no overflow. Near zero 1 - e loses digits, so a series is used there.
OCTAVO_INLINE f32x16 vtanh(f32x16 x) {
  const f32x16 a = vabs(x);
  const f32x16 e = vexp(-2.0f * a);
  const f32x16 big = (1.0f - e) / (1.0f + e);
  const f32x16 s = a * a;
  const f32x16 small =
      a * (1.0f + s * (-0.33333334f + s * (0.13333334f + s * (-0.053968254f + s * 0.021869488f))));
  const f32x16 y = a < splat(0.25f) ? small : big;
  return (f32x16)((u32x16)y | ((u32x16)x & 0x80000000u));
}

}  // namespace octavo::OCTAVO_ISA
