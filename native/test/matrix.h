// Plain twins of the matrix kernels' operands: panels, random weights, 4-bit matrices.
#pragma once

#include <cmath>

#include "harness.h"

inline void must(const char* isa, const Kernel* kernel, const Call& call) {
  if (const char* wrong = ran(isa, kernel, call)) fail(isa, std::string(kernel->name) + ": " + wrong);
}

inline int per_step(DType dtype) { return dtype == DType::f32 ? 1 : dtype == DType::i8 ? 4 : dtype == DType::u4 ? 8 : 2; }

// Panels by their definition in panels.h.
inline Array naive_panels(const Array& rows) {
  Array out(rows.dtype, rows.dims, true);
  const int64_t n = rows.dims[0], k = rows.dims[1];
  const int per = per_step(rows.dtype);
  const int64_t steps = (k + per - 1) / per;
  memset(out.data, rows.dtype == DType::i8 ? 0x80 : 0, (size_t)out.bytes);
  for (int64_t o = 0; o < n; o++)
    for (int64_t i = 0; i < k; i++) {
      char* step = out.data + ((o / 16 * steps + i / per) * 16 + o % 16) * 4;
      const int64_t from = o * k + i;
      switch (rows.dtype) {
        case DType::f32: memcpy(step, rows.data + from * 4, 4); break;
        case DType::i8: step[i % 4] = (char)(rows.data[from] + 128); break;
        case DType::u4: {
          const uint32_t code = from & 1 ? rows.u()[from / 2] & 15 : rows.u()[from / 2] >> 4;
          uint32_t word;
          memcpy(&word, step, 4);
          word |= code << (4 * (i % 8));
          memcpy(step, &word, 4);
          break;
        }
        default: memcpy(step + i % 2 * 2, rows.data + from * 2, 2);
      }
    }
  return out;
}

inline Array random_rows(DType dtype, int64_t n, int64_t k) {
  Array rows(dtype, {n, k});
  if (dtype == DType::i8)
    for (int64_t i = 0; i < n * k; i++) rows.c()[i] = (int8_t)(below(255) - 127);
  else if (dtype == DType::u4)
    for (int64_t i = 0; i < rows.bytes; i++) rows.u()[i] = (uint8_t)below(256);
  else
    rows.fill_gauss();
  return rows;
}

const float kTables[2][16] = {
    {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
     -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
     0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f},
    {0, 0.0052083335f, 0.6666667f, 1, 0.33333334f, 0.5f, 0.16666667f, 0.25f, -0.f, -0.0052083335f, -0.6666667f, -1, -0.33333334f, -0.5f,
     -0.16666667f, -0.25f}};

// Values as the attribute `rounding` of 4-bit ops leaves them: exact, or the nearest f16 (1) or bf16 (2). Not for infinities.
inline std::vector<float> rounded_values(std::vector<float> values, int rounding) {
  if (rounding == 0) return values;
  for (float& x : values) {
    int exponent = 0;
    std::frexp(x, &exponent);  // |x| in [1/2, 1) * 2^exponent
    const double unit = std::ldexp(1.0, rounding == 2 ? exponent - 8 : exponent - 11 < -24 ? -24 : exponent - 11);
    x = (float)(std::nearbyint(x / unit) * unit);
  }
  return values;
}

struct FourBitMatrix {
  Array rows, absmax, nested, map, offset;
  bool codes;
  std::vector<float> dense;

  FourBitMatrix(int64_t n, int64_t k, int kind, int64_t blocksize, bool double_quantized) : codes(double_quantized) {
    rows = random_rows(DType::u4, n, k);
    const int64_t blocks = (n * k + blocksize - 1) / blocksize;
    absmax = Array(codes ? DType::u8 : DType::f32, {blocks});
    nested = Array(DType::f32, {(blocks + 255) / 256});
    map = Array(DType::f32, {256});
    offset = Array(DType::f32, {1});
    for (int i = 0; i < 256; i++) map.f()[i] = (float)(i - 127) / 128.0f;
    offset.f()[0] = 1.3f;
    for (int64_t i = 0; i < nested.size(); i++) nested.f()[i] = 0.1f + std::fabs(gauss());
    for (int64_t i = 0; i < blocks; i++)
      if (codes)
        absmax.u()[i] = (uint8_t)below(256);
      else
        absmax.f()[i] = std::fabs(gauss());
    dense.resize((size_t)(n * k));
    for (int64_t i = 0; i < n * k; i++) {
      const int64_t b = i / blocksize;
      const uint8_t byte = rows.u()[i / 2];
      dense[(size_t)i] = kTables[kind][i & 1 ? byte & 15 : byte >> 4] * factor(b);
    }
  }
  float factor(int64_t block) const {
    volatile float product = codes ? map.f()[absmax.u()[block]] * nested.f()[block / 256] : absmax.f()[block];
    return codes ? product + offset.f()[0] : product;
  }
  const Array* a(int i) const {
    const Array* all[] = {&absmax, &nested, &map, &offset};
    return i == 0 || codes ? all[i] : nullptr;
  }
};

// matrix_codes_test.cpp
void test_pack(Machine& machine);
void test_quantize(Machine& machine);
