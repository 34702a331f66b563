// Shared by the float products: activations packed for their weights' format, and the loop over slabs of rows.
#pragma once

#include "../registry.h"
#include "block_codes.h"

namespace octavo::OCTAVO_ISA {

#if defined(OCTAVO_BF16_DOT)
// Activations as pairs of bf16: neighbours, or k's four apart for DotU4Bf16. K % 8 == 0.
template <bool kFourApart>
void pack_pairs(const Call& call, const Tiling& tiling, const float* x, int64_t rows, int64_t k, int64_t tiles,
                char* to, int64_t stride) {
  const __m512i step = kFourApart ? _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
                                  : _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i low = step, high = _mm512_add_epi32(step, _mm512_set1_epi32(kFourApart ? 4 : 1));
  const int64_t grain = kPrepareGrain / (k * tiling.rows + 1) + 1;
  parallel(call, tiles, grain, [&](int64_t begin, int64_t end, int) {
    constexpr int64_t kSome = 32;
    alignas(64) uint32_t pairs[kTileRows][kSome / 2];
    for (int64_t t = begin; t < end; t++) {
      const int present = (int)at_most(tiling.rows, rows - t * tiling.rows);
      uint32_t* out = (uint32_t*)(to + t * stride);
      for (int64_t i = 0; i < k; i += kSome) {
        const int64_t some = at_most(kSome, k - i);
        for (int r = 0; r < present; r++) {
          const float* from = x + (t * tiling.rows + r) * k + i;
          const f32x16 a = some >= 16 ? load(from) : load_n(from, (int)some);
          const f32x16 b = some >= 32 ? load(from + 16) : some > 16 ? load_n(from + 16, (int)some - 16) : zero();
          const u32p both = bf16_pairs((f32p)_mm512_permutex2var_ps((__m512)a, low, (__m512)b),
                                       (f32p)_mm512_permutex2var_ps((__m512)a, high, (__m512)b));
          store_part(pairs[r], both);
        }
        rows_to_steps((const char*)pairs, kSome * 2, present, some * 2, out + i / 2 * tiling.rows, tiling.rows, AsIs{});
      }
    }
  });
}
#endif

template <class Weights>
void pack(const Call& call, const Tiling& tiling, const Weights& weights, const float* x, int64_t rows, int64_t k,
          int64_t tiles, char* to) {
  using Dot = typename Weights::Dot;
  if constexpr (Dot::kCoded) {
    pack_codes(call, tiling, weights.align * Dot::kPerStep, x, rows, k, tiles, to);
    return;
  }
#if defined(OCTAVO_BF16_DOT)
  if constexpr (!Dot::kMatrix && Dot::kPerStep / Dot::kSub == 2) {
    pack_pairs<Dot::kScaled>(call, tiling, x, rows, k, tiles, to, tiling.x_bytes);
    return;
  }
#endif
  pack_activations<Dot>(call, tiling, x, rows, k, tiles, to);
}

// y = act(x · Wᵀ + bias) + residual, with bias and residual before y among the operands. Weights that are dear to fetch are
// shared by more rows of a task.
template <class Weights>
const char* float_product(const Call& call, const Weights& weights, int y_at, int act,
                          bool dear = Weights::Dot::kMatrix) {
  const Tensor &x = call.t[0], &w = call.t[1], &y = call.t[y_at];
  const int64_t m = x.rows(), k = w.dim[1], n = w.dim[0];
  if (m == 0 || n == 0) return nullptr;
  const Tiling tiling = product_tiling(call, m, n, weights, dear ? kSlabRows : kBlockRows);
  const int64_t packed = tiling.slab * tiling.x_bytes;
  char* scratch = call.need((size_t)(packed + tiling.workers * tiling.worker_bytes));
  if (!scratch) return "no memory for the scratch of a product";
  const Output output{y.as<float>(), call.t[y_at - 1].as<float>(), &call.t[y_at - 2], act, n};
  for (int64_t first = 0; first < tiling.tiles; first += tiling.slab) {
    const int64_t tiles = at_most(tiling.slab, tiling.tiles - first);
    const int64_t row = first * tiling.rows;
    pack(call, tiling, weights, x.as<float>() + row * k, m - row, k, tiles, scratch);
    run_product(call, tiling, tiles, scratch, tiling.x_bytes, weights, scratch + packed,
                [&](int64_t tile, int64_t panel, int panels, const char* c) {
                  const int64_t at = row + tile * tiling.rows;
                  output.floats(tiling, at, m - at, panel, panels, c);
                });
  }
  return nullptr;
}

}  // namespace octavo::OCTAVO_ISA
