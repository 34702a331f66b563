// Rounding of f32 to the values that f16 and bf16 have, in registers of f32.
#pragma once

#include "vec.h"
#include "wide.h"

namespace octavo::OCTAVO_ISA {

// Codes of the attribute of 4-bit ops (src/ops/four-bit.ts): bitsandbytes decodes to the dtype named in its file.
enum Rounding { kToF32 = 0, kToF16 = 1, kToBf16 = 2 };

// Half to even, entirely in f32: the mantissa bits that a shorter float lacks are rounded off.
OCTAVO_INLINE f32p round_to(int rounding, f32p exact) {
  if (rounding == kToF32) return exact;
  const f32p v = rounded(exact);
  const u32p bits = (u32p)v, size = bits & 0x7fffffffu;
  if (rounding == kToBf16) {
    const u32p near = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
    return (f32p)(size > 0x7f800000u ? bits : near);
  }
  const u32p near = (size + 0xfffu + ((size >> 13) & 1u)) & 0xffffe000u;
  // Below the smallest normal f16, 2^-14: floats between 1/2 and 1 are 2^-24 apart, like f16 there.
  const f32p small = rounded(rounded((f32p)size + 0.5f) - 0.5f);
  const u32p finite = size < 0x38800000u ? (u32p)small : near;
  const u32p all = size > 0x7f800000u ? size : size >= 0x477ff000u ? (u32p)splat_part(__builtin_inff()) : finite;
  return (f32p)(all | (bits & 0x80000000u));
}

}  // namespace octavo::OCTAVO_ISA
