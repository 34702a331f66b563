// The instructions of matrix units (AMX) as macros, and floats split into bf16 parts for them. A tile is 16 rows of 64 bytes.
//
// 8-bit codes multiply exactly. So do floats: an f32 number is the sum of three bf16 numbers, and a product of two bf16 is
// exact in f32. Three to six tile products, each at a sixteenth of the cost of the f32 multiply-adds it replaces, add up to
// the f32 result. If bf16 products are allowed, one is enough.
//
// With OCTAVO_AMX_EMULATED (tests on machines without the unit) the same code runs on tiles in memory.
#pragma once

#include "wide.h"

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
#if defined(_WIN32) && !defined(__clang__)
// g++'s own take the stride for a `long`, which is no register of an address on Windows.
#define OCTAVO_TILE_LOAD(t, p, stride) OCTAVO_TILE_LOAD_ASM(t, p, stride)
#define OCTAVO_TILE_STORE(t, p, stride) OCTAVO_TILE_STORE_ASM(t, p, stride)
#define OCTAVO_TILE_LOAD_ASM(t, p, stride) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"((const void*)(p)), "r"((int64_t)(stride)))
#define OCTAVO_TILE_STORE_ASM(t, p, stride) \
  asm volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"((void*)(p)), "r"((int64_t)(stride)) : "memory")
#else
#define OCTAVO_TILE_LOAD(t, p, stride) _tile_loadd(t, p, stride)
#define OCTAVO_TILE_STORE(t, p, stride) _tile_stored(t, p, stride)
#endif
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

// g++ does not tell its optimizer that a tile load reads memory: use this between plain stores and tile loads.
OCTAVO_INLINE void matrix_barrier() { asm volatile("" ::: "memory"); }

// Thirty-two floats as bf16 in order; the remainders stay in a and b.
OCTAVO_INLINE u32p take_part(f32p& a, f32p& b) {
  const u32p both = (u32p)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
  const __m256i low = (__m256i)__builtin_shufflevector(both, both, 0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i high = (__m256i)__builtin_shufflevector(both, both, 8, 9, 10, 11, 12, 13, 14, 15);
  a -= (f32p)((u32p)_mm512_maskz_cvtepu16_epi32(0xffff, low) << 16);
  b -= (f32p)((u32p)_mm512_maskz_cvtepu16_epi32(0xffff, high) << 16);
  return both;
}
// Lane by lane two floats as one dword of bf16; the remainders stay in low and high.
OCTAVO_INLINE u32p take_pairs(f32p& low, f32p& high) {
  const u32p pairs = bf16_pairs(low, high);
  low -= (f32p)(pairs << 16);
  high -= (f32p)(pairs & 0xffff0000u);
  return pairs;
}

}  // namespace octavo::OCTAVO_ISA

#endif
