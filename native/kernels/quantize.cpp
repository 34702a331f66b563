// isa: portable avx2 avx512
// Weights to 8-bit and 4-bit codes and back. Bit-exact to bitsandbytes' rules (exact nearest codes); 8-bit codes are written
// straight into panels if the matrix has them.
#include "../registry.h"
#include "../simd/codes.h"
#include "../simd/floats.h"
#include "../simd/four_bit.h"
#include "../simd/scale_search.h"

namespace octavo::OCTAVO_ISA {

namespace {

// ---- LLM.int8() ----

struct QuantizeRows {
  const Call& call;

  template <DType kType>
  const char* run() const {
    constexpr int64_t kWidth = width_of(kType);
    constexpr int64_t kRun = 512;  // codes of 16 rows computed before each transposition
    const Tensor &w = call.t[0], &codes = call.t[1];
    const int64_t rows = w.dim[0], k = w.dim[1], first = call.attr[0].i;
    float* scb = call.t[2].as<float>() + first;
    const int64_t panel_steps = (k + 3) / 4;
    const int64_t grain = (1 << 16) / (k * kPanelRows + 1) + 1;
    parallel(call, ceil_div(rows, kPanelRows), grain, [&](int64_t begin, int64_t end, int) {
      alignas(64) int8_t buffer[kPanelRows][kRun];
      for (int64_t p = begin; p < end; p++) {
        const int64_t row = p * kPanelRows;
        const int some = (int)at_most(kPanelRows, rows - row);
        float factor[kPanelRows];
        for (int r = 0; r < some; r++) {
          scb[row + r] = highest_of<kType>(w.data + (row + r) * k * kWidth, k);
          factor[r] = code_factor(scb[row + r]);
        }
        char* panel = codes.data + ((first + row) / kPanelRows * panel_steps) * kStepBytes;
        for (int64_t i = 0; i < k; i += kRun) {
          const int64_t count = at_most(kRun, k - i);
          for (int r = 0; r < some; r++) {
            const f32p f = splat_part(factor[r]);
            each_part<kType>(w.data + ((row + r) * k + i) * kWidth, count, [&](f32p v, int64_t at) {
              const i8p q = __builtin_convertvector(code_part(v, f), i8p);
              std::memcpy(buffer[r] + at, &q, sizeof q);
            });
            if (!codes.panels) std::memcpy(codes.data + (first + row + r) * k + i, buffer[r], (size_t)count);
          }
          if (codes.panels)
            rows_to_steps((const char*)buffer, kRun, some, count, (uint32_t*)(panel + i / 4 * kStepBytes), kPanelRows,
                          FlipSigns{});
        }
      }
    });
    return nullptr;
  }
};

const char* llm_int8_quantize(const Call& call) {
  const Tensor &w = call.t[0], &codes = call.t[1];
  const int64_t row = call.attr[0].i;
  if (row < 0 || row + w.dim[0] > codes.dim[0]) return "the rows to quantize lie outside the matrix";
  if (codes.panels && row % kPanelRows != 0) return "rows to quantize into panels must begin at a multiple of 16";
  return with_floats(w.dtype, QuantizeRows{call});
}

const char* llm_int8_dequantize(const Call& call) {
  const Tensor &codes = call.t[0], &w = call.t[2];
  const int64_t n = codes.dim[0], k = codes.dim[1];
  const float* scb = call.t[1].as<float>();
  const int64_t panel_steps = (k + 3) / 4;
  constexpr int64_t kRun = 512;
  parallel(call, ceil_div(n, kPanelRows), (1 << 16) / (k * kPanelRows + 1) + 1, [&](int64_t begin, int64_t end, int) {
    alignas(64) int8_t buffer[kPanelRows][kRun + 64];
    for (int64_t p = begin; p < end; p++) {
      const int64_t row = p * kPanelRows;
      const int some = (int)at_most(kPanelRows, n - row);
      for (int64_t i = 0; i < k; i += kRun) {
        const int64_t count = at_most(kRun, k - i);
        if (codes.panels) {
          steps_to_rows((const uint32_t*)(codes.data + (p * panel_steps + i / 4) * kStepBytes), (char*)buffer,
                        kRun + 64, some, count, FlipSigns{});
        } else {
          for (int r = 0; r < some; r++) std::memcpy(buffer[r], codes.data + (row + r) * k + i, (size_t)count);
        }
        for (int r = 0; r < some; r++) {
          const f32p scale = splat_part(scb[row + r]), inverse = splat_part(1.0f / 127.0f);
          float* to = w.as<float>() + (row + r) * k + i;
          for (int64_t at = 0; at < count; at += kPartLanes) {
            i8p q;
            std::memcpy(&q, buffer[r] + at, sizeof q);
            const f32p v = rounded(__builtin_convertvector(q, f32p) * scale) * inverse;
            std::memcpy(to + at, &v, sizeof(float) * (size_t)at_most(kPartLanes, count - at));
          }
        }
      }
    }
  });
  return nullptr;
}

// ---- 4 bits ----

constexpr float kNf4Thresholds[15] = {-0.84809637f, -0.6106329f,  -0.45999527f, -0.33967942f, -0.2346074f,
                                      -0.13791174f, -0.045525018f, 0.03979015f,  0.12025525f,  0.20352125f,
                                      0.29201376f,  0.38931254f,  0.50166345f,  0.6427869f,   0.86147845f};
constexpr float kFp4Thresholds[7] = {0.0026041667f, 0.0859375f, 0.20833334f, 0.29166669f, 0.4166667f, 0.5833334f,
                                     0.8333334f};

// The number of thresholds strictly below x, as lanes.
template <int kCount>
OCTAVO_INLINE i32p count_below(f32p x, const float (&threshold)[kCount]) {
  i32p below = {};
  OCTAVO_UNROLL for (int i = 0; i < kCount; i++) below -= (i32p)(x > splat_part(threshold[i]));
  return below;
}

OCTAVO_INLINE i32p nearest(f32p x, int kind) {
  if (kind == 0) return count_below(x, kNf4Thresholds);
  // Magnitudes in order are codes 0 1 6 7 4 5 2 3; 8 is the sign. Ties go to the lower value.
  const f32p size = abs_part(x);
  const i32p negative = (i32p)(x < f32p{});
  i32p order = {};
  OCTAVO_UNROLL for (int i = 0; i < 7; i++) {
    const f32p threshold = splat_part(kFp4Thresholds[i]);
    order -= (i32p)(size > threshold) | ((i32p)(size == threshold) & negative);
  }
  return (order ^ ((order & 2) << 1)) | (negative & 8);
}

// The magnitudes of FP4, ascending.
constexpr float kFp4Sizes[8] = {0.0f,          0.0052083333488553762f, 0.1666666716337204f, 0.25f,
                                0.3333333432674408f, 0.5f, 0.6666666865348816f, 1.0f};

OCTAVO_INLINE CodeValues values_of(int kind) {
  return kind == 0 ? CodeValues{16, kFourBitTable[0], kNf4Thresholds} : CodeValues{8, kFp4Sizes, kFp4Thresholds};
}

constexpr int64_t kLongestBlock = 4096;

// Numbers as f32: where they are, or in `room`.
template <DType kType>
OCTAVO_INLINE const float* floats_of(const char* x, int64_t count, float* room) {
  if constexpr (kType == DType::f32) return (const float*)x;
  each_part<kType>(x, count, [&](f32p v, int64_t at) { store_part(room + at, v); });
  return room;
}

struct QuantizeBlocks {
  const Call& call;

  template <DType kType>
  const char* run() const {
    constexpr int64_t kWidth = width_of(kType);
    constexpr int64_t kSome = 128;
    const Tensor& w = call.t[0];
    const int kind = call.attr[0].i;
    const bool search = call.attr[3].i != 0;
    const int64_t blocksize = call.attr[1].i, first = call.attr[2].i * w.dim[1], total = w.dim[0] * w.dim[1];
    uint8_t* packed = call.t[1].as<uint8_t>() + first / 2;
    float* absmax = call.t[2].as<float>() + first / blocksize;
    const TriedErrors errors(values_of(kind), kind != 0);
    parallel(call, ceil_div(total, blocksize), (1 << 15) / blocksize + 1, [&](int64_t begin, int64_t end, int) {
      alignas(64) uint8_t codes[kSome + 64];
      alignas(64) float block[kLongestBlock + kPartLanes];
      for (int64_t b = begin; b < end; b++) {
        const int64_t from = b * blocksize, count = at_most(blocksize, total - from);
        const char* x = w.data + from * kWidth;
        float high = highest_of<kType>(x, count);
        if (search) high = searched_scale(errors, floats_of<kType>(x, count, block), count, high);
        absmax[b] = high;
        const bool divide = count < blocksize;
        const f32p factor = splat_part(high != 0 ? 1.0f / high : 0.0f), divisor = splat_part(high != 0 ? high : 1.0f);
        const f32p one = splat_part(1.0f);
        for (int64_t i = 0; i < count; i += kSome) {
          const int64_t some = at_most(kSome, count - i);
          each_part<kType>(x + i * kWidth, some, [&](f32p v, int64_t at) {
            v = divide ? v / divisor : v * factor;
            v = min_part(one, max_part(-one, v));  // in this order NaN propagates
            const auto q = __builtin_convertvector(nearest(v, kind), i8p);
            std::memcpy(codes + at, &q, sizeof q);
          });
          if (some & 1) codes[some] = kind == 0 ? 7 : 0;  // the code of zero
          uint8_t* to = packed + (from + i) / 2;
          for (int64_t j = 0; j < (some + 1) / 2; j++) to[j] = (uint8_t)(codes[2 * j] << 4 | codes[2 * j + 1]);
        }
      }
    });
    return nullptr;
  }
};

const char* four_bit_quantize(const Call& call) {
  const Tensor &w = call.t[0], &codes = call.t[1];
  const int64_t blocksize = call.attr[1].i, row = call.attr[2].i, k = w.dim[1];
  if (call.attr[0].i != 0 && call.attr[0].i != 1) return "floats are quantized to the kinds 0 (nf4) and 1 (fp4)";
  if (blocksize < 2 || blocksize % 2 != 0) return "the blocksize of a 4-bit matrix must be even";
  if (call.attr[3].i != 0 && blocksize > kLongestBlock) return "scales are searched for blocks of at most 4096";
  if (row < 0 || row + w.dim[0] > codes.dim[0]) return "the rows to quantize lie outside the matrix";
  if (row * k % blocksize != 0) return "rows to quantize to 4 bits must begin at a whole block";
  return with_floats(w.dtype, QuantizeBlocks{call});
}

const char* four_bit_dequantize(const Call& call) {
  const Tensor &codes = call.t[0], &w = call.t[5];
  const int kind = call.attr[0].i;
  const int rounding = call.attr[2].i;
  const int64_t blocksize = call.attr[1].i, n = codes.dim[0], k = codes.dim[1];
  if (const char* wrong = wrong_format(kind, blocksize, rounding)) return wrong;
  const Absmax absmax(call.t[1], call.t[2], call.t[3], call.t[4], k, blocksize);
  if (const char* wrong = absmax.wrong(kind)) return wrong;
  const float* table = absmax.table(kind);
  if (!codes.panels) {
    constexpr int64_t kTaskElements = 1 << 15;
    const int64_t total = n * k;
    parallel(call, ceil_div(total, kTaskElements), 1, [&](int64_t begin, int64_t end, int) {
      const int64_t first = begin * kTaskElements, last = at_most(end * kTaskElements, total);
      decode_flat(codes.as<uint8_t>(), absmax, table, blocksize, rounding, first, last - first, w.as<float>() + first);
    });
    return nullptr;
  }
  const int64_t steps = k / 8;
  parallel(call, ceil_div(n, kPanelRows), (1 << 15) / (k * kPanelRows + 1) + 1, [&](int64_t begin, int64_t end, int) {
    constexpr int64_t kRun = 64;  // bytes of a row's codes
    alignas(64) uint8_t rows[kPanelRows][kRun];
    for (int64_t p = begin; p < end; p++) {
      const int some = (int)at_most(kPanelRows, n - p * kPanelRows);
      for (int64_t i = 0; i < k / 2; i += kRun) {
        const int64_t bytes = at_most(kRun, k / 2 - i);
        steps_to_rows((const uint32_t*)(codes.data + (p * steps + i / 4) * kStepBytes), (char*)rows, kRun, some, bytes,
                      SwapNibbles{});
        for (int r = 0; r < some; r++) {
          const int64_t first = (p * kPanelRows + r) * k + 2 * i;
          decode_flat(rows[r] - first / 2, absmax, table, blocksize, rounding, first, 2 * bytes, w.as<float>() + first);
        }
      }
    }
  });
  return nullptr;
}

// ---- absmax in 8 bits ----

const char* double_quantize(const Call& call) {
  const float* absmax = call.t[0].as<float>();
  const float* map = call.t[1].as<float>();
  uint8_t* codes = call.t[2].as<uint8_t>();
  float* nested = call.t[3].as<float>();
  const int64_t count = call.t[0].size();
  double total = 0;
  for (int64_t i = 0; i < count; i++) total += absmax[i];
  const float mean = count > 0 ? (float)(total / (double)count) : 0.0f;
  call.t[4].as<float>()[0] = mean;
  float middle[256];
  for (int i = 0; i < 255; i++) middle[i] = (float)(((double)map[i] + (double)map[i + 1]) / 2);
  middle[255] = INFINITY;
  parallel(call, ceil_div(count, kNestedBlock), 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; b++) {
      const int64_t first = b * kNestedBlock, some = at_most(kNestedBlock, count - first);
      float high = 0;
      for (int64_t i = 0; i < some; i++) {
        const float a = std::fabs(absmax[first + i] - mean);
        high = a > high || a != a ? a : high;  // once NaN it stays so
      }
      nested[b] = high;
      const float factor = high != 0 ? 1.0f / high : 0.0f;
      for (int64_t i = 0; i < some; i++) {
        float v = (absmax[first + i] - mean) * factor;
        v = v < -1.0f ? -1.0f : v > 1.0f ? 1.0f : v;
        int code = 0;
        for (int step = 128; step > 0; step >>= 1) code += v > middle[code + step - 1] ? step : 0;
        codes[first + i] = (uint8_t)code;
      }
    }
  });
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(
    quantize,
    {"llm_int8_quantize",
     "llm_int8_quantize: w[n,K]:f32|f16|bf16 codes[N,K]:i8@! scb[N]:f32! ; row:i32 ->", llm_int8_quantize},
    {"llm_int8_dequantize", "llm_int8_dequantize: codes[N,K]:i8@ scb[N]:f32 -> w[N,K]:f32", llm_int8_dequantize},
    {"four_bit_quantize",
     "four_bit_quantize: w[n,K]:f32|f16|bf16 codes[N,K]:u4! absmax[A]:f32! ; kind:i32 blocksize:i32 row:i32 search:i32 ->",
     four_bit_quantize},
    {"four_bit_dequantize",
     "four_bit_dequantize: codes[N,K]:u4@ absmax[A]:f32|u8|i8 nested[B]:f32? map[T]:f32? offset[1]:f32? ; kind:i32 "
     "blocksize:i32 rounding:i32 -> w[N,K]:f32",
     four_bit_dequantize},
    {"double_quantize",
     "double_quantize: absmax[A]:f32 map[256]:f32 codes[A]:u8!! nested[B]:f32!! offset[1]:f32!! ->", double_quantize})

}  // namespace octavo::OCTAVO_ISA
