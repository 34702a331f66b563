// isa: portable avx2 avxvnni avx512 amx dotprod
// LLM.int8(): 8-bit codes times 8-bit codes with one scale per row and one per output, exact in 32 bits over all of K;
// outliers of the activations are multiplied with the same codes in f32.
#include "../registry.h"
#include "../simd/codes.h"
#include "../simd/experts.h"
#include "../simd/stored.h"

namespace octavo::OCTAVO_ISA {

namespace {

constexpr int64_t kGathered = 64;  // columns of a row layout that become steps at a time

template <class Weights>
struct Finish {
  const Tiling& tiling;
  const Weights& weights;
  const Tensor& codes;
  const float* scb;
  const Output& output;
  const CodedLayout& layout;
  char* coded;
  ColumnsFn columns;
  int64_t row, m;

  // Steps of a panel that hold only the given columns, each in the byte given by its number.
  void gather(int64_t panel, const int32_t* column, int64_t count, char* to) const {
    const int64_t k = codes.dim[1], first = panel * kPanelRows;
    const int rows = (int)at_most(kPanelRows, codes.dim[0] - first);
    for (int64_t u = 0; u < count; u++)
      for (int r = 0; r < kPanelRows; r++)
        to[u * kStepBytes + r * 4 + (column[u] & 3)] =
            r < rows ? (char)(codes.data[(first + r) * k + column[u]] ^ 0x80) : (char)0x80;
  }

  void some_rows(const char* const* w, const CodedTile& tile, int64_t u, int64_t count, bool gathered, char* to) const {
    const int rows = tiling.rows > kTileRows ? 8 : tiling.rows;  // as many as `columns` takes
    for (int r = 0; r < tiling.rows; r += rows)
      columns(w, tile.column + u, count, gathered, u == 0, tile.value + u * tiling.rows + r, tiling.rows,
              to + (int64_t)r * tiling.panels * kStepBytes);
  }

  // [rows][panels][16] sums of outlier times code.
  void outliers(const CodedTile& tile, int64_t panel, int panels, char* to) const {
    const char* w[kMaxPanels];
    const int64_t count = *tile.outliers;
    if (weights.in_place) {
      for (int p = 0; p < tiling.panels; p++) w[p] = p < panels ? weights.fetch(panel + p, 0, 0, nullptr) : w[p - 1];
      some_rows(w, tile, 0, count, false, to);
      return;
    }
    alignas(64) char steps[kMaxPanels][kGathered * kStepBytes];
    for (int64_t u = 0; u < count; u += kGathered) {
      const int64_t some = at_most(kGathered, count - u);
      for (int p = 0; p < tiling.panels; p++) {
        if (p < panels) gather(panel + p, tile.column + u, some, steps[p]);
        w[p] = steps[p < panels ? p : 0];
      }
      some_rows(w, tile, u, some, true, to);
    }
  }

  void operator()(int64_t t, int64_t panel, int panels, const char* c) const {
    const CodedTile tile = layout.at(coded + t * layout.bytes);
    const int64_t first = row + t * tiling.rows;
    const int rows = (int)at_most(tiling.rows, m - first);
    alignas(64) char extra[kMostRows * kMaxPanels * kStepBytes];
    const bool some = *tile.outliers > 0;
    if (some) outliers(tile, panel, panels, extra);
    for (int p = 0; p < panels; p++) {
      const int64_t at = (panel + p) * kPanelRows;
      const f32x16 scale = output.n - at >= 16 ? load(scb + at) : load_n(scb + at, (int)(output.n - at));
      const f32x16 bias = output.bias_of(panel + p);
      const f32x16 step = scale * (1.0f / 127.0f);
      for (int r = 0; r < rows; r++) {
        const int64_t place = ((int64_t)r * tiling.panels + p) * kStepBytes;
        i32x16 sum;
        std::memcpy(&sum, c + place, sizeof sum);
        sum -= tile.bias[r];
        f32x16 v = __builtin_convertvector(sum, f32x16) * (scale * tile.scale[r]) * (1.0f / 16129.0f);
        if (some) v = fma(load((const float*)(extra + place)), step, v);
        output.put(first + r, panel + p, v + bias);
      }
    }
  }
};

template <class Dot>
const char* product(const Call& call) {
  const Tensor &x = call.t[0], &codes = call.t[1], &y = call.t[6];
  const int64_t m = x.rows(), k = codes.dim[1], n = codes.dim[0];
  const float threshold = call.attr[0].f;
  const Stored<Dot> weights(codes);
  const Tiling tiling = product_tiling(call, m, n, weights);
  const CodedLayout layout(k, tiling.rows, tiling.x_bytes);
  char* coded = call.need((size_t)(tiling.slab * layout.bytes + tiling.workers * tiling.worker_bytes));
  if (!coded) return "no memory for the scratch of an LLM.int8() linear";
  char* scratch = coded + tiling.slab * layout.bytes;
  const Output output{y.as<float>(), call.t[4].as<float>(), &call.t[3], call.attr[1].i, n};
  const ColumnsFn columns = for_rows<ColumnsOf>(tiling.rows > kTileRows ? 8 : tiling.rows);
  for (int64_t first = 0; first < tiling.tiles; first += tiling.slab) {
    const int64_t tiles = at_most(tiling.slab, tiling.tiles - first);
    const int64_t row = first * tiling.rows;
    const int64_t grain = kPrepareGrain / (k * tiling.rows + 1) + 1;
    parallel(call, tiles, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; t++) {
        const int64_t at = row + t * tiling.rows;
        code_tile(x.as<float>() + at * k, k, (int)at_most(tiling.rows, m - at), CodePlace{tiling.rows, Dot::kMatrix},
                  threshold, layout.at(coded + t * layout.bytes), call.t[5].as<uint8_t>());
      }
    });
    const Finish<Stored<Dot>> finish{tiling, weights, codes, call.t[2].as<float>(), output, layout,
                                     coded, columns, row, m};
    run_product(call, tiling, tiles, coded, layout.bytes, weights, scratch, finish);
  }
  return nullptr;
}

const char* llm_int8_linear(const Call& call) {
  const int64_t m = call.t[0].rows();
  if (m == 0 || call.t[1].dim[0] == 0) return nullptr;
#if defined(OCTAVO_AMX)
  if (m > kTileRows) return product<MatrixI8>(call);
#endif
  return product<DotI8>(call);
}

const char* llm_int8_expert_linear(const Call& call) {
  const Tensor &codes = call.t[1], &scb = call.t[2], &bias = call.t[4];
  return expert_product(call, codes, call.t[3], call.t[6], 6, llm_int8_linear, [&](Call& one, int64_t e) {
    one.t[1] = stacked(codes, e);
    one.t[2] = stacked(scb, e);
    one.t[3] = stacked(bias, e);
    one.t[5] = call.t[5];
    one.attr[0] = call.attr[0];
    one.attr[1] = call.attr[1];
  });
}

}  // namespace

OCTAVO_KERNELS(llm_int8,
               {"llm_int8_linear",
                "llm_int8_linear: x[..,K]:f32 codes[N,K]:i8@ scb[N]:f32 bias[N]:f32|f16|bf16? "
                "residual[..,N]:f32? seen[K]:u8?!+ ; threshold:f32 act:i32 backward:i32 -> y[..,N]:f32",
                llm_int8_linear},
               {"llm_int8_expert_linear",
                "llm_int8_expert_linear: x[M,X,K]:f32 codes[E,N,K]:i8@ scb[E,N]:f32 experts[M,A]:i32 "
                "bias[E,N]:f32|f16|bf16? seen[K]:u8?!+ ; threshold:f32 act:i32 backward:i32 -> y[M,A,N]:f32",
                llm_int8_expert_linear})

}  // namespace octavo::OCTAVO_ISA
