// rms_norm and layer_norm over the last dim. Sums use four independent sets of sixteen lanes: fast, and more precise than one
// running total.

#include "../parallel.h"
#include "../registry.h"
#include "../simd/narrow.h"

namespace octavo::OCTAVO_ISA {

namespace {

// Sum of f(x[k..k+16]) over a row.
template <class F>
OCTAVO_INLINE float reduce(const float* x, int64_t K, const F& f) {
  f32x16 a = zero(), b = zero(), c = zero(), d = zero();
  int64_t k = 0;
  for (; k + 64 <= K; k += 64) {
    a += f(load(x + k));
    b += f(load(x + k + 16));
    c += f(load(x + k + 32));
    d += f(load(x + k + 48));
  }
  for (; k + 16 <= K; k += 16) a += f(load(x + k));
  float rest = 0;
  for (; k < K; k++) rest += f(splat(x[k]))[0];
  return sum((a + b) + (c + d)) + rest;
}

// 1 / sqrt(square + eps), NaN if a sum of squares has overflowed: a row of zeros would look like a result.
OCTAVO_INLINE float inverse_root(float square, float eps) {
  return 1.0f / __builtin_sqrtf(square + eps) + (square - square);
}

template <class W>
void rms(const Call& call) {
  const Tensor &x = call.t[0], &w = call.t[1], &y = call.t[2];
  const int64_t K = x.last();
  const float eps = call.attr[0].f, offset = call.attr[1].f;
  const typename W::T* weight = w.as<typename W::T>();
  parallel(call, x.rows(), row_grain(K), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++) {
      const float* in = x.as<float>() + row * K;
      float* out = y.as<float>() + row * K;
      const float mean = reduce(in, K, [](f32x16 v) { return v * v; }) / (float)K;
      const float factor = inverse_root(mean, eps);
      int64_t k = 0;
      for (; k + 16 <= K; k += 16) store(out + k, load(in + k) * factor * (W::load(weight + k) + offset));
      for (; k < K; k++) out[k] = in[k] * factor * (W::widen(weight[k]) + offset);
    }
  });
}

const char* rms_norm(const Call& call) {
  switch (call.t[1].dtype) {
    case DType::f16: rms<F16>(call); break;
    case DType::bf16: rms<BF16>(call); break;
    default: rms<F32>(call); break;
  }
  return nullptr;
}

OCTAVO_INLINE f32x16 load_any(const Tensor& t, int64_t k, int n) {
  switch (t.dtype) {
    case DType::f16: return n == 16 ? F16::load(t.as<uint16_t>() + k) : F16::load_n(t.as<uint16_t>() + k, n);
    case DType::bf16: return n == 16 ? BF16::load(t.as<uint16_t>() + k) : BF16::load_n(t.as<uint16_t>() + k, n);
    default: return n == 16 ? load(t.as<float>() + k) : load_n(t.as<float>() + k, n);
  }
}

const char* layer_norm(const Call& call) {
  const Tensor &x = call.t[0], &w = call.t[1], &b = call.t[2], &y = call.t[3];
  const int64_t K = x.last();
  const float eps = call.attr[0].f;
  parallel(call, x.rows(), row_grain(K), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++) {
      const float* in = x.as<float>() + row * K;
      float* out = y.as<float>() + row * K;
      const float mean = reduce(in, K, [](f32x16 v) { return v; }) / (float)K;
      const float variance = reduce(in, K, [=](f32x16 v) { return (v - mean) * (v - mean); }) / (float)K;
      const float factor = inverse_root(variance, eps);
      for (int64_t k = 0; k < K; k += 16) {
        const int n = K - k < 16 ? (int)(K - k) : 16;
        f32x16 v = ((n == 16 ? load(in + k) : load_n(in + k, n)) - mean) * factor;
        if (w) v *= load_any(w, k, n);
        if (b) v += load_any(b, k, n);
        if (n == 16) store(out + k, v);
        else store_n(out + k, v, n);
      }
    }
  });
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(norm,
    {"rms_norm", "rms_norm: x[..,K]:f32 weight[K]:f32|f16|bf16 ; eps:f32 offset:f32 -> y[..,K]:f32", rms_norm},
    {"layer_norm", "layer_norm: x[..,K]:f32 weight[K]:f32|f16|bf16? bias[K]:f32|f16|bf16? ; eps:f32 -> y[..,K]:f32",
     layer_norm})

}  // namespace octavo::OCTAVO_ISA
