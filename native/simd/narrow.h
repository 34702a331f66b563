// Float rows of any storage dtype as sixteen lanes of f32 and back (rounded half to even).
#pragma once

#include "vec.h"

namespace octavo::OCTAVO_ISA {

OCTAVO_INLINE void store_bf16(uint16_t* p, f32x16 v) {
  const u32x16 u = (u32x16)v;
  const u32x16 rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const u32x16 bits = (u & 0x7fffffffu) > 0x7f800000u ? ((u >> 16) | 0x40u) : rounded;
  const u16x16 h = __builtin_convertvector(bits, u16x16);
  std::memcpy(p, &h, sizeof h);
}

OCTAVO_INLINE void store_f16(uint16_t* p, f32x16 v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  __m256 low, high;
  std::memcpy(&low, &v, 32);
  std::memcpy(&high, (const char*)&v + 32, 32);
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < 16; i++) p[i] = narrow_f16(v[i]);
#endif
}

// Storage dtypes as types: T is the type in memory; load and save take sixteen elements, their _n forms the first n.
struct F32 {
  using T = float;
  static OCTAVO_INLINE f32x16 load(const T* p) { return OCTAVO_ISA::load(p); }
  static OCTAVO_INLINE f32x16 load_n(const T* p, int n) { return OCTAVO_ISA::load_n(p, n); }
  static OCTAVO_INLINE void save(T* p, f32x16 v) { store(p, v); }
  static OCTAVO_INLINE float widen(T x) { return x; }
  static OCTAVO_INLINE T narrow(float x) { return x; }
};
struct F16 {
  using T = uint16_t;
  static OCTAVO_INLINE f32x16 load(const T* p) { return load_f16(p); }
  static OCTAVO_INLINE f32x16 load_n(const T* p, int n) {
    T h[16] = {};
    std::memcpy(h, p, sizeof(T) * (size_t)n);
    return load_f16(h);
  }
  static OCTAVO_INLINE void save(T* p, f32x16 v) { store_f16(p, v); }
  static OCTAVO_INLINE float widen(T x) { return widen_f16(x); }
  static OCTAVO_INLINE T narrow(float x) { return narrow_f16(x); }
};
struct BF16 {
  using T = uint16_t;
  static OCTAVO_INLINE f32x16 load(const T* p) { return load_bf16(p); }
  static OCTAVO_INLINE f32x16 load_n(const T* p, int n) {
    T h[16] = {};
    std::memcpy(h, p, sizeof(T) * (size_t)n);
    return load_bf16(h);
  }
  static OCTAVO_INLINE void save(T* p, f32x16 v) { store_bf16(p, v); }
  static OCTAVO_INLINE float widen(T x) { return widen_bf16(x); }
  static OCTAVO_INLINE T narrow(float x) { return narrow_bf16(x); }
};

}  // namespace octavo::OCTAVO_ISA
