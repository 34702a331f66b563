// The register tile of machines with matrix units (amx.h): 32 rows times two panels. 16 steps of 64 bytes of a panel are a
// right-hand tile without repacking; activations are packed as left-hand tiles, [16 steps][rows][16 dwords].
#pragma once

#include "amx.h"
#include "dot.h"
#include "tile.h"

#if defined(OCTAVO_AMX)

namespace octavo::OCTAVO_ISA {

constexpr int kMatrixRows = 32;

struct MatrixI8 {
  using Acc = WideI;
  static constexpr bool kScaled = false, kCoded = false, kMatrix = true, kFloat = false;
  static constexpr int kSub = 1, kPerStep = 4, kWeightParts = 1, kBias = 128;
};
// kSub: bf16 parts of the activations; kWeightParts: of the weights, laid out [16 steps][part][16 steps of 64 bytes].
template <int kXParts, int kWParts>
struct MatrixBf16 {
  using Acc = WideF;
  static constexpr bool kScaled = false, kCoded = false, kMatrix = true, kFloat = true;
  static constexpr int kSub = kXParts, kPerStep = 2, kWeightParts = kWParts;
};

#define OCTAVO_TILE_PRODUCT(c, a, b) \
  do {                               \
    if constexpr (Dot::kFloat)       \
      OCTAVO_TILE_BF16(c, a, b);     \
    else                             \
      OCTAVO_TILE_INT8(c, a, b);     \
  } while (false)

// Sums in tiles 0..3 (two by two), left-hand tiles 4 and 5, right-hand tiles 6 and 7. kTwo: 32 rows, else 16.
template <class Dot, bool kTwo>
OCTAVO_INLINE void matrix_steps(const char* w0, const char* w1, const char* x) {
  constexpr int64_t kTile = 16 * kStepBytes, kRows = kTwo ? 32 : 16;
  OCTAVO_UNROLL for (int j = Dot::kWeightParts - 1; j >= 0; j--) {
    OCTAVO_TILE_LOAD(6, w0 + j * kTile, kStepBytes);
    OCTAVO_TILE_LOAD(7, w1 + j * kTile, kStepBytes);
    OCTAVO_UNROLL for (int i = Dot::kSub - 1; i >= 0; i--) {
      if (i + j > 2) continue;  // below f32 precision
      OCTAVO_TILE_LOAD(4, x + i * kRows * kStepBytes, kStepBytes);
      OCTAVO_TILE_PRODUCT(0, 4, 6);
      OCTAVO_TILE_PRODUCT(1, 4, 7);
      if constexpr (kTwo) {
        OCTAVO_TILE_LOAD(5, x + (i * kRows + 16) * kStepBytes, kStepBytes);
        OCTAVO_TILE_PRODUCT(2, 5, 6);
        OCTAVO_TILE_PRODUCT(3, 5, 7);
      }
    }
  }
}

template <class Dot, bool kTwo>
void matrix_tile(const TileArgs& a) {
  constexpr int64_t kSteps = 16 * kStepBytes * Dot::kWeightParts, kRows = kTwo ? 32 : 16, kStride = 2 * kStepBytes;
  matrix_barrier();
  if (a.first) {
    OCTAVO_TILE_ZERO(0);
    OCTAVO_TILE_ZERO(1);
    if constexpr (kTwo) {
      OCTAVO_TILE_ZERO(2);
      OCTAVO_TILE_ZERO(3);
    }
  } else {
    OCTAVO_TILE_LOAD(0, a.c, kStride);
    OCTAVO_TILE_LOAD(1, a.c + kStepBytes, kStride);
    if constexpr (kTwo) {
      OCTAVO_TILE_LOAD(2, a.c + 16 * kStride, kStride);
      OCTAVO_TILE_LOAD(3, a.c + 16 * kStride + kStepBytes, kStride);
    }
  }
  const char *w0 = a.w[0], *w1 = a.w[1], *x = (const char*)a.x;
  int64_t steps = a.steps;
  for (; steps >= 16; steps -= 16, w0 += kSteps, w1 += kSteps, x += Dot::kSub * kRows * kStepBytes)
    matrix_steps<Dot, kTwo>(w0, w1, x);
  if (steps > 0 && Dot::kWeightParts == 1) {  // several parts come in whole tiles
    alignas(64) char rest[2][16 * kStepBytes] = {};
    std::memcpy(rest[0], w0, (size_t)(steps * kStepBytes));
    std::memcpy(rest[1], w1, (size_t)(steps * kStepBytes));
    matrix_barrier();
    matrix_steps<Dot, kTwo>(rest[0], rest[1], x);
  } else if (steps > 0) {
    matrix_steps<Dot, kTwo>(w0, w1, x);
  }
  OCTAVO_TILE_STORE(0, a.c, kStride);
  OCTAVO_TILE_STORE(1, a.c + kStepBytes, kStride);
  if constexpr (kTwo) {
    OCTAVO_TILE_STORE(2, a.c + 16 * kStride, kStride);
    OCTAVO_TILE_STORE(3, a.c + 16 * kStride + kStepBytes, kStride);
  }
  matrix_barrier();
}

// Weights that `From` returns in f32 ([k][16]), split into bf16 parts.
template <class From, int kWParts>
struct Split {
  using Dot = MatrixBf16<3, kWParts>;
  From from;
  int64_t steps, align = 16;
  bool in_place = false;
  const float* table = nullptr;

  explicit Split(const From& f) : from(f), steps((f.steps + 1) / 2) {}

  static int64_t parts_bytes(int64_t run) { return (run + 15) / 16 * 16 * kStepBytes * kWParts; }
  int64_t scratch(int64_t run) const { return parts_bytes(run) + align_up(from.scratch(2 * run)); }
  static int64_t align_up(int64_t bytes) { return (bytes + 63) & ~(int64_t)63; }

  OCTAVO_INLINE const char* fetch(int64_t panel, int64_t step, int64_t count, char* to) const {
    const int64_t left = from.steps - 2 * step, floats = left < 2 * count ? left : 2 * count;
    const char* w = from.fetch(panel, 2 * step, floats, to + parts_bytes(count));
    const int64_t whole = (count + 15) / 16 * 16;
    for (int64_t s = 0; s < whole; s++) {
      f32p low = 2 * s < floats ? load_part<f32p>(w + 2 * s * kStepBytes) : f32p{};
      f32p high = 2 * s + 1 < floats ? load_part<f32p>(w + (2 * s + 1) * kStepBytes) : f32p{};
      char* out = to + (s / 16 * kWParts * 16 + s % 16) * kStepBytes;
      OCTAVO_UNROLL for (int j = 0; j < kWParts; j++) store_part(out + j * 16 * kStepBytes, take_pairs(low, high));
    }
    return to;
  }
  OCTAVO_INLINE void scales(int64_t, int64_t, int64_t, float*) const {}
};

}  // namespace octavo::OCTAVO_ISA

#endif
