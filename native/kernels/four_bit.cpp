// isa: portable avx2 avx512 avx512bf16 amx
// NF4 and FP4 products: y = act(x · Wᵀ + bias) + residual straight from packed nibbles. With few rows the nibbles are
// looked up inside the tile; many rows share one decoding. Exact f32 unless bf16 products are allowed.
#include "../registry.h"
#include "../simd/four_bit.h"
#include "../simd/product.h"

namespace octavo::OCTAVO_ISA {

namespace {

constexpr int64_t kSharedTiles = 3;  // from this many tiles on a shared decoding pays

#if defined(OCTAVO_BF16_DOT)
// Activations as pairs of bf16: neighbours, or k's four apart as DotU4Bf16 wants them. K % 8 == 0.
template <bool kFourApart>
void pack_pairs(const Call& call, const Plan& plan, const float* x, int64_t rows, int64_t k, int64_t tiles, char* to,
                int64_t stride) {
  const __m512i step = kFourApart ? _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
                                  : _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i low = step, high = _mm512_add_epi32(step, _mm512_set1_epi32(kFourApart ? 4 : 1));
  const int64_t grain = kPreparePiece / (k * plan.rows + 1) + 1;
  parallel(call, tiles, grain, [&](int64_t begin, int64_t end, int) {
    constexpr int64_t kSome = 32;
    alignas(64) uint32_t pairs[kTileRows][kSome / 2];
    for (int64_t t = begin; t < end; t++) {
      const int present = (int)at_most(plan.rows, rows - t * plan.rows);
      uint32_t* out = (uint32_t*)(to + t * stride);
      for (int64_t i = 0; i < k; i += kSome) {
        const int64_t some = at_most(kSome, k - i);
        for (int r = 0; r < present; r++) {
          const float* from = x + (t * plan.rows + r) * k + i;
          const f32x16 a = some >= 16 ? load(from) : load_n(from, (int)some);
          const f32x16 b = some >= 32 ? load(from + 16) : some > 16 ? load_n(from + 16, (int)some - 16) : zero();
          const u32p both = bf16_pairs((f32p)_mm512_permutex2var_ps((__m512)a, low, (__m512)b),
                                       (f32p)_mm512_permutex2var_ps((__m512)a, high, (__m512)b));
          store_part(pairs[r], both);
        }
        rows_to_steps((const char*)pairs, kSome * 2, present, some * 2, out + i / 2 * plan.rows, plan.rows, AsIs{});
      }
    }
  });
}
#endif

template <class Dot>
void pack(const Call& call, const Plan& plan, const float* x, int64_t rows, int64_t k, int64_t tiles, char* to) {
#if defined(OCTAVO_BF16_DOT)
  if constexpr (!Dot::kMatrix && Dot::kPerStep / Dot::kSub == 2) {
    pack_pairs<Dot::kScaled>(call, plan, x, rows, k, tiles, to, plan.x_bytes);
    return;
  }
#endif
  pack_activations<Dot>(call, plan, x, rows, k, tiles, to);
}

template <class Weights>
const char* product(const Call& call, const Weights& weights) {
  const Tensor &x = call.t[0], &codes = call.t[1], &y = call.t[8];
  const int64_t m = x.rows(), k = codes.dim[1], n = codes.dim[0];
  const Plan plan = plan_product(call, m, n, weights);
  const int64_t packed = plan.slab * plan.x_bytes;
  char* scratch = call.need((size_t)(packed + plan.workers * plan.worker_bytes));
  if (!scratch) return "no memory for the scratch of a 4-bit linear";
  const Output output{y.as<float>(), call.t[7].as<float>(), &call.t[6], call.attr[2].i, n};
  for (int64_t first = 0; first < plan.tiles; first += plan.slab) {
    const int64_t tiles = at_most(plan.slab, plan.tiles - first);
    const int64_t row = first * plan.rows;
    pack<typename Weights::Dot>(call, plan, x.as<float>() + row * k, m - row, k, tiles, scratch);
    run_product(call, plan, tiles, scratch, plan.x_bytes, weights, scratch + packed,
                [&](int64_t tile, int64_t panel, int panels, const char* c) {
                  const int64_t at = row + tile * plan.rows;
                  output.floats(plan, at, m - at, panel, panels, c);
                });
  }
  return nullptr;
}

const char* four_bit_linear(const Call& call) {
  const Tensor &x = call.t[0], &codes = call.t[1];
  const int kind = call.attr[0].i;
  const int64_t blocksize = call.attr[1].i;
  if (kind != 0 && kind != 1) return "the kind of a 4-bit matrix is 0 (nf4) or 1 (fp4)";
  if (blocksize < 1) return "the blocksize of a 4-bit matrix must be positive";
  if (x.rows() == 0 || codes.dim[0] == 0) return nullptr;
  const Absmax absmax(call.t[2], call.t[3], call.t[4], call.t[5]);
  if (const char* wrong = absmax.wrong()) return wrong;
  const int64_t k = codes.dim[1], tiles = tile_size(x.rows()).tiles;
  if (!FourBit::fits(k, blocksize)) {
    if (codes.panels) return "panels of 4-bit codes need K and the blocksize to be multiples of 8";
    return product(call, FourBitRows(codes, absmax, kind, blocksize));
  }
  const FourBit weights(codes, absmax, kind, blocksize);
#if defined(OCTAVO_BF16_DOT)
  if (call.attr[3].i == 1) {
    if (tiles < kSharedTiles) return product(call, FourBitOf<DotU4Bf16>(codes, absmax, kind, blocksize));
#if defined(OCTAVO_AMX)
    return product(call, FourBitDecoded<MatrixBf16<1, 1>>(weights));
#endif
    return product(call, FourBitDecoded<DotBf16Pair>(weights));
  }
#endif
  if (tiles < kSharedTiles) return product(call, weights);
#if defined(OCTAVO_AMX)
  return product(call, Split<FourBitDecoded<DotF32>, 3>(FourBitDecoded<DotF32>(weights)));
#endif
  return product(call, FourBitDecoded<DotF32>(weights));
}

}  // namespace

OCTAVO_KERNELS(four_bit, {"four_bit_linear",
                          "four_bit_linear: x[..,K]:f32 codes[N,K]:u4@ absmax[A]:f32|u8 nested[B]:f32? map[256]:f32? "
                          "offset[1]:f32? bias[N]:f32|f16|bf16? residual[..,N]:f32? ; kind:i32 blocksize:i32 act:i32 "
                          "compute:i32 -> y[..,N]:f32",
                          four_bit_linear})

}  // namespace octavo::OCTAVO_ISA
