// Activations of LLM.int8(): each row to 8-bit codes of its own scale, the values at or above the threshold set aside.
#pragma once

#include "product.h"

namespace octavo::OCTAVO_ISA {

// What one tile of rows becomes. The outliers are the union over its rows: a row that has none in a column holds a
// zero there, which adds nothing, so its result does not depend on the rows beside it.
struct CodedTile {
  uint32_t* codes;        // [K/4 * kSub][rows]
  float* scale;           // [rows]: s, NaN if the row holds one
  int32_t* bias;          // [rows]: kBias * the sum of the codes
  int64_t* outliers;      // how many columns
  int32_t* column;        // [K], ascending
  float* value;           // [K][rows]
};

struct CodedLayout {
  int64_t codes, scale, bias, outliers, column, value, bytes;

  CodedLayout(int64_t k, int rows) {
    codes = 0;
    scale = codes + align64(ceil_div(k, 4) * DotI8::kSub * rows * 4);
    bias = scale + 64;
    outliers = bias + 64;
    column = outliers + 64;
    value = column + align64(k * 4);
    bytes = align64(value + k * rows * 4);
  }
  OCTAVO_INLINE CodedTile at(char* p) const {
    return {(uint32_t*)(p + codes),    (float*)(p + scale),    (int32_t*)(p + bias),
            (int64_t*)(p + outliers), (int32_t*)(p + column), (float*)(p + value)};
  }
};

// max |x| below the threshold (all, if it is zero), whether anything lies at or above it, whether there is a NaN.
struct RowRange {
  float scale;
  bool outliers;
  bool nan;
};
OCTAVO_INLINE RowRange row_range(const float* x, int64_t k, float threshold) {
  const f32p limit = splat_part(threshold > 0 ? threshold : INFINITY);
  f32p high = {};
  i32p out = {}, nan = {};
  const auto take = [&](f32p v) {
    const f32p a = abs_part(v);
    if (threshold > 0) {
      const i32p inside = a < limit;
      out |= a >= limit;
      high = max_part((f32p)((i32p)a & inside), high);
    } else {
      high = max_part(a, high);
    }
    nan |= v != v;
  };
  int64_t i = 0;
  for (; i + kPartLanes <= k; i += kPartLanes) take(load_part<f32p>(x + i));
  if (i < k) {
    f32p v = {};
    std::memcpy(&v, x + i, sizeof(float) * (size_t)(k - i));
    take(v);
  }
  return {highest_part(high), any_part(out), any_part(nan)};
}

// The factor to codes; a scale so small that this overflows still gives codes within range.
OCTAVO_INLINE float code_factor(float scale) { return scale > 0 ? (1.0f / scale) * 127.0f : 0.0f; }

// rne(x * factor) as integers in [-127, 127]; NaN gives zero. The limits stand between product and sum, so the two
// cannot become one fma.
OCTAVO_INLINE i32p code_part(f32p x, f32p factor) {
  f32p v = rounded(x * factor);
  v = min_part(splat_part(127.0f), max_part(splat_part(-127.0f), v));  // in this order NaN passes
  v = v == v ? v : f32p{};
  const f32p magic = splat_part(12582912.0f);
  return (i32p)(v + magic) - (i32p)magic;
}

OCTAVO_INLINE int32_t code_row(const float* x, int64_t k, float threshold, float factor, uint32_t* to, int rows) {
  const f32p limit = splat_part(threshold > 0 ? threshold : INFINITY);
  const f32p f = splat_part(factor);
  i32p sum = {};
  const auto code = [&](f32p v) {
    i32p q = code_part(v, f);
    if (threshold > 0) q &= abs_part(v) < limit;
    sum += q;
    return q;
  };
  constexpr int kStepDwords = DotI8::kSub;
  int64_t i = 0;
  for (; i + kPartLanes <= k; i += kPartLanes) {
    const i32p q = code(load_part<f32p>(x + i));
    uint32_t* at = to + i / 4 * kStepDwords * rows;
#if defined(__AVX512F__)
    alignas(16) uint32_t packed[4];
    _mm_store_si128((__m128i*)packed, _mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)q));
    for (int d = 0; d < 4; d++) at[d * rows] = packed[d];
#else
    int32_t lane[kPartLanes];
    store_part(lane, q);
    for (int d = 0; d < kPartLanes / 4; d++) put_codes(at + d * kStepDwords * rows, rows, lane + 4 * d);
#endif
  }
  if (i < k) {
    f32p v = {};
    std::memcpy(&v, x + i, sizeof(float) * (size_t)(k - i));
    int32_t lane[kPartLanes];
    store_part(lane, code(v));
    for (int d = 0; i + 4 * d < k; d++) put_codes(to + (i / 4 + d) * kStepDwords * rows, rows, lane + 4 * d);
  }
  return sum_part(sum);
}

// `rows` rows in a tile of plan_rows; the missing ones are zero.
inline void code_tile(const float* x, int64_t k, int rows, int plan_rows, float threshold, const CodedTile& tile,
                      uint8_t* seen) {
  bool any = false;
  for (int r = 0; r < plan_rows; r++) {
    uint32_t* to = tile.codes + r;
    if (r >= rows) {
      for (int64_t i = 0; i < ceil_div(k, 4) * DotI8::kSub; i++) to[i * plan_rows] = 0;
      tile.scale[r] = 0;
      tile.bias[r] = 0;
      continue;
    }
    const RowRange range = row_range(x + r * k, k, threshold);
    any |= range.outliers;
    tile.scale[r] = range.nan ? NAN : range.scale;
    tile.bias[r] = DotI8::kBias * code_row(x + r * k, k, threshold, code_factor(range.scale), to, plan_rows);
  }
  int64_t count = 0;
  if (any) {
    const f32p limit = splat_part(threshold);
    for (int64_t i = 0; i < k; i += kPartLanes) {
      const int width = (int)at_most(kPartLanes, k - i);
      i32p over = {};
      for (int r = 0; r < rows; r++) {
        f32p v = {};
        if (width == kPartLanes)
          v = load_part<f32p>(x + r * k + i);
        else
          std::memcpy(&v, x + r * k + i, sizeof(float) * (size_t)width);
        over |= abs_part(v) >= limit;
      }
      if (!any_part(over)) continue;
      for (int j = 0; j < width; j++) {
        if (!over[j]) continue;
        tile.column[count] = (int32_t)(i + j);
        for (int r = 0; r < plan_rows; r++) {
          const float v = r < rows ? x[r * k + i + j] : 0.0f;
          tile.value[count * plan_rows + r] = std::fabs(v) >= threshold ? v : 0.0f;
        }
        if (seen) __atomic_store_n(seen + i + j, (uint8_t)1, __ATOMIC_RELAXED);
        count++;
      }
    }
  }
  *tile.outliers = count;
}

}  // namespace octavo::OCTAVO_ISA
