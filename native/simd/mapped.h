// The nearest of 256 ascending values: the number of midpoints between them that lie below.
#pragma once

#include "four_bit.h"

namespace octavo::OCTAVO_ISA {

constexpr float kLeastNormal = 0x1p-126f;

class Nearest {
  alignas(64) float middle_[256];
  Map256 middles_;

  static const float* filled(const float* map, float* middle) {
    for (int i = 0; i < 255; i++) middle[i] = (map[i] + map[i + 1]) / 2.0f;
    middle[255] = INFINITY;
    return middle;
  }

 public:
  explicit Nearest(const float* map) : middles_(filled(map, middle_)) {}
  Nearest(const Nearest&) = delete;
  Nearest& operator=(const Nearest&) = delete;

  // Codes of x * factor, at most 1 in magnitude; NaN gets the first.
  OCTAVO_INLINE i32p code(f32p x, f32p factor) const {
    const f32p one = splat_part(1.0f);
    const f32p v = min_part(one, max_part(-one, rounded(x * factor)));  // in this order NaN propagates
    i32p code = {};
    OCTAVO_UNROLL for (int step = 128; step > 0; step >>= 1) {
      const i32p above = (i32p)(v > middles_.at((u32p)(code + (step - 1))));
      code += above & step;
    }
    return code;
  }
};

// The factor to magnitudes of at most 1; zero for a block of zeros, or of what some machines take for zeros.
OCTAVO_INLINE float unit_factor(float high) { return high < kLeastNormal ? 0.0f : 1.0f / high; }

}  // namespace octavo::OCTAVO_ISA
