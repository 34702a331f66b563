// argmax and token_logprobs: whole rows of logits at the speed of memory.

#include "../parallel.h"
#include "../registry.h"
#include "../simd/greatest.h"
#include "../simd/vec.h"

namespace octavo::OCTAVO_ISA {

namespace {

typedef double f64x16 __attribute__((vector_size(128)));

const char* argmax(const Call& call) {
  const Tensor &logits = call.t[0], &ids = call.t[1];
  const int64_t B = logits.dim[0], V = logits.dim[1];
  if (V == 0) return "logits are empty";
  parallel(call, B, row_grain(V), [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; b++) {
      const float* x = logits.as<float>() + b * V;
      bool nan;
      const int64_t best = first_greatest(x, V, &nan);
      ids.as<int32_t>()[b] = nan ? -1 : (int32_t)best;
    }
  });
  for (int64_t b = 0; b < B; b++)
    if (ids.as<int32_t>()[b] < 0) return "logits hold NaN";
  return nullptr;
}

const char* token_logprobs(const Call& call) {
  const Tensor &logits = call.t[0], &targets = call.t[1], &y = call.t[2];
  const int64_t R = logits.dim[0], V = logits.dim[1];
  for (int64_t r = 0; r < R; r++) {
    const int32_t id = targets.as<int32_t>()[r];
    if (id < 0 || id >= V) return sentence("token id %d is outside the vocabulary of %lld", id, (long long)V);
  }
  parallel(call, R, row_grain(V), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++) {
      const float* x = logits.as<float>() + r * V;
      bool nan;
      const float top = greatest(x, V, &nan);
      f64x16 sums = {};
      int64_t v = 0;
      for (; v + 16 <= V; v += 16) sums += __builtin_convertvector(vexp(load(x + v) - top), f64x16);
      double total = 0;
      for (int i = 0; i < 16; i++) total += sums[i];
      for (; v < V; v++) total += __builtin_exp((double)(x[v] - top));
      const double result = (double)x[targets.as<int32_t>()[r]] - (double)top - __builtin_log(total);
      y.as<float>()[r] = nan ? NAN : (float)result;
    }
  });
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(logits,
    {"argmax", "argmax: logits[B,V]:f32 -> ids[B]:i32", argmax},
    {"token_logprobs", "token_logprobs: logits[R,V]:f32 targets[R]:i32 -> y[R]:f32", token_logprobs})

}  // namespace octavo::OCTAVO_ISA
