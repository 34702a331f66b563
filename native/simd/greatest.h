// The maximum of a row of logits, and its first index.
#pragma once

#include "vec.h"

namespace octavo::OCTAVO_ISA {

namespace {

// The maximum of a row, and whether the row holds a NaN. -inf for an empty row.
OCTAVO_INLINE float greatest(const float* x, int64_t V, bool* nan) {
  f32x16 top = splat(-INFINITY);
  i32x16 bad = {};
  int64_t v = 0;
  for (; v + 16 <= V; v += 16) {
    const f32x16 s = load(x + v);
    top = vmax(s, top);
    bad |= s != s;
  }
  float best = highest(top);
  bool any = false;
  for (int i = 0; i < 16; i++) any |= bad[i] != 0;
  for (; v < V; v++) {
    best = x[v] > best ? x[v] : best;
    any |= x[v] != x[v];
  }
  *nan = any;
  return best;
}

// The first index of a row's maximum.
OCTAVO_INLINE int64_t first_greatest(const float* x, int64_t V, bool* nan) {
  const float best = greatest(x, V, nan);
  int64_t v = 0;
  while (v + 1 < V && x[v] != best) v++;
  return v;
}

}  // namespace

}  // namespace octavo::OCTAVO_ISA
