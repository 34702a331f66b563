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

YMM static void stream_256(const char* p, int64_t bytes, int64_t stride, int64_t step) {
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  for (int64_t i = 0; i < bytes; i += step) {
    for (int64_t j = 0; j < step; j += 32) {
      a = _mm256_or_si256(a, _mm256_loadu_si256((const __m256i*)(p + i + j)));
      b = _mm256_or_si256(b, _mm256_loadu_si256((const __m256i*)(p + i + j + stride)));
      c = _mm256_or_si256(c, _mm256_loadu_si256((const __m256i*)(p + i + j + 2 * stride)));
      d = _mm256_or_si256(d, _mm256_loadu_si256((const __m256i*)(p + i + j + 3 * stride)));
    }
  }
  a = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
  asm volatile("" ::"x"(a));
}
void stream_read(const char* p, int64_t bytes, int streams) {
  if (streams == 4) {
    const int64_t part = bytes / 4 / 64 * 64;
    stream_256(p, part, part, 64);
    return;
  }
  for (int64_t i = 0; i + 4096 <= bytes; i += 4096)
    for (int64_t j = 0; j < 4096; j += 128) stream_256(p + i + j, 32, 32, 32);
}

// Twelve chains, enough for two units of latency six. The asm hides them from the compiler.
#define SPIN(T, constraint, start, step)                                                                  \
  T a = start, b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a, k = a, l = a;               \
  for (int n = 0; n < kLoops; n++) {                                                                      \
    a = step(a), b = step(b), c = step(c), d = step(d), e = step(e), f = step(f);                         \
    g = step(g), h = step(h), i = step(i), j = step(j), k = step(k), l = step(l);                         \
    asm volatile("" : "+" constraint(a), "+" constraint(b), "+" constraint(c), "+" constraint(d),         \
                 "+" constraint(e), "+" constraint(f));                                                   \
    asm volatile("" : "+" constraint(g), "+" constraint(h), "+" constraint(i), "+" constraint(j),         \
                 "+" constraint(k), "+" constraint(l));                                                   \
  }

ZMM static void fma_512() {
  const __m512 w = _mm512_set1_ps(0.5f);
#define STEP(x) _mm512_fmadd_ps(x, w, w)
  SPIN(__m512, "v", w, STEP)
#undef STEP
}
YMM static void fma_256() {
  const __m256 w = _mm256_set1_ps(0.5f);
#define STEP(x) _mm256_fmadd_ps(x, w, w)
  SPIN(__m256, "x", w, STEP)
#undef STEP
}
ZMM static void int8_512() {
  const __m512i w = _mm512_set1_epi32(0x01010101);
#define STEP(x) _mm512_dpbusd_epi32(x, w, w)
  SPIN(__m512i, "v", w, STEP)
#undef STEP
}
YMM static void int8_256() {
  const __m256i w = _mm256_set1_epi32(0x00010001);
#define STEP(x) _mm256_add_epi32(w, _mm256_madd_epi16(x, w))
  SPIN(__m256i, "x", w, STEP)
#undef STEP
}
ZMM static void bf16_512() {
  const __m512bh w = (__m512bh)_mm512_set1_epi32(0x3f003f00);
#define STEP(x) _mm512_dpbf16_ps(x, w, w)
  SPIN(__m512, "v", _mm512_setzero_ps(), STEP)
#undef STEP
}
void spin_fma() { wide() ? fma_512() : fma_256(); }
double spin_fma_work() { return 2.0 * (wide() ? 16 : 8) * kLoops * kChains; }
void spin_int8() { wide() ? int8_512() : int8_256(); }
double spin_int8_work() { return 2.0 * (wide() ? 64 : 16) * kLoops * kChains; }
void spin_bf16() { has_bf16() ? bf16_512() : spin_fma(); }
double spin_bf16_work() { return has_bf16() ? 2.0 * 32 * kLoops * kChains : spin_fma_work(); }

#else
void stream_read(const char* p, int64_t bytes, int) {
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
