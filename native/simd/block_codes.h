// Activations as 8-bit codes with a scale per row and block of k's (absmax / 127), for 4-bit weights with the same blocks: an
// outlier costs precision only in its own block, so none are handled separately.
#pragma once

#include "codes.h"

namespace octavo::OCTAVO_ISA {

// Sixteen codes as four groups of put_codes: of each eight first the even ones, then the odd ones.
OCTAVO_INLINE void put_sixteen(uint32_t* to, int64_t stride, const i32p* q) {
#if defined(__AVX512F__)
  const __m512i order = _mm512_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
  uint32_t group[4];
  const __m512i sorted = _mm512_maskz_permutexvar_epi32(0xffff, order, (__m512i)q[0]);
  _mm_storeu_si128((__m128i*)group, _mm512_maskz_cvtepi32_epi8(0xffff, sorted));
  for (int g = 0; g < 4; g++) to[g * stride] = group[g];
#else
  int32_t lane[16];
  for (int i = 0; i < kParts; i++) store_part(lane + i * kPartLanes, q[i]);
  for (int g = 0; g < 4; g++) {
    const int32_t* at = lane + g / 2 * 8 + g % 2;
    const int32_t group[4] = {at[0], at[2], at[4], at[6]};
    put_codes(to + g * DotI8::kSub * stride, stride, group);
  }
#endif
}

// Lane i of the result: v[i] reduced over all its lanes.
template <class V, class Both>
OCTAVO_INLINE V reduced(V* v, const Both& both) {
  f32p turned[kPartLanes];
  OCTAVO_UNROLL for (int i = 0; i < kPartLanes; i++) turned[i] = (f32p)v[i];
  transpose_square(turned);
  V all = (V)turned[0];
  OCTAVO_UNROLL for (int i = 1; i < kPartLanes; i++) all = both(all, (V)turned[i]);
  return all;
}

// `blocks` blocks of a row, at most kPartLanes: `to` is where the codes begin, `x_blocks` as in TileArgs.
OCTAVO_INLINE void code_blocks(const float* x, int64_t blocks, int64_t block, uint32_t* to, uint32_t* x_blocks,
                               int64_t rows) {
  i32p part[kPartLanes] = {};
  for (int64_t b = 0; b < blocks; b++)
    for (int64_t i = 0; i < block; i += kPartLanes) {
      const i32p bits = (i32p)abs_part(load_part<f32p>(x + b * block + i));  // ordered like integers, NaN highest
      part[b] = part[b] > bits ? part[b] : bits;
    }
  const f32p high = (f32p)reduced(part, [](i32p a, i32p b) { return a > b ? a : b; });
  float factor[kPartLanes];
  for (int64_t b = 0; b < blocks; b++) factor[b] = code_factor(high[b]);
  for (int64_t b = 0; b < blocks; b++) {
    part[b] = i32p{};
    for (int64_t i = 0; i < block; i += 16, to += 4 * DotI8::kSub * rows) {
      i32p q[kParts];
      OCTAVO_UNROLL for (int p = 0; p < kParts; p++) {
        q[p] = code_part(load_part<f32p>(x + b * block + i + p * kPartLanes), splat_part(factor[b]));
        part[b] += q[p];
      }
      put_sixteen(to, rows, q);
    }
  }
  const u32p scale = (u32p)(high * (1.0f / 16129.0f));  // includes the weights' 127
  const i32p start = reduced(part, [](i32p a, i32p b) { return a + b; }) * -DotI8::kBias;
  for (int64_t b = 0; b < blocks; b++) {
    x_blocks[b * 2 * rows] = scale[b];
    x_blocks[(b * 2 + 1) * rows] = (uint32_t)start[b];
  }
}

// Tiles [0, tiles) of rows of x; `block` divides k.
inline void pack_codes(const Call& call, const Tiling& tiling, int64_t block, const float* x, int64_t rows, int64_t k,
                       int64_t tiles, char* to) {
  const int64_t grain = kPrepareGrain / (k * tiling.rows + 1) + 1;
  const int64_t dwords = block / 4 * DotI8::kSub * tiling.rows;  // of a block's codes
  parallel(call, tiles, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      char* tile = to + t * tiling.x_bytes;
      const int64_t present = at_most(tiling.rows, rows - t * tiling.rows);
      if (present < tiling.rows) std::memset(tile, 0, (size_t)tiling.x_bytes);
      for (int64_t r = 0; r < present; r++)
        for (int64_t b = 0; b < k / block; b += kPartLanes)
          code_blocks(x + (t * tiling.rows + r) * k + b * block, at_most(kPartLanes, k / block - b), block,
                      (uint32_t*)tile + b * dwords + r, (uint32_t*)(tile + tiling.x_blocks) + b * 2 * tiling.rows + r,
                      tiling.rows);
    }
  });
}

}  // namespace octavo::OCTAVO_ISA
