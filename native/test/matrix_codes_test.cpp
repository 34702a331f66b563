// Layouts and quantization, exact: pack, and the codes of both schemes with their scales.
#include "matrix.h"

void test_pack(Machine& machine) {
  for (const Entry& e : kernels_named("pack")) {
    const Kernel* unpack = nullptr;
    for (const Entry& u : kernels_named("unpack"))
      if (!strcmp(u.isa, e.isa)) unpack = u.kernel;
    for (DType dtype : {DType::f32, DType::f16, DType::bf16, DType::i8, DType::u4})
      for (auto [n, k] : {std::pair<int64_t, int64_t>{1, 1}, {16, 16}, {17, 33}, {40, 8}, {33, 104}, {5, 7}, {0, 8}, {3, 0}, {70, 130}}) {
        if (dtype == DType::u4 && k % 8) continue;
        const Array rows = random_rows(dtype, n, k), want = naive_panels(rows);
        Array got(dtype, {n, k}, true), back(dtype, {n, k});
        // in two pieces
        const int64_t cut = n > 32 ? 32 : n;
        for (int piece = 0; piece < 2; piece++) {
          const int64_t from = piece ? cut : 0, to = piece ? n : cut;
          if (from == to) continue;
          Array part(dtype, {to - from, k});
          memcpy(part.data, rows.data + bytes_of(dtype, from * k), (size_t)part.bytes);
          must(e.isa, e.kernel, machine.call({&part, &got}, {word((int)from)}));
        }
        if (memcmp(got.data, want.data, (size_t)want.bytes)) fail(e.isa, text("pack dtype %d %ldx%ld", (int)dtype, n, k));
        must(e.isa, unpack, machine.call({&want, &back}, {}));
        if (memcmp(back.data, rows.data, (size_t)rows.bytes)) fail(e.isa, text("unpack dtype %d %ldx%ld", (int)dtype, n, k));
        Array plain(dtype, {n, k});
        must(e.isa, e.kernel, machine.call({&rows, &plain}, {word(0)}));
        if (memcmp(plain.data, rows.data, (size_t)rows.bytes)) fail(e.isa, "pack to rows");
      }
    std::printf("  %-20s %-12s exact\n", "pack, unpack", e.isa);
  }
}

void test_quantize(Machine& machine) {
  const std::vector<std::pair<int64_t, int64_t>> shapes = {{1, 1}, {5, 7}, {17, 33}, {40, 64}, {33, 104}, {64, 600}, {3, 1024}, {0, 8}};
  for (const Entry& e : kernels_named("llm_int8_quantize")) {
    const Kernel* back = nullptr;
    for (const Entry& u : kernels_named("llm_int8_dequantize"))
      if (!strcmp(u.isa, e.isa)) back = u.kernel;
    for (DType dtype : {DType::f32, DType::f16, DType::bf16})
      for (auto [n, k] : shapes)
        for (bool panels : {true, false}) {
          Array w(dtype, {n, k}), codes(DType::i8, {n, k}, panels), want(DType::i8, {n, k}), scb(DType::f32, {n}), want_scb(DType::f32, {n});
          w.fill_gauss();
          if (n > 2) for (int64_t i = 0; i < k; i++) w.set(k + i, 0);
          for (int64_t r = 0; r < n; r++) {
            float high = 0;
            for (int64_t i = 0; i < k; i++) high = std::fmax(high, std::fabs(w.at(r * k + i)));
            want_scb.f()[r] = high;
            volatile float inverse = high > 0 ? 1.0f / high : 0.0f;
            volatile float factor = inverse * 127.0f;
            for (int64_t i = 0; i < k; i++) {
              volatile float v = w.at(r * k + i) * factor;
              want.c()[r * k + i] = (int8_t)std::nearbyint(v);
            }
          }
          const int64_t cut = n > 16 ? 16 : n;
          for (int piece = 0; piece < 2; piece++) {
            const int64_t from = piece ? cut : 0, to = piece ? n : cut;
            if (from == to) continue;
            Array part(dtype, {to - from, k});
            memcpy(part.data, w.data + bytes_of(dtype, from * k), (size_t)part.bytes);
            must(e.isa, e.kernel, machine.call({&part, &codes, &scb}, {word((int)from)}));
          }
          const Array expected = panels ? naive_panels(want) : want;
          if (memcmp(codes.data, expected.data, (size_t)codes.bytes)) fail(e.isa, text("llm_int8_quantize dtype %d %ldx%ld panels %d", (int)dtype, n, k, panels));
          if (memcmp(scb.data, want_scb.data, (size_t)scb.bytes)) fail(e.isa, "scb");
          Array dense(DType::f32, {n, k});
          must(e.isa, back, machine.call({&codes, &scb, &dense}, {}));
          for (int64_t i = 0; i < n * k; i++) {
            volatile float product = (float)want.c()[i] * scb.f()[i / k];
            volatile float value = product * (1.0f / 127.0f);
            if (dense.f()[i] != value) { fail(e.isa, "llm_int8_dequantize"); break; }
          }
        }
    std::printf("  %-20s %-12s exact\n", "llm_int8 codes", e.isa);
  }

  const float nf4[15] = {-0.84809637f, -0.6106329f, -0.45999527f, -0.33967942f, -0.2346074f, -0.13791174f, -0.045525018f, 0.03979015f,
                         0.12025525f, 0.20352125f, 0.29201376f, 0.38931254f, 0.50166345f, 0.6427869f, 0.86147845f};
  // f32 midpoints; ties go to the lower value, so a negative number that equals a threshold is beyond it.
  const float fp4[7] = {0.0026041667f, 0.0859375f, 0.20833334f, 0.29166669f, 0.4166667f, 0.5833334f, 0.8333334f};
  const int fp4_codes[8] = {0, 1, 6, 7, 4, 5, 2, 3};
  const auto encode = [&](float x, int kind) {
    int code = 0;
    if (kind == 0) {
      for (float t : nf4) code += x > t;
      return code;
    }
    for (float t : fp4) code += x < 0 ? -x >= t : x > t;
    return fp4_codes[code] | (x < 0 ? 8 : 0);
  };
  for (const Entry& e : kernels_named("four_bit_quantize")) {
    const Kernel* back = nullptr;
    for (const Entry& u : kernels_named("four_bit_dequantize"))
      if (!strcmp(u.isa, e.isa)) back = u.kernel;
    for (DType dtype : {DType::f32, DType::f16, DType::bf16})
      for (auto [n, k] : shapes)
        for (int kind = 0; kind < 2; kind++)
          for (int64_t blocksize : {32, 64, 256}) {
            const int64_t total = n * k, blocks = (total + blocksize - 1) / blocksize;
            Array w(dtype, {n, k}), codes(DType::u4, {n, k}), want(DType::u4, {n, k}), absmax(DType::f32, {blocks}), want_absmax(DType::f32, {blocks});
            w.fill_gauss();
            if (total > 200) for (int64_t i = 0; i < 100; i++) w.set(i, 0);
            memset(want.data, 0, (size_t)want.bytes);
            for (int64_t b = 0; b < blocks; b++) {
              const int64_t from = b * blocksize, to = std::min(total, from + blocksize);
              float high = 0;
              for (int64_t i = from; i < to; i++) high = std::fmax(high, std::fabs(w.at(i)));
              want_absmax.f()[b] = high;
              volatile float inverse = high > 0 ? 1.0f / high : 0.0f;
              for (int64_t i = from; i < to; i++) {
                volatile float v = high == 0 ? 0.0f : to - from < blocksize ? w.at(i) / high : w.at(i) * inverse;
                v = std::fmin(1.0f, std::fmax(-1.0f, v));
                want.u()[i / 2] |= (uint8_t)(encode(v, kind) << (i & 1 ? 0 : 4));
              }
            }
            if (total & 1) want.u()[total / 2] |= kind == 0 ? 7 : 0;
            const int64_t cut = (16 * k) % blocksize == 0 && n > 16 ? 16 : n;
            for (int piece = 0; piece < 2; piece++) {
              const int64_t from = piece ? cut : 0, to = piece ? n : cut;
              if (from == to) continue;
              Array part(dtype, {to - from, k});
              memcpy(part.data, w.data + bytes_of(dtype, from * k), (size_t)part.bytes);
              must(e.isa, e.kernel, machine.call({&part, &codes, &absmax}, {word(kind), word((int)blocksize), word((int)from), word(0)}));
            }
            if (memcmp(codes.data, want.data, (size_t)want.bytes)) fail(e.isa, text("four_bit_quantize kind %d bs %ld %ldx%ld dtype %d", kind, blocksize, n, k, (int)dtype));
            if (memcmp(absmax.data, want_absmax.data, (size_t)absmax.bytes)) fail(e.isa, "four_bit absmax");
          }
    for (auto [n, k] : shapes)
      for (int variant = 0; variant < 4; variant++)
        for (int64_t blocksize : {32, 64, 4096}) {
          const FourBitMatrix matrix(n, k, variant & 1, blocksize, variant & 2);
          for (bool panels : {false, true}) {
            if (panels && k % 8) continue;
            const Array w = panels ? naive_panels(matrix.rows) : matrix.rows;
            Array dense(DType::f32, {n, k});
            for (int rounding = 0; rounding < 3; rounding++) {
              const std::vector<float> want = rounded_values(matrix.dense, rounding);
              must(e.isa, back, machine.call({&w, matrix.a(0), matrix.a(1), matrix.a(2), matrix.a(3), &dense}, {word(variant & 1), word((int)blocksize), word(rounding)}));
              for (int64_t i = 0; i < n * k; i++)
                if (dense.f()[i] != want[(size_t)i]) { fail(e.isa, text("four_bit_dequantize %ldx%ld bs %ld panels %d rounding %d at %ld", n, k, blocksize, panels, rounding, i)); break; }
            }
          }
        }
    std::printf("  %-20s %-12s exact\n", "four_bit codes", e.isa);
  }
  for (const Entry& e : kernels_named("double_quantize")) {
    for (int64_t count : {1, 255, 256, 1000, 10000}) {
      Array absmax(DType::f32, {count}), map(DType::f32, {256}), codes(DType::u8, {count}), nested(DType::f32, {(count + 255) / 256}), offset(DType::f32, {1});
      for (int64_t i = 0; i < count; i++) absmax.f()[i] = std::fabs(gauss());
      for (int i = 0; i < 256; i++) map.f()[i] = (float)std::copysign(std::pow(std::fabs((i - 127) / 128.0), 2.0), i - 127);
      must(e.isa, e.kernel, machine.call({&absmax, &map, &codes, &nested, &offset}, {}));
      double total = 0;
      for (int64_t i = 0; i < count; i++) total += absmax.f()[i];
      if (offset.f()[0] != (float)(total / (double)count)) fail(e.isa, "double_quantize offset");
      for (int64_t b = 0; b < nested.size(); b++) {
        const int64_t from = b * 256, to = std::min(count, from + 256);
        float high = 0;
        for (int64_t i = from; i < to; i++) high = std::fmax(high, std::fabs(absmax.f()[i] - offset.f()[0]));
        if (nested.f()[b] != high) fail(e.isa, "double_quantize nested");
        volatile float inverse = high > 0 ? 1.0f / high : 0.0f;
        for (int64_t i = from; i < to; i++) {
          volatile float v = (absmax.f()[i] - offset.f()[0]) * inverse;
          v = std::fmin(1.0f, std::fmax(-1.0f, v));
          int code = 0;
          for (int j = 0; j < 255; j++) code += v > (float)(((double)map.f()[j] + map.f()[j + 1]) / 2);
          if (codes.u()[i] != code) { fail(e.isa, text("double_quantize code %d, not %d", codes.u()[i], code)); break; }
        }
      }
    }
    std::printf("  %-20s %-12s exact\n", "double_quantize", e.isa);
  }
}
