// Floats of any stored type, sixteen at most at a time, as f32.
#pragma once

#include "../call.h"
#include "wide.h"

namespace octavo::OCTAVO_ISA {

typedef int8_t i8p __attribute__((vector_size(kPartLanes)));

template <class F>
auto with_floats(DType dtype, const F& f) {
  switch (dtype) {
    case DType::f32: return f.template run<DType::f32>();
    case DType::bf16: return f.template run<DType::bf16>();
    default: return f.template run<DType::f16>();
  }
}

constexpr int64_t width_of(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

// f(lanes, i) over n elements, the last part padded with zeros.
template <DType kType, class F>
OCTAVO_INLINE void each_part(const char* p, int64_t n, const F& f) {
  constexpr int64_t kWidth = width_of(kType);
  int64_t i = 0;
  for (; i + kPartLanes <= n; i += kPartLanes) f(load_floats<kType>(p + i * kWidth), i);
  if (i < n) {
    char rest[kPartLanes * kWidth] = {};
    std::memcpy(rest, p + i * kWidth, (size_t)((n - i) * kWidth));
    f(load_floats<kType>(rest), i);
  }
}

// max |x|, NaN if there is one: magnitudes compare like their bits, NaN highest.
template <DType kType>
OCTAVO_INLINE float highest_of(const char* p, int64_t n) {
  i32p a = {}, b = {};
  each_part<kType>(p, n, [&](f32p v, int64_t i) {
    i32p& high = i & kPartLanes ? b : a;
    high = max_part((i32p)abs_part(v), high);
  });
  const int32_t bits = highest_part(max_part(a, b));
  float high;
  std::memcpy(&high, &bits, 4);
  return high;
}

}  // namespace octavo::OCTAVO_ISA
