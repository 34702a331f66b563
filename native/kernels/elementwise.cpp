// activation, gated, clamped_gated, add, scale, copy, advance, advance_lanes: one pass over memory each.

#include "../parallel.h"
#include "../registry.h"
#include "../simd/act.h"

namespace octavo::OCTAVO_ISA {

namespace {

// y[i] = f(x[i]) over n elements of f32; pieces are multiples of a cache line.
template <class F>
inline void map(const Call& call, int64_t n, const F& body) {
  const int64_t lines = (n + 15) / 16;
  parallel(call, lines, kGrainElements / 16, [&](int64_t begin, int64_t end, int) {
    const int64_t from = begin * 16;
    const int64_t to = end * 16 < n ? end * 16 : n;
    body(from, to);
  });
}

template <int kAct>
void activate(const Call& call) {
  const float* x = call.t[0].as<float>();
  float* y = call.t[1].as<float>();
  map(call, call.t[0].size(), [=](int64_t i, int64_t to) {
    for (; i + 16 <= to; i += 16) store(y + i, act_of<kAct>(load(x + i)));
    if (i < to) store_n(y + i, act_of<kAct>(load_n(x + i, (int)(to - i))), (int)(to - i));
  });
}

const char* activation(const Call& call) {
  switch (call.attr[0].i) {
    case kActNone: activate<kActNone>(call); break;
    case kActRelu: activate<kActRelu>(call); break;
    case kActGelu: activate<kActGelu>(call); break;
    case kActGeluTanh: activate<kActGeluTanh>(call); break;
    case kActSilu: activate<kActSilu>(call); break;
    case kActQuickGelu: activate<kActQuickGelu>(call); break;
    case kActTanh: activate<kActTanh>(call); break;
    case kActSigmoid: activate<kActSigmoid>(call); break;
    default: return sentence("there is no activation %d", call.attr[0].i);
  }
  return nullptr;
}

// Element offset of a row, by the strides of all dims but the last.
inline int64_t row_offset(const Tensor& t, int64_t row) {
  int64_t offset = 0;
  for (int d = t.rank - 2; d >= 0; d--) {
    offset += row % t.dim[d] * t.stride[d];
    row /= t.dim[d];
  }
  return offset;
}

// y = f(gate, up), 16 elements at a time.
template <class F>
void gate(const Call& call, const F& f) {
  const Tensor &g = call.t[0], &u = call.t[1], &y = call.t[2];
  const int64_t K = y.last(), gs = g.stride[g.rank - 1], us = u.stride[u.rank - 1];
  // Long rows are cut, so that a single one also uses all threads.
  constexpr int64_t kCut = 4096;
  const int64_t cuts = (K + kCut - 1) / kCut;
  parallel(call, y.rows() * cuts, row_grain(K < kCut ? K : kCut), [&](int64_t begin, int64_t end, int) {
    for (int64_t at = begin; at < end; at++) {
      const int64_t row = at / cuts, from = at % cuts * kCut, to = from + kCut < K ? from + kCut : K;
      const float* a = g.as<float>() + row_offset(g, row);
      const float* b = u.as<float>() + row_offset(u, row);
      float* out = y.as<float>() + row * K;
      int64_t k = from;
      if (gs == 1 && us == 1) {
        for (; k + 16 <= to; k += 16) store(out + k, f(load(a + k), load(b + k)));
        const int n = (int)(to - k);
        if (n > 0) store_n(out + k, f(load_n(a + k, n), load_n(b + k, n)), n);
      } else {
        for (; k < to; k += 16) {
          const int n = to - k < 16 ? (int)(to - k) : 16;
          f32x16 va = zero(), vb = zero();
          for (int i = 0; i < n; i++) va[i] = a[(k + i) * gs], vb[i] = b[(k + i) * us];
          store_n(out + k, f(va, vb), n);
        }
      }
    }
  });
}

template <int kAct>
void gate_with(const Call& call) {
  gate(call, [](f32x16 g, f32x16 u) { return act_of<kAct>(g) * u; });
}

const char* gated(const Call& call) {
  switch (call.attr[0].i) {
    case kActNone: gate_with<kActNone>(call); break;
    case kActRelu: gate_with<kActRelu>(call); break;
    case kActGelu: gate_with<kActGelu>(call); break;
    case kActGeluTanh: gate_with<kActGeluTanh>(call); break;
    case kActSilu: gate_with<kActSilu>(call); break;
    case kActQuickGelu: gate_with<kActQuickGelu>(call); break;
    case kActTanh: gate_with<kActTanh>(call); break;
    case kActSigmoid: gate_with<kActSigmoid>(call); break;
    default: return sentence("there is no activation %d", call.attr[0].i);
  }
  return nullptr;
}

const char* clamped_gated(const Call& call) {
  const f32x16 limit = splat(call.attr[0].f);
  gate(call, [=](f32x16 g, f32x16 u) {
    // In this order NaN propagates.
    return act_of<kActQuickGelu>(vmin(limit, g)) * (vmin(limit, vmax(-limit, u)) + 1.0f);
  });
  return nullptr;
}

const char* add(const Call& call) {
  const float *a = call.t[0].as<float>(), *b = call.t[1].as<float>();
  float* y = call.t[2].as<float>();
  map(call, call.t[0].size(), [=](int64_t i, int64_t to) {
    for (; i + 16 <= to; i += 16) store(y + i, load(a + i) + load(b + i));
    for (; i < to; i++) y[i] = a[i] + b[i];
  });
  return nullptr;
}

const char* scale(const Call& call) {
  const float* x = call.t[0].as<float>();
  float* y = call.t[1].as<float>();
  const float factor = call.attr[0].f, cap = call.attr[1].f;
  map(call, call.t[0].size(), [=](int64_t i, int64_t to) {
    for (; i < to; i += 16) {
      const int n = to - i < 16 ? (int)(to - i) : 16;
      f32x16 v = (n == 16 ? load(x + i) : load_n(x + i, n)) * factor;
      if (cap > 0) v = cap * vtanh(v / cap);
      if (n == 16) store(y + i, v);
      else store_n(y + i, v, n);
    }
  });
  return nullptr;
}

const char* advance(const Call& call) {
  int32_t* x = call.t[0].as<int32_t>();
  const int64_t n = call.t[0].size();
  for (int64_t i = 0; i < n; i++) x[i] = (int32_t)((uint32_t)x[i] + (uint32_t)call.attr[0].i);
  return nullptr;
}

const char* advance_lanes(const Call& call) {
  const int64_t n = call.t[0].size() / 2;
  const int32_t* row = call.t[0].as<int32_t>();
  int32_t* position = call.t[0].as<int32_t>() + n;
  for (int64_t i = 0; i < n; i++)
    if (row[i] >= 0) position[i] = (int32_t)((uint32_t)position[i] + (uint32_t)call.attr[0].i);
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(elementwise,
    {"activation", "activation: x[..]:f32 ; act:i32 -> y[..]:f32", activation},
    {"gated", "gated: gate[..,K]:f32~ up[..,K]:f32~ ; act:i32 -> y[..,K]:f32", gated},
    {"clamped_gated", "clamped_gated: gate[..,K]:f32~ up[..,K]:f32~ ; limit:f32 -> y[..,K]:f32", clamped_gated},
    {"add", "add: a[..]:f32 b[..]:f32 -> y[..]:f32", add},
    {"scale", "scale: x[..]:f32 ; factor:f32 softcap:f32 -> y[..]:f32", scale},
    {"advance", "advance: x[..]:i32! ; by:i32 ->", advance},
    {"advance_lanes", "advance_lanes: lanes[2,B,T]:i32! ; by:i32 ->", advance_lanes})

}  // namespace octavo::OCTAVO_ISA
