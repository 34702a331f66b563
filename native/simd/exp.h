// e^x and tanh on the machine's own vectors, for softmax and softcap; vec.h has versions for any x.
#pragma once

#include "wide.h"

namespace octavo::OCTAVO_ISA {

// (The AVX-512 parts use the fully masked forms, because g++ 12 warns about the others.)
//
// e^x for x <= 0 (for a softmax): within 2 ulp, exactly 1 at 0, exactly 0 below -87.3; NaN stays NaN.
OCTAVO_INLINE f32p exp_down(f32p x) {
  f32p t = x * 1.44269504f;
  t = splat_part(-150.0f) > t ? splat_part(-150.0f) : t;  // in this order NaN propagates
#if defined(__AVX512F__)
  const f32p n = (f32p)_mm512_maskz_roundscale_ps(0xffff, (__m512)t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const f32p magic = splat_part(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const f32p shifted = t + magic;
  const f32p n = shifted - magic;
#endif
  const f32p r = t - n;
  f32p p = splat_part(0.001326472731307149f);
  p = p * r + 0.009671512991189957f;
  p = p * r + 0.05550733581185341f;
  p = p * r + 0.24022242426872253f;
  p = p * r + 0.6931470036506653f;
  p = p * r + 1.0f;
#if defined(__AVX512F__)
  const f32p y = (f32p)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)n);
#else
  const f32p y = (f32p)((i32p)p + ((i32p)shifted << 23));
#endif
  return t < -126.0f ? f32p{} : y;
}

// tanh; near zero, where 1 - e loses digits, by a series.
OCTAVO_INLINE f32p tanh_part(f32p x) {
  const f32p a = (f32p)((u32p)x & 0x7fffffffu);
  const f32p e = exp_down(-2.0f * a);
  const f32p big = (1.0f - e) / (1.0f + e);
  const f32p s = a * a;
  const f32p small = a * (1.0f + s * (-0.33333334f + s * (0.13333334f + s * (-0.053968254f + s * 0.021869488f))));
  const f32p y = a < splat_part(0.25f) ? small : big;
  return (f32p)((u32p)y | ((u32p)x & 0x80000000u));
}

}  // namespace octavo::OCTAVO_ISA
