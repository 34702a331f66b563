// Speed of the matrix kernels compared with this machine's limits, measured in the same run.
//   node native/test/run.mjs bench matrix [threads] [isa] [decode|cached|prefill|load|all] [the start of a format's name]
#include <cmath>

#include "bench.h"

namespace {

Limits limits;
const char* only = "";

struct Weight {
  const char* name;
  const char* op;
  DType dtype;
  double bytes;  // per weight
  int compute;
  int nested;
};
const Weight kWeights[] = {{"f32", "linear", DType::f32, 4, 0, 0},        {"f16", "linear", DType::f16, 2, 0, 0},
                           {"bf16", "linear", DType::bf16, 2, 1, 0},
                           {"bf16 f32", "linear", DType::bf16, 2, 0, 0},      {"int8", "llm_int8_linear", DType::i8, 1, 0, 0},
                           {"nf4", "four_bit_linear", DType::u4, 0.5625, 0, 0},
                           {"nf4 double", "four_bit_linear", DType::u4, 0.5159, 0, 1},
                           {"nf4 bf16", "four_bit_linear", DType::u4, 0.5159, 1, 1},
                           {"nf4 int8", "four_bit_linear", DType::u4, 0.5625, 2, 0},
                           {"nf4 int8 dq", "four_bit_linear", DType::u4, 0.5159, 2, 1}};

struct Layer {
  Array w, scb, absmax, nested, map, offset;
  Layer(const Weight& kind, int64_t n, int64_t k) : w(kind.dtype, {n, k}, true) {
    for (int64_t i = 0; i < w.bytes; i++) w.u()[i] = (uint8_t)(i * 37 + (i >> 7));
    if (kind.dtype == DType::f32)
      for (int64_t i = 0; i < w.bytes / 4; i++) w.f()[i] = (float)(i % 7) - 3;
    if (kind.dtype == DType::bf16 || kind.dtype == DType::f16)
      for (int64_t i = 0; i < w.bytes / 2; i++) w.h()[i] = (uint16_t)(0x3c00 + i % 64);
    scb = Array(DType::f32, {n});
    for (int64_t i = 0; i < n; i++) scb.f()[i] = 1;
    const int64_t blocks = n * k / 64;
    absmax = Array(kind.nested ? DType::u8 : DType::f32, {blocks});
    if (kind.nested)
      memset(absmax.data, 3, (size_t)absmax.bytes);
    else
      for (int64_t i = 0; i < blocks; i++) absmax.f()[i] = 1;
    nested = Array(DType::f32, {(blocks + 255) / 256});
    for (int64_t i = 0; i < nested.size(); i++) nested.f()[i] = 1;
    map = Array(DType::f32, {256});
    for (int i = 0; i < 256; i++) map.f()[i] = (float)i;
    offset = Array(DType::f32, {1});
    offset.f()[0] = 1;
  }
};

void run(Machine& machine, const Kernel* kernel, const Weight& kind, const Layer& l, const Array& x, const Array& y) {
  const char* wrong;
  if (kind.dtype == DType::i8)
    wrong = kernel->run(machine.call({&x, &l.w, &l.scb, nullptr, nullptr, nullptr, &y}, {word(6.0f), word(0)}));
  else if (kind.dtype == DType::u4)
    wrong = kernel->run(machine.call({&x, &l.w, &l.absmax, kind.nested ? &l.nested : nullptr, kind.nested ? &l.map : nullptr,
                                      kind.nested ? &l.offset : nullptr, nullptr, nullptr, &y},
                                     {word(0), word(64), word(0), word(kind.compute), word(0)}));
  else
    wrong = kernel->run(machine.call({&x, &l.w, nullptr, nullptr, &y}, {word(0), word(kind.compute)}));
  if (wrong) std::printf("%s\n", wrong), exit(1);
}

// From memory, or of a matrix that stays in caches: the kernel's speed if memory were faster.
void decode(Machine& machine, const std::string& isa, int64_t m, bool cached) {
  std::printf("\ndecode%s, %ld row%s: GB/s of weights (share of stream)\n", cached ? " from caches" : "", m, m > 1 ? "s" : "");
  using Shapes = std::vector<std::pair<int64_t, int64_t>>;
  const Shapes shapes = cached ? Shapes{{512, 2048}, {256, 5632}} : Shapes{{5632, 2048}, {2048, 5632}, {2048, 2048}, {32000, 2048}};
  for (const Weight& kind : kWeights) {
    if (strncmp(kind.name, only, strlen(only))) continue;
    std::printf("  %-11s", kind.name);
    for (auto [n, k] : shapes) {
      // enough layers that no cache holds them
      const int64_t bytes = (int64_t)(kind.bytes * (double)(n * k));
      const int64_t count = cached ? 1 : std::max<int64_t>(1, (int64_t)(160e6 / (double)bytes));
      std::vector<std::unique_ptr<Layer>> layers;
      for (int64_t i = 0; i < count; i++) layers.push_back(std::make_unique<Layer>(kind, n, k));
      Array x(DType::f32, {m, k}), y(DType::f32, {m, n});
      x.fill_gauss();
      const Kernel* kernel = find(kind.op, isa);
      const Time t = measure([&] {
        for (auto& l : layers) run(machine, kernel, kind, *l, x, y);
      });
      const double rate = (double)(bytes * count) / t.median / 1e9;
      std::printf("  %ldx%ld %5.1f (%3.0f%%)", n, k, rate, 100 * rate / limits.stream);
    }
    std::printf("\n");
  }
}

void prefill(Machine& machine, const std::string& isa, int64_t m, int64_t n, int64_t k) {
  std::printf("\nprefill %ldx%ldx%ld: GOP/s (share of the unit's peak)\n", m, k, n);
  for (const Weight& kind : kWeights) {
    if (strncmp(kind.name, only, strlen(only))) continue;
    const Layer l(kind, n, k);
    Array x(DType::f32, {m, k}), y(DType::f32, {m, n});
    x.fill_gauss();
    const double limit = kind.dtype == DType::i8 ? limits.int8 : kind.compute == 2 ? limits.int8 : kind.compute ? limits.bf16 : limits.fma;
    for (int outliers = 0; outliers < (kind.dtype == DType::i8 ? 3 : 1); outliers++) {
      const int64_t columns = outliers == 0 ? 0 : outliers == 1 ? k / 1000 : k / 100;
      for (int64_t i = 0; i < m * k; i++) x.f()[i] = std::fmin(5.0f, std::fmax(-5.0f, x.f()[i]));
      for (int64_t r = 0; r < m; r++)
        for (int64_t c = 0; c < columns; c++) x.f()[r * k + (c * 7919) % k] = 8;
      const Time t = measure([&] { run(machine, find(kind.op, isa), kind, l, x, y); });
      const double work = 2.0 * (double)m * (double)n * (double)k;
      std::printf("  %-11s %8.0f best %8.0f median (%3.0f%%)", kind.name, work / t.best / 1e9, work / t.median / 1e9,
                  100 * work / t.median / 1e9 / limit);
      if (columns) std::printf("  %ld columns of outliers", columns);
      std::printf("\n");
    }
  }
}

void load(Machine& machine, const std::string& isa) {
  std::printf("\nload: GB/s of bf16 input\n");
  const int64_t n = 5632, k = 2048;
  Array w(DType::bf16, {n, k}), i8(DType::i8, {n, k}, true), scb(DType::f32, {n}), u4(DType::u4, {n, k}), u4p(DType::u4, {n, k}, true),
      absmax(DType::f32, {n * k / 64}), bf16(DType::bf16, {n, k}, true);
  w.fill_gauss();
  const double bytes = (double)w.bytes / 1e9;
  const auto line = [&](const char* name, const std::function<void()>& f) {
    const Time t = measure(f);
    std::printf("  %-24s %6.2f\n", name, bytes / t.median);
  };
  line("llm_int8_quantize", [&] { find("llm_int8_quantize", isa)->run(machine.call({&w, &i8, &scb}, {word(0)})); });
  line("four_bit_quantize nf4", [&] { find("four_bit_quantize", isa)->run(machine.call({&w, &u4, &absmax}, {word(0), word(64), word(0), word(0)})); });
  line("four_bit_quantize fp4", [&] { find("four_bit_quantize", isa)->run(machine.call({&w, &u4, &absmax}, {word(1), word(64), word(0), word(0)})); });
  line("four_bit_quantize nf4 searched", [&] { find("four_bit_quantize", isa)->run(machine.call({&w, &u4, &absmax}, {word(0), word(64), word(0), word(1)})); });
  line("pack bf16", [&] { find("pack", isa)->run(machine.call({&w, &bf16}, {word(0)})); });
  line("pack u4", [&] { find("pack", isa)->run(machine.call({&u4, &u4p}, {word(0)})); });
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? atoi(argv[1]) : 2;
  const std::string isa = argc > 2 && strcmp(argv[2], "best") ? argv[2] : "";
  const std::string what = argc > 3 ? argv[3] : "all";
  if (argc > 4) only = argv[4];
  Machine machine(threads);
  machine.dirty = false;

  limits = measure_limits(machine, threads);
  if (what == "decode" || what == "all") {
    decode(machine, isa, 1, false);
    decode(machine, isa, 8, false);
  }
  if (what == "cached" || what == "all") {
    decode(machine, isa, 1, true);
    decode(machine, isa, 8, true);
  }
  if (what == "prefill" || what == "all") {
    prefill(machine, isa, 512, 5632, 2048);
    prefill(machine, isa, 512, 2048, 5632);
  }
  if (what == "load" || what == "all") load(machine, isa);
}
