// isa: portable avx2 avx512
// expert_outer: the gradient of a stack of matrices, each the sum of dy xᵀ over the rows that had its expert. Rows are gathered
// by expert, a few hundred at a time; each sum is one chain in the order of the rows.

#include "../simd/experts.h"
#include "../simd/outer.h"

namespace octavo::OCTAVO_ISA {

namespace {

constexpr int64_t kOutputs = 16;  // of a piece of work

const char* expert_outer(const Call& call) {
  const Tensor &dy = call.t[0], &x = call.t[1], &experts = call.t[2], &dw = call.t[3];
  const int64_t count = dw.dim[0], N = dw.dim[1], K = dw.dim[2], each = experts.dim[1], rows = experts.size();
  const bool shared = x.dim[1] == 1;
  if (count != call.attr[0].i) return "the stack's number of experts differs from the attribute";
  if (dw.size() == 0) return nullptr;
  const int32_t* chosen = experts.as<int32_t>();
  for (int64_t i = 0; i < rows; i++)
    if (chosen[i] < 0 || chosen[i] >= count)
      return sentence("expert %d is not one of %lld", chosen[i], (long long)count);
  const int64_t most = rows < kGroupRows ? rows : kGroupRows;
  const int64_t indexes = (count + 1 + rows + 15) / 16 * 16;
  char* scratch = call.need(sizeof(float) * (size_t)(indexes + most * (N + K)));
  if (!scratch) return "no memory to group rows by their experts";
  int32_t *begin = (int32_t*)scratch, *order = begin + count + 1;
  float *from = (float*)scratch + indexes, *by = from + most * N;
  group_rows(chosen, rows, count, begin, order);
  for (int64_t e = 0; e < count; e++) {
    float* to = dw.as<float>() + e * N * K;
    std::memset(to, 0, sizeof(float) * (size_t)(N * K));
    for (int64_t at = begin[e]; at < begin[e + 1]; at += most) {
      const int64_t some = begin[e + 1] - at < most ? begin[e + 1] - at : most;
      parallel(call, some, row_grain(N + K), [&](int64_t first, int64_t end, int) {
        for (int64_t i = first; i < end; i++) {
          const int64_t row = order[at + i];
          std::memcpy(from + i * N, dy.as<float>() + row * N, sizeof(float) * (size_t)N);
          std::memcpy(by + i * K, x.as<float>() + (shared ? row / each : row) * K, sizeof(float) * (size_t)K);
        }
      });
      parallel(call, (N + kOutputs - 1) / kOutputs, row_grain(kOutputs * K), [&](int64_t first, int64_t end, int) {
        for (int64_t n = first * kOutputs; n < end * kOutputs && n < N; n += kOutputs)
          add_outer({from + n, 1, N}, {by, K}, {to + n * K, K}, N - n < kOutputs ? N - n : kOutputs, some, K);
      });
    }
  }
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(expert_outer,
    {"expert_outer",
     "expert_outer: dy[M,A,N]:f32 x[M,X,K]:f32 experts[M,A]:i32 ; count:i32 -> dw[E,N,K]:f32", expert_outer})

}  // namespace octavo::OCTAVO_ISA
