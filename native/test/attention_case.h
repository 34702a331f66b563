// One call of attention with all its operands, and its plain twin in double.
#pragma once

#include <algorithm>
#include <cmath>

#include "harness.h"

inline Array flat(DType dtype, int64_t n) { return Array(dtype, {n}); }

struct Case {
  int64_t B = 1, T = 1, H = 1, G = 1, S = 1, D = 8, E = 8;
  // With a table: pages of S tokens, rows of the table and its columns.
  int64_t P = 0, R = 0, C = 0;
  std::vector<int64_t> qs, ks, vs, bs;  // strides
  Array q, k, v, bias;
  Array scales;  // of k and v in i8
  Array lanes, table, mask, segments, slopes, distances, sinks, y;
  bool has_mask = false, has_segments = false, has_slopes = false, has_bias = false, has_sinks = false;
  int64_t W = 0;  // of distances; 0: none
  float scale = 1, softcap = 0;
  int causal = 0, window = 0, compute = 0;

  bool paged() const { return P > 0; }
  int64_t pages() const { return paged() ? P : B; }
  int32_t* row(int64_t b, int64_t t) const { return (int32_t*)lanes.data + b * T + t; }
  int32_t* position(int64_t b, int64_t t) const { return (int32_t*)lanes.data + (B + b) * T + t; }
  int32_t* held(int64_t r) const { return (int32_t*)table.data + r * C; }
  // Page and place of key j that a query of b or of a row sees.
  int64_t page_of(int64_t b, int64_t r, int64_t j) const { return paged() ? held(r)[1 + j / S % (C - 1)] : b; }
  int64_t place_of(int64_t j) const { return paged() ? j % S : j; }
};

// Operands of attention in the order of its signature.
enum { kQ, kK, kV, kScales, kLanes, kTable, kMask, kSegments, kSlopes, kDistances, kBias, kSinks, kY };

inline Call call_of(Case& c) {
  Call call;
  call.t[kQ] = c.q.view({c.B, c.T, c.H, c.D}, c.qs);
  call.t[kK] = c.k.view({c.pages(), c.G, c.S, c.D}, c.ks);
  call.t[kV] = c.v.view({c.pages(), c.G, c.S, c.E}, c.vs);
  if (c.scales.data) call.t[kScales] = c.scales.view({2, c.pages(), c.G, c.S});
  if (c.paged()) {
    call.t[kLanes] = c.lanes.view({2, c.B, c.T});
    call.t[kTable] = c.table.view({c.R, c.C});
  }
  if (c.has_mask) call.t[kMask] = c.mask.view({c.B, c.S});
  if (c.has_segments) call.t[kSegments] = c.segments.view({c.B, c.S});
  if (c.has_slopes) call.t[kSlopes] = c.slopes.view({c.H});
  if (c.W > 0) call.t[kDistances] = c.distances.view({c.H, c.W});
  if (c.has_bias) call.t[kBias] = c.bias.view({c.B, c.H, c.T, c.S}, c.bs);
  if (c.has_sinks) call.t[kSinks] = c.sinks.view({c.H});
  call.t[kY] = c.y.view({c.B, c.T, c.H, c.E});
  call.attr[0].f = c.scale;
  call.attr[1].i = c.causal;
  call.attr[2].i = c.window;
  call.attr[3].f = c.softcap;
  call.attr[4].i = c.compute;
  return call;
}

// The twin. `slack` receives, per output row, the error bound of f32 scores; `size`, per output, the mean magnitude of the
// averaged values. With `rounded`, queries are rounded to bf16 after scaling.
inline std::vector<double> twin(Case& c, std::vector<double>& slack, std::vector<double>& size, bool rounded) {
  Call call = call_of(c);
  const Tensor *q = &call.t[0], *k = &call.t[1], *v = &call.t[2], *bias = &call.t[kBias];
  // The unit of key j's codes; 1 for floats.
  const auto unit = [&](const Array& x, int64_t part, int64_t page, int64_t g, int64_t place) {
    return x.dtype == DType::i8 ? (double)c.scales.at(((part * c.pages() + page) * c.G + g) * c.S + place) / 127 : 1.0;
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
  for (int64_t b = 0; b < c.B; b++)
    for (int64_t t = 0; t < c.T; t++)
      for (int64_t h = 0; h < c.H; h++) {
        const int64_t g = h / (c.H / c.G), r = c.paged() ? *c.row(b, t) : b;
        if (r < 0) continue;
        const int64_t i = c.paged() ? *c.position(b, t) : c.S - c.T + t;
        const int64_t total = c.causal ? i + 1 : c.paged() ? *c.held(r) : c.S;
        std::vector<double> s((size_t)std::max<int64_t>(total, 0), -INFINITY);
        double top = -INFINITY, worst = 0;
        for (int64_t j = 0; j < total; j++) {
          bool visible = c.window <= 0 || (j > i - c.window && j < i + c.window);
          if (visible && c.has_mask) visible = c.mask.u()[(size_t)(b * c.S + j)] != 0;
          if (visible && c.has_segments) {
            const int32_t* seg = (int32_t*)c.segments.data + b * c.S;
            visible = i >= 0 && seg[j] == seg[i];
          }
          if (!visible) continue;
          const int64_t page = c.page_of(b, r, j), place = c.place_of(j);
          double x = 0, most = 0;
          for (int64_t d = 0; d < c.D; d++) {
            const double p = query(b * q->stride[0] + t * q->stride[1] + h * q->stride[2] + d) *
                             c.k.at((page * k->stride[0] + g * k->stride[1] + place * k->stride[2] + d));
            x += p;
            most += std::fabs(p);
          }
          x *= unit(c.k, 0, page, g, place);
          most *= unit(c.k, 0, page, g, place);
          if (c.softcap > 0) x = c.softcap * std::tanh(x / c.softcap);
          if (c.has_slopes) {
            const double a = ((float*)c.slopes.data)[h] * (double)(j - i);
            x += a;
            most += std::fabs(a);
          }
          if (c.W > 0) {
            const int64_t reach = (c.W - 1) / 2, away = std::max(-reach, std::min(reach, j - i));
            const double a = c.distances.f()[h * c.W + away + reach];
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
        const double sink = c.has_sinks ? c.sinks.at(h) : -INFINITY;
        top = std::max(top, sink);
        double sum = std::exp(sink - top);
        double* out = &y[(size_t)(((b * c.T + t) * c.H + h) * c.E)];
        double* magnitude = &size[(size_t)(((b * c.T + t) * c.H + h) * c.E)];
        for (int64_t j = 0; j < total; j++) {
          if (s[(size_t)j] == -INFINITY) continue;
          const int64_t page = c.page_of(b, r, j), place = c.place_of(j);
          const double p = std::exp(s[(size_t)j] - top), weight = p * unit(c.v, 1, page, g, place);
          sum += p;
          for (int64_t e = 0; e < c.E; e++) {
            const double x = weight * c.v.at((page * v->stride[0] + g * v->stride[1] + place * v->stride[2] + e));
            out[e] += x;
            magnitude[e] += std::fabs(x);
          }
        }
        for (int64_t e = 0; e < c.E; e++) out[e] /= sum, magnitude[e] /= sum;
      }
  return y;
}
