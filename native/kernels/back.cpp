// isa: portable avx2 avx512 avx512bf16 amx
// Gradients of products: dx = dy · W for matrices in floats, LLM.int8() codes and 4-bit codes. To the loops of the forward
// products (simd/product.h) Wᵀ is a matrix whose panels, 16 columns of W over its outputs, are decoded run by run: there is
// never a decoded matrix. Every sum is one chain in the order of the outputs. If the caller allows it and the machine
// multiplies pairs of bf16, both operands are rounded to bf16. Of a stack, rows are grouped by their experts.

#include "../simd/experts.h"
#include "../simd/float_product.h"
#include "../simd/four_bit.h"
#include "../simd/narrow.h"
#include "../simd/stored.h"

namespace octavo::OCTAVO_ISA {

namespace {

constexpr int64_t kColumns = kPanelRows;  // columns of W that are decoded together

// Decoders: decode() writes W[n + i][k + c] to block[i * kColumns + c] for i < outputs and c < columns. n and k are multiples
// of 16; `room` is scratch.

template <class W>
struct FloatRows {
  const typename W::T* data;
  int64_t width;
  explicit FloatRows(const Tensor& w) : data(w.as<typename W::T>()), width(w.dim[1]) {}
  int64_t scratch() const { return 0; }

  OCTAVO_INLINE void decode(int64_t n, int64_t outputs, int64_t k, int64_t columns, float* block, char*) const {
    for (int64_t i = 0; i < outputs; i++) {
      const typename W::T* from = data + (n + i) * width + k;
      store(block + i * kColumns, columns == kColumns ? W::load(from) : W::load_n(from, (int)columns));
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
                    (int)at_most(kPanelRows, outputs - i), columns * 4, AsIs{});
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
      const int64_t rows = at_most(kPanelRows, outputs - i);
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
        if (columns == kColumns) {
          OCTAVO_UNROLL for (int p = 0; p < kParts; p++)
              store_part(to + p * kPartLanes,
                         load_floats<DType::i8>(from + r * stride + p * kPartLanes) * splat_part(scale));
        } else {
          for (int64_t c = 0; c < columns; c++) to[c] = (float)from[r * stride + c] * scale;
        }
      }
    }
  }
};

// Any of them: the loops below are compiled once, not for each.
struct Decoder {
  const void* self;
  void (*call)(const void* self, int64_t n, int64_t outputs, int64_t k, int64_t columns, float* block, char* room);
  int64_t room;

  template <class D>
  explicit Decoder(const D& d)
      : self(&d),
        call([](const void* of, int64_t n, int64_t outputs, int64_t k, int64_t columns, float* block, char* to) {
          ((const D*)of)->decode(n, outputs, k, columns, block, to);
        }),
        room(d.scratch()) {}
};

// Wᵀ for product.h, in f32: step n of a panel is W[n] in its 16 columns.
struct Turned {
  using Dot = DotF32;
  Decoder decoder;
  int64_t width, steps, align = 1;
  bool in_place = false;
  const float* table = nullptr;

  Turned(const Decoder& d, int64_t outputs, int64_t inputs) : decoder(d), width(inputs), steps(outputs) {}

  int64_t scratch(int64_t run) const { return run * kStepBytes + decoder.room; }

  OCTAVO_INLINE const char* fetch(int64_t panel, int64_t step, int64_t count, char* to) const {
    const int64_t k = panel * kColumns;
    if (k + kColumns > width)
      for (int64_t s = 0; s < count; s++) store_wide(to + s * kStepBytes, WideF{});
    decoder.call(decoder.self, step, count, k, at_most(kColumns, width - k), (float*)to, to + count * kStepBytes);
    return to;
  }
  OCTAVO_INLINE void scales(int64_t, int64_t, int64_t, float*) const {}
};

#if defined(OCTAVO_BF16_DOT)
// The same in pairs of bf16: step i holds outputs 2i and 2i + 1.
template <class D>
struct TurnedPairs {
  using Dot = D;
  Turned floats;
  int64_t steps, align = 1;
  bool in_place = false;
  const float* table = nullptr;

  TurnedPairs(const Decoder& d, int64_t outputs, int64_t inputs) : floats(d, outputs, inputs), steps(outputs / 2) {}

  int64_t scratch(int64_t run) const { return run * kStepBytes + floats.scratch(2 * run); }

  OCTAVO_INLINE const char* fetch(int64_t panel, int64_t step, int64_t count, char* to) const {
    const char* from = floats.fetch(panel, 2 * step, 2 * count, to + count * kStepBytes);
    for (int64_t s = 0; s < count; s++)
      store_part(to + s * kStepBytes, bf16_pairs(load_part(from + 2 * s * kStepBytes),
                                                 load_part(from + (2 * s + 1) * kStepBytes)));
    return to;
  }
  OCTAVO_INLINE void scales(int64_t, int64_t, int64_t, float*) const {}
};
#endif

// dx at `dx_at` among the operands; two absent operands stand before it, as bias and residual of a forward product.
template <class D>
const char* product(const Call& call, const D& decode, int dx_at, bool rounded) {
  const Decoder decoder(decode);
  const Tensor& dx = call.t[dx_at];
  const int64_t n = call.t[0].last(), k = dx.last();
  if (call.t[0].rows() == 0 || k == 0) return nullptr;
  Call turned;
  turned.t[0] = call.t[0];
  turned.t[1].dim[0] = k;
  turned.t[1].dim[1] = n;
  turned.t[4] = dx;
  turned.pool = call.pool;
  turned.scratch = call.scratch;
  turned.scratch_owner = call.scratch_owner;
#if defined(OCTAVO_BF16_DOT)
  if (rounded && n % 8 == 0) {
#if defined(OCTAVO_AMX)
    if (dx.rows() > kTileRows)
      return float_product(turned, TurnedPairs<MatrixBf16<1, 1>>(decoder, n, k), 4, 0, true);
#endif
    return float_product(turned, TurnedPairs<DotBf16Pair>(decoder, n, k), 4, 0, true);
  }
#endif
#if defined(OCTAVO_AMX)
  if (dx.rows() > kTileRows) {
    const Turned floats(decoder, n, k);
    return float_product(turned, Split<Turned, 3>(floats), 4, 0, true);
  }
#endif
  (void)rounded;
  return float_product(turned, Turned(decoder, n, k), 4, 0, true);
}

const char* linear_back(const Call& call) {
  const Tensor& w = call.t[1];
  const bool rounded = call.attr[0].i == 1 && w.dtype == DType::bf16;
  if (!w.panels) {
    switch (w.dtype) {
      case DType::f16: return product(call, FloatRows<F16>(w), 2, rounded);
      case DType::bf16: return product(call, FloatRows<BF16>(w), 2, rounded);
      default: return product(call, FloatRows<F32>(w), 2, rounded);
    }
  }
  switch (w.dtype) {
    case DType::f16: {
      using Weights = Widened<DotF16>;
      return product(call, FromSteps<Weights, 2>(Weights(Stored<DotF16>(w))), 2, rounded);
    }
    case DType::bf16: {
      using Weights = Widened<DotBf16>;
      return product(call, FromSteps<Weights, 2>(Weights(Stored<DotBf16>(w))), 2, rounded);
    }
    default: return product(call, FromSteps<Stored<DotF32>, 1>(Stored<DotF32>(w)), 2, rounded);
  }
}

const char* llm_int8_back(const Call& call) { return product(call, Int8(call.t[1], call.t[2]), 3, call.attr[0].i == 1); }

const char* four_bit_back(const Call& call) {
  const Tensor& codes = call.t[1];
  const int kind = call.attr[0].i;
  const int64_t blocksize = call.attr[1].i;
  const int rounding = call.attr[2].i;
  const bool rounded = call.attr[3].i != 0;  // products in 8-bit codes allow it too
  if (const char* wrong = wrong_format(kind, blocksize, rounding)) return wrong;
  const Absmax absmax(call.t[2], call.t[3], call.t[4], call.t[5], codes.dim[1], blocksize);
  if (const char* wrong = absmax.wrong(kind)) return wrong;
  if (!FourBit::fits(codes.dim[1], blocksize)) {
    if (codes.panels) return "panels of 4-bit codes need K and the blocksize to be multiples of 8";
    return product(call, FromSteps<FourBitRows, 1>(FourBitRows(codes, absmax, kind, blocksize, rounding)), 6, rounded);
  }
  using Weights = FourBitDecoded<DotF32>;
  return product(call, FromSteps<Weights, 8>(Weights(FourBit(codes, absmax, kind, blocksize), rounding)), 6, rounded);
}

const char* expert_linear_back(const Call& call) {
  const Tensor& weight = call.t[1];
  return expert_product(call, weight, call.t[2], call.t[3], 2, linear_back, [&](Call& one, int64_t e) {
    one.t[1] = stacked(weight, e);
    one.attr[0] = call.attr[0];
  });
}

const char* llm_int8_expert_back(const Call& call) {
  const Tensor &codes = call.t[1], &scb = call.t[2];
  return expert_product(call, codes, call.t[3], call.t[4], 3, llm_int8_back, [&](Call& one, int64_t e) {
    one.t[1] = stacked(codes, e);
    one.t[2] = stacked(scb, e);
    one.attr[0] = call.attr[0];
  });
}

const char* four_bit_expert_back(const Call& call) {
  const Tensor &codes = call.t[1], &offset = call.t[5];
  if (codes.dim[1] * codes.dim[2] % 2 != 0) return "experts of 4-bit codes must begin at whole bytes";
  return expert_product(call, codes, call.t[6], call.t[7], 6, four_bit_back, [&](Call& one, int64_t e) {
    one.t[1] = stacked(codes, e);
    one.t[2] = stacked(call.t[2], e);
    one.t[3] = stacked(call.t[3], e);
    one.t[4] = call.t[4];
    one.t[5] = offset;
    if (offset) one.t[5].data += e * 4;
    for (int i = 0; i < 4; i++) one.attr[i] = call.attr[i];
  });
}

}  // namespace

OCTAVO_KERNELS(back,
    {"linear_back", "linear_back: dy[..,N]:f32 weight[N,K]:f32|f16|bf16@ ; compute:i32 -> dx[..,K]:f32", linear_back},
    {"llm_int8_back", "llm_int8_back: dy[..,N]:f32 codes[N,K]:i8@ scb[N]:f32 ; compute:i32 -> dx[..,K]:f32", llm_int8_back},
    {"four_bit_back",
     "four_bit_back: dy[..,N]:f32 codes[N,K]:u4@ absmax[A]:f32|u8|i8 nested[B]:f32? map[T]:f32? offset[1]:f32? ; "
     "kind:i32 blocksize:i32 rounding:i32 compute:i32 -> dx[..,K]:f32",
     four_bit_back},
    {"expert_linear_back",
     "expert_linear_back: dy[M,A,N]:f32 weight[E,N,K]:f32|f16|bf16@ experts[M,A]:i32 ; compute:i32 -> dx[M,A,K]:f32",
     expert_linear_back},
    {"llm_int8_expert_back",
     "llm_int8_expert_back: dy[M,A,N]:f32 codes[E,N,K]:i8@ scb[E,N]:f32 experts[M,A]:i32 ; compute:i32 -> "
     "dx[M,A,K]:f32",
     llm_int8_expert_back},
    {"four_bit_expert_back",
     "four_bit_expert_back: dy[M,A,N]:f32 codes[E,N,K]:u4@ absmax[E,B]:f32|u8|i8 nested[E,C]:f32? map[T]:f32? "
     "offset[E]:f32? experts[M,A]:i32 ; kind:i32 blocksize:i32 rounding:i32 compute:i32 -> dx[M,A,K]:f32",
     four_bit_expert_back})

}  // namespace octavo::OCTAVO_ISA
