// See attention_rows.h.
#include "attention_rows.h"

static int64_t pick(int64_t low, int64_t high) { return low + (int64_t)(random_bits()() % (uint64_t)(high - low + 1)); }

namespace {

// Keys and values of some rows, by row, head and position, and the queries of all their tokens.
struct Rows {
  int64_t H, G, D, E, N;  // N: tokens of a row, room for them
  std::vector<int64_t> lengths;
  DType dtype;
  Array q, k, v, scales;

  int64_t count() const { return (int64_t)lengths.size(); }
  int64_t at(int64_t r, int64_t g, int64_t j) const { return (r * G + g) * N + j; }
};

Rows make_rows(DType dtype, int64_t H, int64_t G, int64_t D, int64_t E, std::vector<int64_t> lengths) {
  Rows x;
  x.H = H, x.G = G, x.D = D, x.E = E, x.dtype = dtype, x.lengths = lengths;
  x.N = *std::max_element(lengths.begin(), lengths.end());
  const int64_t keys = x.count() * G * x.N;
  x.q = flat(DType::f32, x.count() * x.N * H * D);
  x.k = flat(dtype, keys * D);
  x.v = flat(dtype, keys * E);
  x.q.fill_gauss();
  const bool codes = dtype == DType::i8;
  for (Array* a : {&x.k, &x.v})
    for (int64_t i = 0; i < a->size(); i++) a->set(i, codes ? (float)pick(-127, 127) : gauss());
  x.scales = flat(DType::f32, 2 * keys);
  for (int64_t i = 0; i < 2 * keys; i++) x.scales.set(i, std::fabs(gauss()) + 0.1f);
  return x;
}

// Tokens from .. from + count of a row.
struct Span {
  int64_t row, from, count;
};

// A case with the keys and values of the rows in pages of S, in random order; all else of it like `like`.
Case in_pages(const Rows& x, int64_t S, const Case& like) {
  Case c = like;
  c.H = x.H, c.G = x.G, c.D = x.D, c.E = x.E, c.S = S, c.R = x.count();
  const int64_t columns = (x.N + S - 1) / S;
  c.C = columns + 1;
  c.P = c.R * columns + 2;
  std::vector<int32_t> ids((size_t)c.P);
  for (size_t i = 0; i < ids.size(); i++) ids[i] = (int32_t)i;
  std::shuffle(ids.begin(), ids.end(), random_bits());
  c.table = flat(DType::i32, c.R * c.C);
  for (int64_t r = 0; r < c.R; r++) {
    *c.held(r) = (int32_t)x.lengths[(size_t)r];
    for (int64_t i = 0; i < columns; i++) c.held(r)[1 + i] = ids[(size_t)(r * columns + i)];
  }
  c.k = flat(x.dtype, c.P * c.G * S * c.D);
  c.v = flat(x.dtype, c.P * c.G * S * c.E);
  const bool codes = x.dtype == DType::i8;
  c.scales = codes ? flat(DType::f32, 2 * c.P * c.G * S) : Array();
  for (Array* a : {&c.k, &c.v, &c.scales})
    for (int64_t i = 0; a->data && i < a->size(); i++) a->set(i, a->dtype == DType::i8 ? 77 : NAN);
  for (int64_t r = 0; r < c.R; r++)
    for (int64_t g = 0; g < c.G; g++)
      for (int64_t j = 0; j < x.lengths[(size_t)r]; j++) {
        const int64_t to = (c.page_of(0, r, j) * c.G + g) * S + j % S, from = x.at(r, g, j);
        for (int64_t d = 0; d < c.D; d++) c.k.set(to * c.D + d, x.k.at(from * c.D + d));
        for (int64_t d = 0; d < c.E; d++) c.v.set(to * c.E + d, x.v.at(from * c.E + d));
        if (!codes) continue;
        c.scales.set(to, x.scales.at(from));
        c.scales.set(c.P * c.G * S + to, x.scales.at(x.count() * c.G * x.N + from));
      }
  return c;
}

// Runs the spans as the lanes of one call of `c`, which in_pages made, and stores the results at their places in
// `y` [row][N][H][E].
const char* run_spans(const Kernel* kernel, Machine& machine, const Rows& x, Case& c, const std::vector<Span>& spans,
                      bool as_rows, std::vector<float>& y) {
  int64_t lanes = 0, widest = 0;
  for (const Span& p : spans) lanes += p.count, widest = std::max(widest, p.count);
  c.B = as_rows ? (int64_t)spans.size() : 1;
  c.T = as_rows ? widest : lanes + (int64_t)spans.size();  // flat: an unused lane after each span
  c.lanes = flat(DType::i32, 2 * c.B * c.T);
  for (int64_t i = 0; i < 2 * c.B * c.T; i++) ((int32_t*)c.lanes.data)[i] = -1;
  c.q = flat(DType::f32, c.B * c.T * c.H * c.D);
  c.y = flat(DType::f32, c.B * c.T * c.H * c.E);
  std::vector<int64_t> place;  // of the lane of each token
  for (size_t i = 0, at = 0; i < spans.size(); i++) {
    if (as_rows) at = i * (size_t)c.T + (size_t)(c.T - spans[i].count);
    for (int64_t n = 0; n < spans[i].count; n++, at++) {
      ((int32_t*)c.lanes.data)[at] = (int32_t)spans[i].row;
      ((int32_t*)c.lanes.data)[c.B * c.T + (int64_t)at] = (int32_t)(spans[i].from + n);
      const int64_t token = spans[i].row * x.N + spans[i].from + n;
      memcpy(c.q.f() + (int64_t)at * c.H * c.D, x.q.f() + token * c.H * c.D, sizeof(float) * (size_t)(c.H * c.D));
      place.push_back((int64_t)at);
    }
    if (!as_rows) at++;
  }
  Call call = call_of(c);
  machine.attach(call);
  if (const char* error = kernel->run(call)) return error;
  for (size_t i = 0, n = 0; i < spans.size(); i++)
    for (int64_t t = 0; t < spans[i].count; t++, n++) {
      const int64_t token = spans[i].row * x.N + spans[i].from + t, width = c.H * c.E;
      memcpy(y.data() + token * width, c.y.f() + place[n] * width, sizeof(float) * (size_t)width);
    }
  return nullptr;
}

// All tokens of all rows, cut into calls by `way`.
using Calls = std::vector<std::vector<Span>>;

Calls whole_rows(const Rows& x) {
  Calls calls;
  for (int64_t r = 0; r < x.count(); r++) calls.push_back({{r, 0, x.lengths[(size_t)r]}});
  return calls;
}
Calls one_by_one(const Rows& x, int64_t every) {
  Calls calls;
  for (int64_t r = 0; r < x.count(); r++)
    for (int64_t j = 0; j < x.lengths[(size_t)r]; j += every) calls.push_back({{r, j, 1}});
  return calls;
}
// Token j of all rows that have one, together.
Calls together(const Rows& x, int64_t every) {
  Calls calls;
  for (int64_t j = 0; j < x.N; j += every) {
    calls.emplace_back();
    for (int64_t r = 0; r < x.count(); r++)
      if (j < x.lengths[(size_t)r]) calls.back().push_back({r, j, 1});
  }
  return calls;
}
// Spans of any size, of all rows together.
Calls in_spans(const Rows& x) {
  Calls calls;
  std::vector<int64_t> done((size_t)x.count(), 0);
  for (bool more = true; more;) {
    calls.emplace_back();
    more = false;
    for (int64_t r = 0; r < x.count(); r++) {
      const int64_t left = x.lengths[(size_t)r] - done[(size_t)r], count = std::min(left, pick(0, 90));
      if (count > 0) calls.back().push_back({r, done[(size_t)r], count});
      done[(size_t)r] += count;
      more = more || done[(size_t)r] < x.lengths[(size_t)r];
    }
    if (calls.back().empty()) calls.pop_back();
  }
  return calls;
}

void same_bits(const Entry& e, DType dtype, const Case& like, int64_t H, int64_t G, int64_t D, int64_t E, const char* title) {
  const Rows x = make_rows(dtype, H, G, D, E, {530, 31, 257, 1, 64, 90});
  Machine one(1), three(3);
  const size_t width = (size_t)(H * E), tokens = (size_t)(x.count() * x.N);
  std::vector<float> first(tokens * width, 0.0f);
  const auto run = [&](const char* way, const Calls& calls, Machine& machine, int64_t S, bool as_rows, bool is_first) {
    std::vector<float> y(tokens * width, NAN);
    Case c = in_pages(x, S, like);
    for (const std::vector<Span>& spans : calls)
      if (const char* error = run_spans(e.kernel, machine, x, c, spans, as_rows, y))
        return fail(e.isa, text("%s, %s: %s", title, way, error));
    if (is_first) {
      first = y;
      return;
    }
    for (const std::vector<Span>& spans : calls)
      for (const Span& p : spans)
        for (int64_t t = 0; t < p.count; t++) {
          const size_t at = (size_t)(p.row * x.N + p.from + t) * width;
          if (memcmp(first.data() + at, y.data() + at, sizeof(float) * width) == 0) continue;
          return fail(e.isa, text("%s, %s: other bits at row %d, token %d", title, way, (int)p.row, (int)(p.from + t)));
        }
  };
  const int64_t contiguous = 544;
  run("rows whole", whole_rows(x), one, contiguous, false, true);
  run("3 threads", whole_rows(x), three, contiguous, false, false);
  run("pages of 16", whole_rows(x), one, 16, false, false);
  run("pages of 7", whole_rows(x), three, 7, false, false);
  run("one by one", one_by_one(x, 13), one, contiguous, false, false);
  run("together", together(x, 7), three, 16, true, false);
  run("in spans", in_spans(x), three, 48, true, false);
  run("in spans, flat", in_spans(x), one, 16, false, false);
}

// One NaN among keys or values of codes: tokens that see it get NaN, all others get numbers.
void nan_arrives(const Entry& e, bool values) {
  Machine machine(2);
  Rows x = make_rows(DType::i8, 4, 2, 64, 64, {90, 40});
  const int64_t at = x.at(0, 1, 70);
  x.scales.set(at + (values ? x.count() * x.G * x.N : 0), NAN);
  Case like;
  like.causal = 1, like.scale = 0.125f;
  std::vector<float> y((size_t)(x.count() * x.N * 4 * 64), 0.0f);
  Case c = in_pages(x, 16, like);
  for (const std::vector<Span>& spans : Calls{{{0, 0, 60}, {1, 0, 40}}, {{0, 89, 1}}, {{0, 65, 20}}, {{0, 60, 5}}})
    if (const char* error = run_spans(e.kernel, machine, x, c, spans, false, y)) return fail(e.isa, error);
  for (int64_t token : {0, 59, 62, 66, 69, 70, 75, 84, 89, 90 + 39})
    for (int64_t h = 0; h < 4; h++)
      for (int64_t d = 0; d < 64; d++) {
        const bool wanted = token < 90 && token >= 70 && h >= 2;  // heads 2 and 3 read key head 1
        const bool got = std::isnan(y[(size_t)((token * 4 + h) * 64 + d)]);
        if (got != wanted)
          return fail(e.isa, text("NaN among %s in i8: token %d, head %d %s", values ? "values" : "keys", (int)token, (int)h,
                                  wanted ? "has lost it" : "has got it"));
      }
}

}  // namespace

void test_rows() {
  for (const Entry& e : kernels_named("attention")) {
    const bool tiles = !strncmp(e.isa, "amx", 3);
    for (DType dtype : {DType::f32, DType::f16, DType::bf16, DType::i8})
      for (int compute = 0; compute < (dtype == DType::bf16 ? 2 : 1); compute++) {
        Case like;
        like.causal = 1, like.scale = 0.125f;
        like.compute = compute + (tiles ? 4 : 0);  // deterministic: matrix units sum in another order
        same_bits(e, dtype, like, 4, 2, 64, 64, text("dtype %d compute %d", (int)dtype, compute).c_str());
        like.window = 100, like.softcap = 5, like.has_slopes = true, like.W = 9;
        like.slopes = flat(DType::f32, 3), like.distances = flat(DType::f32, 3 * 9);
        for (int64_t h = 0; h < 3; h++) like.slopes.set(h, 0.1f);
        like.distances.fill_gauss();
        same_bits(e, dtype, like, 3, 1, 33, 20, text("all kinds, dtype %d compute %d", (int)dtype, compute).c_str());
      }
    nan_arrives(e, false);
    nan_arrives(e, true);
  }
}

void test_append() {
  for (const Entry& e : kernels_named("kv_append"))
    for (DType d : {DType::f32, DType::f16, DType::bf16, DType::i8})
      for (int kind = 0; kind < 2; kind++) {
        const int64_t B = 2, T = 3, G = 2, D = 37, S = 2, P = 5, R = 2, C = 3;
        const int32_t row[] = {1, 1, -1, 0, 0, 0}, position[] = {1, 2, 9, 5, 6, 7}, pages[] = {0, 4, 2, 0, 3, 0};
        Array scales = flat(DType::f32, P * G * S), table = flat(DType::i32, R * C), lanes = flat(DType::i32, 2 * B * T);
        memcpy(lanes.data, row, sizeof row);
        memcpy(lanes.data + sizeof row, position, sizeof position);
        memcpy(table.data, pages, sizeof pages);
        for (int64_t i = 0; i < P * G * S; i++) scales.set(i, 5);
        Array x = flat(DType::f32, B * T * G * D * 2), cache = flat(d, P * G * S * D);
        for (int64_t i = 0; i < x.size(); i++) x.set(i, gauss());
        for (int64_t i = 0; i < cache.size(); i++) cache.set(i, 5);
        std::vector<int64_t> st = kind ? std::vector<int64_t>{T * G * D * 2, G * D * 2, D * 2, 2} : std::vector<int64_t>{T * G * D, D, T * D, 1};
        x.set(st[0] + 1 * st[1] + 1 * st[2] + 3 * st[3], NAN);  // lane 4, head 1
        Call call;
        call.t[0] = x.view({B, T, G, D}, st);
        call.t[1] = lanes.view({2, B, T});
        call.t[2] = table.view({R, C});
        call.t[3] = cache.view({P, G, S, D});
        if (d == DType::i8) call.t[4] = scales.view({P, G, S});
        bool ok = e.kernel->run(call) == nullptr;
        Array one = flat(d, 1);
        for (int64_t page = 0; page < P; page++)
          for (int64_t s = 0; s < S; s++) {
            int64_t lane = -1;
            for (int64_t i = 0; i < B * T; i++)
              if (row[i] >= 0 && pages[row[i] * C + 1 + position[i] / S % (C - 1)] == page && position[i] % S == s) lane = i;
            for (int64_t g = 0; g < G; g++) {
              const auto value = [&](int64_t i) { return x.at(lane / T * st[0] + lane % T * st[1] + g * st[2] + i * st[3]); };
              const bool broken = lane == 4 && g == 1;
              float absmax = 0;
              for (int64_t i = 0; i < D && lane >= 0; i++) absmax = std::max(absmax, std::fabs(value(i)));
              const float factor = d == DType::i8 ? (broken ? 0 : 1.0f / absmax * 127.0f) : 1.0f;
              for (int64_t i = 0; i < D; i++) {
                const float want = lane < 0 ? 5.0f : value(i) * factor;
                one.set(0, d == DType::i8 ? (std::isnan(want) ? 0.0f : std::nearbyint(want)) : want);
                const float got = cache.at(((page * G + g) * S + s) * D + i);
                ok = ok && (got == one.at(0) || (std::isnan(got) && std::isnan(one.at(0))));
              }
              const float scale = scales.at((page * G + g) * S + s);
              if (d == DType::i8) ok = ok && (lane < 0 ? scale == 5.0f : broken ? std::isnan(scale) : scale == absmax);
            }
          }
        if (!ok) fail(e.isa, text("kv_append dtype %d layout %d", (int)d, kind));
        for (int wrong = 0; wrong < 3; wrong++) {
          int32_t* place = wrong == 0 ? (int32_t*)lanes.data : wrong == 1 ? (int32_t*)lanes.data + B * T : (int32_t*)table.data + C + 1;
          const int32_t before = *place;
          *place = wrong == 0 ? (int32_t)R : wrong == 1 ? -1 : (int32_t)P;
          if (e.kernel->run(call) == nullptr) fail(e.isa, text("kv_append takes a wrong %s", wrong == 0 ? "row" : wrong == 1 ? "position" : "page"));
          *place = before;
        }
      }
}
