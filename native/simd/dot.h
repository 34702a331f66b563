// The weight formats for the register tile (tile.h). One step is 64 bytes of a panel: a dword for each of 16 outputs,
// `kPerStep` k's in each. It is processed in `kSub` sub-steps; in each, `weight` turns the dwords into one Wide operand and
// `mac` adds its products with one activation dword that all lanes share. Activations are packed to match:
// [step * kSub + sub][row] dwords. Formats and instruction sets differ only in these few lines.
#pragma once

#include "wide.h"

namespace octavo::OCTAVO_ISA {

struct DotFloat {
  using Acc = WideF;
  static constexpr bool kScaled = false, kCoded = false, kMatrix = false;
  OCTAVO_INLINE f32p mac(f32p acc, f32p w, u32p x) const { return fma_part(w, (f32p)x, acc); }
  void prepare(const float*) {}
};

struct DotF32 : DotFloat {
  static constexpr int kSub = 1, kPerStep = 1;
  OCTAVO_INLINE f32p weight(u32p raw, int) const { return (f32p)raw; }
};

struct DotBf16 : DotFloat {
  static constexpr int kSub = 2, kPerStep = 2;
  OCTAVO_INLINE f32p weight(u32p raw, int j) const { return (f32p)(j == 0 ? raw << 16 : raw & 0xffff0000u); }
};

struct DotF16 : DotFloat {
  static constexpr int kSub = 2, kPerStep = 2;
  OCTAVO_INLINE f32p weight(u32p raw, int j) const { return widen_f16_bits(j == 0 ? raw & 0xffffu : raw >> 16); }
};

// Nibbles through a table of 16 floats; one factor per output for each block of k's (absmax).
struct DotU4 : DotFloat {
  static constexpr int kSub = 8, kPerStep = 8;
  static constexpr bool kScaled = true;
#if defined(__AVX512F__)
  __m512 table;
  void prepare(const float* p) { table = _mm512_loadu_ps(p); }
  OCTAVO_INLINE f32p weight(u32p raw, int j) const {
    // Uses only the low four bits.
    return (f32p)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)(raw >> (4 * j)), table);
  }
#elif defined(__AVX2__)
  __m256 low, high;
  void prepare(const float* p) {
    low = _mm256_loadu_ps(p);
    high = _mm256_loadu_ps(p + 8);
  }
  OCTAVO_INLINE f32p weight(u32p raw, int j) const {
    const __m256i index = (__m256i)(raw >> (4 * j));  // permute uses the low three bits, blend the top one
    const __m256 top = _mm256_castsi256_ps((__m256i)(raw << (28 - 4 * j)));
    return (f32p)_mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index), top);
  }
#elif defined(__ARM_NEON) && defined(__aarch64__)
  uint8x16x4_t table;
  void prepare(const float* p) {
    for (int i = 0; i < 4; i++) table.val[i] = vld1q_u8((const uint8_t*)(p + 4 * i));
  }
  OCTAVO_INLINE f32p weight(u32p raw, int j) const {
    const u32p index = ((raw >> (4 * j)) & 15u) * 0x04040404u + 0x03020100u;
    return (f32p)vqtbl4q_u8(table, (uint8x16_t)index);
  }
#elif defined(__wasm_simd128__)
  // The four bytes of the floats in separate tables, so one look-up serves all k's of one parity: the compiler reuses the
  // result for one j in the others.
  v128_t bytes[4];
  void prepare(const float* p) {
    uint8_t apart[4][16];
    for (int i = 0; i < 16; i++)
      for (int b = 0; b < 4; b++) apart[b][i] = ((const uint8_t*)(p + i))[b];
    for (int b = 0; b < 4; b++) bytes[b] = wasm_v128_load(apart[b]);
  }
  OCTAVO_INLINE f32p weight(u32p raw, int j) const {
    const v128_t codes = (v128_t)((j & 1 ? raw >> 4 : raw) & 0x0f0f0f0fu);
    const v128_t index = wasm_i8x16_shuffle(codes, codes, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    v128_t v[4];
#if defined(__wasm_relaxed_simd__)
    OCTAVO_UNROLL for (int b = 0; b < 4; b++) v[b] = wasm_i8x16_relaxed_swizzle(bytes[b], index);
#else
    OCTAVO_UNROLL for (int b = 0; b < 4; b++) v[b] = wasm_i8x16_swizzle(bytes[b], index);
#endif
    const v128_t low = j < 4 ? zip_low(v[0], v[1]) : zip_high(v[0], v[1]);
    const v128_t high = j < 4 ? zip_low(v[2], v[3]) : zip_high(v[2], v[3]);
    return (f32p)((j & 2) == 0 ? wasm_i16x8_shuffle(low, high, 0, 8, 1, 9, 2, 10, 3, 11)
                               : wasm_i16x8_shuffle(low, high, 4, 12, 5, 13, 6, 14, 7, 15));
  }
  static OCTAVO_INLINE v128_t zip_low(v128_t a, v128_t b) {
    return wasm_i8x16_shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  }
  static OCTAVO_INLINE v128_t zip_high(v128_t a, v128_t b) {
    return wasm_i8x16_shuffle(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  }
#else
  const float* table;
  void prepare(const float* p) { table = p; }
  OCTAVO_INLINE f32p weight(u32p raw, int j) const {
    const u32p index = (raw >> (4 * j)) & 15u;
    f32p w;
    for (int i = 0; i < kPartLanes; i++) w[i] = table[index[i]];
    return w;
  }
#endif
};

// Products of 8-bit codes, exact in 32 bits. Weights are stored as code + 128; on machines that multiply unsigned by signed
// the sums are too large by 128 Σ x (kBias), elsewhere the 128 is subtracted first.
struct DotI8 {
  using Acc = WideI;
  static constexpr bool kScaled = false, kCoded = false, kMatrix = false;
  static constexpr int kPerStep = 4;
  void prepare(const float*) {}
#if defined(__AVX512VNNI__)
  static constexpr int kSub = 1, kBias = 128;
  OCTAVO_INLINE i32p weight(u32p raw, int) const { return (i32p)raw; }
  OCTAVO_INLINE i32p mac(i32p acc, i32p w, u32p x) const {
    return (i32p)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, (__m512i)x);
  }
#elif defined(__AVXVNNI__)
  static constexpr int kSub = 1, kBias = 128;
  OCTAVO_INLINE i32p weight(u32p raw, int) const { return (i32p)raw; }
  OCTAVO_INLINE i32p mac(i32p acc, i32p w, u32p x) const {
    return (i32p)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)w, (__m256i)x);
  }
#elif defined(__SSE2__) || defined(__wasm_simd128__)
  // Even and odd bytes as 16-bit pairs: vpmaddubsw would saturate, vpmaddwd does not.
  static constexpr int kSub = 2, kBias = 128;
  OCTAVO_INLINE i32p weight(u32p raw, int j) const {
    typedef uint16_t u16p __attribute__((vector_size(kPartBytes)));
    return (i32p)(j == 0 ? (u16p)(raw & 0x00ff00ffu) : (u16p)raw >> 8);
  }
  OCTAVO_INLINE i32p mac(i32p acc, i32p w, u32p x) const {
#if defined(__AVX2__)
    return acc + (i32p)_mm256_madd_epi16((__m256i)w, (__m256i)x);
#elif defined(__SSE2__)
    return acc + (i32p)_mm_madd_epi16((__m128i)w, (__m128i)x);
#else
    return acc + (i32p)wasm_i32x4_dot_i16x8((v128_t)w, (v128_t)x);
#endif
  }
#elif defined(__ARM_FEATURE_DOTPROD)
  static constexpr int kSub = 1, kBias = 0;
  OCTAVO_INLINE i32p weight(u32p raw, int) const { return (i32p)(raw ^ 0x80808080u); }
  OCTAVO_INLINE i32p mac(i32p acc, i32p w, u32p x) const {
    return (i32p)vdotq_s32((int32x4_t)acc, (int8x16_t)w, (int8x16_t)x);
  }
#else
  static constexpr int kSub = 4, kBias = 128;
  OCTAVO_INLINE i32p weight(u32p raw, int j) const { return (i32p)((raw >> (8 * j)) & 0xffu); }
  OCTAVO_INLINE i32p mac(i32p acc, i32p w, u32p x) const { return acc + w * (i32p)x; }
#endif
};

// Four activation codes (the k's of one step) as the dwords of DotI8, `stride` dwords apart.
OCTAVO_INLINE void put_codes(uint32_t* to, int64_t stride, const int32_t* q) {
  if constexpr (DotI8::kSub == 1) {
    to[0] = (uint32_t)(q[0] & 255) | (uint32_t)(q[1] & 255) << 8 | (uint32_t)(q[2] & 255) << 16 | (uint32_t)q[3] << 24;
  } else if constexpr (DotI8::kSub == 2) {
    to[0] = (uint32_t)(q[0] & 0xffff) | (uint32_t)q[2] << 16;
    to[stride] = (uint32_t)(q[1] & 0xffff) | (uint32_t)q[3] << 16;
  } else {
    for (int j = 0; j < 4; j++) to[j * stride] = (uint32_t)q[j];
  }
}

// The same with one factor per output and one per row of activations for each block of k's: integer sums run over a
// block (kCoded: activations are codes, see block_codes.h).
struct DotI8Blocks : DotI8 {
  static constexpr bool kScaled = true, kCoded = true;
};

// Sixteen bytes by nibble: the values of 4-bit codes as 8-bit ones, round(127 t) + 128.
struct NibbleBytes {
  static OCTAVO_INLINE void fill(const float* table, uint8_t* to) {
    for (int i = 0; i < 16; i++) to[i] = (uint8_t)(128 + (int)(table[i] * 127.0f + (table[i] < 0 ? -0.5f : 0.5f)));
  }
#if defined(__AVX512F__)
  __m512i table;
  OCTAVO_INLINE void prepare(const float* p) {
    uint8_t bytes[16];
    fill(p, bytes);
    table = _mm512_maskz_broadcast_i32x4(0xffff, _mm_loadu_si128((const __m128i*)bytes));
  }
  OCTAVO_INLINE u32p at(u32p codes) const { return (u32p)_mm512_shuffle_epi8(table, (__m512i)codes); }
#elif defined(__AVX2__)
  __m256i table;
  OCTAVO_INLINE void prepare(const float* p) {
    uint8_t bytes[16];
    fill(p, bytes);
    table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)bytes));
  }
  OCTAVO_INLINE u32p at(u32p codes) const { return (u32p)_mm256_shuffle_epi8(table, (__m256i)codes); }
#elif defined(__ARM_NEON) && defined(__aarch64__)
  uint8x16_t table;
  OCTAVO_INLINE void prepare(const float* p) {
    uint8_t bytes[16];
    fill(p, bytes);
    table = vld1q_u8(bytes);
  }
  OCTAVO_INLINE u32p at(u32p codes) const { return (u32p)vqtbl1q_u8(table, (uint8x16_t)codes); }
#elif defined(__wasm_simd128__)
  v128_t table;
  OCTAVO_INLINE void prepare(const float* p) {
    uint8_t bytes[16];
    fill(p, bytes);
    table = wasm_v128_load(bytes);
  }
  OCTAVO_INLINE u32p at(u32p codes) const { return (u32p)wasm_i8x16_swizzle(table, (v128_t)codes); }
#else
  uint8_t table[16];
  OCTAVO_INLINE void prepare(const float* p) { fill(p, table); }
  OCTAVO_INLINE u32p at(u32p codes) const {
    uint8_t byte[kPartBytes];
    store_part(byte, codes);
    for (int i = 0; i < kPartBytes; i++) byte[i] = table[byte[i]];
    return load_part<u32p>(byte);
  }
#endif
};

// Nibbles as 8-bit codes, looked up 64 at a time: first the even k's of a step, then the odd ones, in the same order as in
// the activations.
struct DotU4I8 : DotI8Blocks {
  static constexpr int kSub = 2 * DotI8::kSub, kPerStep = 8;
  NibbleBytes bytes;
  void prepare(const float* p) { bytes.prepare(p); }
  OCTAVO_INLINE i32p weight(u32p raw, int j) const {
    const u32p codes = (j < DotI8::kSub ? raw : raw >> 4) & 0x0f0f0f0fu;
    return DotI8::weight(bytes.at(codes), j % DotI8::kSub);
  }
};

#if defined(__AVX512BF16__)
#define OCTAVO_BF16_DOT 1
// Weights and activations both rounded to bf16, pairs of products added in f32: if the caller allows it.
struct DotBf16Pair {
  using Acc = WideF;
  static constexpr bool kScaled = false, kCoded = false, kMatrix = false;
  static constexpr int kSub = 1, kPerStep = 2;
  void prepare(const float*) {}
  OCTAVO_INLINE u32p weight(u32p raw, int) const { return raw; }
  OCTAVO_INLINE f32p mac(f32p acc, u32p w, u32p x) const {
    return (f32p)_mm512_dpbf16_ps((__m512)acc, (__m512bh)w, (__m512bh)x);
  }
};

// The same with nibbles looked up as bf16, two at a time: k = 8i + j and 8i + j + 4 make a pair, as in the activations.
struct DotU4Bf16 : DotBf16Pair {
  static constexpr bool kScaled = true;
  static constexpr int kSub = 4, kPerStep = 8;
  __m512i table;
  void prepare(const float* p) {
    const __m256i once = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(p));
    table = _mm512_maskz_broadcast_i64x4(0xff, once);  // twice: the look-up uses five bits, four of them ours
  }
  OCTAVO_INLINE u32p weight(u32p raw, int j) const {
    return (u32p)_mm512_maskz_permutexvar_epi16(0xffffffffu, (__m512i)(raw >> (4 * j)), table);
  }
};
#endif

}  // namespace octavo::OCTAVO_ISA
