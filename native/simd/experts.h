// Products with one matrix of a stack per row: rows are grouped by expert, and each group is an ordinary product. A single row
// is read and written in place; more are gathered first, so that they can use tiles.
#pragma once

#include "../panels.h"
#include "../parallel.h"
#include "../registry.h"

namespace octavo::OCTAVO_ISA {

constexpr int64_t kGroupRows = 528;  // rows gathered at a time: as many as a product prepares at once

// Matrix `index` of a stack [E,N,K], in rows or in panels.
inline Tensor stacked(const Tensor& whole, int64_t index) {
  Tensor one = whole;
  one.rank = whole.rank - 1;
  int64_t size = 1;
  for (int d = 0; d < one.rank; d++) {
    one.dim[d] = whole.dim[d + 1];
    one.stride[d] = whole.stride[d + 1];
    size *= one.dim[d];
  }
  if (!whole) return one;
  int64_t bytes = size;
  switch (whole.dtype) {
    case DType::u4: bytes = size / 2; break;
    case DType::f32:
    case DType::i32: bytes = size * 4; break;
    case DType::f16:
    case DType::bf16: bytes = size * 2; break;
    default: break;
  }
  if (whole.panels) bytes = panel_bytes(whole.dtype, one.dim[0], one.dim[1]);
  one.data = whole.data + index * bytes;
  return one;
}

// Row numbers in the order of their experts: those of expert e are order[begin[e]] to order[begin[e + 1]].
inline void group_rows(const int32_t* experts, int64_t rows, int64_t count, int32_t* begin, int32_t* order) {
  std::memset(begin, 0, sizeof(int32_t) * (size_t)(count + 1));
  for (int64_t i = 0; i < rows; i++) begin[experts[i] + 1]++;
  for (int64_t e = 0; e < count; e++) begin[e + 1] += begin[e];
  for (int64_t i = 0; i < rows; i++) order[begin[experts[i]]++] = (int32_t)i;
  for (int64_t e = count; e > 0; e--) begin[e] = begin[e - 1];
  begin[0] = 0;
}

// x[M,X,K] times the matrices selected by experts[M,A]: y[M,A,N]. `product` is the kernel for one matrix, with x first and y
// in place `y_at`; `bind(call, e)` sets the other operands of expert e. On the way back x are gradients of rows of N, and y
// those of K.
template <class Bind>
const char* expert_product(const Call& call, const Tensor& stack, const Tensor& experts, const Tensor& y, int y_at,
                           KernelFn product, const Bind& bind) {
  const Tensor& x = call.t[0];
  const int64_t each = experts.dim[1], rows = experts.size(), count = stack.dim[0];
  const int64_t n = y.dim[2], k = x.dim[2];
  const bool shared = x.dim[1] == 1;
  if (rows == 0 || n == 0) return nullptr;
  if (stack.panels && stack.dim[1] % kPanelRows != 0) return "panels of experts need N to be a multiple of 16";
  const int32_t* chosen = experts.as<int32_t>();
  for (int64_t i = 0; i < rows; i++)
    if (chosen[i] < 0 || chosen[i] >= count)
      return sentence("expert %d is not one of %lld", chosen[i], (long long)count);

  const auto align = [](int64_t bytes) { return (bytes + 63) & ~(int64_t)63; };
  const int64_t index_bytes = align((count + 1 + rows) * 4);
  const auto pieces_of = [](int64_t some) { return (some + kGroupRows - 1) / kGroupRows; };
  const auto piece_of = [&](int64_t some) { return (some + pieces_of(some) - 1) / pieces_of(some); };

  Call one;
  one.pool = call.pool;
  const auto place = [&](char* from, char* to, int64_t some) {
    Tensor &in = one.t[0], &out = one.t[y_at];
    in.data = from;
    out.data = to;
    in.rank = out.rank = 2;
    in.dim[0] = out.dim[0] = some;
    in.dim[1] = in.stride[0] = k;
    out.dim[1] = out.stride[0] = n;
    in.stride[1] = out.stride[1] = 1;
  };

  // Finds the scratch size of the products: each requests it before it writes anything, gets null, and returns.
  char* scratch = call.need((size_t)index_bytes);
  if (!scratch) return "no memory to group rows by their experts";
  int32_t* begin = (int32_t*)scratch;
  group_rows(chosen, rows, count, begin, begin + count + 1);
  struct Asked {
    size_t most = 0;
    bool asked = false;
  } wanted;
  one.scratch_owner = &wanted;
  one.scratch = [](void* owner, size_t bytes) -> char* {
    Asked* to = (Asked*)owner;
    to->asked = true;
    if (bytes > to->most) to->most = bytes;
    return nullptr;
  };
  int64_t largest = 0;
  for (int64_t e = 0; e < count; e++) {
    const int64_t group = begin[e + 1] - begin[e];
    if (group == 0) continue;
    const int64_t piece = piece_of(group);
    largest = piece > largest ? piece : largest;
    const int64_t sizes[2] = {piece, group - (pieces_of(group) - 1) * piece};
    for (const int64_t some : sizes) {
      bind(one, e);
      place(x.data, y.data, some);
      wanted.asked = false;
      const char* problem = product(one);
      if (problem && !wanted.asked) return problem;
    }
  }

  const int64_t gathered = largest > 1 ? align(largest * k * 4) : 0, results = largest > 1 ? align(largest * n * 4) : 0;
  scratch = call.need((size_t)(index_bytes + gathered + results) + wanted.most);
  if (!scratch) return "no memory for the scratch of a product with experts";
  begin = (int32_t*)scratch;
  const int32_t* order = begin + count + 1;
  group_rows(chosen, rows, count, begin, begin + count + 1);
  char* const in = scratch + index_bytes;
  char* const out = in + gathered;
  one.scratch_owner = out + results;
  one.scratch = [](void* owner, size_t) { return (char*)owner; };
  const auto source = [&](int32_t row) { return x.as<float>() + (shared ? row / each : row) * k; };
  for (int64_t e = 0; e < count; e++) {
    const int64_t last = begin[e + 1];
    if (last == begin[e]) continue;
    const int64_t piece = piece_of(last - begin[e]);
    for (int64_t at = begin[e]; at < last; at += piece) {
      const int64_t some = last - at < piece ? last - at : piece;
      bind(one, e);
      if (some == 1) {
        place((char*)source(order[at]), (char*)(y.as<float>() + order[at] * n), 1);
        if (const char* problem = product(one)) return problem;
        continue;
      }
      parallel(call, some, row_grain(k), [&](int64_t first, int64_t end, int) {
        for (int64_t i = first; i < end; i++)
          std::memcpy((float*)in + i * k, source(order[at + i]), sizeof(float) * (size_t)k);
      });
      place(in, out, some);
      if (const char* problem = product(one)) return problem;
      parallel(call, some, row_grain(n), [&](int64_t first, int64_t end, int) {
        for (int64_t i = first; i < end; i++)
          std::memcpy(y.as<float>() + order[at + i] * n, (float*)out + i * n, sizeof(float) * (size_t)n);
      });
    }
  }
  return nullptr;
}

}  // namespace octavo::OCTAVO_ISA
