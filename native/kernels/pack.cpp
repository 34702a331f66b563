// isa: portable avx2
// Converts rows of a matrix to its stored layout and back: panels (native/panels.h), or rows, which is a copy.
#include "../parallel.h"
#include "../registry.h"
#include "../simd/transpose.h"

namespace octavo::OCTAVO_ISA {

namespace {

constexpr int64_t kCopyGrain = 1 << 18;

// Bytes of `elements` elements (two to a byte for u4, the last one padded).
int64_t bytes_of(DType dtype, int64_t elements) {
  switch (dtype) {
    case DType::u4: return (elements + 1) / 2;
    case DType::i8: return elements;
    case DType::f32: return elements * 4;
    default: return elements * 2;
  }
}

void copy(const Call& call, char* to, const char* from, int64_t bytes) {
  parallel(call, bytes, kCopyGrain, [&](int64_t begin, int64_t end, int) {
    std::memcpy(to + begin, from + begin, (size_t)(end - begin));
  });
}

// Panels per piece of work.
int64_t panel_grain(int64_t panel_bytes) { return kCopyGrain / (panel_bytes + 1) + 1; }

template <class Map>
void to_panels(const Call& call, const char* from, char* to, int64_t rows, int64_t row_bytes, Map map) {
  const int64_t panel = (row_bytes + 3) / 4 * kStepBytes;
  parallel(call, (rows + kPanelRows - 1) / kPanelRows, panel_grain(panel), [&](int64_t begin, int64_t end, int) {
    for (int64_t p = begin; p < end; p++) {
      const int64_t left = rows - p * kPanelRows;
      rows_to_steps(from + p * kPanelRows * row_bytes, row_bytes, (int)(left < kPanelRows ? left : kPanelRows),
                    row_bytes, (uint32_t*)(to + p * panel), kPanelRows, map);
    }
  });
}

template <class Map>
void from_panels(const Call& call, const char* from, char* to, int64_t rows, int64_t row_bytes, Map map) {
  const int64_t panel = (row_bytes + 3) / 4 * kStepBytes;
  parallel(call, (rows + kPanelRows - 1) / kPanelRows, panel_grain(panel), [&](int64_t begin, int64_t end, int) {
    for (int64_t p = begin; p < end; p++) {
      const int64_t left = rows - p * kPanelRows;
      steps_to_rows((const uint32_t*)(from + p * panel), to + p * kPanelRows * row_bytes, row_bytes,
                    (int)(left < kPanelRows ? left : kPanelRows), row_bytes, map);
    }
  });
}

const char* pack(const Call& call) {
  const Tensor &w = call.t[0], &packed = call.t[1];
  const int64_t rows = w.dim[0], k = w.dim[1], row = call.attr[0].i;
  if (w.dtype != packed.dtype) return "packing changes no dtype";
  if (row < 0 || row + rows > packed.dim[0]) return "the rows to pack lie outside the packed matrix";
  if (rows == 0 || k == 0) return nullptr;
  if (!packed.panels) {
    if (w.dtype == DType::u4 && row * k % 2 != 0) return "4-bit rows to pack must begin at a whole byte";
    copy(call, packed.data + bytes_of(w.dtype, row * k), w.data, bytes_of(w.dtype, rows * k));
    return nullptr;
  }
  if (row % kPanelRows != 0) return "rows to pack into panels must begin at a multiple of 16";
  const int64_t row_bytes = bytes_of(w.dtype, k);
  char* to = packed.data + row / kPanelRows * ((row_bytes + 3) / 4 * kStepBytes);
  if (w.dtype == DType::i8)
    to_panels(call, w.data, to, rows, row_bytes, FlipSigns{});
  else if (w.dtype == DType::u4)
    to_panels(call, w.data, to, rows, row_bytes, SwapNibbles{});
  else
    to_panels(call, w.data, to, rows, row_bytes, AsIs{});
  return nullptr;
}

const char* unpack(const Call& call) {
  const Tensor &packed = call.t[0], &w = call.t[1];
  const int64_t rows = packed.dim[0], k = packed.dim[1];
  if (w.dtype != packed.dtype) return "unpacking changes no dtype";
  if (rows == 0 || k == 0) return nullptr;
  const int64_t row_bytes = bytes_of(w.dtype, k);
  if (!packed.panels)
    copy(call, w.data, packed.data, bytes_of(w.dtype, rows * k));
  else if (w.dtype == DType::i8)
    from_panels(call, packed.data, w.data, rows, row_bytes, FlipSigns{});
  else if (w.dtype == DType::u4)
    from_panels(call, packed.data, w.data, rows, row_bytes, SwapNibbles{});
  else
    from_panels(call, packed.data, w.data, rows, row_bytes, AsIs{});
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(pack,
               {"pack",
                "pack: w[n,K]:f32|f16|bf16|i8|u4 packed[N,K]:f32|f16|bf16|i8|u4@! ; row:i32 ->", pack},
               {"unpack",
                "unpack: packed[N,K]:f32|f16|bf16|i8|u4@ w[N,K]:f32|f16|bf16|i8|u4!! ->", unpack})

}  // namespace octavo::OCTAVO_ISA
