// Gradients of products: dx = dy · W for matrices in floats, LLM.int8() codes and 4-bit codes. A piece of work owns some
// columns of dx; it decodes a block of W for them, multiplies all its rows with it, and goes on to the next outputs, so there
// is never a decoded matrix. Every sum is one chain in the order of the outputs.

#include "../parallel.h"
#include "../registry.h"
#include "../simd/four_bit.h"
#include "../simd/narrow.h"
#include "../simd/stored.h"

namespace octavo::OCTAVO_ISA {

namespace {

constexpr int64_t kColumns = 64;   // columns of a piece
constexpr int64_t kOutputs = 32;   // outputs decoded at a time: two panels
constexpr int64_t kTaskRows = 128; // rows of a piece if columns alone give too few pieces
constexpr int64_t kEnough = 16;    // this many pieces are enough

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Decoders: decode() writes W[n + i][k + c] to block[i * kColumns + c] for i < outputs and c < columns. Columns beyond are
// undefined; `room` is scratch.

template <class W>
struct FloatRows {
  const typename W::T* data;
  int64_t width;
  explicit FloatRows(const Tensor& w) : data(w.as<typename W::T>()), width(w.dim[1]) {}
  int64_t scratch() const { return 0; }

  OCTAVO_INLINE void decode(int64_t n, int64_t outputs, int64_t k, int64_t columns, float* block, char*) const {
    for (int64_t i = 0; i < outputs; i++) {
      const typename W::T* from = data + (n + i) * width + k;
      int64_t c = 0;
      for (; c + 16 <= columns; c += 16) store(block + i * kColumns + c, W::load(from + c));
      if (c < columns) store(block + i * kColumns + c, W::load_n(from + c, (int)(columns - c)));
    }
  }
};

// Weights that arrive as steps of f32 (simd/stored.h, simd/four_bit.h). A run is a multiple of kUnit steps.
template <class Weights, int64_t kUnit>
struct FromSteps {
  Weights weights;
  explicit FromSteps(const Weights& w) : weights(w) {}
  int64_t scratch() const { return weights.scratch(kColumns); }

  OCTAVO_INLINE void decode(int64_t n, int64_t outputs, int64_t k, int64_t columns, float* block, char* room) const {
    const int64_t run = (columns + kUnit - 1) / kUnit * kUnit;
    for (int64_t i = 0; i < outputs; i += kPanelRows) {
      const char* steps = weights.fetch((n + i) / kPanelRows, k, run, room);
      steps_to_rows((const uint32_t*)steps, (char*)(block + i * kColumns), kColumns * 4,
                    (int)least(kPanelRows, outputs - i), columns * 4, AsIs{});
    }
  }
};

struct Int8 {
  const char* data;
  bool panels;
  int64_t width, steps;
  const float* scb;
  Int8(const Tensor& codes, const Tensor& scales)
      : data(codes.data),
        panels(codes.panels),
        width(codes.dim[1]),
        steps((codes.dim[1] + 3) / 4),
        scb(scales.as<float>()) {}
  int64_t scratch() const { return kPanelRows * kColumns; }

  OCTAVO_INLINE void decode(int64_t n, int64_t outputs, int64_t k, int64_t columns, float* block, char* room) const {
    for (int64_t i = 0; i < outputs; i += kPanelRows) {
      const int64_t rows = least(kPanelRows, outputs - i);
      const int8_t* from = (const int8_t*)data + (n + i) * width + k;
      int64_t stride = width;
      if (panels) {
        const int64_t panel = (n + i) / kPanelRows;
        steps_to_rows((const uint32_t*)(data + (panel * steps + k / 4) * kStepBytes), room, kColumns, (int)rows,
                      columns, FlipSigns{});
        from = (const int8_t*)room;
        stride = kColumns;
      }
      for (int64_t r = 0; r < rows; r++) {
        const float scale = scb[n + i + r] * (1.0f / 127.0f);
        float* to = block + (i + r) * kColumns;
        for (int64_t c = 0; c < columns; c++) to[c] = (float)from[r * stride + c] * scale;
      }
    }
  }
};

// Vectors of columns that stay in registers beside the rows.
#if defined(__AVX512F__)
constexpr int kVectors = 4;
#else
constexpr int kVectors = 2;
#endif
constexpr int kRows = 4;
static_assert(kColumns % (kVectors * kPartLanes) == 0, "columns of a piece are whole tiles");

// sums[r][c] += sum over i of dy[r][i] * block[i][c], for a tile of columns.
template <int kSome>
OCTAVO_INLINE void tile(const float* dy, int64_t n, int64_t outputs, const float* block, float* sums) {
  f32p acc[kSome][kVectors];
  OCTAVO_UNROLL for (int r = 0; r < kSome; r++)
      OCTAVO_UNROLL for (int v = 0; v < kVectors; v++) acc[r][v] = load_part(sums + r * kColumns + v * kPartLanes);
  for (int64_t i = 0; i < outputs; i++) {
    f32p w[kVectors];
    OCTAVO_UNROLL for (int v = 0; v < kVectors; v++) w[v] = load_part(block + i * kColumns + v * kPartLanes);
    OCTAVO_UNROLL for (int r = 0; r < kSome; r++) {
      const f32p g = splat_part(dy[r * n + i]);
      OCTAVO_UNROLL for (int v = 0; v < kVectors; v++) acc[r][v] = fma_part(g, w[v], acc[r][v]);
    }
  }
  OCTAVO_UNROLL for (int r = 0; r < kSome; r++)
      OCTAVO_UNROLL for (int v = 0; v < kVectors; v++) store_part(sums + r * kColumns + v * kPartLanes, acc[r][v]);
}

OCTAVO_INLINE void some_rows(int64_t rows, const float* dy, int64_t n, int64_t outputs, const float* block,
                             float* sums) {
  for (int64_t c = 0; c < kColumns; c += kVectors * kPartLanes) {
    switch (rows) {
      case 1: tile<1>(dy, n, outputs, block + c, sums + c); break;
      case 2: tile<2>(dy, n, outputs, block + c, sums + c); break;
      case 3: tile<3>(dy, n, outputs, block + c, sums + c); break;
      default: tile<kRows>(dy, n, outputs, block + c, sums + c); break;
    }
  }
}

template <class Decoder>
const char* product(const Call& call, const Decoder& decoder, int dx_at) {
  const Tensor &dy = call.t[0], &dx = call.t[dx_at];
  const int64_t m = dy.rows(), n = dy.last(), k = dx.last();
  if (m == 0 || k == 0) return nullptr;
  const int64_t columns = (k + kColumns - 1) / kColumns;
  const int64_t task_rows = columns >= kEnough || m <= kTaskRows ? m : kTaskRows;
  const int64_t tasks = columns * ((m + task_rows - 1) / task_rows);
  const int64_t block_bytes = kOutputs * kColumns * 4, sums_bytes = task_rows * kColumns * 4;
  const int64_t worker_bytes = block_bytes + sums_bytes + (decoder.scratch() + 63) / 64 * 64;
  const int workers = call.pool ? call.pool->threads() : 1;
  char* scratch = call.need((size_t)(worker_bytes * workers));
  if (!scratch) return "no memory for the scratch of a product";
  parallel(call, tasks, 1, [&](int64_t begin, int64_t end, int worker) {
    float* block = (float*)(scratch + worker * worker_bytes);
    float* sums = block + kOutputs * kColumns;
    char* room = (char*)sums + sums_bytes;
    for (int64_t i = 0; i < kOutputs * kColumns; i++) block[i] = 0;
    for (int64_t task = begin; task < end; task++) {
      const int64_t column = task % columns * kColumns, row = task / columns * task_rows;
      const int64_t some = least(kColumns, k - column), rows = least(task_rows, m - row);
      for (int64_t i = 0; i < rows * kColumns; i++) sums[i] = 0;
      for (int64_t at = 0; at < n; at += kOutputs) {
        const int64_t outputs = least(kOutputs, n - at);
        decoder.decode(at, outputs, column, some, block, room);
        for (int64_t r = 0; r < rows; r += kRows)
          some_rows(least(kRows, rows - r), dy.as<float>() + (row + r) * n + at, n, outputs, block,
                    sums + r * kColumns);
      }
      for (int64_t r = 0; r < rows; r++)
        std::memcpy(dx.as<float>() + (row + r) * k + column, sums + r * kColumns, sizeof(float) * (size_t)some);
    }
  });
  return nullptr;
}

const char* linear_back(const Call& call) {
  const Tensor& w = call.t[1];
  if (!w.panels) {
    switch (w.dtype) {
      case DType::f16: return product(call, FloatRows<F16>(w), 2);
      case DType::bf16: return product(call, FloatRows<BF16>(w), 2);
      default: return product(call, FloatRows<F32>(w), 2);
    }
  }
  switch (w.dtype) {
    case DType::f16: {
      using Weights = Widened<DotF16>;
      return product(call, FromSteps<Weights, 2>(Weights(Stored<DotF16>(w))), 2);
    }
    case DType::bf16: {
      using Weights = Widened<DotBf16>;
      return product(call, FromSteps<Weights, 2>(Weights(Stored<DotBf16>(w))), 2);
    }
    default: return product(call, FromSteps<Stored<DotF32>, 1>(Stored<DotF32>(w)), 2);
  }
}

const char* llm_int8_back(const Call& call) { return product(call, Int8(call.t[1], call.t[2]), 3); }

const char* four_bit_back(const Call& call) {
  const Tensor& codes = call.t[1];
  const int kind = call.attr[0].i;
  const int64_t blocksize = call.attr[1].i;
  const int rounding = call.attr[2].i;
  if (const char* wrong = wrong_format(kind, blocksize, rounding)) return wrong;
  const Absmax absmax(call.t[2], call.t[3], call.t[4], call.t[5]);
  if (const char* wrong = absmax.wrong()) return wrong;
  if (!FourBit::fits(codes.dim[1], blocksize)) {
    if (codes.panels) return "panels of 4-bit codes need K and the blocksize to be multiples of 8";
    return product(call, FromSteps<FourBitRows, 1>(FourBitRows(codes, absmax, kind, blocksize, rounding)), 6);
  }
  using Weights = FourBitDecoded<DotF32>;
  return product(call, FromSteps<Weights, 8>(Weights(FourBit(codes, absmax, kind, blocksize), rounding)), 6);
}

}  // namespace

OCTAVO_KERNELS(back,
    {"linear_back", "linear_back: dy[..,N]:f32 weight[N,K]:f32|f16|bf16@ -> dx[..,K]:f32", linear_back},
    {"llm_int8_back", "llm_int8_back: dy[..,N]:f32 codes[N,K]:i8@ scb[N]:f32 -> dx[..,K]:f32", llm_int8_back},
    {"four_bit_back",
     "four_bit_back: dy[..,N]:f32 codes[N,K]:u4@ absmax[A]:f32|u8 nested[B]:f32? map[256]:f32? offset[1]:f32? ; "
     "kind:i32 blocksize:i32 rounding:i32 -> dx[..,K]:f32",
     four_bit_back})

}  // namespace octavo::OCTAVO_ISA
