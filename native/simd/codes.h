// Activations of LLM.int8(): each row to 8-bit codes of its own scale, with values at or above the threshold kept separately.
#pragma once

#include "product.h"
#include "transpose.h"

namespace octavo::OCTAVO_ISA {

// Layout of the codes of a step: [K/4 * kSub][rows] dwords for register tiles, [K/64][rows][16] for matrix tiles.
struct CodePlace {
  int rows;
  bool matrix;
  OCTAVO_INLINE int64_t at(int64_t step, int row) const {
    return matrix ? (step / 16 * rows + row) * 16 + step % 16 : step * DotI8::kSub * rows + row;
  }
};

// The packed form of one tile of rows. The outliers are the union over its rows: a row without one in a column holds a zero
// there, which adds nothing, so its result does not depend on the rows beside it.
struct CodedTile {
  uint32_t* codes;        // see CodePlace
  float* scale;           // [rows]: s, NaN if the row holds one
  int32_t* bias;          // [rows]: kBias * the sum of the codes
  int64_t* outliers;      // how many columns
  int32_t* column;        // [K], ascending
  float* value;           // [K][rows]
};

struct CodedLayout {
  int64_t codes, scale, bias, outliers, column, value, bytes;

  CodedLayout(int64_t k, int rows, int64_t codes_bytes) {
    codes = 0;
    scale = codes + codes_bytes;
    bias = scale + align64(kMostRows * 4);
    outliers = bias + align64(kMostRows * 4);
    column = outliers + 64;
    value = column + align64(k * 4);
    bytes = align64(value + k * rows * 4);
  }
  OCTAVO_INLINE CodedTile at(char* p) const {
    return {(uint32_t*)(p + codes),    (float*)(p + scale),    (int32_t*)(p + bias),
            (int64_t*)(p + outliers), (int32_t*)(p + column), (float*)(p + value)};
  }
};

// max |x| below the threshold (of all, if the threshold is zero), whether anything is at or above it, whether there is a NaN.
struct RowRange {
  float scale;
  bool outliers;
  bool nan;
};
OCTAVO_INLINE RowRange row_range(const float* x, int64_t k, float threshold) {
  // Most rows have neither outliers nor NaN. Magnitudes compare like their bits, NaN highest: one maximum detects both.
  i32p bits = {};
  int64_t at = 0;
  for (; at + kPartLanes <= k; at += kPartLanes) bits = max_part((i32p)abs_part(load_part(x + at)), bits);
  if (at < k) {
    f32p v = {};
    std::memcpy(&v, x + at, sizeof(float) * (size_t)(k - at));
    bits = max_part((i32p)abs_part(v), bits);
  }
  const int32_t top = highest_part(bits);
  float largest;
  std::memcpy(&largest, &top, 4);
  if (threshold > 0 ? largest < threshold : largest == largest) return {largest, false, false};

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

// rne(x * factor) as integers in [-127, 127]; NaN gives zero. The clamp separates product and sum, so they cannot become one
// fma.
OCTAVO_INLINE i32p code_part(f32p x, f32p factor) {
  f32p v = rounded(x * factor);
  v = min_part(splat_part(127.0f), max_part(splat_part(-127.0f), v));  // in this order NaN propagates
  v = v == v ? v : f32p{};
  const f32p magic = splat_part(12582912.0f);
  return (i32p)(v + magic) - (i32p)magic;
}

// The same if neither NaN nor overflow can occur.
OCTAVO_INLINE i32p plain_code_part(f32p x, f32p factor) {
  const f32p v = rounded(x * factor);
#if defined(__AVX512F__)
  return (i32p)_mm512_maskz_cvtps_epi32(0xffff, (__m512)v);
#else
  const f32p magic = splat_part(12582912.0f);
  return (i32p)(v + magic) - (i32p)magic;
#endif
}

// kPlain: no NaN, no outliers; scale and factor are finite.
template <bool kPlain>
inline int32_t code_row(const float* x, int64_t k, float threshold, float factor, uint32_t* to, CodePlace place, int row) {
  const f32p limit = splat_part(threshold > 0 ? threshold : INFINITY);
  const f32p f = splat_part(factor);
  i32p sum = {};
  const auto code = [&](f32p v) {
    i32p q = kPlain ? plain_code_part(v, f) : code_part(v, f);
    if (!kPlain && threshold > 0) q &= abs_part(v) < limit;
    sum += q;
    return q;
  };
  int64_t i = 0;
  for (; i + kPartLanes <= k; i += kPartLanes) {
    const i32p q = code(load_part<f32p>(x + i));
    uint32_t* at = to + place.at(i / 4, row);
#if defined(__AVX512F__)
    const __m128i packed = _mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)q);
    if (place.matrix) {
      _mm_storeu_si128((__m128i*)at, packed);
      continue;
    }
    uint32_t step[4];
    std::memcpy(step, &packed, 16);
    for (int d = 0; d < 4; d++) at[d * place.rows] = step[d];
#else
    int32_t lane[kPartLanes];
    store_part(lane, q);
    for (int d = 0; d < kPartLanes / 4; d++) put_codes(at + d * DotI8::kSub * place.rows, place.rows, lane + 4 * d);
#endif
  }
  if (i < k) {
    f32p v = {};
    std::memcpy(&v, x + i, sizeof(float) * (size_t)(k - i));
    int32_t lane[kPartLanes];
    store_part(lane, code(v));
    for (int d = 0; i + 4 * d < k; d++) put_codes(to + place.at(i / 4 + d, row), place.rows, lane + 4 * d);
  }
  return sum_part(sum);
}

// `rows` rows in a tile of plan_rows; the missing ones are zero.
inline void code_tile(const float* x, int64_t k, int rows, CodePlace place, float threshold, const CodedTile& tile,
                      uint8_t* seen) {
  const int plan_rows = place.rows;
  bool any = false;
  if (place.matrix && (rows < plan_rows || k % 64 != 0))
    std::memset(tile.codes, 0, (size_t)(ceil_div(k, 64) * plan_rows * 64));
  // If a step is one dword per row, rows are coded in order, some columns at a time, and then transposed to steps.
  constexpr int64_t kRun = 512;
  const bool turned = DotI8::kSub == 1 && !place.matrix && plan_rows > 1;
  const int64_t run = turned ? kRun : k;
  float factor[kMostRows] = {};
  bool plain[kMostRows] = {};
  for (int r = 0; r < plan_rows; r++) {
    if (r >= rows) {
      if (!place.matrix)
        for (int64_t i = 0; i < ceil_div(k, 4) * DotI8::kSub; i++) tile.codes[i * plan_rows + r] = 0;
      tile.scale[r] = 0;
      tile.bias[r] = 0;
      continue;
    }
    const RowRange range = row_range(x + r * k, k, threshold);
    any |= range.outliers;
    tile.scale[r] = range.nan ? NAN : range.scale;
    factor[r] = code_factor(range.scale);
    plain[r] = !range.outliers && !range.nan && range.scale < INFINITY && factor[r] < INFINITY;
    tile.bias[r] = 0;
  }
  alignas(64) char buffer[DotI8::kSub == 1 ? kTileRows : 1][kRun];
  for (int64_t i = 0; i < k; i += run) {
    const int64_t count = at_most(run, k - i);
    for (int r = 0; r < rows; r++) {
      const auto code = plain[r] ? code_row<true> : code_row<false>;
      uint32_t* to = turned ? (uint32_t*)buffer[r] : tile.codes;
      const CodePlace at = turned ? CodePlace{1, true} : place;
      tile.bias[r] += DotI8::kBias * code(x + r * k + i, count, threshold, factor[r], to, at, turned ? 0 : r);
    }
    if (turned) rows_to_steps((const char*)buffer, kRun, rows, count, tile.codes + i / 4 * plan_rows, plan_rows, AsIs{});
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
