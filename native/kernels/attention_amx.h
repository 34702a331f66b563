// Attention's products on AMX tiles, as exact as f32. An f32 number is the sum of three bf16 numbers, and products of
// bf16 are exact in f32: queries and weights are cut in three parts, keys and values in as many as their type needs
// (bf16 one, f16 two, f32 three), and the products of parts that matter in f32 are added up: three to six tile products,
// where one costs a sixteenth of the f32 multiply-adds that it replaces.
//
// Included by attention.cpp for the `amx` level. With OCTAVO_AMX_EMULATED (tests on machines without the unit) the same
// code runs on tiles in memory.
#pragma once

#include "attention_vec.h"

namespace octavo::OCTAVO_ISA {
namespace {

constexpr int kTileRows = 16;

#if defined(OCTAVO_AMX_EMULATED)
thread_local float emulated_tile[8][16][16];
inline void emulated_load(int t, const void* p, int64_t stride) {
  for (int r = 0; r < 16; r++) std::memcpy(emulated_tile[t][r], (const char*)p + r * stride, 64);
}
inline void emulated_store(int t, void* p, int64_t stride) {
  for (int r = 0; r < 16; r++) std::memcpy((char*)p + r * stride, emulated_tile[t][r], 64);
}
inline void emulated_zero(int t) { std::memset(emulated_tile[t], 0, sizeof emulated_tile[t]); }
inline void emulated_product(int c, int a, int b) {
  uint16_t left[16][32], right[16][32];
  std::memcpy(left, emulated_tile[a], sizeof left);
  std::memcpy(right, emulated_tile[b], sizeof right);
  for (int m = 0; m < 16; m++)
    for (int k = 0; k < 16; k++)
      for (int n = 0; n < 16; n++) {
        float x = emulated_tile[c][m][n];
        x += widen_bf16(left[m][2 * k]) * widen_bf16(right[k][2 * n]);
        x += widen_bf16(left[m][2 * k + 1]) * widen_bf16(right[k][2 * n + 1]);
        emulated_tile[c][m][n] = x;
      }
}
#define TILE_LOAD emulated_load
#define TILE_STORE emulated_store
#define TILE_ZERO emulated_zero
#define TILE_PRODUCT emulated_product
inline void tiles_begin() {}
inline void tiles_end() {}
#else
// (g++ does not tell its optimizer that a tile load reads memory.)
#define TILE_LOAD(t, p, stride)       \
  do {                                \
    asm volatile("" ::: "memory");    \
    _tile_loadd(t, p, stride);        \
  } while (false)
#define TILE_STORE(t, p, stride) _tile_stored(t, p, stride)
#define TILE_ZERO(t) _tile_zero(t)
#define TILE_PRODUCT(c, a, b) _tile_dpbf16ps(c, a, b)
inline void tiles_begin() {
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
inline void tiles_end() { _tile_release(); }
#endif

// The bf16 nearest to each lane, in the low halves of dwords; and back.
OCTAVO_INLINE VU bf16_bits(VF x) {
  return (VU)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)_mm512_cvtneps_pbh((__m512)x));
}
OCTAVO_INLINE VF bf16_value(VU bits) { return (VF)(bits << 16); }

template <class Stored>
constexpr int kParts = 3;
template <>
constexpr int kParts<StoredF16> = 2;
template <>
constexpr int kParts<StoredBF16> = 1;

template <class Stored>
OCTAVO_INLINE VF load_up_to(const typename Stored::type* p, int64_t n) {
  return n >= kW ? Stored::load(p) : n > 0 ? load_part<Stored>(p, (int)n) : VF{};
}
// Thirty-two numbers as bf16 in order; what is left of them stays in a and b.
OCTAVO_INLINE VU take_part(VF& a, VF& b) {
  const VU both = (VU)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
  const __m256i low = (__m256i)__builtin_shufflevector(both, both, 0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i high = (__m256i)__builtin_shufflevector(both, both, 8, 9, 10, 11, 12, 13, 14, 15);
  a -= bf16_value((VU)_mm512_maskz_cvtepu16_epi32(0xffff, low));
  b -= bf16_value((VU)_mm512_maskz_cvtepu16_epi32(0xffff, high));
  return both;
}

// Keys as right-hand tiles: [part][16 keys][32 dims] -> 16 rows (pairs of dims) of 16 keys. D is padded with zeros.
template <class Stored>
void pack_keys_tiles(const typename Stored::type* k, int64_t stride, int n, int64_t D, int64_t keys, bool fetch, VU* out) {
  constexpr int parts = kParts<Stored>;
  const int64_t steps = (D + 31) / 32, part_step = keys / 16 * steps * kW;
  for (int j = 0; j < n; j += 16)
    for (int64_t s = 0; s < steps; s++) {
      VF word[parts][16];
      for (int i = 0; i < 16; i++) {
        if (j + i >= n) {
          for (int p = 0; p < parts; p++) word[p][i] = VF{};
          continue;
        }
        const typename Stored::type* row = k + (j + i) * stride + s * 32;
        if (fetch) __builtin_prefetch(row + keys * stride);
        if (fetch && sizeof(*k) == 4) __builtin_prefetch(row + keys * stride + 16);
        if (parts == 1 && D - s * 32 >= 32) {
          word[0][i] = (VF)_mm512_loadu_si512(row);
          continue;
        }
        VF a = load_up_to<Stored>(row, D - s * 32), b = load_up_to<Stored>(row + 16, D - s * 32 - 16);
        for (int p = 0; p < parts; p++) word[p][i] = (VF)take_part(a, b);
      }
      for (int p = 0; p < parts; p++) {
        transpose(word[p]);
        VU* to = out + p * part_step + (j / 16 * steps + s) * kW;
        for (int i = 0; i < 16; i++) to[i] = (VU)word[p][i];
      }
    }
}

// Values as right-hand tiles: [part][32 keys][16 columns] -> 16 rows (pairs of keys) of 16 columns. Keys up to the next
// 32 are zeros.
template <class Stored>
void pack_values_tiles(const typename Stored::type* v, int64_t stride, int n, int64_t E, const int32_t* keep, int64_t keys,
                       bool fetch, VU* out) {
  constexpr int parts = kParts<Stored>;
  const int64_t columns = (E + 15) / 16, steps = keys / 32, part_step = columns * steps * kW;
  for (int j = 0; j < (n + 31) / 32 * 32; j += 2) {
    const bool one = j < n && (keep == nullptr || keep[j] != 0);
    const bool two = j + 1 < n && (keep == nullptr || keep[j + 1] != 0);
    const typename Stored::type* row = v + j * stride;
    for (int64_t e = 0; e < columns; e++) {
      if (fetch && e * 16 * (int64_t)sizeof(*v) % 64 == 0) {
        __builtin_prefetch(row + keys * stride + e * 16);
        __builtin_prefetch(row + (keys + 1) * stride + e * 16);
      }
      VF a = one ? load_up_to<Stored>(row + e * 16, E - e * 16) : VF{};
      VF b = two ? load_up_to<Stored>(row + stride + e * 16, E - e * 16) : VF{};
      for (int p = 0; p < parts; p++) {
        const VU high_a = bf16_bits(a), high_b = bf16_bits(b);
        out[p * part_step + (e * steps + j / 32) * kW + j % 32 / 2] = high_a | (high_b << 16);
        a -= bf16_value(high_a);
        b -= bf16_value(high_b);
      }
    }
  }
}

// One strip's queries as left-hand tiles: [part][32 dims] -> 16 rows of 32 dims. Rows from n on are zeros.
inline void pack_queries_tiles(const float* const* rows, int n, float scale, int64_t D, VU* out) {
  const int64_t steps = (D + 31) / 32;
  for (int64_t s = 0; s < steps; s++)
    for (int r = 0; r < 16; r++) {
      VF a{}, b{};
      if (r < n) {
        a = load_up_to<StoredF32>(rows[r] + s * 32, D - s * 32) * scale;
        b = load_up_to<StoredF32>(rows[r] + s * 32 + 16, D - s * 32 - 16) * scale;
      }
      for (int p = 0; p < 3; p++) out[(p * steps + s) * kW + r] = take_part(a, b);
    }
}

// Tile c += what tiles 4, 5 and 6 (three parts) give with the kCount parts at b: the products of about 2^-24 and more,
// small ones first. A macro because the numbers of tiles must be literals.
#define PRODUCTS(c, b)                           \
  do {                                           \
    if constexpr (kCount > 2) {                  \
      TILE_LOAD(7, (b) + 2 * part_step, 64);     \
      TILE_PRODUCT(c, 4, 7);                     \
    }                                            \
    if constexpr (kCount > 1) {                  \
      TILE_LOAD(7, (b) + part_step, 64);         \
      TILE_PRODUCT(c, 5, 7);                     \
      TILE_PRODUCT(c, 4, 7);                     \
    }                                            \
    TILE_LOAD(7, b, 64);                         \
    TILE_PRODUCT(c, 6, 7);                       \
    TILE_PRODUCT(c, 5, 7);                       \
    TILE_PRODUCT(c, 4, 7);                       \
  } while (false)

// scores[16][keys] for the first `count` keys (a multiple of 16).
template <int kCount>
void scores_tiles(const VU* q, const VU* k, int64_t D, int count, int64_t keys, float* scores) {
  const int64_t steps = (D + 31) / 32, part_step = keys / 16 * steps * kW, row = keys * 4;
  const int columns = count / 16;  // at most four
  TILE_ZERO(0);
  TILE_ZERO(1);
  TILE_ZERO(2);
  TILE_ZERO(3);
  for (int64_t s = 0; s < steps; s++) {
    TILE_LOAD(4, q + s * kW, 64);
    TILE_LOAD(5, q + (steps + s) * kW, 64);
    TILE_LOAD(6, q + (2 * steps + s) * kW, 64);
    const VU* b = k + s * kW;
    if (columns > 0) PRODUCTS(0, b);
    if (columns > 1) PRODUCTS(1, b + steps * kW);
    if (columns > 2) PRODUCTS(2, b + 2 * steps * kW);
    if (columns > 3) PRODUCTS(3, b + 3 * steps * kW);
  }
  TILE_STORE(0, scores, row);
  if (columns > 1) TILE_STORE(1, scores + 16, row);
  if (columns > 2) TILE_STORE(2, scores + 32, row);
  if (columns > 3) TILE_STORE(3, scores + 48, row);
}

// acc[16][Ew] += p·v over `count` keys (a multiple of 32); p is [3 parts][count / 32][16 rows][32 keys] in bf16.
template <int kCount>
void values_tiles(const VU* p, const VU* v, int64_t Ew, int count, int64_t keys, float* acc) {
  const int64_t columns = Ew / 16, steps = keys / 32, part_step = columns * steps * kW, row = Ew * 4;
  for (int64_t e = 0; e < columns; e += 4) {
    const int wide = columns - e < 4 ? (int)(columns - e) : 4;
    float* c = acc + e * 16;
    TILE_LOAD(0, c, row);
    if (wide > 1) TILE_LOAD(1, c + 16, row);
    if (wide > 2) TILE_LOAD(2, c + 32, row);
    if (wide > 3) TILE_LOAD(3, c + 48, row);
    for (int64_t s = 0; s < count / 32; s++) {
      TILE_LOAD(4, p + s * kW, 64);
      TILE_LOAD(5, p + (steps + s) * kW, 64);
      TILE_LOAD(6, p + (2 * steps + s) * kW, 64);
      const VU* b = v + (e * steps + s) * kW;
      if (wide > 0) PRODUCTS(0, b);
      if (wide > 1) PRODUCTS(1, b + steps * kW);
      if (wide > 2) PRODUCTS(2, b + 2 * steps * kW);
      if (wide > 3) PRODUCTS(3, b + 3 * steps * kW);
    }
    TILE_STORE(0, c, row);
    if (wide > 1) TILE_STORE(1, c + 16, row);
    if (wide > 2) TILE_STORE(2, c + 32, row);
    if (wide > 3) TILE_STORE(3, c + 48, row);
  }
}

// Probabilities [16][keys] cut in three parts, as left-hand tiles. Rows from n on are zeros; so are keys from
// `count` (a multiple of 16) up to the next 32.
inline void split_probabilities(const float* s, int n, int count, int64_t keys, VU* out) {
  const int64_t steps = keys / 32;
  for (int64_t step = 0; step < (count + 31) / 32; step++)
    for (int r = 0; r < 16; r++) {
      VF a{}, b{};
      if (r < n) {
        a = vload(s + r * keys + step * 32);
        if (step * 32 + 16 < count) b = vload(s + r * keys + step * 32 + 16);
      }
      for (int p = 0; p < 3; p++) out[(p * steps + step) * kW + r] = take_part(a, b);
    }
}

#undef PRODUCTS
#undef TILE_LOAD
#undef TILE_STORE
#undef TILE_ZERO
#undef TILE_PRODUCT

}  // namespace
}  // namespace octavo::OCTAVO_ISA
