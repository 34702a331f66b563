// Every matrix kernel on every instruction set of this machine against a naive twin: plain loops, sums in double or in
// exact integers. Prints the largest error per op and instruction set; leaves with 1 if one is too large.
#include <cmath>
#include <functional>

#include "harness.h"

namespace {

int failures = 0;
void fail(const char* isa, const std::string& what) {
  if (failures++ < 40) std::printf("FAIL %s %s\n", isa, what.c_str());
}

template <class... V>
std::string text(const char* format, V... values) {
  char buffer[400];
  std::snprintf(buffer, sizeof buffer, format, values...);
  return buffer;
}

void must(const char* isa, const Kernel* kernel, const Call& call) {
  if (const char* wrong = kernel->run(call)) fail(isa, std::string(kernel->name) + ": " + wrong);
}

double act(int code, double x) {
  switch (code) {
    case 1: return x < 0 ? 0 : x;
    case 2: return x / 2 * (1 + std::erf(x / std::sqrt(2.0)));
    case 4: return x / (1 + std::exp(-x));
    default: return x;
  }
}

// ---- layouts ----

int per_step(DType dtype) { return dtype == DType::f32 ? 1 : dtype == DType::i8 ? 4 : dtype == DType::u4 ? 8 : 2; }

// Panels by their definition in panels.h.
Array naive_panels(const Array& rows) {
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

Array random_rows(DType dtype, int64_t n, int64_t k) {
  Array rows(dtype, {n, k});
  if (dtype == DType::i8)
    for (int64_t i = 0; i < n * k; i++) rows.c()[i] = (int8_t)(below(255) - 127);
  else if (dtype == DType::u4)
    for (int64_t i = 0; i < rows.bytes; i++) rows.u()[i] = (uint8_t)below(256);
  else
    rows.fill_gauss();
  return rows;
}

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
    std::printf("  %-20s %-11s exact\n", "pack, unpack", e.isa);
  }
}

// ---- products ----

struct Shape {
  int64_t m, n, k;
};
const std::vector<Shape> kShapes = {{1, 16, 16},  {1, 1, 1},    {1, 5, 7},    {0, 16, 8},   {2, 33, 40},  {5, 17, 31},
                                    {17, 50, 72}, {64, 48, 64}, {3, 70, 129}, {12, 16, 100}, {13, 40, 24}, {26, 64, 256},
                                    {9, 31, 8},   {4, 80, 300}, {1, 200, 520}, {60, 33, 1000}, {7, 20, 0}, {6, 100, 96},
                                    {250, 40, 208}, {500, 20, 64}};

struct Extras {  // bias, residual, act
  Array bias, residual;
  bool has_bias, has_residual;
  int act;
  Extras(int64_t m, int64_t n, int variant) {
    has_bias = variant % 4 != 0;
    has_residual = variant % 3 == 1;
    const DType types[] = {DType::f32, DType::f16, DType::bf16};
    bias = Array(types[variant % 3], {n});
    bias.fill_gauss();
    residual = Array(DType::f32, {m, n});
    residual.fill_gauss();
    const int acts[] = {0, 1, 4, 0, 2};
    act = acts[variant % 5];
  }
  const Array* b() const { return has_bias ? &bias : nullptr; }
  const Array* r() const { return has_residual ? &residual : nullptr; }
  double apply(double sum, int64_t m, int64_t n, int64_t N) const {
    if (has_bias) sum += bias.at(n);
    sum = ::act(act, sum);
    if (has_residual) sum += residual.f()[m * N + n];
    return sum;
  }
};

// Runs with 1, 2 and 3 threads, wants the same bits each time, and returns the result.
Array run_all(const char* isa, const Kernel* kernel, std::vector<std::unique_ptr<Machine>>& machines,
              std::vector<const Array*> operands, const std::vector<Call::Word>& attrs, int64_t m, int64_t n) {
  Array first;
  for (auto& machine : machines) {
    Array y(DType::f32, {m, n});
    operands.push_back(&y);
    must(isa, kernel, machine->call(operands, attrs));
    operands.pop_back();
    if (!first.data)
      first = y;
    else if (memcmp(first.data, y.data, (size_t)y.bytes))
      fail(isa, text("%s: bits depend on the number of threads (%ldx%ld)", kernel->name, m, n));
  }
  return first;
}

double compare(const Array& y, const std::function<double(int64_t, int64_t, double&)>& want) {
  double worst = 0;
  const int64_t m = y.dims[0], n = y.dims[1];
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) {
      double size = 1e-3;
      const double w = want(i, j, size), got = y.f()[i * n + j];
      const double error = std::fabs(w - got) / size;
      if (!(error <= worst)) worst = error;
    }
  return worst;
}

void test_linear(std::vector<std::unique_ptr<Machine>>& machines) {
  for (const Entry& e : kernels_named("linear"))
    for (DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      double worst = 0;
      int variant = 0;
      for (const Shape& s : kShapes)
        for (bool panels : {true, false}) {
          const Array rows = random_rows(dtype, s.n, s.k);
          const Array w = panels ? naive_panels(rows) : rows;
          Array x(DType::f32, {s.m, s.k});
          x.fill_gauss();
          const Extras extras(s.m, s.n, variant++);
          const Array y = run_all(e.isa, e.kernel, machines, {&x, &w, extras.b(), extras.r()}, {word(extras.act)}, s.m, s.n);
          const double error = compare(y, [&](int64_t m, int64_t n, double& size) {
            double sum = 0;
            for (int64_t k = 0; k < s.k; k++) {
              const double p = (double)x.f()[m * s.k + k] * rows.at(n * s.k + k);
              sum += p;
              size += std::fabs(p);
            }
            size += 1;
            return extras.apply(sum, m, n, s.n);
          });
          if (!(error < 1e-6)) fail(e.isa, text("linear dtype %d panels %d %ldx%ldx%ld: %g", (int)dtype, panels, s.m, s.n, s.k, error));
          worst = std::fmax(worst, error);
          // a row does not depend on the rows beside it (AMX takes over from a certain number of rows on, with another
          // order of sums)
          if (s.m > 1 && !extras.has_residual && (strcmp(e.isa, "amx") || s.m <= 12)) {
            Array one(DType::f32, {1, s.k}), y1(DType::f32, {1, s.n});
            const int64_t r = below(s.m);
            memcpy(one.data, x.f() + r * s.k, (size_t)one.bytes);
            must(e.isa, e.kernel, machines[1]->call({&one, &w, extras.b(), nullptr, &y1}, {word(extras.act)}));
            if (memcmp(y1.data, y.f() + r * s.n, (size_t)y1.bytes)) fail(e.isa, text("linear: a row depends on its neighbours (dtype %d, m %ld)", (int)dtype, s.m));
          }
        }
      std::printf("  %-20s %-11s %.1e  (dtype %d)\n", "linear", e.isa, worst, (int)dtype);
    }
}

void test_llm_int8(std::vector<std::unique_ptr<Machine>>& machines) {
  for (const Entry& e : kernels_named("llm_int8_linear")) {
    double worst = 0;
    int variant = 0;
    for (const Shape& s : kShapes)
      for (bool panels : {true, false})
        for (int mode = 0; mode < 5; mode++) {  // no outliers; a few columns; everywhere; threshold 0; zeros
          const Array rows = random_rows(DType::i8, s.n, s.k);
          const Array w = panels ? naive_panels(rows) : rows;
          Array x(DType::f32, {s.m, s.k}), scb(DType::f32, {s.n}), seen(DType::u8, {s.k});
          x.fill_gauss(mode == 2 ? 4.0f : 1.0f);
          if (mode == 4) memset(x.data, 0, (size_t)x.bytes);
          if (mode == 1 && s.k > 0)
            for (int64_t m = 0; m < s.m; m++) x.f()[m * s.k + s.k / 3] = 20 * gauss(), x.f()[m * s.k + below(s.k)] = 9;
          if (mode == 0) for (int64_t i = 0; i < x.size(); i++) x.f()[i] = std::fmin(3.f, std::fmax(-3.f, x.f()[i]));
          for (int64_t i = 0; i < s.n; i++) scb.f()[i] = std::fabs(gauss()) * 0.1f;
          memset(seen.data, 0, (size_t)s.k);
          const float threshold = mode == 3 ? 0.0f : mode == 2 ? 3.0f : 6.0f;
          const Extras extras(s.m, s.n, variant++);
          const Array y = run_all(e.isa, e.kernel, machines, {&x, &w, &scb, extras.b(), extras.r(), &seen},
                                  {word(threshold), word(extras.act)}, s.m, s.n);
          std::vector<float> scale((size_t)s.m);
          std::vector<int> q((size_t)(s.m * s.k));
          std::vector<uint8_t> out((size_t)s.k, 0);
          for (int64_t m = 0; m < s.m; m++) {
            float high = 0;
            for (int64_t k = 0; k < s.k; k++) {
              const float a = std::fabs(x.f()[m * s.k + k]);
              if (!(threshold > 0) || a < threshold) high = std::fmax(high, a);
            }
            scale[(size_t)m] = high;
            volatile float inverse = high > 0 ? 1.0f / high : 0.0f;
            volatile float factor = inverse * 127.0f;
            for (int64_t k = 0; k < s.k; k++) {
              const float v = x.f()[m * s.k + k];
              volatile float scaled = v * factor;
              const bool outlier = threshold > 0 && std::fabs(v) >= threshold;
              if (outlier) out[(size_t)k] = 1;
              q[(size_t)(m * s.k + k)] = outlier ? 0 : (int)std::nearbyint(scaled);
            }
          }
          if (s.k > 0 && memcmp(out.data(), seen.data, (size_t)s.k)) fail(e.isa, text("seen, mode %d, %ldx%ldx%ld", mode, s.m, s.n, s.k));
          const double error = compare(y, [&](int64_t m, int64_t n, double& size) {
            int64_t acc = 0;
            double extra = 0;
            for (int64_t k = 0; k < s.k; k++) {
              const float v = x.f()[m * s.k + k];
              acc += q[(size_t)(m * s.k + k)] * rows.c()[n * s.k + k];
              if (threshold > 0 && std::fabs(v) >= threshold) {
                const double p = (double)v * rows.c()[n * s.k + k] * scb.f()[n] / 127;
                extra += p;
                size += std::fabs(p);
              }
            }
            const double main = (double)acc * scale[(size_t)m] * scb.f()[n] / 16129;
            size += 1 + std::fabs(main);
            return extras.apply(main + extra, m, n, s.n);
          });
          if (!(error < 1e-6)) fail(e.isa, text("llm_int8 panels %d mode %d %ldx%ldx%ld: %g", panels, mode, s.m, s.n, s.k, error));
          worst = std::fmax(worst, error);
          if (s.m > 1 && !extras.has_residual) {
            Array one(DType::f32, {1, s.k}), y1(DType::f32, {1, s.n});
            const int64_t r = below(s.m);
            memcpy(one.data, x.f() + r * s.k, (size_t)one.bytes);
            must(e.isa, e.kernel, machines[1]->call({&one, &w, &scb, extras.b(), nullptr, nullptr, &y1}, {word(threshold), word(extras.act)}));
            if (memcmp(y1.data, y.f() + r * s.n, (size_t)y1.bytes)) fail(e.isa, text("llm_int8: a row depends on its neighbours (mode %d, %ldx%ldx%ld panels %d)", mode, s.m, s.n, s.k, panels));
          }
        }
    // A NaN row gives NaN, Inf does no harm, the rows beside them are as ever.
    const Array rows = random_rows(DType::i8, 20, 40), w = naive_panels(rows);
    Array x(DType::f32, {3, 40}), scb(DType::f32, {20}), y(DType::f32, {3, 20}), y2(DType::f32, {3, 20});
    x.fill_gauss();
    scb.fill_gauss();
    must(e.isa, e.kernel, machines[0]->call({&x, &w, &scb, nullptr, nullptr, nullptr, &y2}, {word(6.0f), word(0)}));
    x.f()[3] = NAN;
    x.f()[45] = INFINITY;
    for (float threshold : {6.0f, 0.0f}) {
      must(e.isa, e.kernel, machines[0]->call({&x, &w, &scb, nullptr, nullptr, nullptr, &y}, {word(threshold), word(0)}));
      for (int n = 0; n < 20; n++) {
        if (y.f()[n] == y.f()[n]) fail(e.isa, "a NaN row is not NaN");
        if (threshold > 0 && y.f()[40 + n] != y2.f()[40 + n]) fail(e.isa, "a NaN row disturbs others");
      }
    }
    std::printf("  %-20s %-11s %.1e\n", "llm_int8_linear", e.isa, worst);
  }
}

const float kTables[2][16] = {
    {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
     -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
     0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f},
    {0, 0.0052083335f, 0.6666667f, 1, 0.33333334f, 0.5f, 0.16666667f, 0.25f, -0.f, -0.0052083335f, -0.6666667f, -1, -0.33333334f, -0.5f,
     -0.16666667f, -0.25f}};

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
      volatile float product = codes ? map.f()[absmax.u()[b]] * nested.f()[b / 256] : absmax.f()[b];
      const float factor = codes ? product + offset.f()[0] : product;
      const uint8_t byte = rows.u()[i / 2];
      dense[(size_t)i] = kTables[kind][i & 1 ? byte & 15 : byte >> 4] * factor;
    }
  }
  const Array* a(int i) const {
    const Array* all[] = {&absmax, &nested, &map, &offset};
    return i == 0 || codes ? all[i] : nullptr;
  }
};

void test_four_bit(std::vector<std::unique_ptr<Machine>>& machines) {
  for (const Entry& e : kernels_named("four_bit_linear")) {
    double worst = 0, worst_bf16 = 0;
    int variant = 0;
    for (const Shape& s : kShapes)
      for (bool panels : {true, false})
        for (int64_t blocksize : {32, 64, 4096}) {
          if (panels && s.k % 8) continue;
          const int kind = variant % 2;
          const FourBitMatrix matrix(s.n, s.k, kind, blocksize, variant % 4 < 2);
          const Array w = panels ? naive_panels(matrix.rows) : matrix.rows;
          Array x(DType::f32, {s.m, s.k});
          x.fill_gauss();
          const Extras extras(s.m, s.n, variant++);
          for (int compute = 0; compute < 2; compute++) {
            const Array y = run_all(e.isa, e.kernel, machines,
                                    {&x, &w, matrix.a(0), matrix.a(1), matrix.a(2), matrix.a(3), extras.b(), extras.r()},
                                    {word(kind), word((int)blocksize), word(extras.act), word(compute)}, s.m, s.n);
            const double error = compare(y, [&](int64_t m, int64_t n, double& size) {
              double sum = 0;
              for (int64_t k = 0; k < s.k; k++) {
                const double p = (double)x.f()[m * s.k + k] * matrix.dense[(size_t)(n * s.k + k)];
                sum += p;
                size += std::fabs(p);
              }
              size += 1;
              return extras.apply(sum, m, n, s.n);
            });
            double& most = compute ? worst_bf16 : worst;
            most = std::fmax(most, error);
            if (!(error < (compute ? 8e-3 : 1e-6)))
              fail(e.isa, text("four_bit panels %d bs %ld nested %d compute %d %ldx%ldx%ld: %g", panels, blocksize, matrix.codes, compute, s.m, s.n, s.k, error));
          }
        }
    std::printf("  %-20s %-11s %.1e  (bf16 products allowed: %.1e)\n", "four_bit_linear", e.isa, worst, worst_bf16);
  }
}

// ---- quantization ----

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
    std::printf("  %-20s %-11s exact\n", "llm_int8 codes", e.isa);
  }

  const float nf4[15] = {-0.84809637f, -0.6106329f, -0.45999527f, -0.33967942f, -0.2346074f, -0.13791174f, -0.045525018f, 0.03979015f,
                         0.12025525f, 0.20352125f, 0.29201376f, 0.38931254f, 0.50166345f, 0.6427869f, 0.86147845f};
  // f32 midpoints; halves go to the lower value, so a negative number is beyond a threshold that it equals.
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
              must(e.isa, e.kernel, machine.call({&part, &codes, &absmax}, {word(kind), word((int)blocksize), word((int)from)}));
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
            must(e.isa, back, machine.call({&w, matrix.a(0), matrix.a(1), matrix.a(2), matrix.a(3), &dense}, {word(variant & 1), word((int)blocksize)}));
            for (int64_t i = 0; i < n * k; i++)
              if (dense.f()[i] != matrix.dense[(size_t)i]) { fail(e.isa, text("four_bit_dequantize %ldx%ld bs %ld panels %d at %ld", n, k, blocksize, panels, i)); break; }
          }
        }
    std::printf("  %-20s %-11s exact\n", "four_bit codes", e.isa);
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
    std::printf("  %-20s %-11s exact\n", "double_quantize", e.isa);
  }
}

}  // namespace

int main() {
  std::vector<std::unique_ptr<Machine>> machines;
  for (int threads : {1, 2, 3}) machines.push_back(std::make_unique<Machine>(threads));
  std::printf("largest errors, relative to the sum of the products' magnitudes\n");
  test_pack(*machines[1]);
  test_quantize(*machines[1]);
  test_linear(machines);
  test_llm_int8(machines);
  test_four_bit(machines);
  std::printf(failures ? "%d failures\n" : "all well\n", failures);
  return failures ? 1 : 0;
}
