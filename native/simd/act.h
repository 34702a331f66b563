// Activation functions on sixteen lanes. The codes are those of the `act` attribute of ops. NaN stays NaN.
#pragma once

#include "vec.h"

namespace octavo::OCTAVO_ISA {

enum Act : int {
  kActNone = 0,
  kActRelu = 1,
  kActGelu = 2,      // exact: x/2 (1 + erf(x/sqrt 2))
  kActGeluTanh = 3,
  kActSilu = 4,
  kActQuickGelu = 5, // x sigmoid(1.702 x)
  kActTanh = 6,
  kActSigmoid = 7,
  kActCount = 8,
};

// 1 + erf(z), without cancellation for negative z. Within 2e-7 of the true value everywhere; relative error below 1e-5
// in the far tail. Minimax polynomials: one for erf near zero, one for the exponent of erfc beyond.
OCTAVO_INLINE f32x16 one_plus_erf(f32x16 z) {
  const f32x16 t = vmin(splat(10.0f), vabs(z));  // in this order NaN propagates
  const f32x16 s = t * t;
  f32x16 r = fma(splat(-1.72853470e-5f), t, splat(3.83197126e-4f));
  const f32x16 u = fma(splat(-3.88396438e-3f), t, splat(2.42546219e-2f));
  r = fma(r, s, u);
  r = fma(r, t, splat(-1.06777877e-1f));
  r = fma(r, t, splat(-6.34846687e-1f));
  r = fma(r, t, splat(-1.28717512e-1f));
  r = fma(r, t, -t);
  const f32x16 tail = vexp(r);
  f32x16 p = splat(-5.96761703e-4f);
  p = fma(p, s, splat(4.99119423e-3f));
  p = fma(p, s, splat(-2.67681349e-2f));
  p = fma(p, s, splat(1.12819925e-1f));
  p = fma(p, s, splat(-3.76125336e-1f));
  p = fma(p, s, splat(1.28379166e-1f));
  const f32x16 near = 1.0f + fma(p, z, z);
  const f32x16 far = z < zero() ? tail : 2.0f - tail;
  return t > splat(0.927734375f) ? far : near;
}

template <int kAct>
OCTAVO_INLINE f32x16 act_of(f32x16 x) {
  if constexpr (kAct == kActRelu) {
    return x < zero() ? zero() : x;
  } else if constexpr (kAct == kActGelu) {
    return 0.5f * x * one_plus_erf(x * 0.70710678118f);
  } else if constexpr (kAct == kActGeluTanh) {
    // (1 + tanh u)/2 = sigmoid(2u), which keeps its digits for negative u.
    const f32x16 u2 = 1.5957691216f * x * (1.0f + 0.044715f * x * x);
    return x * vsigmoid(u2);
  } else if constexpr (kAct == kActSilu) {
    return x * vsigmoid(x);
  } else if constexpr (kAct == kActQuickGelu) {
    return x * vsigmoid(1.702f * x);
  } else if constexpr (kAct == kActTanh) {
    return vtanh(x);
  } else if constexpr (kAct == kActSigmoid) {
    return vsigmoid(x);
  } else {
    return x;
  }
}

// The same with the code at run time; the branch is predictable and cheap next to the function.
OCTAVO_INLINE f32x16 apply_act(int act, f32x16 x) {
  switch (act) {
    case kActRelu: return act_of<kActRelu>(x);
    case kActGelu: return act_of<kActGelu>(x);
    case kActGeluTanh: return act_of<kActGeluTanh>(x);
    case kActSilu: return act_of<kActSilu>(x);
    case kActQuickGelu: return act_of<kActQuickGelu>(x);
    case kActTanh: return act_of<kActTanh>(x);
    case kActSigmoid: return act_of<kActSigmoid>(x);
    default: return x;
  }
}

}  // namespace octavo::OCTAVO_ISA
