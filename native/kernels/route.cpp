// isa: portable avx2 avx512
// Mixture of experts without its products: the choice of experts for each token and its gradient, and the weighted sum of
// their outputs.

#include "../parallel.h"
#include "../registry.h"
#include "../simd/vec.h"

namespace octavo::OCTAVO_ISA {

namespace {

constexpr int64_t kRouteGrain = 64;  // tokens per piece

// The best score after (score, index) in descending order; of equal ones the lower index comes first.
inline int32_t next_best(const float* scores, int64_t count, int32_t before) {
  int32_t best = -1;
  for (int32_t e = 0; e < count; e++) {
    if (before >= 0 && !(scores[e] < scores[before] || (scores[e] == scores[before] && e > before))) continue;
    if (best < 0 || scores[e] > scores[best]) best = e;
  }
  return best;
}

const char* route(const Call& call) {
  const Tensor &logits = call.t[0], &experts = call.t[1], &weights = call.t[2];
  const int64_t tokens = logits.dim[0], count = logits.dim[1], each = experts.dim[1];
  const bool normalize = call.attr[0].i != 0;
  if (each < 1 || each > count) return "there are fewer experts than the number to choose";
  const float* all = logits.as<float>();
  for (int64_t i = 0; i < tokens * count; i++)
    if (all[i] != all[i]) return "logits hold NaN";
  parallel(call, tokens, kRouteGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; m++) {
      const float* scores = all + m * count;
      int32_t* chosen = experts.as<int32_t>() + m * each;
      float* share = weights.as<float>() + m * each;
      for (int64_t a = 0; a < each; a++) chosen[a] = next_best(scores, count, a > 0 ? chosen[a - 1] : -1);
      const float top = scores[chosen[0]];
      double total = 0;
      if (normalize)
        for (int64_t a = 0; a < each; a++) total += __builtin_exp((double)scores[chosen[a]] - (double)top);
      else
        for (int64_t e = 0; e < count; e++) total += __builtin_exp((double)scores[e] - (double)top);
      for (int64_t a = 0; a < each; a++)
        share[a] = (float)(__builtin_exp((double)scores[chosen[a]] - (double)top) / total);
    }
  });
  return nullptr;
}

// With shares p of a softmax over the chosen scores, or over all: dscore = p (dweight - the sum of p dweight over the chosen).
const char* route_back(const Call& call) {
  const Tensor &logits = call.t[0], &experts = call.t[1], &given = call.t[2], &out = call.t[3];
  const int64_t tokens = logits.dim[0], count = logits.dim[1], each = experts.dim[1];
  const bool normalize = call.attr[0].i != 0;
  const int32_t* all = experts.as<int32_t>();
  for (int64_t i = 0; i < tokens * each; i++)
    if (all[i] < 0 || all[i] >= count) return sentence("expert %d is not one of %lld", all[i], (long long)count);
  parallel(call, tokens, kRouteGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; m++) {
      const float *scores = logits.as<float>() + m * count, *d = given.as<float>() + m * each;
      const int32_t* chosen = all + m * each;
      float* to = out.as<float>() + m * count;
      const int64_t among = normalize ? each : count;
      const auto one = [&](int64_t i) { return normalize ? chosen[i] : i; };
      float top = scores[one(0)];
      for (int64_t i = 1; i < among; i++) top = scores[one(i)] > top ? scores[one(i)] : top;
      const auto size = [&](int64_t e) { return __builtin_exp((double)scores[e] - (double)top); };
      double total = 0, mean = 0;
      for (int64_t i = 0; i < among; i++) total += size(one(i));
      for (int64_t a = 0; a < each; a++) mean += size(chosen[a]) / total * d[a];
      for (int64_t e = 0; e < count; e++) to[e] = normalize ? 0 : (float)(-size(e) / total * mean);
      for (int64_t a = 0; a < each; a++) to[chosen[a]] = (float)(size(chosen[a]) / total * (d[a] - mean));
    }
  });
  return nullptr;
}

const char* mix(const Call& call) {
  const Tensor &x = call.t[0], &weights = call.t[1], &residual = call.t[2], &y = call.t[3];
  const int64_t n = x.last(), each = x.dim[x.rank - 2];
  parallel(call, y.rows(), row_grain(n * (each + 1)), [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; m++) {
      const float* from = x.as<float>() + m * each * n;
      const float* share = weights.as<float>() + m * each;
      const float* add = residual ? residual.as<float>() + m * n : nullptr;
      float* to = y.as<float>() + m * n;
      for (int64_t i = 0; i < n; i += 16) {
        const int some = (int)(n - i < 16 ? n - i : 16);
        f32x16 sum = zero();
        for (int64_t a = 0; a < each; a++) sum = fma(splat(share[a]), load_n(from + a * n + i, some), sum);
        if (add) sum += load_n(add + i, some);
        store_n(to + i, sum, some);
      }
    }
  });
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(route,
    {"route", "route: logits[M,E]:f32 experts[M,A]:i32!! weights[M,A]:f32!! ; normalize:i32 ->", route},
    {"route_back",
     "route_back: logits[M,E]:f32 experts[M,A]:i32 dweights[M,A]:f32 ; normalize:i32 -> dlogits[M,E]:f32", route_back},
    {"mix", "mix: x[..,A,N]:f32 weights[..,A]:f32 residual[..,N]:f32? -> y[..,N]:f32", mix})

}  // namespace octavo::OCTAVO_ISA
