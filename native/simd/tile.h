// The register tile: a few rows of activations times a few panels, over a run of steps. Every sum is one chain in the
// order of k, whatever the tile's size, so a row's bits do not depend on the rows beside it.
#pragma once

#include "dot.h"

namespace octavo::OCTAVO_ISA {

#if defined(__AVX512F__)
constexpr int kMaxPanels = 8;
#else
constexpr int kMaxPanels = 4;
#endif

// Prefetch distance in a panel, for tiles that the hardware prefetcher does not serve well.
constexpr int64_t kPrefetch = 2048;
template <class Dot>
constexpr bool prefetches(int rows) {
  return Dot::kScaled ? Dot::kPerStep == 8 : rows >= 2 && rows <= 8;
}

struct TileArgs {
  const char* w[kMaxPanels];  // per panel, at its first step of this run
  const uint32_t* x;          // [steps * kSub][rows], at the same step
  char* c;                    // sums [rows][panels][16]
  int64_t steps;
  bool first;                 // sums begin here, else they are added to
  // Scaled formats: factors [panel][block][16]; a block is `block` steps, the run begins at the start of one.
  const float* scale;
  int64_t scale_stride;
  int64_t block;
  const float* table;
  // Coded activations: [block][2][rows], a factor for each row, then what its integer sum begins with.
  const uint32_t* x_blocks;
  // Prefetched on the way, block by block: the inputs of the next tile's factors, `ahead_step` bytes per block, and the
  // start of its panels (`head_stride` bytes apart), `head_step` bytes of each.
  const char* ahead;
  int64_t ahead_step;
  const char* head;
  int64_t head_stride;
  int64_t head_step;
};
using TileFn = void (*)(const TileArgs&);

// Most rows of a tile, and its number of panels, so that the sums fit the registers.
#if defined(__AVX512F__)
constexpr int kTileRows = 12;
constexpr int tile_panels(int rows) { return rows <= 2 ? 4 : 2; }
#elif defined(__AVX2__)
constexpr int kTileRows = 6;
constexpr int tile_panels(int rows) { return rows <= 3 ? 2 : 1; }
#elif defined(__ARM_NEON)
constexpr int kTileRows = 6;
constexpr int tile_panels(int rows) { return rows <= 2 ? 2 : 1; }
#elif defined(__wasm_simd128__)
constexpr int kTileRows = 2;
constexpr int tile_panels(int rows) { return rows == 1 ? 2 : 1; }
#else
constexpr int kTileRows = 2;
constexpr int tile_panels(int) { return 1; }
#endif

// A single row leaves one chain of additions per panel. If a step of weights has so many of them that they would stall on each
// other, it takes more panels, if there are enough of them for all workers.
template <class Dot>
constexpr int wide_panels() {
#if defined(__AVX512F__)
  return Dot::kSub >= 4 ? 8 : tile_panels(1);
#else
  return tile_panels(1);
#endif
}

// The next supported tile size for a number of rows.
constexpr int tile_rows(int64_t rows) {
  return rows <= 4 ? (int)rows : (int)(rows + 1) / 2 * 2;
}

// kStride: rows side by side in x.
template <class Dot, int kRows, int kPanels, int kStride = kRows>
OCTAVO_INLINE void tile_steps(const Dot& dot, typename Dot::Acc (&acc)[kRows][kPanels], const char* const* w,
                              int64_t from, int64_t to, const uint32_t* x) {
  const char* panel[kPanels];
  OCTAVO_UNROLL for (int p = 0; p < kPanels; p++) panel[p] = w[p];
  for (int64_t s = from; s < to; s++) {
    const uint32_t* xs = x + s * (Dot::kSub * kStride);
    if constexpr (prefetches<Dot>(kRows))
      OCTAVO_UNROLL for (int p = 0; p < kPanels; p++) __builtin_prefetch(panel[p] + s * kStepBytes + kPrefetch, 0, 3);
#if defined(__wasm_simd128__)
    // WebAssembly engines keep the given order, and have sixteen registers: one weight at a time.
    u32p xv[Dot::kSub][kRows];
    OCTAVO_UNROLL for (int j = 0; j < Dot::kSub; j++)
        OCTAVO_UNROLL for (int r = 0; r < kRows; r++) xv[j][r] = splat_bits(xs[j * kStride + r]);
    OCTAVO_UNROLL for (int p = 0; p < kPanels; p++) {
      const char* at = panel[p] + s * kStepBytes;
      OCTAVO_UNROLL for (int i = 0; i < kParts; i++) {
        const u32p raw = load_part<u32p>(at + i * kPartBytes);
        OCTAVO_UNROLL for (int j = 0; j < Dot::kSub; j++) {
          const auto v = dot.weight(raw, j);
          OCTAVO_UNROLL for (int r = 0; r < kRows; r++) acc[r][p].part[i] = dot.mac(acc[r][p].part[i], v, xv[j][r]);
        }
      }
    }
#else
    OCTAVO_UNROLL for (int j = 0; j < Dot::kSub; j++) {
      using Operand = decltype(dot.weight(u32p{}, 0));
      Wide<Operand> v[kPanels];
      OCTAVO_UNROLL for (int p = 0; p < kPanels; p++) {
        const char* at = panel[p] + s * kStepBytes;
        OCTAVO_UNROLL for (int i = 0; i < kParts; i++)
            v[p].part[i] = dot.weight(load_part<u32p>(at + i * kPartBytes), j);
      }
      OCTAVO_UNROLL for (int r = 0; r < kRows; r++) {
        const u32p xv = splat_bits(xs[j * kStride + r]);
        OCTAVO_UNROLL for (int p = 0; p < kPanels; p++)
            OCTAVO_UNROLL for (int i = 0; i < kParts; i++)
                acc[r][p].part[i] = dot.mac(acc[r][p].part[i], v[p].part[i], xv);
      }
    }
#endif
  }
}

// How many rows of a scaled tile are processed together. Half of many for codes looked up before, so that the sums of a block
// and of all blocks fit the registers side by side. Float sums are faster with all rows together, even if their sums of all
// blocks stay in memory: each weight is then loaded once.
template <class Dot, int kRows>
constexpr int rows_together() {
#if defined(__AVX512F__)
  return kRows <= 6 || !Dot::kCoded || Dot::kPerStep == 8 ? kRows : kRows / 2;
#else
  return kRows;
#endif
}
template <int kRows, int kPanels>
constexpr bool sums_held() {
#if defined(__AVX512F__) || defined(__aarch64__)
  constexpr int registers = 32;
#else
  constexpr int registers = 16;
#endif
  return (2 * kRows + 1) * kPanels * kParts + 2 <= registers;
}

// Rows [kFrom, kFrom + kSome) of a tile of scaled weights.
template <class Dot, int kRows, int kPanels, int kFrom, int kSome>
OCTAVO_INLINE void scaled_rows(const Dot& dot, const TileArgs& a) {
  constexpr bool kHeld = sums_held<kSome, kPanels>();
  char* const c = a.c + kFrom * kPanels * kStepBytes;
  typename Dot::Acc acc[kSome][kPanels];
  WideF held[kSome][kPanels];
  if constexpr (kHeld)
    OCTAVO_UNROLL for (int r = 0; r < kSome; r++)
        OCTAVO_UNROLL for (int p = 0; p < kPanels; p++)
            held[r][p] = a.first ? WideF{} : load_wide<WideF>(c + (r * kPanels + p) * kStepBytes);
  int64_t block = 0;
  for (int64_t s = 0; s < a.steps; s += a.block, block++) {
    const uint32_t* x_block = Dot::kCoded ? a.x_blocks + block * 2 * kRows + kFrom : nullptr;
    OCTAVO_UNROLL for (int r = 0; r < kSome; r++)
        OCTAVO_UNROLL for (int p = 0; p < kPanels; p++) {
      acc[r][p] = typename Dot::Acc{};
      if constexpr (Dot::kCoded)
        OCTAVO_UNROLL for (int i = 0; i < kParts; i++) acc[r][p].part[i] = (i32p)splat_bits(x_block[kRows + r]);
    }
    const int64_t end = s + a.block < a.steps ? s + a.block : a.steps;
    tile_steps<Dot, kSome, kPanels, kRows>(dot, acc, a.w, s, end, a.x + kFrom);
    if constexpr (kFrom == 0) {
      for (int64_t at = 0; at < a.ahead_step; at += 64) __builtin_prefetch(a.ahead + block * a.ahead_step + at, 0, 3);
      for (int64_t at = 0; at < a.head_step; at += 64)
        OCTAVO_UNROLL for (int p = 0; p < kPanels; p++)
            __builtin_prefetch(a.head + p * a.head_stride + block * a.head_step + at, 0, 3);
    }
    const bool fresh = a.first && s == 0;
    WideF factor[kPanels];
    OCTAVO_UNROLL for (int p = 0; p < kPanels; p++)
        factor[p] = load_wide<WideF>(a.scale + p * a.scale_stride + block * kPanelRows);
    OCTAVO_UNROLL for (int r = 0; r < kSome; r++) {
      const u32p x_factor = splat_bits(Dot::kCoded ? x_block[r] : 0);
      OCTAVO_UNROLL for (int p = 0; p < kPanels; p++) {
        char* const at = c + (r * kPanels + p) * kStepBytes;
        OCTAVO_UNROLL for (int i = 0; i < kParts; i++) {
          f32p sum;
          if constexpr (Dot::kCoded)
            sum = to_f32(acc[r][p].part[i]) * (f32p)x_factor;
          else
            sum = acc[r][p].part[i];
          if constexpr (kHeld) {
            held[r][p].part[i] = fma_part(sum, factor[p].part[i], held[r][p].part[i]);
          } else {
            const f32p before = fresh ? f32p{} : load_part<f32p>(at + i * kPartBytes);
            store_part(at + i * kPartBytes, fma_part(sum, factor[p].part[i], before));
          }
        }
      }
    }
  }
  if constexpr (kHeld)
    OCTAVO_UNROLL for (int r = 0; r < kSome; r++)
        OCTAVO_UNROLL for (int p = 0; p < kPanels; p++) store_wide(c + (r * kPanels + p) * kStepBytes, held[r][p]);
}

template <class Dot, int kRows, int kPanels = tile_panels(kRows)>
void tile(const TileArgs& a) {
  using Acc = typename Dot::Acc;
  Dot dot;
  dot.prepare(a.table);
  if constexpr (Dot::kScaled) {
    constexpr int kSome = rows_together<Dot, kRows>();
    scaled_rows<Dot, kRows, kPanels, 0, kSome>(dot, a);
    if constexpr (kSome < kRows) scaled_rows<Dot, kRows, kPanels, kSome, kRows - kSome>(dot, a);
  } else {
    Acc acc[kRows][kPanels];
    OCTAVO_UNROLL for (int r = 0; r < kRows; r++)
        OCTAVO_UNROLL for (int p = 0; p < kPanels; p++)
            acc[r][p] = a.first ? Acc{} : load_wide<Acc>(a.c + (r * kPanels + p) * kStepBytes);
    tile_steps<Dot, kRows, kPanels>(dot, acc, a.w, 0, a.steps, a.x);
    OCTAVO_UNROLL for (int r = 0; r < kRows; r++)
        OCTAVO_UNROLL for (int p = 0; p < kPanels; p++) store_wide(a.c + (r * kPanels + p) * kStepBytes, acc[r][p]);
  }
}

// Only some columns of 8-bit panels, times f32: the outliers of LLM.int8(). Column `column[u]` is a byte of step
// column[u] / 4, or of step u if the steps were gathered.
template <int kRows>
void tile_columns(const char* const* w, const int32_t* column, int64_t count, bool gathered, bool first, const float* x,
                  int64_t x_stride, char* c) {
  constexpr int kPanels = tile_panels(kRows);
  WideF acc[kRows][kPanels];
  OCTAVO_UNROLL for (int r = 0; r < kRows; r++)
      OCTAVO_UNROLL for (int p = 0; p < kPanels; p++)
          acc[r][p] = first ? WideF{} : load_wide<WideF>(c + (r * kPanels + p) * kStepBytes);
  for (int64_t u = 0; u < count; u++) {
    const int32_t k = column[u];
    const int64_t step = gathered ? u : k >> 2;
    const int shift = (k & 3) * 8;
    WideF v[kPanels];
    OCTAVO_UNROLL for (int p = 0; p < kPanels; p++)
        OCTAVO_UNROLL for (int i = 0; i < kParts; i++) {
      const u32p raw = load_part<u32p>(w[p] + step * kStepBytes + i * kPartBytes);
      v[p].part[i] = to_f32((i32p)((raw >> shift) & 0xffu) - 128);
    }
    OCTAVO_UNROLL for (int r = 0; r < kRows; r++) {
      const f32p xv = splat_part(x[u * x_stride + r]);
      OCTAVO_UNROLL for (int p = 0; p < kPanels; p++)
          OCTAVO_UNROLL for (int i = 0; i < kParts; i++)
              acc[r][p].part[i] = fma_part(v[p].part[i], xv, acc[r][p].part[i]);
    }
  }
  OCTAVO_UNROLL for (int r = 0; r < kRows; r++)
      OCTAVO_UNROLL for (int p = 0; p < kPanels; p++) store_wide(c + (r * kPanels + p) * kStepBytes, acc[r][p]);
}
using ColumnsFn = void (*)(const char* const* w, const int32_t* column, int64_t count, bool gathered, bool first,
                           const float* x, int64_t x_stride, char* c);

// f<rows> for a number of rows known at run time (one returned by tile_rows).
template <template <int> class F>
auto for_rows(int rows) {
  switch (rows) {
    case 1: return F<1>::get();
    case 2: return F<2>::get();
    case 3: return F<kTileRows >= 3 ? 3 : 1>::get();
    case 4: return F<kTileRows >= 4 ? 4 : 1>::get();
    case 6: return F<kTileRows >= 6 ? 6 : 1>::get();
    case 8: return F<kTileRows >= 8 ? 8 : 1>::get();
    case 10: return F<kTileRows >= 10 ? 10 : 1>::get();
    default: return F<kTileRows >= 12 ? 12 : 1>::get();
  }
}

template <class Dot>
struct TileOf {
  template <int kRows>
  struct Rows {
    static TileFn get() { return tile<Dot, kRows>; }
  };
};
template <int kRows>
struct ColumnsOf {
  static ColumnsFn get() { return tile_columns<kRows>; }
};

}  // namespace octavo::OCTAVO_ISA
