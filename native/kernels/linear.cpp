// isa: portable avx2 avx512 amx
// Dense products: y = act(x · Wᵀ + bias) + residual, weights in f32, f16 or bf16, activations and sums in f32.
#include "../registry.h"
#include "../simd/product.h"
#include "../simd/stored.h"

namespace octavo::OCTAVO_ISA {

namespace {

template <class Weights>
const char* product(const Call& call, const Weights& weights) {
  const Tensor &x = call.t[0], &w = call.t[1], &y = call.t[4];
  const int64_t m = x.rows(), k = w.dim[1], n = w.dim[0];
  if (m == 0 || n == 0) return nullptr;
  const Plan plan = plan_product(call, m, n, weights);
  const int64_t packed = plan.slab * plan.x_bytes;
  char* scratch = call.need((size_t)(packed + plan.workers * plan.worker_bytes));
  if (!scratch) return "no memory for the scratch of a linear";
  const Output output{y.as<float>(), call.t[3].as<float>(), &call.t[2], call.attr[0].i, n};
  for (int64_t first = 0; first < plan.tiles; first += plan.slab) {
    const int64_t tiles = at_most(plan.slab, plan.tiles - first);
    const int64_t row = first * plan.rows;
    pack_activations<typename Weights::Dot>(call, plan, x.as<float>() + row * k, m - row, k, tiles, scratch);
    run_product(call, plan, tiles, scratch, plan.x_bytes, weights, scratch + packed,
                [&](int64_t tile, int64_t panel, int panels, const char* c) {
                  const int64_t at = row + tile * plan.rows;
                  output.floats(plan, at, m - at, panel, panels, c);
                });
  }
  return nullptr;
}

const char* linear(const Call& call) {
  const Tensor& w = call.t[1];
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
      // Halves cost several instructions to widen: done once per run where several tiles share it.
      const Stored<DotF16> stored(w);
      if (tile_size(call.t[0].rows()).tiles > 2) return product(call, Widened<DotF16>(stored));
      return product(call, stored);
    }
  }
}

}  // namespace

OCTAVO_KERNELS(linear, {"linear",
                        "linear: x[..,K]:f32 weight[N,K]:f32|f16|bf16@ bias[N]:f32|f16|bf16? residual[..,N]:f32? ; "
                        "act:i32 -> y[..,N]:f32",
                        linear})

}  // namespace octavo::OCTAVO_ISA
