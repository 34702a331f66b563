// Speed of attention beside what this machine can do at all, measured in the same run.
//   node native/test/run.mjs bench attention [threads] [isa] [decode|prefill|all] [dtype]
#include "attention_case.h"
#include "bench.h"

namespace {

const char* only = "";

const char* name_of(DType dtype) {
  return dtype == DType::f32 ? "f32" : dtype == DType::bf16 ? "bf16" : dtype == DType::i8 ? "int8" : "f16";
}

// Scales of codes, where the cache holds such.
void add_scales(Case& c) {
  if (c.k.dtype != DType::i8) return;
  c.scales = flat(DType::f32, 2 * c.B * c.G * c.S);
  for (int64_t i = 0; i < c.scales.size(); i++) c.scales.set(i, 1);
}

// `layers` caches, enough that no cache of the machine holds them.
void decode(Machine& machine, const Kernel* kernel, const Limits& limits) {
  std::printf("\ndecode, 32 heads: us, GB/s of keys and values (share of stream)\n");
  struct Shape {
    int keys, size, batch, groups;
  };
  for (const Shape& s : {Shape{2048, 64, 1, 4}, {8192, 64, 1, 4}, {2048, 64, 8, 4}, {2048, 64, 1, 32}, {2048, 128, 1, 8}, {8192, 128, 1, 8}})
    for (DType dtype : {DType::f32, DType::bf16, DType::f16, DType::i8}) {
      if (*only && strcmp(name_of(dtype), only)) continue;
      Case c;
      c.B = s.batch, c.H = 32, c.G = s.groups, c.S = s.keys, c.D = c.E = s.size, c.causal = 1, c.scale = 0.125f, c.compute = 1;
      const int64_t each = c.B * c.G * c.S * c.D, scales = dtype == DType::i8 ? 4 * c.B * c.G * c.S : 0;
      const int64_t bytes = 2 * (bytes_of(dtype, each) + scales);
      const int64_t layers = std::max<int64_t>(2, ((int64_t)192 << 20) / bytes);
      Array first = flat(dtype, each);
      for (int64_t i = 0; i < 4096; i++) first.set(i, dtype == DType::i8 ? (float)below(255) - 127 : gauss());
      for (int64_t at = bytes_of(dtype, 4096); at < first.bytes; at += bytes_of(dtype, 4096))
        memcpy(first.data + at, first.data, (size_t)bytes_of(dtype, 4096));
      const std::vector<Array> caches((size_t)layers * 2, first);
      c.q = flat(DType::f32, c.B * c.H * c.D);
      c.q.fill_gauss();
      c.k = first, c.v = first;
      add_scales(c);
      c.y = flat(DType::f32, c.B * c.H * c.E);
      Call call = call_of(c);
      machine.attach(call);
      const Time t = measure([&] {
        for (size_t l = 0; l < (size_t)layers; l++) {
          call.t[1].data = caches[2 * l].data;
          call.t[2].data = caches[2 * l + 1].data;
          kernel->run(call);
        }
      });
      const double seconds = t.median / (double)layers, rate = (double)bytes / seconds / 1e9;
      std::printf("  %d keys, batch %d, %2d key heads of %3d, %-4s  %7.1f  %5.1f (%3.0f%%)\n", s.keys, s.batch, s.groups, s.size,
                  name_of(dtype), seconds * 1e6, rate, 100 * rate / limits.stream);
    }
}

void prefill(Machine& machine, const Kernel* kernel, const Limits& limits) {
  std::printf("\nprefill, causal: ms, GFLOP/s (share of the unit's peak)\n");
  struct Shape {
    int T, H, G, D;
  };
  for (const Shape& s : {Shape{512, 32, 4, 64}, Shape{2048, 32, 4, 64}, Shape{512, 12, 12, 64}, Shape{512, 32, 8, 128}})
    for (DType dtype : {DType::f32, DType::bf16, DType::i8}) {
      if (*only && strcmp(name_of(dtype), only)) continue;
      Case c;
      c.H = s.H, c.G = s.G, c.T = c.S = s.T, c.D = c.E = s.D, c.causal = 1, c.scale = 0.125f, c.compute = 1;
      c.q = flat(DType::f32, c.T * c.H * c.D);
      c.k = flat(dtype, c.T * c.G * c.D);
      c.v = flat(dtype, c.T * c.G * c.D);
      for (Array* x : {&c.q, &c.k, &c.v}) x->fill_gauss(x->dtype == DType::i8 ? 20 : 1);
      add_scales(c);
      c.y = flat(DType::f32, c.T * c.H * c.E);
      Call call = call_of(c);
      machine.attach(call);
      const Time t = measure([&] { kernel->run(call); });
      const double rate = (double)c.H * s.T * (s.T + 1) / 2 * (double)(c.D + c.E) * 2 / t.median / 1e9;
      std::printf("  %4d tokens, %2d heads of %3d, %2d key heads, %-4s  %7.2f  %6.1f (%3.0f%%)\n", s.T, s.H, s.D, s.G,
                  name_of(dtype), t.median * 1e3, rate, 100 * rate / (dtype == DType::bf16 && limits.bf16 > 0 ? limits.bf16 : limits.fma));
    }
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? atoi(argv[1]) : 2;
  const std::string isa = argc > 2 && strcmp(argv[2], "best") ? argv[2] : "";
  const std::string what = argc > 3 ? argv[3] : "all";
  if (argc > 4) only = argv[4];
  Machine machine(threads);
  machine.dirty = false;
  const Limits limits = measure_limits(machine, threads);
  const Kernel* kernel = find("attention", isa);
  if (what == "decode" || what == "all") decode(machine, kernel, limits);
  if (what == "prefill" || what == "all") prefill(machine, kernel, limits);
}
