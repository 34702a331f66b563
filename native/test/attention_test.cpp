// Attention on every instruction set of this machine against its twin, with 1, 2 and 3 threads: random shapes, strides,
// number formats and masks, rows in pages; hidden keys and scratch hold NaN. Then the proofs of attention_rows.h. Exits with 1
// on any error.
//   node native/test/run.mjs test attention [cases]
#include "attention_case.h"
#include "attention_rows.h"

static int64_t pick(int64_t low, int64_t high) { return low + (int64_t)(random_bits()() % (uint64_t)(high - low + 1)); }

// Rows of random lengths in pages, and lanes: single tokens, runs and unused lanes. Returns the keys of each row.
static std::vector<int64_t> add_pages(Case& c) {
  const int64_t sizes[] = {16, 16, 16, 32, 64, 48, 7, 1, 20, 1024};
  c.R = pick(1, 5);
  c.S = sizes[pick(0, 9)];
  std::vector<int64_t> lengths((size_t)c.R, 0);
  c.lanes = flat(DType::i32, 2 * c.B * c.T);
  std::vector<int64_t> busy((size_t)c.R, 0);
  for (int64_t b = 0; b < c.B; b++)
    for (int64_t t = 0; t < c.T;) {
      const int64_t r = pick(0, c.R), count = std::min(c.T - t, pick(0, 2) ? pick(1, 40) : 1);
      const bool used = r < c.R && !busy[(size_t)r];
      const int64_t past = pick(0, pick(0, 2) ? 60 : 900);
      if (used) busy[(size_t)r] = 1, lengths[(size_t)r] = past + count;
      for (int64_t i = 0; i < count; i++, t++) {
        *c.row(b, t) = used ? (int32_t)r : -1;
        *c.position(b, t) = used ? (int32_t)(past + i) : (int32_t)pick(-3, 3);
      }
    }
  const int64_t longest = std::max<int64_t>(1, *std::max_element(lengths.begin(), lengths.end()));
  int64_t columns = (longest + c.S - 1) / c.S;
  if (pick(0, 2) == 0) {  // rings: what a run sees must fit
    c.window = (int)pick(1, 80);
    columns = std::min(columns, (c.window + 40 + c.S - 1) / c.S + 1);
  }
  c.C = 1 + columns;
  std::vector<int64_t> needed;
  int64_t all = pick(0, 3);
  for (int64_t n : lengths) all += (needed.push_back(std::min(columns, (n + c.S - 1) / c.S)), needed.back());
  c.P = std::max<int64_t>(1, all);
  std::vector<int32_t> ids((size_t)c.P);
  for (size_t i = 0; i < ids.size(); i++) ids[i] = (int32_t)i;
  std::shuffle(ids.begin(), ids.end(), random_bits());
  c.table = flat(DType::i32, c.R * c.C);
  for (int64_t i = 0; i < c.R * c.C; i++) ((int32_t*)c.table.data)[i] = -1;
  for (int64_t r = 0; r < c.R; r++) {
    *c.held(r) = (int32_t)lengths[(size_t)r];
    for (int64_t i = 0; i < needed[(size_t)r]; i++) {
      c.held(r)[1 + i] = ids.back();
      ids.pop_back();
    }
  }
  return lengths;
}

static Case random_case(int n) {
  Case c;
  const int64_t dims[] = {8, 16, 20, 24, 32, 33, 40, 48, 64, 65, 72, 80, 96, 100, 112, 128, 129, 160, 192, 256, 1, 7};
  c.G = pick(1, 3);
  c.H = c.G * (pick(0, 2) ? pick(1, 9) : 1);
  c.B = pick(1, 3);
  c.D = dims[pick(0, n % 4 == 0 ? 21 : 12)];
  c.E = pick(0, 2) ? c.D : dims[pick(0, 14)];
  c.T = pick(0, 2) == 0 ? 1 : pick(1, pick(0, 3) ? 20 : 90);
  const bool cross = pick(0, 5) == 0;  // more queries than keys
  c.S = cross ? pick(1, c.T) : c.T + pick(0, pick(0, 2) ? 100 : 900);
  std::vector<int64_t> lengths;
  if (n % 2) lengths = add_pages(c);
  const DType kinds[] = {DType::f32, DType::f16, DType::bf16, DType::i8};
  const DType kd = kinds[pick(0, 3)], vd = pick(0, 3) ? kd : kinds[pick(0, 3)];
  c.compute = (int)pick(0, 1);
  // Strides: contiguous, [B,S,G,D] permuted, or with gaps.
  const auto layout = [&](int64_t width) {
    switch (pick(0, 2)) {
      case 0: return std::vector<int64_t>{c.G * c.S * width, c.S * width, width, 1};
      case 1: return std::vector<int64_t>{c.G * c.S * width, width, c.G * width, 1};
      default: return std::vector<int64_t>{(c.G * c.S + 3) * (width + 5), c.S * (width + 5), width + 5, 1};
    }
  };
  c.ks = layout(c.D);
  c.vs = layout(c.E);
  c.qs = pick(0, 1) ? std::vector<int64_t>{c.T * c.H * c.D, c.H * c.D, c.D, 1}
                    : std::vector<int64_t>{c.T * c.H * (c.D + 3), c.D + 3, c.T * (c.D + 3), 1};
  c.q = flat(DType::f32, c.B * c.T * c.H * (c.D + 3));
  c.k = flat(kd, (c.pages() * (c.G * c.S + 3) + 9) * (c.D + 5));
  c.v = flat(vd, (c.pages() * (c.G * c.S + 3) + 9) * (c.E + 5));
  const float size = pick(0, 5) == 0 ? 100.0f : 1.0f;  // scores of about 1e4 and more
  for (int64_t i = 0; i < c.q.bytes / 4; i++) c.q.set(i, gauss() * size);
  const auto fill = [&](Array& x, int64_t n, float unit) {
    const bool codes = x.dtype == DType::i8;
    for (int64_t i = 0; i < n; i++) x.set(i, codes ? (float)pick(-127, 127) : gauss() * unit);
  };
  fill(c.k, (c.pages() * (c.G * c.S + 3) + 9) * (c.D + 5), size);
  fill(c.v, (c.pages() * (c.G * c.S + 3) + 9) * (c.E + 5), 1);
  if (kd == DType::i8 || vd == DType::i8) {
    const int64_t rows = c.pages() * c.G * c.S;
    c.scales = flat(DType::f32, 2 * rows);
    for (int64_t i = 0; i < 2 * rows; i++) c.scales.set(i, std::fabs(gauss()) * (i < rows ? size : 1.0f) + 0.1f);
  }
  c.scale = pick(0, 3) ? 1.0f / std::sqrt((float)c.D) : pick(0, 1) ? 1.0f : -0.3f;
  const bool placed = c.paged() || !cross;  // queries have a place among the keys
  c.causal = placed && (c.window > 0 || pick(0, 2) != 0);  // windows over a table are causal
  if (c.window == 0 && placed && (c.causal || !c.paged())) c.window = pick(0, 2) == 0 ? (int)pick(1, 150) : 0;
  c.softcap = pick(0, 4) == 0 ? 3.0f : 0.0f;
  c.has_mask = !c.paged() && pick(0, 2) == 0;
  c.has_segments = placed && !c.paged() && pick(0, 4) == 0;
  c.has_slopes = placed && pick(0, 3) == 0;
  c.has_bias = !c.paged() && pick(0, 4) == 0;
  if (placed && pick(0, 3) == 0) c.W = 2 * pick(0, pick(0, 1) ? 5 : 200) + 1;
  c.distances = flat(DType::f32, std::max<int64_t>(1, c.H * c.W));
  for (int64_t i = 0; i < c.H * c.W; i++) c.distances.set(i, gauss());
  c.has_sinks = !c.has_slopes && c.W == 0 && pick(0, 1) == 0;
  c.sinks = flat(DType::f32, c.H);
  for (int64_t h = 0; h < c.H; h++) c.sinks.set(h, pick(0, 5) == 0 ? 100.0f : 3.0f * gauss());
  c.mask = flat(DType::u8, c.B * c.S);
  c.segments = flat(DType::i32, c.B * c.S);
  for (int64_t b = 0; b < c.B; b++) {
    const int kind = (int)pick(0, 2);
    const int64_t pad = pick(0, c.S);
    for (int64_t j = 0; j < c.S; j++)
      c.mask.u()[(size_t)(b * c.S + j)] = kind == 0 ? j >= pad : kind == 1 ? j < pad : pick(0, 1) != 0;
    int32_t seg = 0;
    const int64_t every = pick(1, 200);
    for (int64_t j = 0; j < c.S; j++) {
      if (pick(0, every) == 0) seg = pick(0, 3) ? seg + 1 : -1;
      ((int32_t*)c.segments.data)[b * c.S + j] = seg;
    }
  }
  c.slopes = flat(DType::f32, (size_t)c.H);
  for (int64_t h = 0; h < c.H; h++) c.slopes.set(h, std::exp2(-8.0f * (float)(h + 1) / (float)c.H));
  const int kind = (int)pick(0, 3);
  if (kind == 0) c.bs = {c.H * c.T * c.S, c.T * c.S, c.S, 1};
  else if (kind == 1) c.bs = {0, c.T * c.S, c.S, 1};
  else if (kind == 2) c.bs = {c.S, 0, 0, 1};
  else c.bs = {0, c.T * c.S, 1, c.T};
  c.bias = flat(DType::f32, c.has_bias ? (size_t)(c.B * c.H * c.T * c.S) : 1);
  for (int64_t i = 0; i < c.bias.bytes / 4; i++) c.bias.set(i, pick(0, 9) == 0 ? -INFINITY : gauss());
  // Hidden memory holds NaN: masked keys, and places that no row uses.
  std::vector<char> seen((size_t)(c.pages() * c.S), !c.paged());
  for (size_t r = 0; r < lengths.size(); r++)
    for (int64_t j = std::max<int64_t>(0, lengths[r] - (c.C - 1) * c.S); j < lengths[r]; j++)
      seen[(size_t)(c.page_of(0, (int64_t)r, j) * c.S + c.place_of(j))] = 1;
  for (int64_t b = 0; b < c.pages(); b++)
    for (int64_t j = 0; j < c.S; j++) {
      if (c.paged() ? seen[(size_t)(b * c.S + j)] : !c.has_mask || c.mask.u()[(size_t)(b * c.S + j)] != 0) continue;
      for (int64_t g = 0; g < c.G; g++) {
        for (int64_t d = 0; d < c.D && kd != DType::i8; d++) c.k.set((b * c.ks[0] + g * c.ks[1] + j * c.ks[2] + d), NAN);
        for (int64_t d = 0; d < c.E && vd != DType::i8; d++) c.v.set((b * c.vs[0] + g * c.vs[1] + j * c.vs[2] + d), NAN);
        for (int64_t part = 0; part < 2 && c.scales.data; part++) c.scales.set(((part * c.pages() + b) * c.G + g) * c.S + j, NAN);
      }
    }
  c.y = flat(DType::f32, c.B * c.T * c.H * c.E);
  return c;
}

static void check(Case& c, const char* title, double tolerance, std::vector<std::unique_ptr<Machine>>& machines) {
  // If keys, values and compute are bf16, machines with such products round queries and weights.
  const bool may_round = c.compute == 1 && c.k.dtype == DType::bf16 && c.v.dtype == DType::bf16;
  std::vector<double> exact_slack, round_slack, exact_size, round_size;
  const std::vector<double> exact = twin(c, exact_slack, exact_size, false);
  const std::vector<double> round = may_round ? twin(c, round_slack, round_size, true) : std::vector<double>();
  // Codes times codes (VNNI): weights have 65280 steps to a block's largest; a sum over S keys is off by at most six deviations.
  double coarse = 0;
  if (c.k.dtype == DType::i8 && c.v.dtype == DType::i8) {
    const int64_t rows = c.pages() * c.G * c.S;
    for (int64_t i = rows; i < 2 * rows; i++) coarse = std::max(coarse, (double)c.scales.at(i));  // (not NaN)
    coarse *= std::sqrt((double)(c.paged() ? c.S * (c.C - 1) : c.S)) / 65280;
  }
  for (const Entry& e : kernels_named("attention")) {
    std::vector<float> first;
    const bool rounds = may_round && (!strcmp(e.isa, "avx512bf16") || !strncmp(e.isa, "amx", 3));
    const std::vector<double>&expect = rounds ? round : exact, &slack = rounds ? round_slack : exact_slack;
    const auto coarse_at = [&](size_t i) { return rounds ? round_size[i] * 0x1p-8 : 0.0; };  // half a step of a weight
    const double allowed = tolerance + (!strncmp(e.isa, "avx512", 6) || !strncmp(e.isa, "amx", 3) ? coarse : 0);
    for (auto& machine : machines) {
      memset(c.y.data, 0xff, (size_t)c.y.bytes);
      Call call = call_of(c);
      machine->attach(call);
      if (const char* error = ran(e.isa, e.kernel, call)) return fail(e.isa, text("%s: %s", title, error));
      const float* y = c.y.f();
      if (!first.empty()) {
        if (memcmp(first.data(), y, sizeof(float) * first.size()) != 0)
          fail(e.isa, text("%s: other bits with %d threads", title, machine->pool->threads()));
        continue;
      }
      first.assign(y, y + expect.size());
      double worst = 0;
      size_t where = 0;
      for (size_t i = 0; i < expect.size(); i++) {
        const double d = std::fabs(y[i] - expect[i]) / (allowed + coarse_at(i) + 6e-7 * slack[i / (size_t)c.E]);
        if (d <= worst) continue;
        worst = std::isnan(d) ? INFINITY : d;
        where = i;
      }
      if (worst > 1)
        fail(e.isa, text("%s: at %zu %g instead of %g (B %d T %d H %d G %d S %d D %d E %d pages %d mask %d segments %d "
                         "slopes %d distances %d bias %d causal %d window %d softcap %g k %d v %d compute %d)",
                         title, where, y[where], expect[where], (int)c.B, (int)c.T, (int)c.H, (int)c.G, (int)c.S, (int)c.D,
                         (int)c.E, (int)c.P, c.has_mask, c.has_segments, c.has_slopes, (int)c.W, c.has_bias, c.causal, c.window,
                         c.softcap, (int)c.k.dtype, (int)c.v.dtype, c.compute));
    }
  }
}

int main(int argc, char** argv) {
  std::vector<std::unique_ptr<Machine>> machines;
  for (int threads : {1, 2, 3}) machines.push_back(std::make_unique<Machine>(threads));
  const int cases = argc > 1 ? atoi(argv[1]) : 40;
  for (int n = 0; n < cases && failures < 10; n++) {
    Case c = random_case(n);
    check(c, text("attention, case %d", n).c_str(), 1e-5, machines);
  }
  test_rows();
  test_append();
  std::printf("%d random cases of attention on", cases);
  for (const Entry& e : kernels_named("attention")) std::printf(" %s", e.isa);
  std::printf(failures ? "\n%d failures\n" : "\nall well\n", failures);
  return failures ? 1 : 0;
}
