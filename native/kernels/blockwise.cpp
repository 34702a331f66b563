// 8-bit codes by blocks: the nearest entry of a map (blockwise_*), and whole numbers about a zero point (affine_*). Blocks lie in
// the flattened tensor, and the last one may be short. Codes equal the reference's bit for bit.
#include "../registry.h"
#include "../simd/codes.h"
#include "../simd/floats.h"
#include "../simd/mapped.h"

namespace octavo::OCTAVO_ISA {

namespace {

typedef uint8_t u8p __attribute__((vector_size(kPartLanes)));

constexpr int64_t kTask = 1 << 14;  // elements of a task

// f(block, first, count) over blocks of n elements.
template <class F>
void each_block(const Call& call, int64_t n, int64_t blocksize, const F& f) {
  parallel(call, ceil_div(n, blocksize), kTask / blocksize + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; b++) f(b, b * blocksize, at_most(blocksize, n - b * blocksize));
  });
}

// Stores the first `count - i` lanes of codes at most.
template <class Codes>
OCTAVO_INLINE void put(char* to, Codes codes, int64_t i, int64_t count) {
  std::memcpy(to + i, &codes, (size_t)at_most(kPartLanes, count - i));
}

struct QuantizeMapped {
  const Call& call;

  template <DType kType>
  const char* run() const {
    const Tensor& x = call.t[0];
    const float* map = call.t[1].as<float>();
    char* codes = call.t[2].data;
    float* absmax = call.t[3].as<float>();
    const Nearest nearest(map);
    each_block(call, x.size(), call.attr[0].i, [&](int64_t b, int64_t first, int64_t count) {
      const char* from = x.data + first * width_of(kType);
      const float high = highest_of<kType>(from, count);
      absmax[b] = high;
      const f32p factor = splat_part(unit_factor(high));
      each_part<kType>(from, count, [&](f32p v, int64_t at) {
        const i32p code = nearest.code(v, factor);
        put(codes + first, __builtin_convertvector(code, i8p), at, count);
      });
    });
    return nullptr;
  }
};

const char* blockwise_quantize(const Call& call) {
  if (call.attr[0].i < 1) return "a block has at least one element";
  return with_floats(call.t[0].dtype, QuantizeMapped{call});
}

const char* blockwise_dequantize(const Call& call) {
  const uint8_t* codes = call.t[0].as<uint8_t>();
  const float* absmax = call.t[1].as<float>();
  float* y = call.t[3].as<float>();
  if (call.attr[0].i < 1) return "a block has at least one element";
  const Map256 map(call.t[2].as<float>());
  each_block(call, call.t[0].size(), call.attr[0].i, [&](int64_t b, int64_t first, int64_t count) {
    const f32p factor = splat_part(absmax[b]);
    for (int64_t i = 0; i < count; i += kPartLanes) {
      const size_t some = (size_t)at_most(kPartLanes, count - i);
      u8p code = {};
      if (some == kPartLanes)
        std::memcpy(&code, codes + first + i, kPartLanes);
      else
        std::memcpy(&code, codes + first + i, some);
      const f32p v = map.at(__builtin_convertvector(code, u32p)) * factor;
      std::memcpy(y + first + i, &v, sizeof(float) * some);
    }
  });
  return nullptr;
}

// ---- zero points ----

struct QuantizeAffine {
  const Call& call;

  template <DType kType>
  const char* run() const {
    const Tensor& x = call.t[0];
    char* codes = call.t[1].data;
    float* scale = call.t[2].as<float>();
    int32_t* zero_point = call.t[3].as<int32_t>();
    const bool symmetric = call.attr[1].i != 0, ranged = call.attr[2].i != 0;
    const float low = ranged ? call.attr[3].f : 0.0f, high = ranged ? call.attr[4].f : 0.0f;
    each_block(call, x.size(), call.attr[0].i, [&](int64_t b, int64_t first, int64_t count) {
      const char* from = x.data + first * width_of(kType);
      f32p least = splat_part(low), most = splat_part(high);
      i32p nan = {};
      each_part<kType>(from, count, [&](f32p v, int64_t) {
        nan |= v != v;
        if (ranged) return;
        least = v < least ? v : least;
        most = v > most ? v : most;
      });
      float lo = least[0], hi = most[0];
      for (int l = 1; l < kPartLanes; l++) {
        lo = least[l] < lo ? least[l] : lo;
        hi = most[l] > hi ? most[l] : hi;
      }
      float s = symmetric ? (-lo > hi ? -lo : hi) / 127.0f : (hi - lo) / 255.0f;
      if (any_part(nan)) s = NAN;
      const bool usable = s >= kLeastNormal && s < INFINITY;
      int zero = 0;
      if (usable && !symmetric) {
        const float z = std::nearbyintf(-128.0f - lo / s);
        zero = (int)(z < -128.0f ? -128.0f : z > 127.0f ? 127.0f : z);
      }
      scale[b] = s;
      zero_point[b] = zero;
      if (!usable) {
        std::memset(codes + first, 0, (size_t)count);
        return;
      }
      const f32p divisor = splat_part(s), bound = splat_part(512.0f), magic = splat_part(12582912.0f);
      const i32p bottom = i32p{} + (symmetric ? -127 : -128), top = i32p{} + 127;
      each_part<kType>(from, count, [&](f32p v, int64_t at) {
        v = v / divisor;
        v = min_part(bound, max_part(-bound, v));
        i32p code = (i32p)(v + magic) - (i32p)magic + zero;
        code = code < bottom ? bottom : code;
        code = code > top ? top : code;
        put(codes + first, __builtin_convertvector(code, i8p), at, count);
      });
    });
    return nullptr;
  }
};

const char* affine_quantize(const Call& call) {
  if (call.attr[0].i < 1) return "a block has at least one element";
  return with_floats(call.t[0].dtype, QuantizeAffine{call});
}

const char* affine_dequantize(const Call& call) {
  const int8_t* codes = call.t[0].as<int8_t>();
  const float* scale = call.t[1].as<float>();
  const int32_t* zero_point = call.t[2].as<int32_t>();
  float* y = call.t[3].as<float>();
  if (call.attr[0].i < 1) return "a block has at least one element";
  each_block(call, call.t[0].size(), call.attr[0].i, [&](int64_t b, int64_t first, int64_t count) {
    const float s = scale[b];
    const int32_t zero = zero_point[b];
    for (int64_t i = first; i < first + count; i++) y[i] = (float)(codes[i] - zero) * s;
  });
  return nullptr;
}

// ---- LLM.int8() in its parts ----

struct QuantizeOutliers {
  const Call& call;

  template <DType kType>
  const char* run() const {
    const Tensor &x = call.t[0], &outliers = call.t[3];
    const int64_t rows = x.dim[0], k = x.dim[1];
    const float threshold = call.attr[0].f;
    char* codes = call.t[1].data;
    float* absmax = call.t[2].as<float>();
    uint8_t* mark = outliers.as<uint8_t>();
    std::memset(mark, 0, (size_t)k);
    const f32p limit = splat_part(threshold > 0 ? threshold : INFINITY);
    const int64_t grain = row_grain(k);
    parallel(call, rows, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t m = begin; m < end; m++) {
        f32p high = {};
        i32p nan = {};
        each_part<kType>(x.data + m * k * width_of(kType), k, [&](f32p v, int64_t at) {
          const f32p a = abs_part(v);
          nan |= v != v;
          if (threshold > 0) {
            const i32p out = a >= limit;
            if (any_part(out)) {
              for (int l = 0; l < kPartLanes && at + l < k; l++)
                if (out[l]) __atomic_store_n(mark + at + l, (uint8_t)1, __ATOMIC_RELAXED);
            }
            high = max_part(high, (f32p)((i32p)a & (a < limit)));
          } else {
            high = max_part(high, (f32p)((i32p)a & (v == v)));
          }
        });
        absmax[m] = any_part(nan) ? NAN : highest_part(high);
      }
    });
    parallel(call, rows, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t m = begin; m < end; m++) {
        const f32p factor = splat_part(absmax[m] == absmax[m] ? code_factor(absmax[m]) : 0.0f);
        each_part<kType>(x.data + m * k * width_of(kType), k, [&](f32p v, int64_t at) {
          const i32p code = code_part(v, factor);
          put(codes + m * k, __builtin_convertvector(code, i8p), at, k);
        });
        if (threshold > 0)
          for (int64_t i = 0; i < k; i++) codes[m * k + i] = mark[i] ? 0 : codes[m * k + i];
      }
    });
    return nullptr;
  }
};

const char* int8_quantize(const Call& call) { return with_floats(call.t[0].dtype, QuantizeOutliers{call}); }

const char* int8_matmul(const Call& call) {
  const Tensor &a = call.t[0], &b = call.t[1];
  const int64_t rows = a.rows(), n = b.dim[0], k = b.dim[1];
  const int8_t *left = a.as<int8_t>(), *right = b.as<int8_t>();
  int32_t* y = call.t[2].as<int32_t>();
  constexpr int64_t kSome = 8;  // rows that share a walk over the outputs of a task
  const int64_t strips = ceil_div(rows, kSome);
  parallel(call, strips * n, (1 << 16) / (k * kSome + 1) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t at = begin; at < end; at++) {
      const int64_t j = at % n, first = at / n * kSome, last = at_most(first + kSome, rows);
      const int8_t* w = right + j * k;
      for (int64_t m = first; m < last; m++) {
        const int8_t* x = left + m * k;
        int32_t sum = 0;
        for (int64_t i = 0; i < k; i++) sum += (int32_t)x[i] * (int32_t)w[i];
        y[m * n + j] = sum;
      }
    }
  });
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(
    blockwise,
    {"blockwise_quantize",
     "blockwise_quantize: x[n]:f32|f16|bf16 map[256]:f32 ; blocksize:i32 -> codes[n]:u8 absmax[B]:f32",
     blockwise_quantize},
    {"blockwise_dequantize",
     "blockwise_dequantize: codes[n]:u8 absmax[B]:f32 map[256]:f32 ; blocksize:i32 -> y[n]:f32", blockwise_dequantize},
    {"affine_quantize",
     "affine_quantize: x[n]:f32|f16|bf16 ; blocksize:i32 symmetric:i32 ranged:i32 low:f32 high:f32 -> codes[n]:i8 "
     "scale[B]:f32 zero_point[B]:i32",
     affine_quantize},
    {"affine_dequantize",
     "affine_dequantize: codes[n]:i8 scale[B]:f32 zero_point[B]:i32 ; blocksize:i32 -> y[n]:f32", affine_dequantize},
    {"int8_quantize",
     "int8_quantize: x[M,K]:f32|f16|bf16 ; threshold:f32 -> codes[M,K]:i8 absmax[M]:f32 outliers[K]:u8", int8_quantize},
    {"int8_matmul", "int8_matmul: a[..,K]:i8 b[N,K]:i8 -> y[..,N]:i32", int8_matmul})

}  // namespace octavo::OCTAVO_ISA
