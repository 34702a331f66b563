// 4-bit matrices: code tables, block factors (absmax, plain or in 8 bits), and the weights in the form that product.h needs.
#pragma once

#include "rounding.h"
#include "stored.h"
#include "tile.h"

namespace octavo::OCTAVO_ISA {

// The value of each code, by kind: 0 nf4 and 1 fp4 (bitsandbytes' tables), 2 int4 and 3 e2m1 (an eighth of their values). Of kind 4,
// o4, each matrix has a table of its own.
constexpr int kFourBitKinds = 5, kOwnTable = 4;
alignas(64) constexpr float kFourBitTable[kOwnTable][16] = {
    {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
     -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
     0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f},
    {0.0f, 0.0052083333488553762f, 0.6666666865348816f, 1.0f, 0.3333333432674408f, 0.5f, 0.1666666716337204f, 0.25f,
     0.0f, -0.0052083333488553762f, -0.6666666865348816f, -1.0f, -0.3333333432674408f, -0.5f, -0.1666666716337204f,
     -0.25f},
    {-1.0f, -0.875f, -0.75f, -0.625f, -0.5f, -0.375f, -0.25f, -0.125f, 0.0f, 0.125f, 0.25f, 0.375f, 0.5f, 0.625f, 0.75f,
     0.875f},
    {0.0f, 0.0625f, 0.125f, 0.1875f, 0.25f, 0.375f, 0.5f, 0.75f, -0.0f, -0.0625f, -0.125f, -0.1875f, -0.25f, -0.375f,
     -0.5f, -0.75f}};

OCTAVO_INLINE int64_t common_divisor(int64_t a, int64_t b) {
  while (b) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

constexpr int64_t kNestedBlock = 256;

// 256 floats by byte. If registers can hold them all, looking up by permutation takes half the time of a gather.
struct Map256 {
#if defined(__AVX512F__)
  __m512 part[16];
  explicit Map256(const float* map) {
    OCTAVO_UNROLL for (int i = 0; i < 16; i++) part[i] = _mm512_loadu_ps(map + 16 * i);
  }
  OCTAVO_INLINE f32p at(u32p code) const {
    const __m512i index = (__m512i)code;
    const __mmask16 bit5 = _mm512_test_epi32_mask(index, _mm512_set1_epi32(32));
    const __mmask16 bit6 = _mm512_test_epi32_mask(index, _mm512_set1_epi32(64));
    const __mmask16 bit7 = _mm512_test_epi32_mask(index, _mm512_set1_epi32(128));
    __m512 v[8];
    OCTAVO_UNROLL for (int i = 0; i < 8; i++) v[i] = _mm512_permutex2var_ps(part[2 * i], index, part[2 * i + 1]);
    OCTAVO_UNROLL for (int i = 0; i < 4; i++) v[i] = _mm512_mask_mov_ps(v[2 * i], bit5, v[2 * i + 1]);
    OCTAVO_UNROLL for (int i = 0; i < 2; i++) v[i] = _mm512_mask_mov_ps(v[2 * i], bit6, v[2 * i + 1]);
    return (f32p)_mm512_mask_mov_ps(v[0], bit7, v[1]);
  }
#else
  const float* map;
  explicit Map256(const float* m) : map(m) {}
  OCTAVO_INLINE f32p at(u32p code) const {
    f32p v;
    for (int i = 0; i < kPartLanes; i++) v[i] = map[code[i] & 255];
    return v;
  }
#endif
};

OCTAVO_INLINE const char* wrong_format(int kind, int64_t blocksize, int rounding) {
  if (kind < 0 || kind >= kFourBitKinds)
    return "the kind of a 4-bit matrix is 0 (nf4), 1 (fp4), 2 (int4), 3 (e2m1) or 4 (o4)";
  if (blocksize < 1) return "the blocksize of a 4-bit matrix must be positive";
  if (rounding < kToF32 || rounding > kToBf16) return "the rounding of a 4-bit matrix is 0 (none), 1 (f16) or 2 (bf16)";
  return nullptr;
}

// absmax of the blocks of the flattened matrix: floats, codes of double quantization, or signed codes of o4, which share a factor
// in groups of blocks (ops/four-bit.ts).
struct Absmax {
  const float* plain;  // or
  const uint8_t* code;
  const float* nested;
  const float* map;
  float offset;
  int64_t group;  // of o4; else 0

  Absmax(const Tensor& absmax, const Tensor& nested_absmax, const Tensor& code_map, const Tensor& code_offset,
         int64_t k, int64_t blocksize) {
    const bool codes = absmax.dtype != DType::f32;
    plain = codes ? nullptr : absmax.as<float>();
    code = codes ? absmax.as<uint8_t>() : nullptr;
    nested = nested_absmax.as<float>();
    map = code_map.as<float>();
    offset = code_offset ? code_offset.as<float>()[0] : 0.0f;
    group = 0;
    if (absmax.dtype == DType::i8) group = k > 0 && k % blocksize == 0 ? k / blocksize : kNestedBlock;
  }
  const char* wrong(int kind) const {
    if ((group != 0) != (kind == kOwnTable)) return "i8 absmax go with the kind 4 (o4)";
    return !plain && (!nested || !map) ? "absmax in 8 bits need nested and map" : nullptr;
  }
  // The values of the codes.
  const float* table(int kind) const { return kind == kOwnTable ? map : kFourBitTable[kind]; }

  OCTAVO_INLINE float at(int64_t block) const {
    if (plain) return plain[block];
    if (group) return (float)(int8_t)code[block] * nested[block / group];
    const f32p product = rounded(splat_part(map[code[block]] * nested[block / kNestedBlock]));
    return product[0] + offset;
  }
  // Blocks [first, first + count) of each of `rows` rows of `per_row` blocks, if they are in 8 bits: [block][16]. Codes are
  // transposed while they are bytes.
  OCTAVO_INLINE void turned(int64_t row, int rows, int64_t per_row, int64_t first, int64_t count, float* to) const {
    constexpr int64_t kSome = 256;
    alignas(64) uint32_t codes[kSome / 4 * kPanelRows];
    alignas(64) float factor[kPanelRows] = {}, add[kPanelRows] = {};
    if (group) {
      turned_groups(row, rows, per_row, first, count, to);
      return;
    }
    for (int r = 0; r < rows; r++) add[r] = offset;
    const WideF plus = load_wide<WideF>(add);
    const Map256 values(map);
    for (int64_t at = 0; at < count; at += kSome) {
      const int64_t some = count - at < kSome ? count - at : kSome, begin = row * per_row + first + at;
      rows_to_steps((const char*)code + begin, per_row, rows, some, codes, kPanelRows, AsIs{});
      for (int64_t b = 0; b < some;) {
        // The outer factors are valid until the first of the rows reaches the end of its outer block.
        int64_t end = some;
        for (int r = 0; r < rows; r++) {
          const int64_t block = begin + r * per_row + b, left = kNestedBlock - block % kNestedBlock;
          factor[r] = nested[block / kNestedBlock];
          if (b + left < end) end = b + left;
        }
        const WideF times = load_wide<WideF>(factor);
        for (; b < end; b++)
          OCTAVO_UNROLL for (int i = 0; i < kParts; i++) {
            const u32p four = load_part<u32p>(codes + b / 4 * kPanelRows + i * kPartLanes);
            const f32p v = values.at((four >> (int)(b % 4 * 8)) & 255u);
            store_part(to + (at + b) * kPanelRows + i * kPartLanes, rounded(v * times.part[i]) + plus.part[i]);
          }
      }
    }
  }

 private:
  // The same of o4, where a group is a row.
  OCTAVO_INLINE void turned_groups(int64_t row, int rows, int64_t per_row, int64_t first, int64_t count,
                                   float* to) const {
    constexpr int64_t kSome = 256;
    alignas(64) uint32_t codes[kSome / 4 * kPanelRows];
    alignas(64) float factor[kPanelRows] = {};
    for (int r = 0; r < rows; r++) factor[r] = nested[row + r];
    const WideF times = load_wide<WideF>(factor);
    for (int64_t at = 0; at < count; at += kSome) {
      const int64_t some = count - at < kSome ? count - at : kSome;
      rows_to_steps((const char*)code + row * per_row + first + at, per_row, rows, some, codes, kPanelRows, AsIs{});
      for (int64_t b = 0; b < some; b++)
        OCTAVO_UNROLL for (int i = 0; i < kParts; i++) {
          const u32p four = load_part<u32p>(codes + b / 4 * kPanelRows + i * kPartLanes);
          const i32p one = (i32p)(four << (int)(24 - b % 4 * 8)) >> 24;
          store_part(to + (at + b) * kPanelRows + i * kPartLanes, __builtin_convertvector(one, f32p) * times.part[i]);
        }
    }
  }
};

// Codes in panels, or in rows that can become panels run by run: K % 8 == 0, and blocks that end at whole steps.
template <class D>
struct FourBitOf : Stored<D> {
  using Stored<D>::align;
  using Stored<D>::n;
  using Stored<D>::table;
  Absmax absmax;
  int64_t k, blocksize, unit;  // unit: no block ends inside `unit` k's of any row; sums cover as many

  FourBitOf(const Tensor& codes, const Absmax& factors, int kind, int64_t block, int64_t longest = 0)
      : Stored<D>(codes),
        absmax(factors),
        k(codes.dim[1]),
        blocksize(block),
        unit(common_divisor(common_divisor(k, block), longest)) {
    table = factors.table(kind);
    align = unit / 8;
  }
  static bool fits(int64_t k, int64_t blocksize) { return k % 8 == 0 && blocksize % 8 == 0; }

  OCTAVO_INLINE void ahead(int64_t panel, int panels, TileArgs& a) const {
    const int64_t width = absmax.plain ? 4 : 1, first = panel * kPanelRows * k / blocksize * width;
    a.ahead = (absmax.plain ? (const char*)absmax.plain : (const char*)absmax.code) + first;
    a.ahead_step = (panels * kPanelRows * unit * width + blocksize - 1) / blocksize;
  }

  // Factors [unit of k's][16] of a panel, from `step` (at the start of a unit) on.
  OCTAVO_INLINE void scales(int64_t panel, int64_t step, int64_t count, float* to) const {
    const int64_t first = step / align, blocks = (count + align - 1) / align;
    const int64_t row = panel * kPanelRows;
    const int rows = (int)(n - row < kPanelRows ? n - row : kPanelRows);
    if (unit != blocksize) {
      for (int64_t b = 0; b < blocks; b++)
        for (int r = 0; r < kPanelRows; r++)
          to[b * kPanelRows + r] = r < rows ? absmax.at(((row + r) * k + (first + b) * unit) / blocksize) : 0.0f;
      return;
    }
    const int64_t per_row = k / blocksize;
    if (absmax.plain) {
      rows_to_steps((const char*)(absmax.plain + row * per_row + first), per_row * 4, rows, blocks * 4, (uint32_t*)to,
                    kPanelRows, AsIs{});
      return;
    }
    absmax.turned(row, rows, per_row, first, blocks, to);
  }
};

using FourBit = FourBitOf<DotU4>;

// Looked-up values: floats, or pairs of bf16 in the order of DotU4Bf16.
struct DotU4Floats : DotF32 {
  static constexpr bool kScaled = true;
};
#if defined(OCTAVO_BF16_DOT)
struct DotU4Pairs : DotBf16Pair {
  static constexpr bool kScaled = true;
};
#endif

// The same, looked up run by run: for many rows, which share the look-up. The factors stay separate, and sums keep the order
// of `Look` for few rows: a row's bits do not depend on the rows beside it.
template <class Look, class To>
struct FourBitLooked {
  using Dot = To;
  static constexpr int kSteps = Look::kSub;  // of the result, per step of codes
  FourBit codes;
  int64_t steps, align;
  bool in_place = false;
  const float* table = nullptr;

  explicit FourBitLooked(const FourBit& c) : codes(c), steps(kSteps * c.steps), align(kSteps * c.align) {}

  int64_t scratch(int64_t run) const { return run * kStepBytes + codes.scratch(run / kSteps); }

  OCTAVO_INLINE const char* fetch(int64_t panel, int64_t step, int64_t count, char* to) const {
    const char* from = codes.fetch(panel, step / kSteps, count / kSteps, to + count * kStepBytes);
    Look look;
    look.prepare(codes.table);
    char* out = to;
    for (int64_t s = 0; s < count / kSteps; s++, from += kStepBytes, out += kSteps * kStepBytes)
      OCTAVO_UNROLL for (int i = 0; i < kParts; i++) {
        const u32p raw = load_part<u32p>(from + i * kPartBytes);
        OCTAVO_UNROLL for (int j = 0; j < kSteps; j++)
            store_part(out + j * kStepBytes + i * kPartBytes, look.weight(raw, j));
      }
    return to;
  }
  OCTAVO_INLINE void scales(int64_t panel, int64_t step, int64_t count, float* to) const {
    codes.scales(panel, step / kSteps, count / kSteps, to);
  }
  OCTAVO_INLINE void ahead(int64_t panel, int panels, TileArgs& a) const { codes.ahead(panel, panels, a); }
};

// The same, decoded with their factors for a tile without factors. To: DotF32, or a matrix of bf16. Values may be rounded on
// the way.
template <class To>
struct FourBitDecoded {
  using Dot = To;
  static constexpr int kSteps = 8 / To::kPerStep;  // of the result, per step of codes
  FourBit codes;
  int rounding;
  int64_t steps, align;
  bool in_place = false;
  const float* table = nullptr;

  explicit FourBitDecoded(const FourBit& c, int to = kToF32)
      : codes(c), rounding(to), steps(c.steps * kSteps), align(kSteps) {}

  int64_t scale_bytes(int64_t run) const { return (run / kSteps / codes.align + 2) * kStepBytes; }
  int64_t scratch(int64_t run) const {
    return run * kStepBytes + scale_bytes(run) + codes.scratch(run / kSteps + 1);
  }

  OCTAVO_INLINE const char* fetch(int64_t panel, int64_t step, int64_t count, char* to) const {
    float* scale = (float*)(to + count * kStepBytes);
    const int64_t first = step / kSteps, some = count / kSteps;
    const char* from = codes.fetch(panel, first, some, (char*)scale + scale_bytes(count));
    const int64_t inside = first % codes.align;  // a run may begin inside a block
    codes.scales(panel, first - inside, some + inside, scale);
    DotU4 dot;
    dot.prepare(codes.table);
    char* const out = to;
    for (int64_t begin = -inside; begin < some; begin += codes.align, scale += kPanelRows) {
      const WideF factor = load_wide<WideF>(scale);
      const int64_t end = begin + codes.align < some ? begin + codes.align : some;
      for (int64_t at = begin < 0 ? 0 : begin; at < end; at++) {
        OCTAVO_UNROLL for (int i = 0; i < kParts; i++) {
          const u32p raw = load_part<u32p>(from + at * kStepBytes + i * kPartBytes);
          f32p w[8];
          OCTAVO_UNROLL for (int j = 0; j < 8; j++) w[j] = round_to(rounding, dot.weight(raw, j) * factor.part[i]);
#if defined(OCTAVO_BF16_DOT)
          if constexpr (To::kPerStep == 2) {
            OCTAVO_UNROLL for (int j = 0; j < 8; j += 2)
                store_part(out + (at * 4 + j / 2) * kStepBytes + i * kPartBytes, bf16_pairs(w[j], w[j + 1]));
            continue;
          }
#endif
          OCTAVO_UNROLL for (int j = 0; j < 8; j++)
              store_part(out + (at * 8 + j) * kStepBytes + i * kPartBytes, w[j]);
        }
      }
    }
    return to;
  }
  OCTAVO_INLINE void scales(int64_t, int64_t, int64_t, float*) const {}
};

// The same, decoded to bytes; the factors stay separate. Blocks do not span rows.
struct FourBitBytes {
  using Dot = DotI8Blocks;
  FourBit codes;
  int64_t steps, align;
  bool in_place = false;
  const float* table = nullptr;

  explicit FourBitBytes(const FourBit& c) : codes(c), steps(2 * c.steps), align(2 * c.align) {}

  int64_t scratch(int64_t run) const { return run * kStepBytes + codes.scratch(run / 2); }

  OCTAVO_INLINE const char* fetch(int64_t panel, int64_t step, int64_t count, char* to) const {
    const char* from = codes.fetch(panel, step / 2, count / 2, to + count * kStepBytes);
    NibbleBytes bytes;
    bytes.prepare(codes.table);
    char* out = to;
    for (int64_t s = 0; s < count / 2; s++, from += kStepBytes, out += 2 * kStepBytes)
      OCTAVO_UNROLL for (int i = 0; i < kParts; i++) {
        const u32p raw = load_part<u32p>(from + i * kPartBytes);
        store_part(out + i * kPartBytes, bytes.at(raw & 0x0f0f0f0fu));
        store_part(out + kStepBytes + i * kPartBytes, bytes.at((raw >> 4) & 0x0f0f0f0fu));
      }
    return to;
  }
  OCTAVO_INLINE void scales(int64_t panel, int64_t step, int64_t count, float* to) const {
    codes.scales(panel, step / 2, count / 2, to);
  }
  OCTAVO_INLINE void ahead(int64_t panel, int panels, TileArgs& a) const { codes.ahead(panel, panels, a); }
};

// Elements [first, first + count) of a flattened matrix in bitsandbytes' packing, decoded exactly.
OCTAVO_INLINE void decode_exactly(const uint8_t* packed, const Absmax& absmax, const float* table, int64_t blocksize,
                                  int64_t first, int64_t count, float* to) {
  int64_t i = first;
  const int64_t end = first + count;
  while (i < end) {
    const int64_t block = i / blocksize;
    const int64_t stop = (block + 1) * blocksize < end ? (block + 1) * blocksize : end;
    const float factor = absmax.at(block);
    if (i & 1) {
      *to++ = table[packed[i >> 1] & 15] * factor;
      i++;
    }
#if defined(__AVX512F__)
    const __m512 values = _mm512_loadu_ps(table), scale = _mm512_set1_ps(factor);
    const __m512i shifts = _mm512_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24, 4, 0, 12, 8, 20, 16, 28, 24);
    for (; i + 16 <= stop; i += 16, to += 16) {
      uint32_t half[2];
      std::memcpy(half, packed + (i >> 1), 8);
      const __m512i both = _mm512_mask_set1_epi32(_mm512_set1_epi32((int)half[0]), 0xff00, (int)half[1]);
      const __m512i index = _mm512_maskz_srlv_epi32(0xffff, both, shifts);
      _mm512_storeu_ps(to, _mm512_mul_ps(_mm512_maskz_permutexvar_ps(0xffff, index, values), scale));
    }
#endif
    for (; i + 2 <= stop; i += 2, to += 2) {
      const uint8_t byte = packed[i >> 1];
      to[0] = table[byte >> 4] * factor;
      to[1] = table[byte & 15] * factor;
    }
    if (i < stop) {
      *to++ = table[packed[i >> 1] >> 4] * factor;
      i++;
    }
  }
}

// The same, rounded.
OCTAVO_INLINE void decode_flat(const uint8_t* packed, const Absmax& absmax, const float* table, int64_t blocksize,
                               int rounding, int64_t first, int64_t count, float* to) {
  decode_exactly(packed, absmax, table, blocksize, first, count, to);
  if (rounding == kToF32) return;
  int64_t i = 0;
  for (; i + kPartLanes <= count; i += kPartLanes) store_part(to + i, round_to(rounding, load_part(to + i)));
  for (; i < count; i++) to[i] = round_to(rounding, splat_part(to[i]))[0];
}

// Rows of any K and blocksize, decoded and transposed run by run.
struct FourBitRows {
  using Dot = DotF32;
  const uint8_t* packed;
  Absmax absmax;
  const float* codes;
  int rounding;
  int64_t n, k, blocksize, steps, align = 1;
  bool in_place = false;
  const float* table = nullptr;

  FourBitRows(const Tensor& w, const Absmax& factors, int kind, int64_t block, int to)
      : packed(w.as<uint8_t>()),
        absmax(factors),
        codes(factors.table(kind)),
        rounding(to),
        n(w.dim[0]),
        k(w.dim[1]),
        blocksize(block),
        steps(w.dim[1]) {}

  int64_t scratch(int64_t run) const { return 2 * run * kStepBytes; }

  OCTAVO_INLINE const char* fetch(int64_t panel, int64_t step, int64_t count, char* to) const {
    float* rows_at = (float*)(to + count * kStepBytes);
    const int64_t row = panel * kPanelRows;
    const int rows = (int)(n - row < kPanelRows ? n - row : kPanelRows);
    for (int r = 0; r < rows; r++)
      decode_flat(packed, absmax, codes, blocksize, rounding, (row + r) * k + step, count, rows_at + r * count);
    rows_to_steps((const char*)rows_at, count * 4, rows, count * 4, (uint32_t*)to, kPanelRows, AsIs{});
    return to;
  }
  OCTAVO_INLINE void scales(int64_t, int64_t, int64_t, float*) const {}
};

}  // namespace octavo::OCTAVO_ISA
