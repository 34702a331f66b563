// isa: portable avx2 avx512
// Weights to O4 (ops/o4.ts): the scale of each block by its error, its codes by a table, and one step of the search for the table.
#include "../registry.h"
#include "../simd/codes.h"
#include "../simd/floats.h"
#include "../simd/four_bit.h"

namespace octavo::OCTAVO_ISA {

namespace {

constexpr int64_t kBlock = 32;

// As in ops/o4.ts.
constexpr int kTried = 8;
alignas(64) constexpr float kScalesTried[kTried] = {0.88f, 0.96f, 1.03f, 1.1f, -0.88f, -0.96f, -1.03f, -1.1f};
constexpr float kLeast = 1e-30f, kMost = 1e30f, kLargestCounted = 1e15f;
constexpr float kUnit = 1.0f / 127.0f;

// The values of a table, ascending, and the middles between neighbours; lanes of numbers get the nearest.
class Levels {
  const float* value_;
  float middle_[15];
#if defined(__AVX512F__)
  // A search by halves. The middles are so placed that the code as far as it is known is the index of the next one.
  __m512 values_, first_, second_, third_, fourth_;

 public:
  explicit Levels(const float* table) : value_(table), values_(_mm512_loadu_ps(table)) {
    float room[16 + 3] = {};
    for (int i = 0; i < 15; i++) room[i] = middle_[i] = (table[i] + table[i + 1]) * 0.5f;
    first_ = _mm512_set1_ps(middle_[7]);
    second_ = _mm512_loadu_ps(room + 3);
    third_ = _mm512_loadu_ps(room + 1);
    fourth_ = _mm512_loadu_ps(room);
  }
  OCTAVO_INLINE i32p code(f32p x) const {
    const __m512 v = (__m512)x;
    const auto above = [&](__m512 middle) __attribute__((always_inline)) {
      return _mm512_cmp_ps_mask(v, middle, _CMP_GT_OQ);
    };
    const auto more = [&](__m512i known, __m512 middles, int by) __attribute__((always_inline)) {
      const __m512 middle = _mm512_maskz_permutexvar_ps(0xffff, known, middles);
      return _mm512_mask_add_epi32(known, above(middle), known, _mm512_set1_epi32(by));
    };
    const __m512i half = _mm512_maskz_set1_epi32(above(first_), 8);
    return (i32p)more(more(more(half, second_, 4), third_, 2), fourth_, 1);
  }
  OCTAVO_INLINE f32p value(i32p code) const {
    return (f32p)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)code, values_);
  }
  OCTAVO_INLINE f32p nearest(f32p x) const { return value(code(x)); }
#else
  float step_[15];

 public:
  explicit Levels(const float* table) : value_(table) {
    for (int i = 0; i < 15; i++) {
      middle_[i] = (table[i] + table[i + 1]) * 0.5f;
      step_[i] = table[i + 1] - table[i];
    }
  }
  OCTAVO_INLINE i32p code(f32p x) const {
    i32p below = {};
    OCTAVO_UNROLL for (int i = 0; i < 15; i++) below -= (i32p)(x > splat_part(middle_[i]));
    return below;
  }
  OCTAVO_INLINE f32p value(i32p code) const {
    f32p v;
    for (int i = 0; i < kPartLanes; i++) v[i] = value_[code[i]];
    return v;
  }
  // As a sum of steps: its last bit may be off.
  OCTAVO_INLINE f32p nearest(f32p x) const {
    f32p near = splat_part(value_[0]);
    OCTAVO_UNROLL for (int i = 0; i < 15; i++)
      near = near + (f32p)((i32p)(x > splat_part(middle_[i])) & (i32p)splat_part(step_[i]));
    return near;
  }
#endif

  // Of 1 / s for the scales s that are tried the one with the least squared error. Lanes are scales, so that no sum goes over lanes;
  // wide vectors take two numbers side by side.
  OCTAVO_INLINE float inverse(const float* x, int64_t count, float absmax) const {
#if defined(__AVX512F__)
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const __m512 factor = _mm512_maskz_permutexvar_ps(
        0xffff, twice, _mm512_castps256_ps512(_mm256_load_ps(kScalesTried)));
    const __m512 by = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_mul_ps(_mm512_set1_ps(absmax), factor));
    const auto off = [&](int64_t at) __attribute__((always_inline)) {
      double two;
      std::memcpy(&two, x + at, sizeof two);
      const __m512 v = _mm512_mul_ps(_mm512_castpd_ps(_mm512_set1_pd(two)), by);
      return _mm512_sub_ps(v, (__m512)nearest((f32p)v));
    };
    __m512 sum[4] = {};
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
      OCTAVO_UNROLL for (int j = 0; j < 4; j++) {
        const __m512 e = off(i + 2 * j);
        sum[j] = _mm512_fmadd_ps(e, e, sum[j]);
      }
    for (; i < count; i += 2) {
      const __m512 e = off(i);
      sum[0] = _mm512_mask3_fmadd_ps(e, e, sum[0], i + 1 < count ? 0xffff : 0x5555);
    }
    const __m512 half = _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3]));
    const __m512 both = _mm512_add_ps(half, _mm512_permute_ps(half, 0xb1));
    const __m512 error = _mm512_mul_ps(both, _mm512_mul_ps(factor, factor));
    const __mmask16 least = _mm512_cmp_ps_mask(error, _mm512_set1_ps(_mm512_reduce_min_ps(error)), _CMP_EQ_OQ);
    return _mm512_cvtss_f32(_mm512_maskz_compress_ps(least, by));
#else
    alignas(64) float inverses[kTried], error[kTried];
    const f32p one = splat_part(1.0f), size = splat_part(absmax);
    for (int lane = 0; lane < kTried; lane += kPartLanes) {
      const f32p factor = load_part(kScalesTried + lane), by = one / (size * factor);
      f32p a = {}, b = {};
      int64_t i = 0;
      for (; i + 2 <= count; i += 2) {
        const f32p v = splat_part(x[i]) * by, w = splat_part(x[i + 1]) * by;
        const f32p e = v - nearest(v), f = w - nearest(w);
        a += e * e;
        b += f * f;
      }
      if (i < count) {
        const f32p v = splat_part(x[i]) * by, e = v - nearest(v);
        a += e * e;
      }
      store_part(inverses + lane, by);
      store_part(error + lane, (a + b) * (factor * factor));
    }
    int best = 0;
    for (int i = 1; i < kTried; i++) best = error[i] < error[best] ? i : best;
    return inverses[best];
#endif
  }
};

OCTAVO_INLINE float sum_part(f32p v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  float sum = 0;
  for (int i = 0; i < kPartLanes; i++) sum += v[i];
  return sum;
#endif
}

struct QuantizeBlocks {
  const Call& call;

  template <DType kType>
  const char* run() const {
    constexpr int64_t kWidth = width_of(kType);
    const Tensor& w = call.t[0];
    const int64_t first = call.attr[0].i * w.dim[1], total = w.dim[0] * w.dim[1];
    uint8_t* packed = call.t[2].as<uint8_t>() + first / 2;
    float* scales = call.t[3].as<float>() + first / kBlock;
    const Levels levels(call.t[1].as<float>());
    parallel(call, ceil_div(total, kBlock), (1 << 13) / kBlock, [&](int64_t begin, int64_t end, int) {
      alignas(64) float x[kBlock];
      alignas(64) uint8_t codes[kBlock];
      for (int64_t b = begin; b < end; b++) {
        const int64_t from = b * kBlock, count = at_most(kBlock, total - from);
        std::memset(x, 0, sizeof x);
        each_part<kType>(w.data + from * kWidth, count, [&](f32p v, int64_t at) { store_part(x + at, v); });
        const float absmax = highest_of<DType::f32>((const char*)x, kBlock);
        const bool usable = absmax > kLeast && absmax < kMost;
        f32p products = {}, squares = {};
        if (usable) {
          const f32p by = splat_part(levels.inverse(x, count, absmax));
          for (int64_t at = 0; at < count; at += kPartLanes) {
            const f32p v = load_part(x + at);
            const i32p code = levels.code(v * by);
            f32p value = levels.value(code);
            if (count - at < kPartLanes)
              for (int i = 0; i < kPartLanes; i++) value[i] = i < count - at ? value[i] : 0.0f;
            products += v * value;
            squares += value * value;
            const auto bytes = __builtin_convertvector(code, i8p);
            std::memcpy(codes + at, &bytes, sizeof bytes);
          }
        } else {
          std::memset(codes, 0, sizeof codes);
        }
        // With these codes no scale is better than this one.
        const float square = sum_part(squares);
        scales[b] = usable ? (square > 0 ? sum_part(products) / square : 0.0f) : absmax <= kLeast ? 0.0f : NAN;
        if (count & 1) codes[count] = 0;
        uint8_t* to = packed + from / 2;
        for (int64_t j = 0; j < (count + 1) / 2; j++) to[j] = (uint8_t)(codes[2 * j] << 4 | codes[2 * j + 1]);
      }
    });
    return nullptr;
  }
};

const char* o4_quantize(const Call& call) {
  const Tensor &w = call.t[0], &codes = call.t[2];
  const int64_t row = call.attr[0].i, k = w.dim[1];
  if (row < 0 || row + w.dim[0] > codes.dim[0]) return "the rows to quantize lie outside the matrix";
  if (row * k % kBlock != 0) return "rows to quantize to 4 bits must begin at a whole block";
  return with_floats(w.dtype, QuantizeBlocks{call});
}

struct FindLevels {
  const Call& call;

  template <DType kType>
  const char* run() const {
    constexpr int64_t kWidth = width_of(kType);
    const Tensor& w = call.t[0];
    const uint8_t* packed = call.t[1].as<uint8_t>();
    const float *scales = call.t[2].as<float>(), *table = call.t[3].as<float>();
    const int64_t total = w.dim[0] * w.dim[1];
    double products[16] = {}, squares[16] = {};
    for (int64_t from = 0; from < total; from += kBlock) {
      const double scale = scales[from / kBlock];
      if (!(std::fabs(scale) < kLargestCounted)) continue;
      alignas(64) float x[kBlock + kPartLanes];
      const int64_t count = at_most(kBlock, total - from);
      each_part<kType>(w.data + from * kWidth, count, [&](f32p v, int64_t at) { store_part(x + at, v); });
      for (int64_t i = 0; i < count; i++) {
        const uint8_t byte = packed[(from + i) / 2];
        const int code = i & 1 ? byte & 15 : byte >> 4;
        products[code] += x[i] * scale;
        squares[code] += scale * scale;
      }
    }
    float* levels = call.t[4].as<float>();
    for (int code = 0; code < 16; code++) {
      const double level = squares[code] > 0 ? products[code] / squares[code] * 127.0 : 0.0;
      const double within = level < -127.0 ? -127.0 : level > 127.0 ? 127.0 : level;
      // To the nearest whole number: what is converted is positive.
      levels[code] = squares[code] > 0 && table[code] != 0.0f ? (float)((int)(within + 127.5) - 127) * kUnit : table[code];
    }
    return nullptr;
  }
};

const char* o4_levels(const Call& call) { return with_floats(call.t[0].dtype, FindLevels{call}); }

}  // namespace

OCTAVO_KERNELS(o4,
               {"o4_quantize",
                "o4_quantize: w[n,K]:f32|f16|bf16 table[16]:f32 codes[N,K]:u4! scales[A]:f32! ; row:i32 ->", o4_quantize},
               {"o4_levels",
                "o4_levels: w[n,K]:f32|f16|bf16 codes[n,K]:u4 scales[A]:f32 table[16]:f32 -> levels[16]:f32", o4_levels})

}  // namespace octavo::OCTAVO_ISA
