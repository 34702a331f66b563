// Rows to steps and back: 16 rows of dwords become steps of 16 lanes. All panel layouts are this transposition, with a
// map on the dwords (bias of i8, nibble order of u4). Also square blocks of floats, transposed in registers.
#pragma once

#include "wide.h"

namespace octavo::OCTAVO_ISA {

typedef uint32_t u32x4 __attribute__((vector_size(16)));

OCTAVO_INLINE void transpose_4x4(u32x4& a, u32x4& b, u32x4& c, u32x4& d) {
#if defined(__SSE2__)
  const __m128i ab = _mm_unpacklo_epi32((__m128i)a, (__m128i)b), AB = _mm_unpackhi_epi32((__m128i)a, (__m128i)b);
  const __m128i cd = _mm_unpacklo_epi32((__m128i)c, (__m128i)d), CD = _mm_unpackhi_epi32((__m128i)c, (__m128i)d);
  a = (u32x4)_mm_unpacklo_epi64(ab, cd);
  b = (u32x4)_mm_unpackhi_epi64(ab, cd);
  c = (u32x4)_mm_unpacklo_epi64(AB, CD);
  d = (u32x4)_mm_unpackhi_epi64(AB, CD);
#else
  const u32x4 a0 = a, b0 = b, c0 = c, d0 = d;
  a = u32x4{a0[0], b0[0], c0[0], d0[0]};
  b = u32x4{a0[1], b0[1], c0[1], d0[1]};
  c = u32x4{a0[2], b0[2], c0[2], d0[2]};
  d = u32x4{a0[3], b0[3], c0[3], d0[3]};
#endif
}

OCTAVO_INLINE u32x4 load_u32x4(const void* p) {
  u32x4 v;
  std::memcpy(&v, p, 16);
  return v;
}

// Maps on the dwords; each is its own inverse.
struct AsIs {
  OCTAVO_INLINE u32x4 operator()(u32x4 v) const { return v; }
};
struct FlipSigns {  // s8 <-> u8 biased by 128
  OCTAVO_INLINE u32x4 operator()(u32x4 v) const { return v ^ 0x80808080u; }
};
struct SwapNibbles {  // high nibble first <-> low nibble first
  OCTAVO_INLINE u32x4 operator()(u32x4 v) const { return ((v & 0x0f0f0f0fu) << 4) | ((v >> 4) & 0x0f0f0f0fu); }
};

// Four rows of one 16-byte column, transposed; missing rows are zero.
template <class Map>
OCTAVO_INLINE void turn(const char* const* row, int present, int64_t at, int64_t bytes, Map map, u32x4 (&v)[4]) {
  OCTAVO_UNROLL for (int i = 0; i < 4; i++) {
    v[i] = u32x4{};
    if (i < present) std::memcpy(&v[i], row[i] + at, (size_t)bytes);
  }
  transpose_4x4(v[0], v[1], v[2], v[3]);
  OCTAVO_UNROLL for (int i = 0; i < 4; i++) v[i] = map(v[i]);
}

// to[i][r] = map(dword i of row r) for `bytes` bytes of each of `rows` <= to_rows rows (`stride` bytes apart), padded with zero
// bytes to whole dwords and to `to_rows` rows (16 for panels).
template <class Map>
OCTAVO_INLINE void rows_to_steps(const char* from, int64_t stride, int rows, int64_t bytes, uint32_t* to, int to_rows,
                                 Map map) {
  const int64_t whole = bytes / 16 * 16;
  for (int r = 0; r < to_rows; r += 4) {
    const int width = to_rows - r < 4 ? to_rows - r : 4;
    const int present = rows - r < 4 ? rows - r : 4;
    const char* row[4];
    for (int i = 0; i < 4; i++) row[i] = from + (i < present ? r + i : 0) * stride;
    uint32_t* out = to + r;
    u32x4 v[4];
    int64_t at = 0;
    if (width == 4 && present == 4) {
      for (; at < whole; at += 16, out += 4 * to_rows) {
        turn(row, 4, at, 16, map, v);
        OCTAVO_UNROLL for (int d = 0; d < 4; d++) std::memcpy(out + d * to_rows, &v[d], 16);
      }
    }
    for (; at < bytes; at += 16, out += 4 * to_rows) {
      const int64_t rest = bytes - at < 16 ? bytes - at : 16;
      turn(row, present, at, rest, map, v);
      for (int d = 0; d < (rest + 3) / 4; d++) std::memcpy(out + d * to_rows, &v[d], 4 * (size_t)width);
    }
  }
}

// The inverse for panels: `bytes` bytes of each of `rows` rows.
template <class Map>
OCTAVO_INLINE void steps_to_rows(const uint32_t* from, char* to, int64_t stride, int rows, int64_t bytes, Map map) {
  const int64_t whole = bytes / 16 * 16;
  for (int r = 0; r < rows; r += 4) {
    const int present = rows - r < 4 ? rows - r : 4;
    const uint32_t* in = from + r;
    char* out = to + r * stride;
    u32x4 v[4];
    int64_t at = 0;
    if (present == 4) {
      for (; at < whole; at += 16, in += 4 * kPanelRows) {
        OCTAVO_UNROLL for (int d = 0; d < 4; d++) v[d] = map(load_u32x4(in + d * kPanelRows));
        transpose_4x4(v[0], v[1], v[2], v[3]);
        OCTAVO_UNROLL for (int i = 0; i < 4; i++) std::memcpy(out + i * stride + at, &v[i], 16);
      }
    }
    for (; at < bytes; at += 16, in += 4 * kPanelRows) {
      const int64_t rest = bytes - at < 16 ? bytes - at : 16;
      for (int d = 0; d < 4; d++) v[d] = d < (rest + 3) / 4 ? map(load_u32x4(in + d * kPanelRows)) : u32x4{};
      transpose_4x4(v[0], v[1], v[2], v[3]);
      for (int i = 0; i < present; i++) std::memcpy(out + i * stride + at, &v[i], (size_t)rest);
    }
  }
}

// The lower halves of the two vectors interleaved: a0 b0 a1 b1 .. and the same of the upper halves.
OCTAVO_INLINE f32p zip_low(f32p a, f32p b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif defined(__AVX2__)
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
  return __builtin_shufflevector(a, b, 0, 4, 1, 5);
#endif
}
OCTAVO_INLINE f32p zip_high(f32p a, f32p b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif defined(__AVX2__)
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  return __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}

template <int kStages>
OCTAVO_INLINE void zip_stages(f32p* v) {
  if constexpr (kStages > 0) {
    f32p next[kPartLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kPartLanes / 2; i++) {
      next[2 * i] = zip_low(v[i], v[i + kPartLanes / 2]);
      next[2 * i + 1] = zip_high(v[i], v[i + kPartLanes / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kPartLanes; i++) v[i] = next[i];
    zip_stages<kStages - 1>(v);
  }
}
// Transposes a block of kPartLanes x kPartLanes lanes in registers: log2(kPartLanes) perfect shuffles.
OCTAVO_INLINE void transpose_square(f32p* v) { zip_stages<kPartLanes == 16 ? 4 : kPartLanes == 8 ? 3 : 2>(v); }

}  // namespace octavo::OCTAVO_ISA
