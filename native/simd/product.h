// Rows times panels: cuts the product into tasks for the pool and runs of steps for the caches, and calls register
// tiles (tile.h) on them. The caller defines the weights and what happens to the sums:
//
//   Weights: using Dot; int64_t steps, align; bool in_place;
//            int64_t scratch(run): bytes that fetch() needs for a panel
//            const char* fetch(panel, step, count, scratch): steps [step, step + count) of a panel
//            void scales(panel, step, count, float*): factors [block][16] (scaled formats)
//            void ahead(panel, panels, TileArgs&): addresses of the next panels' factors (scaled formats)
//   Finish:  void operator()(tile, panel, panels, const char* c): complete sums [rows][tiling.panels][16] of a tile
//
// A run of weights shared by many tiles stays in the L1 cache while it is multiplied with one tile after another, whose
// activations come from the L2 cache. A single tile (decoding) reads each weight once, panel by panel.
#pragma once

#include "../parallel.h"
#include "act.h"
#include "amx_tile.h"
#include "tile.h"
#include "transpose.h"

namespace octavo::OCTAVO_ISA {

constexpr int64_t kRunSteps = 192;      // 12 KiB of a panel
constexpr int64_t kMatrixRunSteps = 256;
constexpr int64_t kBlockRows = 264;     // rows of one task
constexpr int64_t kSlabRows = 528;      // rows prepared at a time
constexpr int64_t kChunkGroups = 8;     // groups of panels of one task
constexpr int64_t kTaskBytes = 1 << 17; // weights of one task when decoding
constexpr int64_t kGroupsEach = 4;      // fewest groups per worker before groups get wider

OCTAVO_INLINE int64_t align64(int64_t bytes) { return (bytes + 63) & ~(int64_t)63; }
OCTAVO_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
OCTAVO_INLINE int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

struct Tiling {
  int rows = 1;           // of a tile
  int panels = 1;         // of a group
  int64_t tiles = 0;      // of the call
  int64_t slab = 0;       // tiles prepared at a time
  int64_t block = 0;      // tiles of one task
  int64_t total_panels = 0, groups = 0, chunk = 0;
  int64_t steps = 0, run = 0;
  int64_t x_bytes = 0;    // packed activations of a tile
  int64_t x_blocks = 0;   // offset of their blocks' data in them (kCoded)
  int64_t scale_blocks = 0;
  int64_t panel_scratch = 0, sums_bytes = 0, scales_bytes = 0, worker_bytes = 0;
  int workers = 1;

  int64_t tile_sums() const { return (int64_t)rows * panels * kStepBytes; }
};

struct TileSize {
  int64_t tiles;
  int rows;
};
OCTAVO_INLINE TileSize tile_size(int64_t m) {
  const int64_t tiles = m > 0 ? ceil_div(m, kTileRows) : 1;
  return {tiles, tile_rows(ceil_div(m, tiles))};
}

#if defined(OCTAVO_AMX)
constexpr int kMostRows = kMatrixRows;
#else
constexpr int kMostRows = kTileRows;
#endif

template <class Weights>
Tiling product_tiling(const Call& call, int64_t m, int64_t n, const Weights& weights,
                      int64_t block_rows = Weights::Dot::kMatrix ? kSlabRows : kBlockRows) {
  using Dot = typename Weights::Dot;
  Tiling t;
  t.rows = Dot::kMatrix ? (m > 16 ? 32 : 16) : tile_size(m).rows;
  t.tiles = ceil_div(m, t.rows);
  t.panels = Dot::kMatrix ? 2 : tile_panels(t.rows);
  t.slab = ceil_div(t.tiles, ceil_div(t.tiles, kSlabRows / t.rows));  // slabs of nearly equal size
  t.block = at_most(t.slab, block_rows / t.rows);
  t.total_panels = ceil_div(n, kPanelRows);
  t.workers = call.pool ? call.pool->threads() : 1;
  if (!Dot::kMatrix && t.rows == 1 && t.total_panels >= kGroupsEach * wide_panels<Dot>() * t.workers)
    t.panels = wide_panels<Dot>();
  t.groups = ceil_div(t.total_panels, t.panels);
  t.steps = weights.steps;
  t.x_bytes = align64((Dot::kMatrix ? ceil_div(t.steps, 16) * 16 : t.steps) * Dot::kSub * t.rows * 4);
  if constexpr (Dot::kCoded) {
    t.x_blocks = t.x_bytes;
    t.x_bytes += align64(t.steps / weights.align * 2 * t.rows * 4);
  }
  constexpr int64_t kRun = Dot::kMatrix ? kMatrixRunSteps : kRunSteps;
  if (weights.in_place && t.tiles == 1) {
    t.run = t.steps;
    t.chunk = 1;
  } else {
    t.run = weights.align >= kRun ? weights.align : kRun / weights.align * weights.align;
    t.chunk = at_most(kChunkGroups, ceil_div(t.groups, 4 * t.workers));
  }
  if (t.run < 1) t.run = 1;
  t.panel_scratch = align64(weights.scratch(t.run));
  t.sums_bytes = t.chunk * t.block * t.tile_sums();
  if (Weights::Dot::kScaled) t.scale_blocks = ceil_div(t.run, weights.align);
  t.scales_bytes = t.panels * t.scale_blocks * kStepBytes;
  t.worker_bytes = t.panels * t.panel_scratch + t.sums_bytes + t.scales_bytes;
  return t;
}

template <class Dot>
TileFn tile_of(int rows, int panels) {
#if defined(OCTAVO_AMX)
  if constexpr (Dot::kMatrix) return rows == 32 ? matrix_tile<Dot, true> : matrix_tile<Dot, false>;
  else
#endif
  {
    if (panels != tile_panels(rows)) return tile<Dot, 1, wide_panels<Dot>()>;
    return for_rows<TileOf<Dot>::template Rows>(rows);
  }
}

// One slab: tiles [0, tiles) whose packed activations start at x, `x_stride` bytes a tile.
template <class Weights, class Finish>
void run_product(const Call& call, const Tiling& tiling, int64_t tiles, const char* x, int64_t x_stride,
                 const Weights& weights, char* worker_scratch, const Finish& finish) {
  using Dot = typename Weights::Dot;
  const TileFn fn = tile_of<Dot>(tiling.rows, tiling.panels);
  const int64_t blocks = ceil_div(tiles, tiling.block);
  const int64_t even = ceil_div(tiles, blocks);  // blocks of nearly equal size
  const int64_t chunks = ceil_div(tiling.groups, tiling.chunk);
  int64_t grain = 1;
  if (tiling.run == tiling.steps && tiling.tiles == 1) {
    const int64_t bytes = tiling.chunk * tiling.panels * tiling.steps * kStepBytes;
    grain = bytes > 0 ? kTaskBytes / bytes : tiling.groups;
    if (grain < 1) grain = 1;
  }
  parallel(call, blocks * chunks, grain, [&](int64_t begin, int64_t end, int worker) {
#if defined(OCTAVO_AMX)
    if constexpr (Dot::kMatrix) matrix_begin();
#endif
    char* scratch = worker_scratch + worker * tiling.worker_bytes;
    char* sums = scratch;
    float* scales = (float*)(sums + tiling.sums_bytes);
    char* staged = (char*)scales + tiling.scales_bytes;
    for (int64_t task = begin; task < end; task++) {
      const int64_t first_tile = task % blocks * even;
      const int64_t last_tile = at_most(first_tile + even, tiles);
      const int64_t first_group = task / blocks * tiling.chunk;
      const int64_t last_group = at_most(first_group + tiling.chunk, tiling.groups);
      const auto sums_of = [&](int64_t group, int64_t t) {
        return sums + ((group - first_group) * even + (t - first_tile)) * tiling.tile_sums();
      };
      if (tiling.steps == 0) std::memset(sums, 0, (size_t)tiling.sums_bytes);
      for (int64_t step = 0; step < tiling.steps; step += tiling.run) {
        const int64_t count = at_most(tiling.run, tiling.steps - step);
        for (int64_t group = first_group; group < last_group; group++) {
          TileArgs a;
          for (int p = 0; p < tiling.panels; p++) {
            // A group that extends past the last panel repeats it; those sums are not used.
            const int64_t panel = group * tiling.panels + p;
            if (panel >= tiling.total_panels) {
              a.w[p] = a.w[p - 1];
              continue;
            }
            a.w[p] = weights.fetch(panel, step, count, staged + p * tiling.panel_scratch);
            if constexpr (Dot::kScaled)
              weights.scales(panel, step, count, scales + p * tiling.scale_blocks * kPanelRows);
          }
          a.steps = count;
          a.first = step == 0;
          a.scale = scales;
          a.scale_stride = tiling.scale_blocks * kPanelRows;
          a.block = weights.align;
          a.table = weights.table;
          a.ahead = nullptr;
          a.ahead_step = 0;
          a.head_step = 0;
          if constexpr (Dot::kScaled) {
            if (tiling.tiles == 1 && (group + 2) * tiling.panels <= tiling.total_panels) {
              weights.ahead((group + 1) * tiling.panels, tiling.panels, a);
              if (weights.in_place) {
                a.head = weights.fetch((group + 1) * tiling.panels, 0, 0, nullptr);
                a.head_stride = tiling.steps * kStepBytes;
                a.head_step = align64(at_most(kPrefetch, a.head_stride) / tiling.scale_blocks);
              }
            }
          }
          // While these weights are multiplied with one tile after another, the next ones are prefetched.
          const bool more = weights.in_place && last_tile - first_tile > 1;
          const bool same_step = group + 1 < last_group;
          const int64_t next_step = same_step ? step : step + tiling.run < tiling.steps ? step + tiling.run : 0;
          const int64_t next_group = same_step ? group + 1 : next_step > 0 ? first_group : last_group;
          const char* next = more && next_group < tiling.groups
                                 ? weights.fetch(next_group * tiling.panels, next_step, 0, nullptr)
                                 : nullptr;
          const int64_t piece = align64(count * kStepBytes / (last_tile - first_tile));
          for (int64_t t = first_tile; t < last_tile; t++) {
            if (next)
              for (int p = 0; p < tiling.panels; p++) {
                const char* from = next + p * tiling.steps * kStepBytes + (t - first_tile) * piece;
                for (int64_t at = 0; at < piece; at += 64) __builtin_prefetch(from + at, 0, 2);
              }
            a.x = (const uint32_t*)(x + t * x_stride) + step * Dot::kSub * tiling.rows;
            if constexpr (Dot::kCoded)
              a.x_blocks =
                  (const uint32_t*)(x + t * x_stride + tiling.x_blocks) + step / weights.align * 2 * tiling.rows;
            a.c = sums_of(group, t);
            fn(a);
          }
        }
      }
      for (int64_t group = first_group; group < last_group; group++) {
        const int64_t panel = group * tiling.panels;
        const int count = (int)at_most(tiling.panels, tiling.total_panels - panel);
        for (int64_t t = first_tile; t < last_tile; t++) finish(t, panel, count, sums_of(group, t));
      }
    }
#if defined(OCTAVO_AMX)
    if constexpr (Dot::kMatrix) matrix_end();
#endif
  });
}

// Work below this many elements is not worth waking a thread.
constexpr int64_t kPrepareGrain = 1 << 15;

// Packed f32 activations of tiles [0, tiles): [k][rows] each.
inline void pack_floats(const Call& call, const Tiling& tiling, const float* x, int64_t rows, int64_t k, int64_t tiles,
                        char* to, int64_t stride) {
  const int64_t grain = kPrepareGrain / (k * tiling.rows + 1) + 1;
  parallel(call, tiles, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      const int64_t row = t * tiling.rows;
      uint32_t* out = (uint32_t*)(to + t * stride);
      if (tiling.rows == 1)
        std::memcpy(out, x + row * k, sizeof(float) * (size_t)k);
      else
        rows_to_steps((const char*)(x + row * k), k * 4, (int)at_most(tiling.rows, rows - row), k * 4, out, tiling.rows,
                      AsIs{});
      std::memset(out + k * tiling.rows, 0, (size_t)(stride - k * tiling.rows * 4));
    }
  });
}

#if defined(OCTAVO_AMX)
// The same as left-hand tiles of bf16 parts: [16 steps][part][rows][16 pairs].
template <int kParts>
void pack_parts(const Call& call, const Tiling& tiling, const float* x, int64_t rows, int64_t k, int64_t tiles,
                char* to, int64_t stride) {
  const int64_t grain = kPrepareGrain / (k * tiling.rows + 1) + 1;
  parallel(call, tiles, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++)
      for (int r = 0; r < tiling.rows; r++) {
        const int64_t row = t * tiling.rows + r;
        for (int64_t i = 0; i < k; i += 32) {
          f32p a = {}, b = {};
          if (row < rows) {
            const float* from = x + row * k + i;
            a = (f32p)load_n(from, (int)at_most(16, k - i));
            if (k - i > 16) b = (f32p)load_n(from + 16, (int)at_most(16, k - i - 16));
          }
          OCTAVO_UNROLL for (int j = 0; j < kParts; j++) {
            char* out = to + t * stride + ((i / 32 * kParts + j) * tiling.rows + r) * kStepBytes;
            store_part(out, take_part(a, b));
          }
        }
      }
  });
}
#endif

// Activations packed for a format.
template <class Dot>
void pack_activations(const Call& call, const Tiling& tiling, const float* x, int64_t rows, int64_t k, int64_t tiles,
                      char* to) {
#if defined(OCTAVO_AMX)
  if constexpr (Dot::kMatrix)
    pack_parts<Dot::kSub>(call, tiling, x, rows, k, tiles, to, tiling.x_bytes);
  else
#endif
  pack_floats(call, tiling, x, rows, k, tiles, to, tiling.x_bytes);
}

// y = act(sums + bias) + residual, for sums in f32; the last step of every other product as well.
struct Output {
  float* y;
  const float* residual;
  const Tensor* bias;
  int act;
  int64_t n;

  OCTAVO_INLINE f32x16 bias_of(int64_t panel) const {
    if (!*bias) return zero();
    const int64_t at = panel * kPanelRows;
    const int64_t left = n - at;
    switch (bias->dtype) {
      case DType::f32: return left >= 16 ? load(bias->as<float>() + at) : load_n(bias->as<float>() + at, (int)left);
      default: {
        uint16_t halves[16] = {};
        std::memcpy(halves, bias->as<uint16_t>() + at, sizeof(uint16_t) * (size_t)at_most(16, left));
        return bias->dtype == DType::bf16 ? load_bf16(halves) : load_f16(halves);
      }
    }
  }
  OCTAVO_INLINE void put(int64_t row, int64_t panel, f32x16 v) const {
    const int64_t at = row * n + panel * kPanelRows;
    const int64_t left = n - panel * kPanelRows;
    v = apply_act(act, v);
    if (left >= 16) {
      if (residual) v += load(residual + at);
      store(y + at, v);
    } else {
      if (residual) v += load_n(residual + at, (int)left);
      store_n(y + at, v, (int)left);
    }
  }
  OCTAVO_INLINE void floats(const Tiling& tiling, int64_t row, int64_t rows, int64_t panel, int panels,
                            const char* c) const {
    for (int p = 0; p < panels; p++) {
      const f32x16 b = bias_of(panel + p);
      for (int r = 0; r < at_most(tiling.rows, rows); r++)
        put(row + r, panel + p, load((const float*)(c + ((int64_t)r * tiling.panels + p) * kStepBytes)) + b);
    }
  }
};

}  // namespace octavo::OCTAVO_ISA
