// cross_entropy and its gradient: one row of logits at a time, with sums in double precision.

#include "../parallel.h"
#include "../registry.h"
#include "../simd/vec.h"

namespace octavo::OCTAVO_ISA {

namespace {

typedef double f64x16 __attribute__((vector_size(128)));

OCTAVO_INLINE double lanes(f64x16 v) {
  double total = 0;
  for (int i = 0; i < 16; i++) total += v[i];
  return total;
}

const char* wrong_target(const Tensor& targets, int64_t V, int32_t ignored) {
  const int32_t* id = targets.as<int32_t>();
  for (int64_t r = 0; r < targets.dim[0]; r++)
    if (id[r] != ignored && (id[r] < 0 || id[r] >= V))
      return sentence("target %d is outside the vocabulary of %lld", id[r], (long long)V);
  return nullptr;
}

const char* cross_entropy(const Call& call) {
  const Tensor &logits = call.t[0], &targets = call.t[1];
  const int64_t R = logits.dim[0], V = logits.dim[1];
  const double smoothing = call.attr[0].f;
  const int32_t ignored = call.attr[1].i;
  if (const char* wrong = wrong_target(targets, V, ignored)) return wrong;
  parallel(call, R, row_grain(V), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++) {
      float *loss = call.t[2].as<float>() + r, *lse = call.t[3].as<float>() + r;
      const int32_t target = targets.as<int32_t>()[r];
      *loss = 0;
      *lse = 0;
      if (target == ignored) continue;
      const float* x = logits.as<float>() + r * V;
      // A NaN among the logits propagates through the sum.
      f32x16 tops = splat(-INFINITY);
      int64_t v = 0;
      for (; v + 16 <= V; v += 16) tops = vmax(load(x + v), tops);
      float top = highest(tops);
      for (; v < V; v++) top = x[v] > top ? x[v] : top;
      f64x16 masses = {}, belows = {};
      for (v = 0; v + 16 <= V; v += 16) {
        const f32x16 below = load(x + v) - top;
        masses += __builtin_convertvector(vexp(below), f64x16);
        if (smoothing > 0) belows += __builtin_convertvector(below, f64x16);
      }
      double mass = lanes(masses), below = lanes(belows);
      for (; v < V; v++) {
        mass += __builtin_exp((double)(x[v] - top));
        below += (double)(x[v] - top);
      }
      const double log = __builtin_log(mass), hit = log + ((double)top - (double)x[target]);
      *loss = (float)(smoothing > 0 ? (1 - smoothing) * hit + smoothing * (log - below / (double)V) : hit);
      *lse = (float)((double)top + log);
    }
  });
  return nullptr;
}

const char* cross_entropy_back(const Call& call) {
  const Tensor &logits = call.t[0], &targets = call.t[1], &dlse = call.t[4];
  const int64_t R = logits.dim[0], V = logits.dim[1];
  const float smoothing = call.attr[0].f;
  const int32_t ignored = call.attr[1].i;
  if (const char* wrong = wrong_target(targets, V, ignored)) return wrong;
  parallel(call, R, row_grain(V), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++) {
      const float* x = logits.as<float>() + r * V;
      float* to = call.t[5].as<float>() + r * V;
      const int32_t target = targets.as<int32_t>()[r];
      if (target == ignored) {
        std::memset(to, 0, sizeof(float) * (size_t)V);
        continue;
      }
      const float lse = call.t[2].as<float>()[r], dloss = call.t[3].as<float>()[r];
      const float more = dlse ? dlse.as<float>()[r] : 0, even = dloss * smoothing / (float)V;
      for (int64_t v = 0; v < V; v += 16) {
        const int n = V - v < 16 ? (int)(V - v) : 16;
        store_n(to + v, (dloss + more) * vexp(load_n(x + v, n) - lse) - even, n);
      }
      // p - 1 is computed before the multiplication: near p = 1 it is small.
      const float p = vexp(splat(x[target] - lse))[0];
      to[target] = dloss * (p - (1 - smoothing)) - even + more * p;
    }
  });
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(cross_entropy,
    {"cross_entropy",
     "cross_entropy: logits[R,V]:f32 targets[R]:i32 ; smoothing:f32 ignored:i32 -> loss[R]:f32 lse[R]:f32",
     cross_entropy},
    {"cross_entropy_back",
     "cross_entropy_back: logits[R,V]:f32 targets[R]:i32 lse[R]:f32 dloss[R]:f32 dlse[R]:f32? ; smoothing:f32 "
     "ignored:i32 -> dlogits[R,V]:f32",
     cross_entropy_back})

}  // namespace octavo::OCTAVO_ISA
