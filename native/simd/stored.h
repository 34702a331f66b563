// Weights for product.h as stored: panels are used in place, rows are transposed into panels run by run.
#pragma once

#include "dot.h"
#include "transpose.h"

namespace octavo::OCTAVO_ISA {

template <class D>
struct Stored {
  using Dot = D;
  const char* data;
  bool in_place;
  int64_t n, steps, align = 1;
  int64_t row_bytes;
  const float* table = nullptr;

  explicit Stored(const Tensor& w) : data(w.data), in_place(w.panels), n(w.dim[0]) {
    const int64_t k = w.dim[1];
    steps = (k + Dot::kPerStep - 1) / Dot::kPerStep;
    row_bytes = w.dtype == DType::u4 ? k / 2 : k * (4 / Dot::kPerStep);
  }

  int64_t scratch(int64_t run) const { return in_place ? 0 : run * kStepBytes; }

  OCTAVO_INLINE const char* fetch(int64_t panel, int64_t step, int64_t count, char* to) const {
    if (in_place) return data + (panel * steps + step) * kStepBytes;
    const int64_t row = panel * kPanelRows;
    const int rows = (int)(n - row < kPanelRows ? n - row : kPanelRows);
    int64_t bytes = row_bytes - step * 4;
    if (bytes > count * 4) bytes = count * 4;
    const char* from = data + row * row_bytes + step * 4;
    uint32_t* steps_at = (uint32_t*)to;
    if constexpr (Dot::kPerStep == 4)
      rows_to_steps(from, row_bytes, rows, bytes, steps_at, kPanelRows, FlipSigns{});
    else if constexpr (Dot::kPerStep == 8)
      rows_to_steps(from, row_bytes, rows, bytes, steps_at, kPanelRows, SwapNibbles{});
    else
      rows_to_steps(from, row_bytes, rows, bytes, steps_at, kPanelRows, AsIs{});
    return to;
  }
  OCTAVO_INLINE void scales(int64_t, int64_t, int64_t, float*) const {}
};

// The same, widened to f32 run by run.
template <class From>
struct Widened {
  using Dot = DotF32;
  Stored<From> stored;
  int64_t steps, align = 1;
  bool in_place = false;
  const float* table = nullptr;

  explicit Widened(const Stored<From>& s) : stored(s), steps(s.steps * From::kSub) {}

  int64_t scratch(int64_t run) const { return run * kStepBytes + stored.scratch(run / From::kSub + 1); }

  OCTAVO_INLINE const char* fetch(int64_t panel, int64_t step, int64_t count, char* to) const {
    const int64_t halves = count / From::kSub;  // runs are even, and so is the padded K
    const char* from = stored.fetch(panel, step / From::kSub, halves, to + count * kStepBytes);
    From dot;
    for (int64_t s = 0; s < halves; s++)
      for (int j = 0; j < From::kSub; j++)
        for (int i = 0; i < kParts; i++)
          store_part(to + (s * From::kSub + j) * kStepBytes + i * kPartBytes,
                     dot.weight(load_part<u32p>(from + s * kStepBytes + i * kPartBytes), j));
    return to;
  }
  OCTAVO_INLINE void scales(int64_t, int64_t, int64_t, float*) const {}
};

}  // namespace octavo::OCTAVO_ISA
