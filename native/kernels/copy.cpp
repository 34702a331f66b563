// copy: any strides on both sides, between equal dtypes, between floats, and between i32 and f32. Dims are sorted and
// merged first, so nearly every copy becomes runs of contiguous rows or a blocked transpose.

#include "../parallel.h"
#include "../registry.h"
#include "../simd/narrow.h"

namespace octavo::OCTAVO_ISA {

namespace {

struct Dim {
  int64_t n, xs, ys;
};

struct MergedDims {
  Dim dim[kMaxRank];
  int rank = 0;
};

// Dims by falling y stride, without those of size 1, with contiguous neighbours merged. At least one dim.
void merge_dims(const Tensor& x, const Tensor& y, MergedDims& merged) {
  for (int d = 0; d < x.rank; d++) {
    if (x.dim[d] == 1) continue;
    const Dim dim = {x.dim[d], x.stride[d], y.stride[d]};
    int at = merged.rank++;
    for (; at > 0 && merged.dim[at - 1].ys < dim.ys; at--) merged.dim[at] = merged.dim[at - 1];
    merged.dim[at] = dim;
  }
  if (merged.rank == 0) {
    merged.dim[merged.rank++] = {1, 1, 1};
    return;
  }
  int out = 0;
  for (int d = 1; d < merged.rank; d++) {
    Dim& before = merged.dim[out];
    const Dim& dim = merged.dim[d];
    if (before.xs == dim.xs * dim.n && before.ys == dim.ys * dim.n) before = {before.n * dim.n, dim.xs, dim.ys};
    else merged.dim[++out] = dim;
  }
  merged.rank = out + 1;
}

// Offsets of the index-th element of the first `dims` dims.
OCTAVO_INLINE void place(const MergedDims& merged, int dims, int64_t index, int64_t* xo, int64_t* yo) {
  *xo = *yo = 0;
  for (int d = dims - 1; d >= 0; d--) {
    const int64_t i = index % merged.dim[d].n;
    index /= merged.dim[d].n;
    *xo += i * merged.dim[d].xs;
    *yo += i * merged.dim[d].ys;
  }
}

template <class T>
struct Same {
  using From = T;
  using To = T;
  static OCTAVO_INLINE T one(T x) { return x; }
  static OCTAVO_INLINE void row(const T* x, T* y, int64_t n) { std::memcpy(y, x, sizeof(T) * (size_t)n); }
};
template <class X, class Y>
struct Floats {
  using From = typename X::T;
  using To = typename Y::T;
  static OCTAVO_INLINE To one(From x) { return Y::narrow(X::widen(x)); }
  static OCTAVO_INLINE void row(const From* x, To* y, int64_t n) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) Y::save(y + i, X::load(x + i));
    for (; i < n; i++) y[i] = one(x[i]);
  }
};
struct IntToFloat {
  using From = int32_t;
  using To = float;
  static OCTAVO_INLINE To one(From x) { return (float)x; }
  static OCTAVO_INLINE void row(const From* x, To* y, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = (float)x[i];
  }
};
// Rounds towards zero; saturates beyond the range of i32, NaN gives 0.
struct FloatToInt {
  using From = float;
  using To = int32_t;
  static OCTAVO_INLINE To one(From x) {
    if (!(x == x)) return 0;
    return x >= 2147483648.0f ? INT32_MAX : x <= -2147483648.0f ? INT32_MIN : (int32_t)x;
  }
  static OCTAVO_INLINE void row(const From* x, To* y, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = one(x[i]);
  }
};

constexpr int64_t kTile = 16;

// Tiles of 16 x 16 through a small buffer: reads and writes whole cache lines, even if the rows are a power of two apart and
// collide in the cache.
template <class C>
void transpose(const Call& call, const MergedDims& merged, int across) {
  const typename C::From* x = call.t[0].as<typename C::From>();
  typename C::To* y = call.t[1].as<typename C::To>();
  // Dim a is contiguous in x, b is contiguous in y; the others are outside.
  MergedDims outer;
  for (int d = 0; d + 1 < merged.rank; d++)
    if (d != across) outer.dim[outer.rank++] = merged.dim[d];
  const Dim a = merged.dim[across], b = merged.dim[merged.rank - 1];
  int64_t outside = 1;
  for (int d = 0; d < outer.rank; d++) outside *= outer.dim[d].n;
  const int64_t tiles = (a.n + kTile - 1) / kTile;
  parallel(call, outside * tiles, row_grain(kTile * b.n), [&](int64_t begin, int64_t end, int) {
    typename C::From tile[kTile][kTile];
    for (int64_t task = begin; task < end; task++) {
      int64_t xo, yo;
      place(outer, outer.rank, task / tiles, &xo, &yo);
      const int64_t from = task % tiles * kTile;
      const int64_t height = from + kTile < a.n ? kTile : a.n - from;
      const typename C::From* in = x + xo + from;
      typename C::To* out = y + yo + from * a.ys;
      for (int64_t j = 0; j < b.n; j += kTile) {
        if (height == kTile && j + kTile <= b.n) {
          for (int64_t k = 0; k < kTile; k++) std::memcpy(tile[k], in + (j + k) * b.xs, sizeof tile[k]);
          for (int64_t i = 0; i < kTile; i++) {
            typename C::To line[kTile];
            for (int64_t k = 0; k < kTile; k++) line[k] = C::one(tile[k][i]);
            std::memcpy(out + i * a.ys + j, line, sizeof line);
          }
        } else {
          const int64_t stop = j + kTile < b.n ? j + kTile : b.n;
          for (int64_t k = j; k < stop; k++)
            for (int64_t i = 0; i < height; i++) out[i * a.ys + k] = C::one(in[i + k * b.xs]);
        }
      }
    }
  });
}

template <class C>
void rows(const Call& call, const MergedDims& merged) {
  const typename C::From* x = call.t[0].as<typename C::From>();
  typename C::To* y = call.t[1].as<typename C::To>();
  const Dim inner = merged.dim[merged.rank - 1];
  int64_t outside = 1;
  for (int d = 0; d + 1 < merged.rank; d++) outside *= merged.dim[d].n;
  const int64_t cuts = (inner.n + kGrainElements - 1) / kGrainElements;
  const bool runs = inner.xs == 1 && inner.ys == 1;
  parallel(call, outside * cuts, row_grain(inner.n), [&](int64_t begin, int64_t end, int) {
    for (int64_t task = begin; task < end; task++) {
      int64_t xo, yo;
      place(merged, merged.rank - 1, task / cuts, &xo, &yo);
      const int64_t from = task % cuts * kGrainElements;
      const int64_t to = from + kGrainElements < inner.n ? from + kGrainElements : inner.n;
      if (runs) {
        C::row(x + xo + from, y + yo + from, to - from);
      } else {
        for (int64_t i = from; i < to; i++) y[yo + i * inner.ys] = C::one(x[xo + i * inner.xs]);
      }
    }
  });
}

template <class C>
const char* run(const Call& call) {
  const Tensor &x = call.t[0], &y = call.t[1];
  if (x.size() == 0) return nullptr;
  MergedDims merged;
  merge_dims(x, y, merged);
  const Dim inner = merged.dim[merged.rank - 1];
  if (inner.ys == 1 && inner.xs != 1 && inner.xs != 0) {
    for (int d = 0; d + 1 < merged.rank; d++) {
      if (merged.dim[d].xs != 1) continue;
      transpose<C>(call, merged, d);
      return nullptr;
    }
  }
  rows<C>(call, merged);
  return nullptr;
}

constexpr int pair(DType from, DType to) { return (int)from * 16 + (int)to; }

const char* copy(const Call& call) {
  const DType from = call.t[0].dtype, to = call.t[1].dtype;
  switch (pair(from, to)) {
    case pair(DType::f32, DType::f32):
    case pair(DType::i32, DType::i32): return run<Same<uint32_t>>(call);
    case pair(DType::f16, DType::f16):
    case pair(DType::bf16, DType::bf16): return run<Same<uint16_t>>(call);
    case pair(DType::i8, DType::i8):
    case pair(DType::u8, DType::u8): return run<Same<uint8_t>>(call);
    case pair(DType::f32, DType::f16): return run<Floats<F32, F16>>(call);
    case pair(DType::f32, DType::bf16): return run<Floats<F32, BF16>>(call);
    case pair(DType::f16, DType::f32): return run<Floats<F16, F32>>(call);
    case pair(DType::f16, DType::bf16): return run<Floats<F16, BF16>>(call);
    case pair(DType::bf16, DType::f32): return run<Floats<BF16, F32>>(call);
    case pair(DType::bf16, DType::f16): return run<Floats<BF16, F16>>(call);
    case pair(DType::i32, DType::f32): return run<IntToFloat>(call);
    case pair(DType::f32, DType::i32): return run<FloatToInt>(call);
    default: return "these dtypes do not convert into each other";
  }
}

}  // namespace

OCTAVO_KERNELS(copy,
    {"copy", "copy: x[..]:f32|f16|bf16|i32|i8|u8~ y[..]:f32|f16|bf16|i32|i8|u8~!! ->", copy})

}  // namespace octavo::OCTAVO_ISA
