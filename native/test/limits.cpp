#include "limits.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define ZMM __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")))
#define YMM __attribute__((target("avx2,fma")))

static bool wide() {
  static const bool has = __builtin_cpu_supports("avx512vnni");
  return has;
}
static bool has_bf16() {
  static const bool has = __builtin_cpu_supports("avx512bf16");
  return has;
}
constexpr int kLoops = 2'000'000, kChains = 12;

YMM static void stream_256(const char* p, int64_t bytes) {
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  for (int64_t i = 0; i + 128 <= bytes; i += 128) {
    a = _mm256_or_si256(a, _mm256_loadu_si256((const __m256i*)(p + i)));
    b = _mm256_or_si256(b, _mm256_loadu_si256((const __m256i*)(p + i + 32)));
    c = _mm256_or_si256(c, _mm256_loadu_si256((const __m256i*)(p + i + 64)));
    d = _mm256_or_si256(d, _mm256_loadu_si256((const __m256i*)(p + i + 96)));
  }
  a = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
  asm volatile("" ::"x"(a));
}
void stream_read(const char* p, int64_t bytes) { stream_256(p, bytes); }

#define CHAINS(T, zero, step)                      \
  T acc[kChains];                                  \
  for (int i = 0; i < kChains; i++) acc[i] = zero; \
  for (int n = 0; n < kLoops; n++) {               \
    _Pragma("GCC unroll 12") for (int i = 0; i < kChains; i++) { acc[i] = step; asm volatile("" : "+v"(acc[i])); } \
  }

ZMM static void fma_512() {
  const __m512 w = _mm512_set1_ps(0.5f);
  CHAINS(__m512, _mm512_setzero_ps(), _mm512_fmadd_ps(acc[i], w, w))
}
YMM static void fma_256() {
  const __m256 w = _mm256_set1_ps(0.5f);
  __m256 acc[kChains];
  for (int i = 0; i < kChains; i++) acc[i] = w;
  for (int n = 0; n < kLoops; n++) {
    _Pragma("GCC unroll 12") for (int i = 0; i < kChains; i++) {
      acc[i] = _mm256_fmadd_ps(acc[i], w, w);
      asm volatile("" : "+x"(acc[i]));
    }
  }
}
ZMM static void int8_512() {
  const __m512i w = _mm512_set1_epi32(0x01010101);
  CHAINS(__m512i, _mm512_setzero_si512(), _mm512_dpbusd_epi32(acc[i], w, w))
}
YMM static void int8_256() {
  const __m256i w = _mm256_set1_epi32(0x00010001);
  __m256i acc[kChains];
  for (int i = 0; i < kChains; i++) acc[i] = w;
  for (int n = 0; n < kLoops; n++) {
    _Pragma("GCC unroll 12") for (int i = 0; i < kChains; i++) {
      acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(acc[i], w));
      asm volatile("" : "+x"(acc[i]));
    }
  }
}
ZMM static void bf16_512() {
  const __m512i w = _mm512_set1_epi32(0x3f003f00);
  CHAINS(__m512, _mm512_setzero_ps(), _mm512_dpbf16_ps(acc[i], (__m512bh)w, (__m512bh)w))
}
void spin_fma() { wide() ? fma_512() : fma_256(); }
double spin_fma_work() { return 2.0 * (wide() ? 16 : 8) * kLoops * kChains; }
void spin_int8() { wide() ? int8_512() : int8_256(); }
double spin_int8_work() { return 2.0 * (wide() ? 64 : 16) * kLoops * kChains; }
void spin_bf16() { has_bf16() ? bf16_512() : spin_fma(); }
double spin_bf16_work() { return has_bf16() ? 2.0 * 32 * kLoops * kChains : spin_fma_work(); }

#else
void stream_read(const char* p, int64_t bytes) {
  uint64_t sum = 0;
  for (int64_t i = 0; i + 8 <= bytes; i += 8) sum |= *(const uint64_t*)(p + i);
  asm volatile("" ::"r"(sum));
}
void spin_fma() {}
double spin_fma_work() { return 0; }
void spin_int8() {}
double spin_int8_work() { return 0; }
void spin_bf16() {}
double spin_bf16_work() { return 0; }
#endif
