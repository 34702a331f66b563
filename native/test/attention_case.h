// One call of attention with all its operands, and its plain twin in double.
#pragma once

#include <algorithm>
#include <cmath>

#include "harness.h"

inline Array flat(DType dtype, int64_t n) { return Array(dtype, {n}); }

struct Case {
  int64_t B = 1, T = 1, H = 1, G = 1, S = 1, D = 8, E = 8;
  std::vector<int64_t> qs, ks, vs, bs;  // strides
  Array q, k, v, bias;
  Array scales;  // of k and v in i8
  Array cursor, mask, segments, slopes, y;
  bool has_cursor = false, has_mask = false, has_segments = false, has_slopes = false, has_bias = false;
  float scale = 1, softcap = 0;
  int causal = 0, window = 0, compute = 0;
};

inline Call call_of(Case& c) {
  Call call;
  call.t[0] = c.q.view({c.B, c.T, c.H, c.D}, c.qs);
  call.t[1] = c.k.view({c.B, c.G, c.S, c.D}, c.ks);
  call.t[2] = c.v.view({c.B, c.G, c.S, c.E}, c.vs);
  if (c.scales.data) call.t[3] = c.scales.view({2, c.B, c.G, c.S});
  if (c.has_cursor) call.t[4] = c.cursor.view({1});
  if (c.has_mask) call.t[5] = c.mask.view({c.B, c.S});
  if (c.has_segments) call.t[6] = c.segments.view({c.B, c.S});
  if (c.has_slopes) call.t[7] = c.slopes.view({c.H});
  if (c.has_bias) call.t[8] = c.bias.view({c.B, c.H, c.T, c.S}, c.bs);
  call.t[9] = c.y.view({c.B, c.T, c.H, c.E});
  call.attr[0].f = c.scale;
  call.attr[1].i = c.causal;
  call.attr[2].i = c.window;
  call.attr[3].f = c.softcap;
  call.attr[4].i = c.compute;
  return call;
}

// The twin. `slack` receives, per output row, how far f32 scores may be off; `size`, per output, the mean magnitude of what
// was averaged. With `rounded` queries, once scaled, are rounded to bf16.
inline std::vector<double> twin(Case& c, std::vector<double>& slack, std::vector<double>& size, bool rounded) {
  Call call = call_of(c);
  const Tensor *q = &call.t[0], *k = &call.t[1], *v = &call.t[2], *bias = &call.t[8];
  const int64_t past = c.has_cursor ? *(int32_t*)c.cursor.data : c.S - c.T, total = past + c.T;
  // What a code of key j counts; 1 for numbers.
  const auto unit = [&](const Array& x, int64_t part, int64_t b, int64_t g, int64_t j) {
    return x.dtype == DType::i8 ? (double)c.scales.at(((part * c.B + b) * c.G + g) * c.S + j) / 127 : 1.0;
  };
  std::vector<double> y((size_t)(c.B * c.T * c.H * c.E), 0.0);
  slack.assign((size_t)(c.B * c.T * c.H), 0.0);
  size.assign(y.size(), 0.0);
  Array one(DType::bf16, {1});
  const auto query = [&](int64_t at) {
    if (!rounded) return (double)c.q.at(at) * c.scale;
    one.set(0, c.q.at(at) * c.scale);
    return (double)one.at(0);
  };
  std::vector<double> s((size_t)c.S);
  for (int64_t b = 0; b < c.B; b++)
    for (int64_t t = 0; t < c.T; t++)
      for (int64_t h = 0; h < c.H; h++) {
        const int64_t g = h / (c.H / c.G), i = past + t;
        double top = -INFINITY, worst = 0;
        for (int64_t j = 0; j < c.S; j++) {
          bool visible = j < total && (!c.causal || j <= i) && (c.window <= 0 || j > i - c.window);
          if (visible && c.has_mask) visible = c.mask.u()[(size_t)(b * c.S + j)] != 0;
          if (visible && c.has_segments) {
            const int32_t* seg = (int32_t*)c.segments.data + b * c.S;
            visible = i >= 0 && seg[j] == seg[i];
          }
          s[(size_t)j] = -INFINITY;
          if (!visible) continue;
          double x = 0, most = 0;
          for (int64_t d = 0; d < c.D; d++) {
            const double p = query(b * q->stride[0] + t * q->stride[1] + h * q->stride[2] + d) *
                             c.k.at((b * k->stride[0] + g * k->stride[1] + j * k->stride[2] + d));
            x += p;
            most += std::fabs(p);
          }
          x *= unit(c.k, 0, b, g, j);
          most *= unit(c.k, 0, b, g, j);
          if (c.softcap > 0) x = c.softcap * std::tanh(x / c.softcap);
          if (c.has_slopes) {
            const double a = ((float*)c.slopes.data)[h] * (double)(j - i);
            x += a;
            most += std::fabs(a);
          }
          if (c.has_bias) {
            const double a = c.bias.at((b * bias->stride[0] + h * bias->stride[1] + t * bias->stride[2] + j * bias->stride[3]));
            x += a;
            if (std::isfinite(a)) most += std::fabs(a);
          }
          s[(size_t)j] = x;
          worst = std::max(worst, most);
          top = std::max(top, x);
        }
        slack[(size_t)((b * c.T + t) * c.H + h)] = worst;
        if (top == -INFINITY) continue;
        double sum = 0;
        double* out = &y[(size_t)(((b * c.T + t) * c.H + h) * c.E)];
        double* magnitude = &size[(size_t)(((b * c.T + t) * c.H + h) * c.E)];
        for (int64_t j = 0; j < c.S; j++) {
          if (s[(size_t)j] == -INFINITY) continue;
          const double p = std::exp(s[(size_t)j] - top), weight = p * unit(c.v, 1, b, g, j);
          sum += p;
          for (int64_t e = 0; e < c.E; e++) {
            const double x = weight * c.v.at((b * v->stride[0] + g * v->stride[1] + j * v->stride[2] + e));
            out[e] += x;
            magnitude[e] += std::fabs(x);
          }
        }
        for (int64_t e = 0; e < c.E; e++) out[e] /= sum, magnitude[e] /= sum;
      }
  return y;
}
