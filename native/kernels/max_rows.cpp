// max_rows and its gradient: one pass over the rows of a sequence, 16 columns at a time.

#include "../parallel.h"
#include "../registry.h"
#include "../simd/vec.h"

namespace octavo::OCTAVO_ISA {

namespace {

// Calls f(sequence, first column, columns) for each piece of at most 16 columns.
template <class F>
void each_piece(const Call& call, const Tensor& x, const F& f) {
  const int64_t B = x.dim[0], T = x.dim[1], K = x.dim[2], pieces = (K + 15) / 16;
  parallel(call, B * pieces, kGrainElements / (16 * (T + 1)) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t at = begin; at < end; at++) {
      const int64_t k = at % pieces * 16;
      f(at / pieces, k, (int)(K - k < 16 ? K - k : 16));
    }
  });
}

// The largest values of some columns, and the rows that hold them (the first of equals; -1: all are masked).
struct Largest {
  f32x16 value;
  i32x16 row;
};

Largest largest(const Tensor& x, const Tensor& mask, int64_t b, int64_t k, int n) {
  const int64_t T = x.dim[1], K = x.dim[2];
  const uint8_t* shown = mask ? mask.as<uint8_t>() + b * T : nullptr;
  Largest best{splat(-INFINITY), i32x16{} - 1};
  for (int64_t t = 0; t < T; t++) {
    if (shown != nullptr && shown[t] == 0) continue;
    const f32x16 v = load_n(x.as<float>() + (b * T + t) * K + k, n);
    const i32x16 more = (v > best.value) | ((v != v) & (best.value == best.value)) | (best.row < 0);
    best.value = more ? v : best.value;
    best.row = more ? i32x16{} + (int32_t)t : best.row;
  }
  return best;
}

const char* max_rows(const Call& call) {
  const Tensor &x = call.t[0], &mask = call.t[1], &y = call.t[2];
  const int64_t K = x.dim[2];
  each_piece(call, x, [&](int64_t b, int64_t k, int n) {
    const Largest best = largest(x, mask, b, k, n);
    store_n(y.as<float>() + b * K + k, best.row < 0 ? zero() : best.value, n);
  });
  return nullptr;
}

const char* max_rows_back(const Call& call) {
  const Tensor &x = call.t[0], &mask = call.t[1], &dy = call.t[2], &dx = call.t[3];
  const int64_t T = x.dim[1], K = x.dim[2];
  each_piece(call, x, [&](int64_t b, int64_t k, int n) {
    const i32x16 row = largest(x, mask, b, k, n).row;
    const f32x16 given = load_n(dy.as<float>() + b * K + k, n);
    for (int64_t t = 0; t < T; t++)
      store_n(dx.as<float>() + (b * T + t) * K + k, row == (int32_t)t ? given : zero(), n);
  });
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(max_rows,
    {"max_rows", "max_rows: x[B,T,K]:f32 mask[B,T]:u8? -> y[B,K]:f32", max_rows},
    {"max_rows_back", "max_rows_back: x[B,T,K]:f32 mask[B,T]:u8? dy[B,K]:f32 -> dx[B,T,K]:f32", max_rows_back})

}  // namespace octavo::OCTAVO_ISA
