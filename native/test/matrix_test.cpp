// Every matrix kernel on every instruction set of this machine against a naive twin: plain loops, sums in double or in
// exact integers. Prints the largest error per op and instruction set; exits with 1 if one is too large.
#include <functional>

#include "matrix.h"

namespace {

double act(int code, double x) {
  switch (code) {
    case 1: return x < 0 ? 0 : x;
    case 2: return x / 2 * (1 + std::erf(x / std::sqrt(2.0)));
    case 4: return x / (1 + std::exp(-x));
    default: return x;
  }
}

struct Shape {
  int64_t m, n, k;
};
const std::vector<Shape> kShapes = {{1, 16, 16},  {1, 1, 1},    {1, 5, 7},    {0, 16, 8},   {2, 33, 40},  {5, 17, 31},
                                    {17, 50, 72}, {64, 48, 64}, {3, 70, 129}, {12, 16, 100}, {13, 40, 24}, {26, 64, 256},
                                    {9, 31, 8},   {4, 80, 300}, {1, 200, 520}, {60, 33, 1000}, {7, 20, 0}, {6, 100, 96},
                                    {250, 40, 208}, {500, 20, 64}, {1, 70, 192}, {37, 33, 512}, {5, 18, 4096},
                                    {1, 1100, 64}};  // wide groups of panels with one thread and two, not with three

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

// Runs with 1, 2 and 3 threads, requires the same bits each time, and returns the result.
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
          // a row does not depend on the rows beside it (AMX is used from a certain number of rows on, with another order of sums)
          if (s.m > 1 && !extras.has_residual && (strncmp(e.isa, "amx", 3) || s.m <= 12)) {
            Array one(DType::f32, {1, s.k}), y1(DType::f32, {1, s.n});
            const int64_t r = below(s.m);
            memcpy(one.data, x.f() + r * s.k, (size_t)one.bytes);
            must(e.isa, e.kernel, machines[1]->call({&one, &w, extras.b(), nullptr, &y1}, {word(extras.act)}));
            if (memcmp(y1.data, y.f() + r * s.n, (size_t)y1.bytes)) fail(e.isa, text("linear: a row depends on its neighbours (dtype %d, m %ld)", (int)dtype, s.m));
          }
        }
      std::printf("  %-20s %-12s %.1e  (dtype %d)\n", "linear", e.isa, worst, (int)dtype);
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
    // A NaN row gives NaN, Inf does no harm, the rows beside them are unaffected.
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
    std::printf("  %-20s %-12s %.1e\n", "llm_int8_linear", e.isa, worst);
  }
}

// 8-bit products of a 4-bit matrix by definition, in exact integers: x in codes of one scale per block.
struct CodedTwin {
  std::vector<int> x, w;
  std::vector<double> scale;  // [m][k / blocksize]
  int64_t k, block;

  CodedTwin(const Array& rows, const FourBitMatrix& matrix, int kind, int64_t m, int64_t columns, int64_t blocksize)
      : x((size_t)(m * columns)), w(matrix.dense.size()), scale((size_t)(m * columns / blocksize)), k(columns), block(blocksize) {
    for (size_t b = 0; b < scale.size(); b++) {
      float high = 0;
      for (int64_t i = 0; i < block; i++) high = std::fmax(high, std::fabs(rows.f()[(int64_t)b * block + i]));
      scale[b] = high / 127.0;
      volatile float inverse = high > 0 ? 1.0f / high : 0.0f;
      volatile float factor = inverse * 127.0f;
      for (size_t i = b * (size_t)block; i < (b + 1) * (size_t)block; i++) {
        volatile float scaled = rows.f()[i] * factor;
        x[i] = (int)std::nearbyint(scaled);
      }
    }
    for (size_t i = 0; i < w.size(); i++) {
      const uint8_t byte = matrix.rows.u()[i / 2];
      w[i] = (int)std::nearbyint(127 * kTables[kind][i & 1 ? byte & 15 : byte >> 4]);
    }
  }
  double sum(int64_t m, int64_t n, const FourBitMatrix& matrix, double& size) const {
    double all = 0;
    for (int64_t b = 0; b < k / block; b++) {
      int64_t part = 0;
      for (int64_t i = b * block; i < (b + 1) * block; i++) part += x[(size_t)(m * k + i)] * w[(size_t)(n * k + i)];
      const double p = (double)part * scale[(size_t)(m * k / block + b)] * matrix.factor(n * k / block + b) / 127;
      all += p;
      size += std::fabs(p);
    }
    return all;
  }
};

void test_four_bit(std::vector<std::unique_ptr<Machine>>& machines) {
  for (const Entry& e : kernels_named("four_bit_linear")) {
    double worst[3] = {0, 0, 0};
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
          // Only exact products round what they decode.
          for (int how = 0; how < 5; how++) {
            const int compute = how < 3 ? how : 0, rounding = how < 3 ? 0 : how - 2;
            const std::vector<float> dense = rounded_values(matrix.dense, rounding);
            const Array y = run_all(e.isa, e.kernel, machines,
                                    {&x, &w, matrix.a(0), matrix.a(1), matrix.a(2), matrix.a(3), extras.b(), extras.r()},
                                    {word(kind), word((int)blocksize), word(extras.act), word(compute), word(rounding)}, s.m, s.n);
            // Matrix units use bf16 products instead of 8-bit ones; other blocks are multiplied exactly.
            const bool tiles = !strncmp(e.isa, "amx", 3) && s.m > 12;
            const bool coded = compute == 2 && s.k % blocksize == 0 && s.k > 0 && !tiles;
            const auto twin = coded ? std::make_unique<CodedTwin>(x, matrix, kind, s.m, s.k, blocksize) : nullptr;
            const double error = compare(y, [&](int64_t m, int64_t n, double& size) {
              if (twin) {
                size += 1;
                return extras.apply(twin->sum(m, n, matrix, size), m, n, s.n);
              }
              double sum = 0;
              for (int64_t k = 0; k < s.k; k++) {
                const double p = (double)x.f()[m * s.k + k] * dense[(size_t)(n * s.k + k)];
                sum += p;
                size += std::fabs(p);
              }
              size += 1;
              return extras.apply(sum, m, n, s.n);
            });
            worst[compute] = std::fmax(worst[compute], error);
            if (!(error < (compute == 1 || (compute == 2 && tiles) ? 8e-3 : 1e-6)))
              fail(e.isa, text("four_bit panels %d bs %ld nested %d compute %d rounding %d %ldx%ldx%ld: %g", panels, blocksize, matrix.codes, compute, rounding, s.m, s.n, s.k, error));
          }
        }
    std::printf("  %-20s %-12s %.1e  (bf16 products allowed: %.1e)\n", "four_bit_linear", e.isa, worst[0], worst[1]);
    std::printf("  %-20s %-12s %.1e  (8-bit products)\n", "four_bit_linear", e.isa, worst[2]);
  }
}

// dx = dy · W: sums over the outputs.
void test_back(std::vector<std::unique_ptr<Machine>>& machines) {
  const std::vector<Shape> shapes = {{1, 1, 1}, {1, 40, 24}, {5, 18, 17}, {13, 72, 33}, {64, 31, 40}, {70, 400, 50}, {600, 48, 24}};
  const auto check = [&](const Entry& e, const char* what, const Shape& s, int compute, const std::vector<const Array*>& matrix,
                         std::vector<Call::Word> attrs, const std::function<double(int64_t)>& w, double& worst) {
    Array dy(DType::f32, {s.m, s.n});
    dy.fill_gauss();
    std::vector<const Array*> operands = {&dy};
    operands.insert(operands.end(), matrix.begin(), matrix.end());
    attrs.push_back(word(compute));
    const Array dx = run_all(e.isa, e.kernel, machines, operands, attrs, s.m, s.k);
    const double error = compare(dx, [&](int64_t m, int64_t k, double& size) {
      double sum = 0;
      for (int64_t n = 0; n < s.n; n++) {
        const double p = (double)dy.f()[m * s.n + n] * w(n * s.k + k);
        sum += p;
        size += std::fabs(p);
      }
      return sum;
    });
    worst = std::fmax(worst, error);
    if (!(error < (compute ? 8e-3 : 1e-6))) fail(e.isa, text("%s compute %d %ldx%ldx%ld: %g", what, compute, s.m, s.n, s.k, error));
  };
  for (const char* name : {"linear_back", "llm_int8_back", "four_bit_back"})
    for (const Entry& e : kernels_named(name)) {
      double worst[2] = {0, 0};
      for (const Shape& s : shapes)
        for (bool panels : {true, false})
          for (int compute : {0, 1}) {
            const auto stored = [&](const Array& rows) { return panels ? naive_panels(rows) : rows; };
            if (!strcmp(name, "linear_back")) {
              for (DType dtype : {DType::f32, DType::f16, DType::bf16}) {
                const Array rows = random_rows(dtype, s.n, s.k), w = stored(rows);
                check(e, name, s, compute, {&w}, {}, [&](int64_t i) { return rows.at(i); }, worst[compute]);
              }
            } else if (!strcmp(name, "llm_int8_back")) {
              const Array rows = random_rows(DType::i8, s.n, s.k), w = stored(rows);
              Array scb(DType::f32, {s.n});
              for (int64_t i = 0; i < s.n; i++) scb.f()[i] = std::fabs(gauss()) * 0.1f;
              check(e, name, s, compute, {&w, &scb}, {}, [&](int64_t i) { return rows.c()[i] * (double)scb.f()[i / s.k] / 127; }, worst[compute]);
            } else if (!panels || s.k % 8 == 0) {
              const FourBitMatrix matrix(s.n, s.k, 0, 64, compute == 1);
              const Array w = stored(matrix.rows);
              check(e, name, s, compute, {&w, matrix.a(0), matrix.a(1), matrix.a(2), matrix.a(3)}, {word(0), word(64), word(0)},
                    [&](int64_t i) { return matrix.dense[(size_t)i]; }, worst[compute]);
            }
          }
      std::printf("  %-20s %-12s %.1e  (bf16 products allowed: %.1e)\n", name, e.isa, worst[0], worst[1]);
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
  test_back(machines);
  std::printf(failures ? "%d failures\n" : "all well\n", failures);
  return failures ? 1 : 0;
}
