// embedding: rows of a matrix by id, widened to f32, from plain rows or from panels (see native/panels.h).

#include "../parallel.h"
#include "../registry.h"
#include "../simd/narrow.h"

namespace octavo::OCTAVO_ISA {

namespace {

template <class W>
void take_row(const typename W::T* row, int64_t K, float* out) {
  int64_t k = 0;
  for (; k + 16 <= K; k += 16) store(out + k, W::load(row + k));
  for (; k < K; k++) out[k] = W::widen(row[k]);
}

// Panels hold 16 rows: f32 as [K][16], halves as [K/2][16][2].
template <class W>
void take_panel(const typename W::T* weight, int64_t id, int64_t K, float* out) {
  constexpr int64_t kPair = sizeof(typename W::T) == 2 ? 2 : 1;
  const int64_t groups = (K + kPair - 1) / kPair;
  const typename W::T* panel = weight + id / 16 * groups * 16 * kPair + id % 16 * kPair;
  for (int64_t k = 0; k < K; k++) out[k] = W::widen(panel[k / kPair * 16 * kPair + k % kPair]);
}

template <class W>
void take(const Call& call) {
  const Tensor &weight = call.t[0], &ids = call.t[1], &y = call.t[2];
  const int64_t K = weight.dim[1];
  parallel(call, ids.size(), row_grain(K), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t id = ids.as<int32_t>()[i];
      float* out = y.as<float>() + i * K;
      if (weight.panels) take_panel<W>(weight.as<typename W::T>(), id, K, out);
      else take_row<W>(weight.as<typename W::T>() + id * K, K, out);
    }
  });
}

const char* embedding(const Call& call) {
  const Tensor &weight = call.t[0], &ids = call.t[1];
  const int64_t V = weight.dim[0], n = ids.size();
  for (int64_t i = 0; i < n; i++) {
    const int32_t id = ids.as<int32_t>()[i];
    if (id < 0 || id >= V) return sentence("token id %d is outside the vocabulary of %lld", id, (long long)V);
  }
  switch (weight.dtype) {
    case DType::f16: take<F16>(call); break;
    case DType::bf16: take<BF16>(call); break;
    default: take<F32>(call); break;
  }
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(embedding,
    {"embedding", "embedding: weight[V,K]:f32|f16|bf16@ ids[..]:i32 -> y[..,K]:f32", embedding})

}  // namespace octavo::OCTAVO_ISA
