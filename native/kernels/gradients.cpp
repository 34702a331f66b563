// fill, sum_rows, embedding_back, activation_back, clamped_gated_back and the gradients of the norms: one or two passes over
// memory each.

#include "../parallel.h"
#include "../registry.h"
#include "../simd/act.h"
#include "../simd/narrow.h"

namespace octavo::OCTAVO_ISA {

namespace {

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

const char* fill(const Call& call) {
  const Tensor& y = call.t[0];
  const int64_t width = y.rank > 0 ? y.last() : 1, stride = y.rank > 0 ? y.stride[y.rank - 1] : 1;
  const float value = call.attr[0].f;
  if (y.size() == 0) return nullptr;
  parallel(call, y.rank > 0 ? y.rows() : 1, row_grain(width), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++) {
      float* to = y.as<float>();
      int64_t rest = row;
      for (int d = y.rank - 2; d >= 0; d--) {
        to += rest % y.dim[d] * y.stride[d];
        rest /= y.dim[d];
      }
      for (int64_t k = 0; k < width; k++) to[k * stride] = value;
    }
  });
  return nullptr;
}

// Columns are split among workers, never rows. Rows are summed in blocks, and the blocks in order.
const char* sum_rows(const Call& call) {
  const Tensor &x = call.t[0], &y = call.t[1];
  const int64_t rows = x.rows(), K = x.last();
  constexpr int64_t kBlock = 64;
  parallel(call, (K + 15) / 16, kGrainElements / (16 * (rows + 1)) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t at = begin; at < end; at++) {
      const int64_t k = at * 16;
      const int n = (int)least(16, K - k);
      f32x16 total = zero();
      for (int64_t first = 0; first < rows; first += kBlock) {
        f32x16 sum = zero();
        for (int64_t m = first; m < least(first + kBlock, rows); m++) {
          const float* from = x.as<float>() + m * K + k;
          sum += n == 16 ? load(from) : load_n(from, n);
        }
        total += sum;
      }
      store_n(y.as<float>() + k, total, n);
    }
  });
  return nullptr;
}

// Rows of the table are split among workers; each piece scans all ids for its own.
const char* embedding_back(const Call& call) {
  const Tensor &ids = call.t[0], &dy = call.t[1], &dw = call.t[2];
  const int64_t V = dw.dim[0], K = dw.dim[1], n = ids.size();
  if (V != call.attr[0].i) return "the table's number of rows differs from the attribute";
  const int32_t* id = ids.as<int32_t>();
  for (int64_t i = 0; i < n; i++)
    if (id[i] < 0 || id[i] >= V)
      return sentence("token id %d is outside the vocabulary of %lld", id[i], (long long)V);
  parallel(call, V, V / 64 + 1, [&](int64_t begin, int64_t end, int) {
    std::memset(dw.as<float>() + begin * K, 0, sizeof(float) * (size_t)((end - begin) * K));
    for (int64_t i = 0; i < n; i++) {
      if (id[i] < begin || id[i] >= end) continue;
      const float* from = dy.as<float>() + i * K;
      float* to = dw.as<float>() + id[i] * K;
      for (int64_t k = 0; k < K; k++) to[k] += from[k];
    }
  });
  return nullptr;
}

// The derivative of act.h's functions.
template <int kAct>
OCTAVO_INLINE f32x16 slope_of(f32x16 x) {
  if constexpr (kAct == kActRelu) {
    return x > zero() ? splat(1.0f) : zero();
  } else if constexpr (kAct == kActGelu) {
    return 0.5f * one_plus_erf(x * 0.70710678118f) + x * 0.39894228040f * vexp(-0.5f * x * x);
  } else if constexpr (kAct == kActGeluTanh) {
    const f32x16 u2 = 1.5957691216f * x * (1.0f + 0.044715f * x * x), s = vsigmoid(u2);
    return s + x * s * vsigmoid(-u2) * 1.5957691216f * (1.0f + 0.134145f * x * x);
  } else if constexpr (kAct == kActSilu) {
    return vsigmoid(x) * (1.0f + x * vsigmoid(-x));
  } else if constexpr (kAct == kActQuickGelu) {
    return vsigmoid(1.702f * x) * (1.0f + 1.702f * x * vsigmoid(-1.702f * x));
  } else if constexpr (kAct == kActTanh) {
    return 4.0f * vsigmoid(2.0f * x) * vsigmoid(-2.0f * x);
  } else if constexpr (kAct == kActSigmoid) {
    return vsigmoid(x) * vsigmoid(-x);
  } else {
    return splat(1.0f);
  }
}

template <int kAct>
const char* times_slope(const Call& call) {
  const float *x = call.t[0].as<float>(), *dy = call.t[1].as<float>();
  float* dx = call.t[2].as<float>();
  const int64_t n = call.t[0].size();
  parallel(call, (n + 15) / 16, kGrainElements / 16, [=](int64_t begin, int64_t end, int) {
    for (int64_t at = begin * 16; at < least(end * 16, n); at += 16) {
      const int some = (int)least(16, n - at);
      store_n(dx + at, slope_of<kAct>(load_n(x + at, some)) * load_n(dy + at, some), some);
    }
  });
  return nullptr;
}

const char* activation_back(const Call& call) {
  switch (call.attr[0].i) {
    case kActNone: return times_slope<kActNone>(call);
    case kActRelu: return times_slope<kActRelu>(call);
    case kActGelu: return times_slope<kActGelu>(call);
    case kActGeluTanh: return times_slope<kActGeluTanh>(call);
    case kActSilu: return times_slope<kActSilu>(call);
    case kActQuickGelu: return times_slope<kActQuickGelu>(call);
    case kActTanh: return times_slope<kActTanh>(call);
    case kActSigmoid: return times_slope<kActSigmoid>(call);
    default: return sentence("there is no activation %d", call.attr[0].i);
  }
}

// Elements k to k + n of row `row`, by the strides.
OCTAVO_INLINE f32x16 load_strided(const Tensor& t, int64_t row, int64_t k, int n) {
  const float* at = t.as<float>();
  for (int d = t.rank - 2; d >= 0; d--) {
    at += row % t.dim[d] * t.stride[d];
    row /= t.dim[d];
  }
  const int64_t stride = t.stride[t.rank - 1];
  if (stride == 1) return load_n(at + k, n);
  f32x16 v = zero();
  for (int i = 0; i < n; i++) v[i] = at[(k + i) * stride];
  return v;
}

const char* clamped_gated_back(const Call& call) {
  const Tensor &gate = call.t[0], &up = call.t[1], &dy = call.t[2], &dgate = call.t[3], &dup = call.t[4];
  const int64_t K = dy.last();
  const f32x16 limit = splat(call.attr[0].f);
  parallel(call, dy.rows(), row_grain(K), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++) {
      for (int64_t k = 0; k < K; k += 16) {
        const int n = (int)least(16, K - k);
        const f32x16 g = load_strided(gate, row, k, n), u = load_strided(up, row, k, n);
        const f32x16 d = load_n(dy.as<float>() + row * K + k, n);
        const f32x16 open = vmin(limit, g), factor = vmin(limit, vmax(-limit, u)) + 1.0f;
        // At a limit itself the gradient passes.
        store_n(dgate.as<float>() + row * K + k, g <= limit ? slope_of<kActQuickGelu>(open) * factor * d : zero(), n);
        store_n(dup.as<float>() + row * K + k,
                vmax(u, -u) <= limit ? act_of<kActQuickGelu>(open) * d : zero(), n);
      }
    }
  });
  return nullptr;
}

OCTAVO_INLINE f32x16 load_any(const Tensor& t, int64_t k, int n) {
  switch (t.dtype) {
    case DType::f16: return F16::load_n(t.as<uint16_t>() + k, n);
    case DType::bf16: return BF16::load_n(t.as<uint16_t>() + k, n);
    default: return load_n(t.as<float>() + k, n);
  }
}

// Sums of f(k, n) over a row, sixteen columns at a time, in four sets of lanes.
template <class F>
OCTAVO_INLINE float total(int64_t K, const F& f) {
  f32x16 set[4] = {zero(), zero(), zero(), zero()};
  int64_t at = 0;
  for (int64_t k = 0; k < K; k += 16, at++) set[at & 3] += f(k, (int)least(16, K - k));
  return sum((set[0] + set[1]) + (set[2] + set[3]));
}

// With g = dy (w + offset), the normalised row being (x - mean) r: dx = r (g - shift - (x - mean) r² mean(g (x - mean))).
template <bool kCentered>
void norm_back(const Call& call, const Tensor& w, const Tensor& dy, float offset, float* out) {
  const Tensor& x = call.t[0];
  const int64_t K = x.last();
  const float eps = call.attr[0].f;
  parallel(call, x.rows(), row_grain(K), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++) {
      const float *in = x.as<float>() + row * K, *d = dy.as<float>() + row * K;
      float* to = out + row * K;
      const auto g = [&](int64_t k, int n) {
        return w ? load_n(d + k, n) * (load_any(w, k, n) + offset) : load_n(d + k, n);
      };
      float mean = 0, shift = 0;
      if constexpr (kCentered) {
        mean = total(K, [&](int64_t k, int n) { return load_n(in + k, n); }) / (float)K;
        shift = total(K, g) / (float)K;
      }
      // Lanes past the row hold zeros in g; where the mean is subtracted they must not count in the squares.
      const float squares = total(K, [&](int64_t k, int n) {
        f32x16 v = load_n(in + k, n) - mean;
        if (kCentered && n < 16)
          for (int i = n; i < 16; i++) v[i] = 0;
        return v * v;
      });
      const float along = total(K, [&](int64_t k, int n) { return g(k, n) * (load_n(in + k, n) - mean); });
      const float r = 1.0f / __builtin_sqrtf(squares / (float)K + eps);
      const float factor = along / (float)K * r * r;
      for (int64_t k = 0; k < K; k += 16) {
        const int n = (int)least(16, K - k);
        store_n(to + k, (g(k, n) - shift - (load_n(in + k, n) - mean) * factor) * r, n);
      }
    }
  });
}

const char* rms_norm_back(const Call& call) {
  norm_back<false>(call, call.t[1], call.t[2], call.attr[1].f, call.t[3].as<float>());
  return nullptr;
}

const char* layer_norm_back(const Call& call) {
  norm_back<true>(call, call.t[1], call.t[2], 0, call.t[3].as<float>());
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(gradients,
    {"fill", "fill: y[..]:f32~!! ; value:f32 ->", fill},
    {"sum_rows", "sum_rows: x[..,K]:f32 -> y[K]:f32", sum_rows},
    {"embedding_back", "embedding_back: ids[..]:i32 dy[..,K]:f32 ; vocabulary:i32 -> dweight[V,K]:f32", embedding_back},
    {"activation_back", "activation_back: x[..]:f32 dy[..]:f32 ; act:i32 -> dx[..]:f32", activation_back},
    {"clamped_gated_back",
     "clamped_gated_back: gate[..,K]:f32~ up[..,K]:f32~ dy[..,K]:f32 ; limit:f32 -> dgate[..,K]:f32 dup[..,K]:f32",
     clamped_gated_back},
    {"rms_norm_back",
     "rms_norm_back: x[..,K]:f32 weight[K]:f32|f16|bf16 dy[..,K]:f32 ; eps:f32 offset:f32 -> dx[..,K]:f32",
     rms_norm_back},
    {"layer_norm_back",
     "layer_norm_back: x[..,K]:f32 weight[K]:f32|f16|bf16? dy[..,K]:f32 ; eps:f32 -> dx[..,K]:f32", layer_norm_back})

}  // namespace octavo::OCTAVO_ISA
