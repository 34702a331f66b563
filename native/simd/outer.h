// Small products of f32 whose operands lie anywhere: c += a · b, register tile by register tile. b and c are rows; a may be
// read along rows or along columns. Every sum is one chain in the order of the inner index.
#pragma once

#include "wide.h"

namespace octavo::OCTAVO_ISA {

// Vectors of columns, and rows, whose sums stay in registers.
#if defined(__AVX512F__)
constexpr int kOuterVectors = 4;
#else
constexpr int kOuterVectors = 2;
#endif
constexpr int kOuterRows = 4;

// Element (r, i) of a is at[r * row + i * step].
struct Left {
  const float* at;
  int64_t row, step;
};
struct Right {
  const float* at;
  int64_t row;
};
struct Sums {
  float* at;
  int64_t row;
};

// The first n lanes; all of them if n is kPartLanes.
OCTAVO_INLINE f32p load_lanes(const float* p, int n) {
  return n == kPartLanes ? load_part(p) : load_floats_n<DType::f32>(p, n);
}
OCTAVO_INLINE void store_lanes(float* p, f32p v, int n) { std::memcpy(p, &v, sizeof(float) * (size_t)n); }

// n: lanes of each vector; less than kPartLanes only with one vector.
template <int kRows, int kVectors>
OCTAVO_INLINE void outer_tile(const Left& a, const Right& b, const Sums& c, int64_t inner, int n) {
  f32p sum[kRows][kVectors];
  OCTAVO_UNROLL for (int r = 0; r < kRows; r++)
      OCTAVO_UNROLL for (int v = 0; v < kVectors; v++)
          sum[r][v] = load_lanes(c.at + r * c.row + v * kPartLanes, kVectors > 1 ? kPartLanes : n);
  for (int64_t i = 0; i < inner; i++) {
    f32p w[kVectors];
    OCTAVO_UNROLL for (int v = 0; v < kVectors; v++)
        w[v] = load_lanes(b.at + i * b.row + v * kPartLanes, kVectors > 1 ? kPartLanes : n);
    OCTAVO_UNROLL for (int r = 0; r < kRows; r++) {
      const f32p x = splat_part(a.at[r * a.row + i * a.step]);
      OCTAVO_UNROLL for (int v = 0; v < kVectors; v++) sum[r][v] = fma_part(x, w[v], sum[r][v]);
    }
  }
  OCTAVO_UNROLL for (int r = 0; r < kRows; r++)
      OCTAVO_UNROLL for (int v = 0; v < kVectors; v++)
          store_lanes(c.at + r * c.row + v * kPartLanes, sum[r][v], kVectors > 1 ? kPartLanes : n);
}

template <int kVectors>
OCTAVO_INLINE void outer_rows(int64_t rows, const Left& a, const Right& b, const Sums& c, int64_t inner, int n) {
  switch (rows) {
    case 1: return outer_tile<1, kVectors>(a, b, c, inner, n);
    case 2: return outer_tile<2, kVectors>(a, b, c, inner, n);
    case 3: return outer_tile<3, kVectors>(a, b, c, inner, n);
    default: return outer_tile<kOuterRows, kVectors>(a, b, c, inner, n);
  }
}

// c[r][j] += sum over i < inner of a(r, i) * b[i][j], for r < rows and j < columns.
inline void add_outer(const Left& a, const Right& b, const Sums& c, int64_t rows, int64_t inner, int64_t columns) {
  for (int64_t r = 0; r < rows; r += kOuterRows) {
    const int64_t some = rows - r < kOuterRows ? rows - r : kOuterRows;
    const Left left{a.at + r * a.row, a.row, a.step};
    const auto at = [&](int64_t j) { return Sums{c.at + r * c.row + j, c.row}; };
    constexpr int64_t kWide = kOuterVectors * kPartLanes;
    int64_t j = 0;
    for (; j + kWide <= columns; j += kWide)
      outer_rows<kOuterVectors>(some, left, {b.at + j, b.row}, at(j), inner, kPartLanes);
    for (; j < columns; j += kPartLanes)
      outer_rows<1>(some, left, {b.at + j, b.row}, at(j), inner,
                    (int)(columns - j < kPartLanes ? columns - j : kPartLanes));
  }
}

}  // namespace octavo::OCTAVO_ISA
