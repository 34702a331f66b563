// The register tile of machines with matrix units (AMX): 32 rows times two panels. A panel's 16 steps of 64 bytes are a
// right-hand tile as they lie; activations are packed as left-hand tiles, [16 steps][rows][16 dwords].
//
// 8-bit codes multiply exactly. So do floats: an f32 number is the sum of three bf16 numbers, a product of two bf16 is
// exact in f32, and three to six tile products, of which one costs a sixteenth of the f32 multiply-adds that it
// replaces, add up to what f32 multiply-adds would give. Where bf16 products are allowed, one is enough.
//
// With OCTAVO_AMX_EMULATED (tests on machines without the unit) the same code runs on tiles in memory.
#pragma once

#include "dot.h"
#include "tile.h"

#if (defined(__AMX_INT8__) && defined(__AMX_BF16__)) || defined(OCTAVO_AMX_EMULATED)
#define OCTAVO_AMX 1

namespace octavo::OCTAVO_ISA {

#if defined(OCTAVO_AMX_EMULATED)
static thread_local uint32_t emulated_tile[8][16][16];
static inline void emulated_load(int t, const void* p, int64_t stride) {
  for (int r = 0; r < 16; r++) std::memcpy(emulated_tile[t][r], (const char*)p + r * stride, 64);
}
static inline void emulated_store(int t, void* p, int64_t stride) {
  for (int r = 0; r < 16; r++) std::memcpy((char*)p + r * stride, emulated_tile[t][r], 64);
}
static inline void emulated_zero(int t) { std::memset(emulated_tile[t], 0, sizeof emulated_tile[t]); }
static inline void emulated_int8(int c, int a, int b) {
  for (int m = 0; m < 16; m++)
    for (int k = 0; k < 16; k++)
      for (int n = 0; n < 16; n++)
        for (int j = 0; j < 4; j++)
          emulated_tile[c][m][n] += (uint32_t)((int32_t)(int8_t)(emulated_tile[a][m][k] >> (8 * j)) *
                                               (int32_t)(uint8_t)(emulated_tile[b][k][n] >> (8 * j)));
}
static inline void emulated_bf16(int c, int a, int b) {
  for (int m = 0; m < 16; m++)
    for (int k = 0; k < 16; k++)
      for (int n = 0; n < 16; n++) {
        float x;
        std::memcpy(&x, &emulated_tile[c][m][n], 4);
        const uint32_t left = emulated_tile[a][m][k], right = emulated_tile[b][k][n];
        x += widen_bf16((uint16_t)left) * widen_bf16((uint16_t)right);
        x += widen_bf16((uint16_t)(left >> 16)) * widen_bf16((uint16_t)(right >> 16));
        std::memcpy(&emulated_tile[c][m][n], &x, 4);
      }
}
#define OCTAVO_TILE_LOAD emulated_load
#define OCTAVO_TILE_STORE emulated_store
#define OCTAVO_TILE_ZERO emulated_zero
#define OCTAVO_TILE_INT8 emulated_int8
#define OCTAVO_TILE_BF16 emulated_bf16
OCTAVO_INLINE void matrix_begin() {}
OCTAVO_INLINE void matrix_end() {}
#else
// (g++ does not tell its optimizer that a tile load reads memory; matrix_tile has a barrier for that.)
#define OCTAVO_TILE_LOAD(t, p, stride) _tile_loadd(t, p, stride)
#define OCTAVO_TILE_STORE(t, p, stride) _tile_stored(t, p, stride)
#define OCTAVO_TILE_ZERO(t) _tile_zero(t)
#define OCTAVO_TILE_INT8(c, a, b) _tile_dpbsud(c, a, b)
#define OCTAVO_TILE_BF16(c, a, b) _tile_dpbf16ps(c, a, b)
OCTAVO_INLINE void matrix_begin() {
  struct alignas(64) Config {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  static_assert(sizeof(Config) == 64);
  const Config config;
  asm volatile("" ::"r"(&config) : "memory");
  _tile_loadconfig(&config);
}
OCTAVO_INLINE void matrix_end() { _tile_release(); }
#endif

constexpr int kMatrixRows = 32;

struct MatrixI8 {
  using Acc = WideI;
  static constexpr bool kScaled = false, kMatrix = true, kFloat = false;
  static constexpr int kSub = 1, kPerStep = 4, kWeightParts = 1, kBias = 128;
};
// kSub: bf16 parts of the activations; kWeightParts: of the weights, laid out [16 steps][part][16 steps of 64 bytes].
template <int kXParts, int kWParts>
struct MatrixBf16 {
  using Acc = WideF;
  static constexpr bool kScaled = false, kMatrix = true, kFloat = true;
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
      if (i + j > 2) continue;  // below what f32 holds
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
  asm volatile("" ::: "memory");
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
    asm volatile("" ::: "memory");
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
  asm volatile("" ::: "memory");
}

// Sixteen floats as bf16 in order; what is left of them stays in v.
OCTAVO_INLINE void put_part(void* to, f32p& v) {
  const __m256i halves = (__m256i)_mm512_cvtneps_pbh((__m512)v);
  std::memcpy(to, &halves, sizeof halves);
  v -= (f32p)((u32p)_mm512_maskz_cvtepu16_epi32(0xffff, halves) << 16);
}

// Weights that `From` gives in f32 ([k][16]), cut into bf16 parts.
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
      OCTAVO_UNROLL for (int j = 0; j < kWParts; j++) {
        const u32p pairs = bf16_pairs(low, high);
        store_part(out + j * 16 * kStepBytes, pairs);
        low -= (f32p)(pairs << 16);
        high -= (f32p)(pairs & 0xffff0000u);
      }
    }
    return to;
  }
  OCTAVO_INLINE void scales(int64_t, int64_t, int64_t, float*) const {}
};

}  // namespace octavo::OCTAVO_ISA

#endif
