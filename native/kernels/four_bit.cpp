// isa: portable avx2 avxvnni avx512 avx512bf16 amx dotprod
// Products with 4-bit matrices: y = act(x · Wᵀ + bias) + residual straight from packed nibbles. With few rows the nibbles are looked up
// inside the tile; many rows share one decoding. Exact f32 unless bf16 or 8-bit products are allowed; values that are rounded
// after decoding are decoded first even for few rows.
#include "../simd/experts.h"
#include "../simd/float_product.h"
#include "../simd/four_bit.h"

namespace octavo::OCTAVO_ISA {

namespace {

enum Compute { kF32 = 0, kBf16 = 1, kInt8 = 2 };  // codes of the attribute

constexpr int64_t kBlockUnit = 32;   // block sizes for 8-bit products are multiples of it, as in the formats
constexpr int64_t kSharedTiles = 3;  // from this many tiles on, shared decoding pays off
// Float sums cover at most this many k's before their factor is applied, even in longer blocks: a panel part shared by many
// rows then stays in the L1 cache.
constexpr int64_t kLongestSum = 256;

template <class Weights>
const char* product(const Call& call, const Weights& weights) {
  return float_product(call, weights, 8, call.attr[2].i);
}

const char* four_bit_linear(const Call& call) {
  const Tensor &x = call.t[0], &codes = call.t[1];
  const int kind = call.attr[0].i;
  const int64_t blocksize = call.attr[1].i;
  const int rounding = call.attr[4].i;
  if (const char* wrong = wrong_format(kind, blocksize, rounding)) return wrong;
  if (x.rows() == 0 || codes.dim[0] == 0) return nullptr;
  const int64_t k = codes.dim[1];
  const Absmax absmax(call.t[2], call.t[3], call.t[4], call.t[5], k, blocksize);
  if (const char* wrong = absmax.wrong(kind)) return wrong;
  const int64_t tiles = tile_size(x.rows()).tiles;
  if (!FourBit::fits(k, blocksize)) {
    if (codes.panels) return "panels of 4-bit codes need K and the blocksize to be multiples of 8";
    return product(call, FourBitRows(codes, absmax, kind, blocksize, rounding));
  }
  int compute = call.attr[3].i;
#if defined(OCTAVO_AMX)
  // Counted in instructions, a tile product in 8 bits saves 16 cycles per block of 64 k's, and its factors cost more than that:
  // bf16 should be as fast, and is more precise.
  if (compute == kInt8 && x.rows() > kTileRows) compute = kBf16;
#endif
  if (compute == kInt8 && k % blocksize == 0 && blocksize % kBlockUnit == 0) {
    if (tiles < kSharedTiles) return product(call, FourBitOf<DotU4I8>(codes, absmax, kind, blocksize));
    return product(call, FourBitBytes(FourBit(codes, absmax, kind, blocksize)));
  }
  const FourBit weights(codes, absmax, kind, blocksize, kLongestSum);
#if defined(OCTAVO_BF16_DOT)
  if (compute == kBf16) {
    if (tiles < kSharedTiles) return product(call, FourBitOf<DotU4Bf16>(codes, absmax, kind, blocksize, kLongestSum));
#if defined(OCTAVO_AMX)
    return product(call, FourBitDecoded<MatrixBf16<1, 1>>(weights));
#endif
    return product(call, FourBitLooked<DotU4Bf16, DotU4Pairs>(weights));
  }
#endif
  const FourBitDecoded<DotF32> decoded(weights, rounding);
  if (tiles < kSharedTiles) return rounding == kToF32 ? product(call, weights) : product(call, decoded);
#if defined(OCTAVO_AMX)
  return product(call, Split<FourBitDecoded<DotF32>, 3>(decoded));
#endif
  if (rounding != kToF32) return product(call, decoded);
  return product(call, FourBitLooked<DotU4, DotU4Floats>(weights));
}

const char* four_bit_expert_linear(const Call& call) {
  const Tensor &codes = call.t[1], &offset = call.t[5], &bias = call.t[7];
  if (codes.dim[1] * codes.dim[2] % 2 != 0) return "experts of 4-bit codes must begin at whole bytes";
  return expert_product(call, codes, call.t[6], call.t[8], 8, four_bit_linear, [&](Call& one, int64_t e) {
    one.t[1] = stacked(codes, e);
    one.t[2] = stacked(call.t[2], e);
    one.t[3] = stacked(call.t[3], e);
    one.t[4] = call.t[4];
    one.t[5] = offset;
    if (offset) one.t[5].data += e * 4;
    one.t[6] = stacked(bias, e);
    for (int i = 0; i < 5; i++) one.attr[i] = call.attr[i];
  });
}

}  // namespace

OCTAVO_KERNELS(four_bit,
               {"four_bit_linear",
                "four_bit_linear: x[..,K]:f32 codes[N,K]:u4@ absmax[A]:f32|u8|i8 nested[B]:f32? map[T]:f32? "
                "offset[1]:f32? bias[N]:f32|f16|bf16? residual[..,N]:f32? ; kind:i32 blocksize:i32 act:i32 "
                "compute:i32 rounding:i32 -> y[..,N]:f32",
                four_bit_linear},
               {"four_bit_expert_linear",
                "four_bit_expert_linear: x[M,X,K]:f32 codes[E,N,K]:u4@ absmax[E,B]:f32|u8|i8 nested[E,C]:f32? "
                "map[T]:f32? offset[E]:f32? experts[M,A]:i32 bias[E,N]:f32|f16|bf16? ; kind:i32 blocksize:i32 "
                "act:i32 compute:i32 rounding:i32 -> y[M,A,N]:f32",
                four_bit_expert_linear})

}  // namespace octavo::OCTAVO_ISA
