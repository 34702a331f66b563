// Attention's products on matrix units, as exact as f32 (simd/amx.h): queries and weights are split into three bf16 parts,
// keys and values into as many as their type needs (bf16 and i8 codes one, f16 two, f32 three); the significant products of
// parts are summed.
#pragma once

#include "../../simd/amx.h"
#include "../../simd/transpose.h"
#include "job.h"

#if defined(OCTAVO_AMX)

namespace octavo::OCTAVO_ISA {
namespace {

// Parts that a key or value is split into.
template <DType kType>
constexpr int kBf16Parts = kType == DType::bf16 || kType == DType::i8 ? 1 : kType == DType::f16 ? 2 : 3;

template <DType kType>
OCTAVO_INLINE f32p load_up_to(const Element<kType>* p, int64_t n) {
  return n >= kPartLanes ? load_floats<kType>(p) : n > 0 ? load_floats_n<kType>(p, (int)n) : f32p{};
}
// Keys as right-hand tiles: [part][16 keys][32 dims] -> 16 rows (pairs of dims) of 16 keys. D is padded with zeros.
template <DType kType>
void pack_keys_tiles(const Places& keys_at, int n, int64_t D, int64_t keys, const Places* next, u32p* out) {
  constexpr int parts = kBf16Parts<kType>;
  const int64_t steps = (D + 31) / 32, part_step = keys / 16 * steps * kPartLanes;
  for (int j = 0; j < n; j += 16)
    for (int64_t s = 0; s < steps; s++) {
      f32p word[parts][16];
      for (int i = 0; i < 16; i++) {
        if (j + i >= n) {
          for (int p = 0; p < parts; p++) word[p][i] = f32p{};
          continue;
        }
        const Element<kType>* row = elements<kType>(keys_at, j) + i * keys_at.step + s * 32;
        if (next != nullptr) {
          const Element<kType>* ahead = elements<kType>(*next, j) + i * next->step + s * 32;
          __builtin_prefetch(ahead);
          if (sizeof(*row) == 4) __builtin_prefetch(ahead + 16);
        }
        if (kType == DType::bf16 && D - s * 32 >= 32) {
          word[0][i] = (f32p)_mm512_loadu_si512(row);
          continue;
        }
        f32p a = load_up_to<kType>(row, D - s * 32), b = load_up_to<kType>(row + 16, D - s * 32 - 16);
        for (int p = 0; p < parts; p++) word[p][i] = (f32p)take_part(a, b);
      }
      for (int p = 0; p < parts; p++) {
        transpose_square(word[p]);
        u32p* to = out + p * part_step + (j / 16 * steps + s) * kPartLanes;
        for (int i = 0; i < 16; i++) to[i] = (u32p)word[p][i];
      }
    }
}

// Values as right-hand tiles: [part][32 keys][16 columns] -> 16 rows (pairs of keys) of 16 columns. Keys up to the next
// 32 are zeros.
template <DType kType>
void pack_values_tiles(const Places& values_at, int n, int64_t E, const int32_t* keep, int64_t keys, const Places* next,
                       u32p* out) {
  constexpr int parts = kBf16Parts<kType>;
  const int64_t columns = (E + 15) / 16, steps = keys / 32, part_step = columns * steps * kPartLanes;
  for (int j = 0; j < (n + 31) / 32 * 32; j += 2) {
    const bool one = j < n && (keep == nullptr || keep[j] != 0);
    const bool two = j + 1 < n && (keep == nullptr || keep[j + 1] != 0);
    const int64_t stride = values_at.step;
    const Element<kType>* row = elements<kType>(values_at, j);
    const Element<kType>* ahead = next != nullptr ? elements<kType>(*next, j) : nullptr;
    for (int64_t e = 0; e < columns; e++) {
      if (ahead != nullptr && e * 16 * (int64_t)sizeof(*row) % 64 == 0) {
        __builtin_prefetch(ahead + e * 16);
        __builtin_prefetch(ahead + stride + e * 16);
      }
      f32p a = one ? load_up_to<kType>(row + e * 16, E - e * 16) : f32p{};
      f32p b = two ? load_up_to<kType>(row + stride + e * 16, E - e * 16) : f32p{};
      for (int p = 0; p < parts; p++)
        out[p * part_step + (e * steps + j / 32) * kPartLanes + j % 32 / 2] = take_pairs(a, b);
    }
  }
}

// One strip's queries as left-hand tiles: [parts][32 dims] -> 16 rows of 32 dims. Rows from n on are zeros.
inline void pack_queries_tiles(const float* const* rows, int n, float scale, int64_t D, int parts, u32p* out) {
  const int64_t steps = (D + 31) / 32;
  for (int64_t s = 0; s < steps; s++)
    for (int r = 0; r < 16; r++) {
      f32p a{}, b{};
      if (r < n) {
        a = load_up_to<DType::f32>(rows[r] + s * 32, D - s * 32) * scale;
        b = load_up_to<DType::f32>(rows[r] + s * 32 + 16, D - s * 32 - 16) * scale;
      }
      for (int p = 0; p < parts; p++) out[(p * steps + s) * kPartLanes + r] = take_part(a, b);
    }
}

// Tile c += the products of tiles 4, 5 and 6 (three parts; or one) and the kCount parts at b, down to about 2^-24, small ones
// first. A macro because tile numbers must be literals.
#define PRODUCTS(c, b)                           \
  do {                                           \
    if constexpr (kCount > 2) {                  \
      OCTAVO_TILE_LOAD(7, (b) + 2 * part_step, 64);     \
      OCTAVO_TILE_BF16(c, 4, 7);                     \
    }                                            \
    if constexpr (kCount > 1) {                  \
      OCTAVO_TILE_LOAD(7, (b) + part_step, 64);         \
      if constexpr (kLeft > 1) OCTAVO_TILE_BF16(c, 5, 7); \
      OCTAVO_TILE_BF16(c, 4, 7);                     \
    }                                            \
    OCTAVO_TILE_LOAD(7, b, 64);                         \
    if constexpr (kLeft > 1) {                   \
      OCTAVO_TILE_BF16(c, 6, 7);                     \
      OCTAVO_TILE_BF16(c, 5, 7);                     \
    }                                            \
    OCTAVO_TILE_BF16(c, 4, 7);                       \
  } while (false)

// scores[16][keys] for the first `count` keys (a multiple of 16).
template <int kLeft, int kCount>
void scores_tiles(const u32p* q, const u32p* k, int64_t D, int count, int64_t keys, float* scores) {
  const int64_t steps = (D + 31) / 32, part_step = keys / 16 * steps * kPartLanes, row = keys * 4;
  const int columns = count / 16;  // at most four
  matrix_barrier();
  OCTAVO_TILE_ZERO(0);
  OCTAVO_TILE_ZERO(1);
  OCTAVO_TILE_ZERO(2);
  OCTAVO_TILE_ZERO(3);
  for (int64_t s = 0; s < steps; s++) {
    OCTAVO_TILE_LOAD(4, q + s * kPartLanes, 64);
    if constexpr (kLeft > 1) {
      OCTAVO_TILE_LOAD(5, q + (steps + s) * kPartLanes, 64);
      OCTAVO_TILE_LOAD(6, q + (2 * steps + s) * kPartLanes, 64);
    }
    const u32p* b = k + s * kPartLanes;
    if (columns > 0) PRODUCTS(0, b);
    if (columns > 1) PRODUCTS(1, b + steps * kPartLanes);
    if (columns > 2) PRODUCTS(2, b + 2 * steps * kPartLanes);
    if (columns > 3) PRODUCTS(3, b + 3 * steps * kPartLanes);
  }
  OCTAVO_TILE_STORE(0, scores, row);
  if (columns > 1) OCTAVO_TILE_STORE(1, scores + 16, row);
  if (columns > 2) OCTAVO_TILE_STORE(2, scores + 32, row);
  if (columns > 3) OCTAVO_TILE_STORE(3, scores + 48, row);
  matrix_barrier();
}

// acc[16][Ew] += p·v over `count` keys (a multiple of 32); p is [kLeft parts][count / 32][16 rows][32 keys] in bf16.
template <int kLeft, int kCount>
void values_tiles(const u32p* p, const u32p* v, int64_t Ew, int count, int64_t keys, float* acc) {
  const int64_t columns = Ew / 16, steps = keys / 32, part_step = columns * steps * kPartLanes, row = Ew * 4;
  matrix_barrier();
  for (int64_t e = 0; e < columns; e += 4) {
    const int wide = columns - e < 4 ? (int)(columns - e) : 4;
    float* c = acc + e * 16;
    OCTAVO_TILE_LOAD(0, c, row);
    if (wide > 1) OCTAVO_TILE_LOAD(1, c + 16, row);
    if (wide > 2) OCTAVO_TILE_LOAD(2, c + 32, row);
    if (wide > 3) OCTAVO_TILE_LOAD(3, c + 48, row);
    for (int64_t s = 0; s < count / 32; s++) {
      OCTAVO_TILE_LOAD(4, p + s * kPartLanes, 64);
      if constexpr (kLeft > 1) {
        OCTAVO_TILE_LOAD(5, p + (steps + s) * kPartLanes, 64);
        OCTAVO_TILE_LOAD(6, p + (2 * steps + s) * kPartLanes, 64);
      }
      const u32p* b = v + (e * steps + s) * kPartLanes;
      if (wide > 0) PRODUCTS(0, b);
      if (wide > 1) PRODUCTS(1, b + steps * kPartLanes);
      if (wide > 2) PRODUCTS(2, b + 2 * steps * kPartLanes);
      if (wide > 3) PRODUCTS(3, b + 3 * steps * kPartLanes);
    }
    OCTAVO_TILE_STORE(0, c, row);
    if (wide > 1) OCTAVO_TILE_STORE(1, c + 16, row);
    if (wide > 2) OCTAVO_TILE_STORE(2, c + 32, row);
    if (wide > 3) OCTAVO_TILE_STORE(3, c + 48, row);
  }
  matrix_barrier();
}

// Probabilities [16][keys] split into `parts` parts, as left-hand tiles. Rows from n on are zeros; so are keys from
// `count` (a multiple of 16) up to the next 32.
inline void split_probabilities(const float* s, int n, int count, int64_t keys, int parts, u32p* out) {
  const int64_t steps = keys / 32;
  for (int64_t step = 0; step < (count + 31) / 32; step++)
    for (int r = 0; r < 16; r++) {
      f32p a{}, b{};
      if (r < n) {
        a = load_part(s + r * keys + step * 32);
        if (step * 32 + 16 < count) b = load_part(s + r * keys + step * 32 + 16);
      }
      for (int p = 0; p < parts; p++) out[(p * steps + step) * kPartLanes + r] = take_part(a, b);
    }
}

#undef PRODUCTS

}  // namespace
}  // namespace octavo::OCTAVO_ISA

#endif
