// isa: portable avx2 avx512
// Rows of quantized matrices by id, decoded to f32 from plain rows or from panels (native/panels.h).
#include "../registry.h"
#include "../simd/codes.h"
#include "../simd/four_bit.h"

namespace octavo::OCTAVO_ISA {

namespace {

const char* outside(const Tensor& ids, int64_t vocabulary) {
  for (int64_t i = 0; i < ids.size(); i++) {
    const int32_t id = ids.as<int32_t>()[i];
    if (id < 0 || id >= vocabulary)
      return sentence("token id %d is outside the vocabulary of %lld", id, (long long)vocabulary);
  }
  return nullptr;
}

const char* llm_int8_embedding(const Call& call) {
  const Tensor &codes = call.t[0], &ids = call.t[2], &y = call.t[3];
  const int64_t k = codes.dim[1];
  if (const char* wrong = outside(ids, codes.dim[0])) return wrong;
  const float* scb = call.t[1].as<float>();
  parallel(call, ids.size(), row_grain(k), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t id = ids.as<int32_t>()[i];
      float* to = y.as<float>() + i * k;
      const char* panel = codes.data + (id / kPanelRows * ((k + 3) / 4) * kPanelRows + id % kPanelRows) * 4;
      for (int64_t c = 0; c < k; c++) {
        const int code = codes.panels ? (int)(uint8_t)panel[c / 4 * kStepBytes + c % 4] - 128
                                      : (int)codes.as<int8_t>()[id * k + c];
        to[c] = rounded(splat_part((float)code * scb[id]))[0] * (1.0f / 127.0f);
      }
    }
  });
  return nullptr;
}

const char* four_bit_embedding(const Call& call) {
  const Tensor &codes = call.t[0], &ids = call.t[5], &y = call.t[6];
  const int64_t blocksize = call.attr[1].i, k = codes.dim[1];
  const int rounding = call.attr[2].i;
  if (const char* wrong = wrong_format(call.attr[0].i, blocksize, rounding)) return wrong;
  const Absmax absmax(call.t[1], call.t[2], call.t[3], call.t[4], k, blocksize);
  if (const char* wrong = absmax.wrong(call.attr[0].i)) return wrong;
  if (const char* wrong = outside(ids, codes.dim[0])) return wrong;
  const float* table = absmax.table(call.attr[0].i);
  parallel(call, ids.size(), row_grain(k), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t id = ids.as<int32_t>()[i];
      float* to = y.as<float>() + i * k;
      if (!codes.panels) {
        decode_flat(codes.as<uint8_t>(), absmax, table, blocksize, rounding, id * k, k, to);
        continue;
      }
      const char* panel = codes.data + (id / kPanelRows * (k / 8) * kPanelRows + id % kPanelRows) * 4;
      for (int64_t c = 0; c < k; c += 8) {
        uint32_t eight;
        std::memcpy(&eight, panel + c / 8 * kStepBytes, 4);
        for (int j = 0; j < 8; j++) {
          const float value = table[eight >> 4 * j & 15u] * absmax.at((id * k + c + j) / blocksize);
          to[c + j] = round_to(rounding, splat_part(value))[0];
        }
      }
    }
  });
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(
    quantized_rows,
    {"llm_int8_embedding", "llm_int8_embedding: codes[V,K]:i8@ scb[V]:f32 ids[..]:i32 -> y[..,K]:f32",
     llm_int8_embedding},
    {"four_bit_embedding",
     "four_bit_embedding: codes[V,K]:u4@ absmax[A]:f32|u8|i8 nested[B]:f32? map[T]:f32? offset[1]:f32? ids[..]:i32 ; "
     "kind:i32 blocksize:i32 rounding:i32 -> y[..,K]:f32",
     four_bit_embedding})

}  // namespace octavo::OCTAVO_ISA
