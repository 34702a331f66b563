// isa: portable avx2 avx512 avx512bf16 amx
// Dense products: y = act(x · Wᵀ + bias) + residual, weights in f32, f16 or bf16, sums in f32. Activations are f32; they are
// rounded to bf16 if the caller allows it, the weights are bf16 too, and the machine multiplies bf16 pairs.
#include "../simd/experts.h"
#include "../simd/float_product.h"
#include "../simd/stored.h"

namespace octavo::OCTAVO_ISA {

namespace {

template <class Weights>
const char* product(const Call& call, const Weights& weights) {
  return float_product(call, weights, 4, call.attr[0].i);
}

const char* linear(const Call& call) {
  const Tensor& w = call.t[1];
#if defined(OCTAVO_BF16_DOT)
  if (call.attr[1].i == 1 && w.dtype == DType::bf16 && w.dim[1] % 8 == 0) {
#if defined(OCTAVO_AMX)
    if (call.t[0].rows() > kTileRows) return product(call, Stored<MatrixBf16<1, 1>>(w));
#endif
    return product(call, Stored<DotBf16Pair>(w));
  }
#endif
#if defined(OCTAVO_AMX)
  if (call.t[0].rows() > kTileRows) {
    switch (w.dtype) {
      case DType::f32: return product(call, Split<Stored<DotF32>, 3>(Stored<DotF32>(w)));
      case DType::bf16: return product(call, Stored<MatrixBf16<3, 1>>(w));
      default: return product(call, Split<Widened<DotF16>, 2>(Widened<DotF16>(Stored<DotF16>(w))));
    }
  }
#endif
  switch (w.dtype) {
    case DType::f32: return product(call, Stored<DotF32>(w));
    case DType::bf16: return product(call, Stored<DotBf16>(w));
    default: {
      // Halves take several instructions to widen: done once per run if several tiles share it.
      const Stored<DotF16> stored(w);
      if (tile_size(call.t[0].rows()).tiles > 2) return product(call, Widened<DotF16>(stored));
      return product(call, stored);
    }
  }
}

const char* expert_linear(const Call& call) {
  const Tensor &weight = call.t[1], &bias = call.t[3];
  return expert_product(call, weight, call.t[2], call.t[4], 4, linear, [&](Call& one, int64_t e) {
    one.t[1] = stacked(weight, e);
    one.t[2] = stacked(bias, e);
    one.attr[0] = call.attr[0];
    one.attr[1] = call.attr[1];
  });
}

}  // namespace

OCTAVO_KERNELS(linear,
               {"linear",
                "linear: x[..,K]:f32 weight[N,K]:f32|f16|bf16@ bias[N]:f32|f16|bf16? residual[..,N]:f32? ; "
                "act:i32 compute:i32 -> y[..,N]:f32",
                linear},
               {"expert_linear",
                "expert_linear: x[M,X,K]:f32 weight[E,N,K]:f32|f16|bf16@ experts[M,A]:i32 bias[E,N]:f32|f16|bf16? ; "
                "act:i32 compute:i32 -> y[M,A,N]:f32",
                expert_linear})

}  // namespace octavo::OCTAVO_ISA
