// Speed of attention compared with this machine's limits, measured in the same run: over contiguous caches and over pages of
// 16 tokens in random order.
//   node native/test/run.mjs bench attention [threads] [isa] [decode|prefill|rows|all] [dtype]
#include "attention_case.h"
#include "bench.h"

namespace {

const char* only = "";
constexpr DType kTypes[] = {DType::f32, DType::bf16, DType::f16, DType::i8};

const char* name_of(DType dtype) {
  return dtype == DType::f32 ? "f32" : dtype == DType::bf16 ? "bf16" : dtype == DType::i8 ? "int8" : "f16";
}

// Keys and values of one layer: room for `pages` pages of c.S tokens.
Array store(const Case& c, DType dtype, int64_t pages, int64_t width) {
  const int64_t n = pages * c.G * c.S * width;
  Array x = flat(dtype, n);
  const int64_t some = std::min<int64_t>(n, 4096);
  for (int64_t i = 0; i < some; i++) x.set(i, dtype == DType::i8 ? (float)below(255) - 127 : gauss());
  for (int64_t at = some; at < n; at += some)
    memcpy(x.data + bytes_of(dtype, at), x.data, (size_t)bytes_of(dtype, std::min(some, n - at)));
  return x;
}

// Rows that hold `lengths` keys, of which the last `steps` are queries; pages of `size` tokens, or of a whole row if that is 0.
void lay_rows(Case& c, const std::vector<int64_t>& lengths, int64_t steps, int64_t size) {
  c.B = (int64_t)lengths.size(), c.T = steps;
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  c.S = size > 0 ? size : longest;
  const int64_t columns = (longest + c.S - 1) / c.S;
  c.R = c.B, c.C = columns + 1, c.P = c.R * columns;
  std::vector<int32_t> ids((size_t)c.P);
  for (size_t i = 0; i < ids.size(); i++) ids[i] = (int32_t)i;
  if (size > 0) std::shuffle(ids.begin(), ids.end(), random_bits());
  c.table = flat(DType::i32, c.R * c.C);
  c.lanes = flat(DType::i32, 2 * c.B * c.T);
  for (int64_t r = 0; r < c.R; r++) {
    *c.held(r) = (int32_t)lengths[(size_t)r];
    memcpy(c.held(r) + 1, ids.data() + r * columns, sizeof(int32_t) * (size_t)columns);
    for (int64_t t = 0; t < c.T; t++) {
      *c.row(r, t) = (int32_t)r;
      *c.position(r, t) = (int32_t)(lengths[(size_t)r] - steps + t);
    }
  }
}

int64_t pages_of(const Case& c) { return c.P; }

// Seconds of one call over one of many layers, too many for any cache of the machine.
double time_of(Machine& machine, const Kernel* kernel, Case& c, DType dtype, int64_t least_layers) {
  c.q = flat(DType::f32, c.B * c.T * c.H * c.D);
  c.q.fill_gauss();
  const Array first = store(c, dtype, pages_of(c), c.D);
  const int64_t layers = std::max<int64_t>(least_layers, least_layers > 1 ? ((int64_t)192 << 20) / (2 * first.bytes) : 1);
  const std::vector<Array> caches((size_t)layers * 2, first);
  c.k = first, c.v = first;
  c.scales = Array();
  if (dtype == DType::i8) {
    c.scales = flat(DType::f32, 2 * pages_of(c) * c.G * c.S);
    for (int64_t i = 0; i < c.scales.size(); i++) c.scales.set(i, 1);
  }
  c.y = flat(DType::f32, c.B * c.T * c.H * c.E);
  Call call = call_of(c);
  machine.attach(call);
  const Time t = measure([&] {
    for (size_t l = 0; l < (size_t)layers; l++) {
      call.t[kK].data = caches[2 * l].data;
      call.t[kV].data = caches[2 * l + 1].data;
      if (const char* error = kernel->run(call)) std::printf("  %s\n", error), exit(1);
    }
  });
  return t.median / (double)layers;
}

Case make_case(int64_t H, int64_t G, int64_t D) {
  Case c;
  c.H = H, c.G = G, c.D = c.E = D, c.causal = 1, c.scale = 0.125f, c.compute = 1;
  return c;
}

constexpr int64_t kSizes[] = {0, 16};

void decode(Machine& machine, const Kernel* kernel, const Limits& limits) {
  std::printf("\ndecode, 32 heads: us, GB/s of keys and values (share of stream)\n");
  struct Shape {
    int keys, size, batch, groups;
  };
  for (const Shape& s : {Shape{2048, 64, 1, 4}, {8192, 64, 1, 4}, {2048, 64, 8, 4}, {2048, 64, 1, 32}, {2048, 128, 1, 8}, {2048, 128, 8, 8}})
    for (DType dtype : kTypes)
      for (int64_t size : kSizes) {
        if (*only && strcmp(name_of(dtype), only)) continue;
        Case c = make_case(32, s.groups, s.size);
        lay_rows(c, std::vector<int64_t>((size_t)s.batch, s.keys), 1, size);
        const double seconds = time_of(machine, kernel, c, dtype, 2);
        const int64_t rows = (int64_t)s.batch * s.groups * s.keys;
        const double bytes = 2.0 * (double)(bytes_of(dtype, rows * s.size) + (dtype == DType::i8 ? 4 * rows : 0));
        const double rate = bytes / seconds / 1e9;
        std::printf("  %d keys, batch %d, %2d key heads of %3d, %-4s %-10s %7.1f  %5.1f (%3.0f%%)\n", s.keys, s.batch, s.groups, s.size,
                    name_of(dtype), size ? "pages" : "contiguous", seconds * 1e6, rate, 100 * rate / limits.stream);
      }
}

void prefill(Machine& machine, const Kernel* kernel, const Limits& limits) {
  std::printf("\nprefill of 512, causal: ms, GFLOP/s (share of the unit's peak)\n");
  struct Shape {
    int past, H, G, D;
  };
  for (const Shape& s : {Shape{0, 32, 4, 64}, Shape{1536, 32, 4, 64}, Shape{0, 32, 8, 128}, Shape{1536, 32, 8, 128}})
    for (DType dtype : kTypes)
      for (int64_t size : kSizes) {
        if (*only && strcmp(name_of(dtype), only)) continue;
        Case c = make_case(s.H, s.G, s.D);
        lay_rows(c, {s.past + 512}, 512, size);
        const double seconds = time_of(machine, kernel, c, dtype, 1);
        const double rate = (double)c.H * (512.0 * s.past + 512.0 * 513 / 2) * (double)(c.D + c.E) * 2 / seconds / 1e9;
        std::printf("  at %4d, %2d heads of %3d, %2d key heads, %-4s %-10s %7.2f  %6.1f (%3.0f%%)\n", s.past, s.H, s.D, s.G, name_of(dtype),
                    size ? "pages" : "contiguous", seconds * 1e3, rate,
                    100 * rate / (dtype == DType::bf16 && limits.bf16 > 0 ? limits.bf16 : limits.fma));
      }
}

// Eight rows of 16 to 900 keys beside eight equal rows with as many keys in all.
void rows(Machine& machine, const Kernel* kernel) {
  std::printf("\neight rows of 16 to 900 keys, 32 heads: us, of equal rows, share of their speed\n");
  const std::vector<int64_t> mixed = {16, 100, 230, 333, 480, 640, 801, 900}, equal = {437, 437, 437, 437, 438, 438, 438, 438};
  for (int64_t D : {64, 128})
    for (DType dtype : kTypes)
      for (int64_t size : kSizes) {
        if (*only && strcmp(name_of(dtype), only)) continue;
        Case a = make_case(32, 4, D), b = make_case(32, 4, D);
        lay_rows(a, mixed, 1, size);
        lay_rows(b, equal, 1, size);
        double ours = 1e9, theirs = 1e9;
        for (int i = 0; i < 3; i++) {
          ours = std::min(ours, time_of(machine, kernel, a, dtype, 2));
          theirs = std::min(theirs, time_of(machine, kernel, b, dtype, 2));
        }
        std::printf("  heads of %3d, %-4s %-10s %7.1f  %7.1f  %4.0f%%\n", (int)D, name_of(dtype), size ? "pages" : "contiguous", ours * 1e6,
                    theirs * 1e6, 100 * theirs / ours);
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
  if (what == "rows" || what == "all") rows(machine, kernel);
}
