// The machine's own vectors, for inner loops. A Wide value is sixteen 32-bit lanes (one step of a panel) as one, two or
// four registers. vec.h's 64-byte vectors are shorter to write, but compilers keep them in memory on machines with narrower
// registers; these stay in registers.
#pragma once

#include "../panels.h"
#include "vec.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif
#if defined(__wasm_simd128__)
#include <wasm_simd128.h>
#endif

namespace octavo::OCTAVO_ISA {

#if defined(__AVX512F__)
constexpr int kPartBytes = 64;
#elif defined(__AVX2__)
constexpr int kPartBytes = 32;
#else
constexpr int kPartBytes = 16;
#endif
constexpr int kParts = 64 / kPartBytes;
constexpr int kPartLanes = kPartBytes / 4;

typedef float f32p __attribute__((vector_size(kPartBytes)));
typedef int32_t i32p __attribute__((vector_size(kPartBytes)));
typedef uint32_t u32p __attribute__((vector_size(kPartBytes)));

template <class V>
struct Wide {
  V part[kParts];
};
using WideF = Wide<f32p>;
using WideI = Wide<i32p>;

#define OCTAVO_UNROLL _Pragma("GCC unroll 16")

// Parts from memory at any address. (By memcpy: with unaligned vector types g++ 12 makes slower loops of some products.)
template <class V = f32p>
OCTAVO_INLINE V load_part(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
OCTAVO_INLINE void store_part(void* p, V v) {
  std::memcpy(p, &v, sizeof v);
}
template <class W>
OCTAVO_INLINE W load_wide(const void* p) {
  W w;
  OCTAVO_UNROLL for (int i = 0; i < kParts; i++)
      w.part[i] = load_part<decltype(w.part[0] + w.part[0])>((const char*)p + i * kPartBytes);
  return w;
}
template <class W>
OCTAVO_INLINE void store_wide(void* p, const W& w) {
  OCTAVO_UNROLL for (int i = 0; i < kParts; i++) store_part((char*)p + i * kPartBytes, w.part[i]);
}

OCTAVO_INLINE u32p splat_bits(uint32_t x) { return u32p{} + x; }
OCTAVO_INLINE f32p splat_part(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return (f32p)splat_bits(u);
}

OCTAVO_INLINE f32p fma_part(f32p a, f32p b, f32p c) {
#if defined(__AVX512F__)
  return (f32p)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__) && defined(__AVX2__)
  return (f32p)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON)
  return (f32p)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#elif defined(__wasm_relaxed_simd__)
  return (f32p)wasm_f32x4_relaxed_madd((v128_t)a, (v128_t)b, (v128_t)c);
#else
  return a * b + c;
#endif
}

OCTAVO_INLINE f32p max_part(f32p a, f32p b) { return a > b ? a : b; }
OCTAVO_INLINE f32p min_part(f32p a, f32p b) { return a < b ? a : b; }
OCTAVO_INLINE i32p max_part(i32p a, i32p b) {
#if defined(__AVX512F__)
  return (i32p)_mm512_maskz_max_epi32(0xffff, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (i32p)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
  return a > b ? a : b;
#endif
}
OCTAVO_INLINE f32p abs_part(f32p a) { return (f32p)((u32p)a & 0x7fffffffu); }
OCTAVO_INLINE f32p to_f32(i32p a) { return __builtin_convertvector(a, f32p); }

OCTAVO_INLINE float highest_part(f32p v) {
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
  for (int i = 1; i < kPartLanes; i++) best = v[i] > best ? v[i] : best;
  return best;
#endif
}
OCTAVO_INLINE int32_t highest_part(i32p v) {
  int32_t best = v[0];
  for (int i = 1; i < kPartLanes; i++) best = v[i] > best ? v[i] : best;
  return best;
}
// Sums of codes of weights and activations that are NaN or infinite wrap; nobody reads them.
OCTAVO_INLINE int32_t sum_part(i32p v) {
  uint32_t s = 0;
  for (int i = 0; i < kPartLanes; i++) s += (uint32_t)v[i];
  return (int32_t)s;
}
OCTAVO_INLINE float sum_part(f32p v) {
  float lane[kPartLanes];
  store_part(lane, v);
  for (int width = kPartLanes / 2; width > 0; width >>= 1)
    for (int i = 0; i < width; i++) lane[i] += lane[i + width];
  return lane[0];
}

// True if any lane of a comparison is true.
OCTAVO_INLINE bool any_part(i32p mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_epi8((__m256i)mask) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_epi8((__m128i)mask) != 0;
#elif defined(__wasm_simd128__)
  return wasm_v128_any_true((v128_t)mask);
#else
  int32_t any = 0;
  for (int i = 0; i < kPartLanes; i++) any |= mask[i];
  return any != 0;
#endif
}

// A value that the compiler may not merge into an fma: for formulas that define every rounding.
OCTAVO_INLINE f32p rounded(f32p v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__SSE2__)
  asm("" : "+x"(v));
#elif defined(__ARM_NEON)
  asm("" : "+w"(v));
#endif
  return v;
}

// f32 lanes from halves in the low 16 bits of dwords.
OCTAVO_INLINE f32p widen_f16_bits(u32p h) {
#if defined(__AVX512F__)
  // (The zero-masked forms of these intrinsics leave no lane undefined, which g++ would warn about.)
  return (f32p)_mm512_maskz_cvtph_ps(0xffff, _mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)h));
#elif defined(__AVX2__) && defined(__F16C__)
  const __m256i packed = _mm256_packus_epi32((__m256i)(h & 0xffffu), _mm256_setzero_si256());
  return (f32p)_mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
#else
  // A multiplication shifts the exponent, which also handles subnormals.
  const u32p magnitude = (h & 0x7fffu) << 13;
  const u32p finite = (u32p)((f32p)magnitude * 0x1p112f);
  const u32p special = magnitude | 0x7f800000u | ((magnitude & 0x007fffffu) ? splat_bits(0x400000u) : splat_bits(0));
  const u32p bits = magnitude >= 0x0f800000u ? special : finite;
  return (f32p)(bits | ((h & 0x8000u) << 16));
#endif
}

// Half as many bits in as many lanes.
typedef uint16_t HalfPart __attribute__((vector_size(kPartBytes / 2), aligned(1), may_alias));
typedef int8_t QuarterPart __attribute__((vector_size(kPartBytes / 4), aligned(1), may_alias));

// Stored numbers: f32, f16, bf16, or i8 codes.
template <DType kType>
struct ElementOf {
  using type = uint16_t;
};
template <>
struct ElementOf<DType::f32> {
  using type = float;
};
template <>
struct ElementOf<DType::i8> {
  using type = int8_t;
};
template <DType kType>
using Element = typename ElementOf<kType>::type;

// kPartLanes of them as f32 lanes; the first n, padded with zeros.
template <DType kType>
OCTAVO_INLINE f32p load_floats(const void* p) {
  if constexpr (kType == DType::f32) {
    return load_part(p);
  } else if constexpr (kType == DType::i8) {
#if defined(__AVX512F__)
    return to_f32((i32p)_mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__)
    return to_f32((i32p)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#elif defined(__SSE2__)
    int32_t four;
    std::memcpy(&four, p, 4);
    const __m128i codes = _mm_cvtsi32_si128(four), twice = _mm_unpacklo_epi8(codes, codes);
    return to_f32((i32p)_mm_srai_epi32(_mm_unpacklo_epi16(twice, twice), 24));
#else
    return to_f32(__builtin_convertvector(*(const QuarterPart*)p, i32p));
#endif
  } else if constexpr (kType == DType::bf16) {
    // (g++ 12 splits the generic form of a whole vector into halves.)
#if defined(__AVX512F__)
    return (f32p)((u32p)_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256((const __m256i*)p)) << 16);
#elif defined(__AVX2__)
    return (f32p)((u32p)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)) << 16);
#else
    return (f32p)(__builtin_convertvector(*(const HalfPart*)p, u32p) << 16);
#endif
  } else {
#if defined(__AVX512F__)
    return (f32p)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__) && defined(__F16C__)
    return (f32p)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#elif defined(__ARM_NEON) && defined(__aarch64__)
    return (f32p)vcvt_f32_f16(vreinterpret_f16_u16((uint16x4_t)*(const HalfPart*)p));
#else
    return widen_f16_bits(__builtin_convertvector(*(const HalfPart*)p, u32p));
#endif
  }
}
template <DType kType>
OCTAVO_INLINE f32p load_floats_n(const Element<kType>* p, int n) {
  Element<kType> lane[kPartLanes] = {};
  for (int i = 0; i < n; i++) lane[i] = p[i];
  return load_floats<kType>(lane);
}

#if defined(__AVX512BF16__)
// Lane by lane two floats as one dword of bf16, `low` in the low half.
OCTAVO_INLINE u32p bf16_pairs(f32p low, f32p high) {
  const __m512i lows = _mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)_mm512_cvtneps_pbh((__m512)low));
  const __m512i highs = _mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)_mm512_cvtneps_pbh((__m512)high));
  return (u32p)lows | ((u32p)highs << 16);
}
#endif

}  // namespace octavo::OCTAVO_ISA
