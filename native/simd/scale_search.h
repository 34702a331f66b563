// The scale of a block of 4-bit codes with the least squared error, of 16 about its absmax (ops/scale-search.ts). Lanes are scales,
// so that a block's error needs no sums over lanes.
#pragma once

#include "four_bit.h"

namespace octavo::OCTAVO_ISA {

// As in ops/scale-search.ts.
constexpr int kTried = 16;
alignas(64) constexpr float kScalesTried[kTried] = {0.8f,  0.82f, 0.84f, 0.86f, 0.88f, 0.9f,  0.92f, 0.94f,
                                                    0.96f, 0.98f, 1.0f,  1.02f, 1.04f, 1.06f, 1.08f, 1.1f};
constexpr int kAbsmaxItself = 10;

// The values that codes mean, ascending, and the thresholds between them; of FP4 the magnitudes.
struct CodeValues {
  int count;
  const float* value;
  const float* threshold;
};

// Squared errors of blocks for 16 scales.
class TriedErrors {
#if defined(__AVX512F__)
  // Numbers from -1.28 to 1.28 fall into 32 cells so narrow that none has two thresholds. By cell: the values of the codes nearest to
  // its ends, one of which is the nearest to any number in it.
  static constexpr int kCells = 32;
  static constexpr float kPerUnit = 12.5f;
  __m512 low_[2], high_[2];
  __m512 middle_;
  bool magnitudes_;

 public:
  TriedErrors(const CodeValues& codes, bool magnitudes) : middle_(_mm512_set1_ps(magnitudes ? 0.0f : kCells / 2)) {
    magnitudes_ = magnitudes;
    float ends[kCells + 1];
    for (int cell = 0; cell <= kCells; cell++) {
      const float at = ((float)cell - (magnitudes ? 0.0f : kCells / 2)) / kPerUnit;
      int code = 0;
      while (code < codes.count - 1 && at > codes.threshold[code]) code++;
      ends[cell] = codes.value[code];
    }
    for (int i = 0; i < 2; i++) {
      low_[i] = _mm512_loadu_ps(ends + 16 * i);
      high_[i] = _mm512_loadu_ps(ends + 16 * i + 1);
    }
  }

  // Of numbers x, in units of the squares of the scales whose inverses are given.
  OCTAVO_INLINE void of(const float* x, int64_t count, const float* inverse, float* error) const {
    const __m512 factor = _mm512_load_ps(inverse), cells = _mm512_mul_ps(factor, _mm512_set1_ps(kPerUnit));
    const auto nearest = [&](float value) __attribute__((always_inline)) {
      const __m512 v = _mm512_set1_ps(magnitudes_ ? __builtin_fabsf(value) : value);
      const __m512i cell = _mm512_cvttps_epi32(_mm512_fmadd_ps(v, cells, middle_));
      const __m512 below = _mm512_fmsub_ps(v, factor, _mm512_permutex2var_ps(low_[0], cell, low_[1]));
      const __m512 above = _mm512_fmsub_ps(v, factor, _mm512_permutex2var_ps(high_[0], cell, high_[1]));
      return _mm512_range_ps(below, above, 2);  // the one of the lesser magnitude
    };
    __m512 a = _mm512_setzero_ps(), b = a, c = a, d = a;
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
      const __m512 e0 = nearest(x[i]), e1 = nearest(x[i + 1]), e2 = nearest(x[i + 2]), e3 = nearest(x[i + 3]);
      a = _mm512_fmadd_ps(e0, e0, a);
      b = _mm512_fmadd_ps(e1, e1, b);
      c = _mm512_fmadd_ps(e2, e2, c);
      d = _mm512_fmadd_ps(e3, e3, d);
    }
    for (; i < count; i++) {
      const __m512 e = nearest(x[i]);
      a = _mm512_fmadd_ps(e, e, a);
    }
    _mm512_store_ps(error, _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)));
  }
#else
  CodeValues codes_;
  bool magnitudes_;

 public:
  TriedErrors(const CodeValues& codes, bool magnitudes) : codes_(codes), magnitudes_(magnitudes) {}

  OCTAVO_INLINE void of(const float* x, int64_t count, const float* inverse, float* error) const {
    float step[15];
    for (int c = 0; c + 1 < codes_.count; c++) step[c] = codes_.value[c + 1] - codes_.value[c];
    for (int lane = 0; lane < kTried; lane += kPartLanes) {
      const f32p factor = load_part<f32p>(inverse + lane);
      f32p sum = {};
      for (int64_t i = 0; i < count; i++) {
        const f32p v = splat_part(magnitudes_ ? __builtin_fabsf(x[i]) : x[i]) * factor;
        // The nearest value as a sum of steps: its last bit may be off.
        f32p near = splat_part(codes_.value[0]);
        for (int c = 0; c + 1 < codes_.count; c++)
          near = near + (f32p)((i32p)(v > splat_part(codes_.threshold[c])) & (i32p)splat_part(step[c]));
        sum += (v - near) * (v - near);
      }
      store_part(error + lane, sum);
    }
  }
#endif
};

// The scale of a block: its absmax unless another one is better.
OCTAVO_INLINE float searched_scale(const TriedErrors& errors, const float* x, int64_t count, float absmax) {
  if (!(absmax > 1e-30f && absmax < 1e30f)) return absmax;  // squares must be numbers
  alignas(64) float scale[kTried], inverse[kTried], error[kTried];
  for (int i = 0; i < kTried; i++) {
    scale[i] = absmax * kScalesTried[i];
    inverse[i] = 1.0f / scale[i];
  }
  errors.of(x, count, inverse, error);
  float least = INFINITY;
  for (int i = 0; i < kTried; i++) {
    error[i] = error[i] * scale[i] * scale[i];
    least = error[i] < least ? error[i] : least;
  }
  if (!(least < error[kAbsmaxItself])) return absmax;
  int best = 0;
  while (error[best] != least) best++;
  return scale[best];
}

}  // namespace octavo::OCTAVO_ISA
