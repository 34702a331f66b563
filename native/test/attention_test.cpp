// Attention against a plain twin in double, and its speed. Built and run by attention.mjs:
//   attention_test test | golden FILE | bench [isa [decode|prefill]]
#include <chrono>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "../call.h"
#include "../pool.h"
#include "../registry.h"

#define ISA(ns)                                  \
  namespace octavo::ns {                         \
  extern const Kernel attention_kernels[];       \
  extern const Kernel attention_append_kernels[]; \
  }
ISA(portable)
#if defined(__x86_64__)
ISA(avx2)
ISA(avx512)
ISA(amx_emulated)
ISA(amx)
#endif

namespace octavo {
__attribute__((weak)) const char* sentence(const char* format, ...) {
  static thread_local char text[256];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  return text;
}
}  // namespace octavo

using namespace octavo;

struct Isa {
  const char* name;
  KernelFn attention, append;
  int lanes;
};
static bool emulated = true;
#if defined(__x86_64__)
// Permission for tile data, once per process; false where there are no tiles.
static bool has_amx() {
  static const bool yes = [] {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1) && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  }();
  return yes;
}
#endif
static std::vector<Isa> isas() {
  std::vector<Isa> all;
#define ADD(ns, lanes) all.push_back({#ns, ns::attention_kernels[0].run, ns::attention_append_kernels[0].run, lanes});
  ADD(portable, 4)
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) { ADD(avx2, 8) }
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    ADD(avx512, 16)
    if (__builtin_cpu_supports("avx512bf16")) {
      if (emulated) { ADD(amx_emulated, 16) }
      if (has_amx()) { ADD(amx, 16) }
    }
  }
#endif
  return all;
}

// Scratch filled with NaN before every call: nothing may be read that was not written.
struct Scratch {
  std::vector<char> bytes;
  bool poison = true;
  static char* get(void* owner, size_t n) {
    Scratch& s = *(Scratch*)owner;
    if (s.bytes.size() < n + 64) s.bytes.resize(n + 64);
    if (s.poison) memset(s.bytes.data(), 0xff, s.bytes.size());
    return (char*)(((uintptr_t)s.bytes.data() + 63) / 64 * 64);
  }
};

#if defined(__aarch64__)
typedef __fp16 half_float;  // g++ 12 has no _Float16 in C++ here
#else
typedef _Float16 half_float;
#endif

static float bf16_to(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
static uint16_t to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  if (std::isnan(f)) return 0x7fc0;
  return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
static float f16_to(uint16_t h) {
  half_float x;
  memcpy(&x, &h, 2);
  return (float)x;
}
static uint16_t to_f16(float f) {
  half_float x = (half_float)f;
  uint16_t h;
  memcpy(&h, &x, 2);
  return h;
}

struct Buffer {
  DType dtype;
  std::vector<char> bytes;
  Buffer() : dtype(DType::f32) {}
  Buffer(DType d, size_t n) : dtype(d), bytes(n * (d == DType::f32 || d == DType::i32 ? 4 : d == DType::u8 ? 1 : 2)) {}
  void set(size_t i, float x) {
    if (dtype == DType::f32) ((float*)bytes.data())[i] = x;
    else ((uint16_t*)bytes.data())[i] = dtype == DType::bf16 ? to_bf16(x) : to_f16(x);
  }
  float get(size_t i) const {
    if (dtype == DType::f32) return ((const float*)bytes.data())[i];
    const uint16_t h = ((const uint16_t*)bytes.data())[i];
    return dtype == DType::bf16 ? bf16_to(h) : f16_to(h);
  }
};

static Tensor tensor(Buffer& b, std::vector<int64_t> dims, std::vector<int64_t> strides = {}) {
  Tensor t;
  t.data = b.bytes.data();
  t.dtype = b.dtype;
  t.rank = (int)dims.size();
  int64_t step = 1;
  for (int d = t.rank - 1; d >= 0; d--) {
    t.dim[d] = dims[d];
    t.stride[d] = strides.empty() ? step : strides[d];
    step *= dims[d];
  }
  t.strided = !strides.empty();
  return t;
}

struct Case {
  int64_t B = 1, T = 1, H = 1, G = 1, S = 1, D = 8, E = 8;
  std::vector<int64_t> qs, ks, vs, bs;  // strides
  Buffer q, k, v, bias;
  Buffer cursor, mask, segments, slopes, y;
  bool has_cursor = false, has_mask = false, has_segments = false, has_slopes = false, has_bias = false;
  float scale = 1, softcap = 0;
  int causal = 0, window = 0;
};

static Call call_of(Case& c) {
  Call call;
  call.t[0] = tensor(c.q, {c.B, c.T, c.H, c.D}, c.qs);
  call.t[1] = tensor(c.k, {c.B, c.G, c.S, c.D}, c.ks);
  call.t[2] = tensor(c.v, {c.B, c.G, c.S, c.E}, c.vs);
  if (c.has_cursor) call.t[3] = tensor(c.cursor, {1});
  if (c.has_mask) call.t[4] = tensor(c.mask, {c.B, c.S});
  if (c.has_segments) call.t[5] = tensor(c.segments, {c.B, c.S});
  if (c.has_slopes) call.t[6] = tensor(c.slopes, {c.H});
  if (c.has_bias) call.t[7] = tensor(c.bias, {c.B, c.H, c.T, c.S}, c.bs);
  call.t[8] = tensor(c.y, {c.B, c.T, c.H, c.E});
  call.attr[0].f = c.scale;
  call.attr[1].i = c.causal;
  call.attr[2].i = c.window;
  call.attr[3].f = c.softcap;
  return call;
}

// The twin. `slack` receives, per output row, how far f32 scores may be off.
static std::vector<double> twin(Case& c, std::vector<double>& slack) {
  Call call = call_of(c);
  const Tensor *q = &call.t[0], *k = &call.t[1], *v = &call.t[2], *bias = &call.t[7];
  const int64_t past = c.has_cursor ? *(int32_t*)c.cursor.bytes.data() : c.S - c.T, total = past + c.T;
  std::vector<double> y((size_t)(c.B * c.T * c.H * c.E), 0.0);
  slack.assign((size_t)(c.B * c.T * c.H), 0.0);
  std::vector<double> s((size_t)c.S);
  for (int64_t b = 0; b < c.B; b++)
    for (int64_t t = 0; t < c.T; t++)
      for (int64_t h = 0; h < c.H; h++) {
        const int64_t g = h / (c.H / c.G), i = past + t;
        double top = -INFINITY, worst = 0;
        for (int64_t j = 0; j < c.S; j++) {
          bool visible = j < total && (!c.causal || j <= i) && (c.window <= 0 || j > i - c.window);
          if (visible && c.has_mask) visible = c.mask.bytes[(size_t)(b * c.S + j)] != 0;
          if (visible && c.has_segments) {
            const int32_t* seg = (int32_t*)c.segments.bytes.data() + b * c.S;
            visible = i >= 0 && seg[j] == seg[i];
          }
          s[(size_t)j] = -INFINITY;
          if (!visible) continue;
          double x = 0, size = 0;
          for (int64_t d = 0; d < c.D; d++) {
            const double p = (double)c.q.get((size_t)(b * q->stride[0] + t * q->stride[1] + h * q->stride[2] + d)) *
                             c.k.get((size_t)(b * k->stride[0] + g * k->stride[1] + j * k->stride[2] + d));
            x += p;
            size += std::fabs(p);
          }
          x *= c.scale;
          size *= std::fabs(c.scale);
          if (c.softcap > 0) x = c.softcap * std::tanh(x / c.softcap);
          if (c.has_slopes) {
            const double a = ((float*)c.slopes.bytes.data())[h] * (double)(j - i);
            x += a;
            size += std::fabs(a);
          }
          if (c.has_bias) {
            const double a = c.bias.get((size_t)(b * bias->stride[0] + h * bias->stride[1] + t * bias->stride[2] + j * bias->stride[3]));
            x += a;
            if (std::isfinite(a)) size += std::fabs(a);
          }
          s[(size_t)j] = x;
          worst = std::max(worst, size);
          top = std::max(top, x);
        }
        slack[(size_t)((b * c.T + t) * c.H + h)] = worst;
        if (top == -INFINITY) continue;
        double sum = 0;
        double* out = &y[(size_t)(((b * c.T + t) * c.H + h) * c.E)];
        for (int64_t j = 0; j < c.S; j++) {
          if (s[(size_t)j] == -INFINITY) continue;
          const double p = std::exp(s[(size_t)j] - top);
          sum += p;
          for (int64_t e = 0; e < c.E; e++)
            out[e] += p * c.v.get((size_t)(b * v->stride[0] + g * v->stride[1] + j * v->stride[2] + e));
        }
        for (int64_t e = 0; e < c.E; e++) out[e] /= sum;
      }
  return y;
}

static std::mt19937 rng(7);
static int64_t pick(int64_t low, int64_t high) { return low + (int64_t)(rng() % (uint64_t)(high - low + 1)); }
static float normal() {
  static std::normal_distribution<float> d;
  return d(rng);
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
  c.S = pick(0, 5) == 0 ? pick(1, c.T) : c.T + pick(0, pick(0, 2) ? 100 : 900);
  c.has_cursor = c.S >= c.T && pick(0, 1);
  const DType kinds[] = {DType::f32, DType::f16, DType::bf16};
  const DType kd = kinds[pick(0, 2)], vd = pick(0, 3) ? kd : kinds[pick(0, 2)];
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
  c.q = Buffer(DType::f32, (size_t)(c.B * c.T * c.H * (c.D + 3)));
  c.k = Buffer(kd, (size_t)((c.B * c.G * c.S + 9) * (c.D + 5)));
  c.v = Buffer(vd, (size_t)((c.B * c.G * c.S + 9) * (c.E + 5)));
  const float size = pick(0, 5) == 0 ? 100.0f : 1.0f;  // scores of about 1e4 and more
  for (size_t i = 0; i < c.q.bytes.size() / 4; i++) c.q.set(i, normal() * size);
  for (size_t i = 0; i < (size_t)((c.B * c.G * c.S + 9) * (c.D + 5)); i++) c.k.set(i, normal() * size);
  for (size_t i = 0; i < (size_t)((c.B * c.G * c.S + 9) * (c.E + 5)); i++) c.v.set(i, normal());
  c.scale = pick(0, 3) ? 1.0f / std::sqrt((float)c.D) : pick(0, 1) ? 1.0f : -0.3f;
  c.causal = pick(0, 2) != 0;
  c.window = pick(0, 2) == 0 ? (int)pick(1, 150) : 0;
  c.softcap = pick(0, 4) == 0 ? 3.0f : 0.0f;
  c.cursor = Buffer(DType::i32, 1);
  const int64_t past = c.has_cursor ? pick(0, c.S - c.T) : c.S - c.T, total = past + c.T;
  *(int32_t*)c.cursor.bytes.data() = (int32_t)past;
  c.has_mask = pick(0, 2) == 0;
  c.has_segments = pick(0, 4) == 0;
  c.has_slopes = pick(0, 3) == 0;
  c.has_bias = pick(0, 4) == 0;
  c.mask = Buffer(DType::u8, (size_t)(c.B * c.S));
  c.segments = Buffer(DType::i32, (size_t)(c.B * c.S));
  for (int64_t b = 0; b < c.B; b++) {
    const int kind = (int)pick(0, 2);
    const int64_t pad = pick(0, c.S);
    for (int64_t j = 0; j < c.S; j++)
      c.mask.bytes[(size_t)(b * c.S + j)] = kind == 0 ? j >= pad : kind == 1 ? j < pad : pick(0, 1) != 0;
    int32_t seg = 0;
    const int64_t every = pick(1, 200);
    for (int64_t j = 0; j < c.S; j++) {
      if (pick(0, every) == 0) seg = pick(0, 3) ? seg + 1 : -1;
      ((int32_t*)c.segments.bytes.data())[b * c.S + j] = seg;
    }
  }
  c.slopes = Buffer(DType::f32, (size_t)c.H);
  for (int64_t h = 0; h < c.H; h++) c.slopes.set((size_t)h, std::exp2(-8.0f * (float)(h + 1) / (float)c.H));
  const int kind = (int)pick(0, 3);
  if (kind == 0) c.bs = {c.H * c.T * c.S, c.T * c.S, c.S, 1};
  else if (kind == 1) c.bs = {0, c.T * c.S, c.S, 1};
  else if (kind == 2) c.bs = {c.S, 0, 0, 1};
  else c.bs = {0, c.T * c.S, 1, c.T};
  c.bias = Buffer(DType::f32, c.has_bias ? (size_t)(c.B * c.H * c.T * c.S) : 1);
  for (size_t i = 0; i < c.bias.bytes.size() / 4; i++) c.bias.set(i, pick(0, 9) == 0 ? -INFINITY : normal());
  // What nobody may see holds NaN: masked keys and those after the last.
  for (int64_t b = 0; b < c.B; b++)
    for (int64_t g = 0; g < c.G; g++)
      for (int64_t j = 0; j < c.S; j++) {
        if (j < total && !(c.has_mask && c.mask.bytes[(size_t)(b * c.S + j)] == 0)) continue;
        for (int64_t d = 0; d < c.D; d++) c.k.set((size_t)(b * c.ks[0] + g * c.ks[1] + j * c.ks[2] + d), NAN);
        for (int64_t d = 0; d < c.E; d++) c.v.set((size_t)(b * c.vs[0] + g * c.vs[1] + j * c.vs[2] + d), NAN);
      }
  c.y = Buffer(DType::f32, (size_t)(c.B * c.T * c.H * c.E));
  return c;
}

static int failures = 0;
static void check(Case& c, const char* title, double tolerance, std::vector<Pool*>& pools, const std::vector<double>* golden = nullptr) {
  std::vector<double> slack;
  const std::vector<double> expect = golden ? *golden : twin(c, slack);
  for (const Isa& isa : isas()) {
    std::vector<float> first;
    for (Pool* pool : pools) {
      Scratch scratch;
      memset(c.y.bytes.data(), 0xff, c.y.bytes.size());
      Call call = call_of(c);
      call.pool = pool;
      call.scratch = Scratch::get;
      call.scratch_owner = &scratch;
      const char* error = isa.attention(call);
      if (error) {
        printf("FAIL %s %s: %s\n", title, isa.name, error);
        failures++;
        return;
      }
      const float* y = (float*)c.y.bytes.data();
      if (first.empty()) {
        first.assign(y, y + expect.size());
        double worst = 0;
        size_t where = 0;
        for (size_t i = 0; i < expect.size(); i++) {
          const double limit = tolerance + (golden ? 0 : 6e-7 * slack[i / (size_t)c.E]);
          const double d = std::fabs(y[i] - expect[i]) / limit;
          if (!(d <= worst)) {
            worst = std::isnan(d) ? INFINITY : d;
            where = i;
          }
        }
        if (!(worst <= 1)) {
          printf("FAIL %s %s: at %zu %g instead of %g (B %d T %d H %d G %d S %d D %d E %d cursor %d mask %d segments %d slopes %d bias %d causal %d window %d softcap %g k %d v %d)\n",
                 title, isa.name, where, y[where], expect[where], (int)c.B, (int)c.T, (int)c.H, (int)c.G, (int)c.S, (int)c.D,
                 (int)c.E, c.has_cursor, c.has_mask, c.has_segments, c.has_slopes, c.has_bias, c.causal, c.window, c.softcap,
                 (int)c.k.dtype, (int)c.v.dtype);
          failures++;
        }
      } else if (memcmp(first.data(), y, sizeof(float) * first.size()) != 0) {
        printf("FAIL %s %s: other bits with %d threads\n", title, isa.name, pool->threads());
        failures++;
      }
    }
  }
}

static void test_append() {
  for (const Isa& isa : isas())
    for (DType d : {DType::f32, DType::f16, DType::bf16})
      for (int kind = 0; kind < 2; kind++) {
        const int64_t B = 2, T = 3, G = 2, D = 19, S = 8;
        Buffer x(DType::f32, (size_t)(B * T * G * D * 2)), cursor(DType::i32, 1), cache(d, (size_t)(B * G * S * D));
        for (size_t i = 0; i < (size_t)(B * T * G * D * 2); i++) x.set(i, normal());
        for (size_t i = 0; i < (size_t)(B * G * S * D); i++) cache.set(i, 5);
        *(int32_t*)cursor.bytes.data() = 4;
        std::vector<int64_t> st = kind ? std::vector<int64_t>{T * G * D * 2, G * D * 2, D * 2, 2} : std::vector<int64_t>{T * G * D, D, T * D, 1};
        Call call;
        call.t[0] = tensor(x, {B, T, G, D}, st);
        call.t[1] = tensor(cursor, {1});
        call.t[2] = tensor(cache, {B, G, S, D});
        const char* error = isa.append(call);
        bool ok = error == nullptr;
        Buffer one(d, 1);
        for (int64_t b = 0; b < B; b++)
          for (int64_t g = 0; g < G; g++)
            for (int64_t s = 0; s < S; s++)
              for (int64_t i = 0; i < D; i++) {
                const int64_t t = s - 4;
                one.set(0, t >= 0 && t < T ? x.get((size_t)(b * st[0] + t * st[1] + g * st[2] + i * st[3])) : 5.0f);
                ok = ok && cache.get((size_t)(((b * G + g) * S + s) * D + i)) == one.get(0);
              }
        *(int32_t*)cursor.bytes.data() = 6;
        const char* full = isa.append(call);
        if (!ok || full == nullptr) {
          printf("FAIL kv_append %s %d %s\n", isa.name, (int)d, full ? full : "no error when full");
          failures++;
        }
      }
}

// ---- bench ----
static double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
static double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}
#if defined(__x86_64__)
// Sixteen independent chains of 512-bit FMAs. Compilers spill such a loop when it is written in C.
static double fma_peak_512() {
  int64_t n = 4000000;
  const double t = now();
#define FMA4(a, b, c, d)                                                          \
  "vfmadd231ps %%zmm30,%%zmm31,%%zmm" #a "\n vfmadd231ps %%zmm30,%%zmm31,%%zmm" #b \
  "\n vfmadd231ps %%zmm30,%%zmm31,%%zmm" #c "\n vfmadd231ps %%zmm30,%%zmm31,%%zmm" #d "\n"
  asm volatile("vxorps %%xmm30,%%xmm30,%%xmm30\n vxorps %%xmm31,%%xmm31,%%xmm31\n 1:\n" FMA4(0, 1, 2, 3) FMA4(4, 5, 6, 7)
                   FMA4(8, 9, 10, 11) FMA4(12, 13, 14, 15) "dec %0\n jnz 1b\n"
               : "+r"(n)::"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                 "xmm12", "xmm13", "xmm14", "xmm15", "cc");
  return 4e6 * 16 * 32 / (now() - t);
}
#endif
typedef uint64_t u8v __attribute__((vector_size(64)));
static void bench(const char* only, const char* part) {
  Pool* pool = Pool::create(2);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) {
    double peak = 0;
    for (int i = 0; i < 3; i++) peak = std::max(peak, fma_peak_512());
    printf("FMA peak, one core, 512 bits: %.0f GFLOP/s\n", peak / 1e9);
  }
#endif
  {
    const size_t n = (size_t)256 << 20;
    std::vector<char> mem(n, 1);
    struct Read {
      const char* p;
      uint64_t sink[2];
    } read{mem.data(), {0, 0}};
    std::vector<double> rates;
    for (int i = 0; i < 5; i++) {
      const double t = now();
      pool->run(64, 1, [](void* c, int64_t b, int64_t e, int w) {
        Read& r = *(Read*)c;
        const size_t part = ((size_t)256 << 20) / 64;
        u8v s[4] = {};
        for (const char* p = r.p + (size_t)b * part; p < r.p + (size_t)e * part; p += 256)
          for (int i = 0; i < 4; i++) {
            u8v x;
            memcpy(&x, p + i * 64, 64);
            s[i] += x;
          }
        r.sink[w] += (s[0] + s[1] + s[2] + s[3])[0];
      }, &read);
      rates.push_back((double)n / (now() - t) / 1e9);
    }
    printf("stream read, 2 threads: %.1f GB/s\n", median(rates));
  }
  for (const Isa& isa : isas()) {
    if (only && strcmp(only, isa.name)) continue;
    if (strcmp(part, "prefill") != 0)
    for (const auto& shape : {std::pair<int, int>{1, 4}, {8, 4}, {1, 32}})
      for (DType d : {DType::f32, DType::bf16, DType::f16}) {
        Case c;
        c.B = shape.first; c.H = 32; c.G = shape.second; c.T = 1; c.S = 2048; c.D = c.E = 64; c.causal = 1; c.scale = 0.125f;
        const size_t each = (size_t)(c.B * c.G * c.S * c.D);
        const size_t bytes = each * (d == DType::f32 ? 4 : 2) * 2;
        const int layers = (int)std::max<size_t>(2, ((size_t)192 << 20) / bytes);
        std::vector<Buffer> k, v;
        for (int l = 0; l < layers; l++) {
          k.emplace_back(d, each);
          v.emplace_back(d, each);
          for (size_t i = 0; i < 4096; i++) k[(size_t)l].set(i, normal()), v[(size_t)l].set(i, normal());
          const size_t size = d == DType::f32 ? 4 : 2;
          for (size_t i = 4096; i < each; i += 4096) {
            memcpy(k[(size_t)l].bytes.data() + i * size, k[(size_t)l].bytes.data(), 4096 * size);
            memcpy(v[(size_t)l].bytes.data() + i * size, v[(size_t)l].bytes.data(), 4096 * size);
          }
        }
        c.q = Buffer(DType::f32, (size_t)(c.B * c.H * c.D));
        for (size_t i = 0; i < (size_t)(c.B * c.H * c.D); i++) c.q.set(i, normal());
        c.y = Buffer(DType::f32, (size_t)(c.B * c.H * c.E));
        Scratch scratch;
        scratch.poison = false;
        std::vector<double> times;
        for (int rep = 0; rep < 7; rep++) {
          const double t = now();
          for (int l = 0; l < layers; l++) {
            Call call;
            c.k.dtype = c.v.dtype = d;
            call = call_of(c);
            call.t[1].data = k[(size_t)l].bytes.data();
            call.t[2].data = v[(size_t)l].bytes.data();
            call.pool = pool;
            call.scratch = Scratch::get;
            call.scratch_owner = &scratch;
            isa.attention(call);
          }
          times.push_back((now() - t) / layers);
        }
        printf("%-8s decode 2048 B %d H 32 G %-2d D 64 %s: %7.1f us, %5.1f GB/s\n", isa.name, (int)c.B, (int)c.G,
               d == DType::f32 ? "f32 " : d == DType::bf16 ? "bf16" : "f16 ", median(times) * 1e6, (double)bytes / median(times) / 1e9);
        fflush(stdout);
      }
    struct Shape { int T, H, G, D; };
    if (strcmp(part, "decode") != 0)
    for (const Shape& s : {Shape{512, 32, 4, 64}, Shape{2048, 32, 4, 64}, Shape{512, 12, 12, 64}, Shape{512, 32, 8, 128}})
      for (DType d : {DType::f32, DType::bf16}) {
        Case c;
        c.B = 1; c.H = s.H; c.G = s.G; c.T = c.S = s.T; c.D = c.E = s.D; c.causal = 1; c.scale = 0.125f;
        c.q = Buffer(DType::f32, (size_t)(c.T * c.H * c.D));
        c.k = Buffer(d, (size_t)(c.T * c.G * c.D));
        c.v = Buffer(d, (size_t)(c.T * c.G * c.D));
        for (size_t i = 0; i < (size_t)(c.T * c.H * c.D); i++) c.q.set(i, normal());
        for (size_t i = 0; i < (size_t)(c.T * c.G * c.D); i++) c.k.set(i, normal()), c.v.set(i, normal());
        c.y = Buffer(DType::f32, (size_t)(c.T * c.H * c.E));
        Scratch scratch;
        scratch.poison = false;
        for (int threads = 1; threads <= 2; threads++) {
          std::vector<double> times;
          for (int rep = 0; rep < (s.T > 1000 ? 3 : 7); rep++) {
            Call call = call_of(c);
            call.pool = threads == 2 ? pool : nullptr;
            call.scratch = Scratch::get;
            call.scratch_owner = &scratch;
            const double t = now();
            isa.attention(call);
            times.push_back(now() - t);
          }
          const double flops = (double)c.H * s.T * (s.T + 1) / 2 * (c.D + c.E) * 2;
          printf("%-8s prefill %d H %d G %d D %d %s, %d threads: %7.2f ms, %6.1f GFLOP/s\n", isa.name, s.T, s.H, s.G, s.D,
                 d == DType::f32 ? "f32 " : "bf16", threads, median(times) * 1e3, flops / median(times) / 1e9);
          fflush(stdout);
        }
      }
  }
  Pool::destroy(pool);
}

// Cases written by attention.mjs: text lines "name value..." ; arrays follow as float counts.
static void golden(const char* path, std::vector<Pool*>& pools) {
  FILE* f = fopen(path, "rb");
  if (!f) {
    printf("FAIL cannot open %s\n", path);
    failures++;
    return;
  }
  int count = 0;
  char name[64];
  int h[16];
  float a[3];
  const auto read = [&](Buffer& b, size_t n) {
    b = Buffer(DType::f32, n);
    return fread(b.bytes.data(), 4, n, f) == n;
  };
  while (fread(name, 1, 64, f) == 64) {
    Case c;
    if (fread(h, 4, 16, f) != 16 || fread(a, 4, 3, f) != 3) break;
    c.B = h[0]; c.T = h[1]; c.H = h[2]; c.G = h[3]; c.S = h[4]; c.D = h[5]; c.E = h[6];
    c.causal = h[7]; c.window = h[8];
    c.scale = a[0]; c.softcap = a[1];
    // q and out come as [B,H,T,..]
    c.qs = {c.H * c.T * c.D, c.D, c.T * c.D, 1};
    Buffer out, ints;
    bool ok = read(c.q, (size_t)(c.B * c.H * c.T * c.D)) && read(c.k, (size_t)(c.B * c.G * c.S * c.D)) &&
              read(c.v, (size_t)(c.B * c.G * c.S * c.E)) && read(out, (size_t)(c.B * c.H * c.T * c.E));
    if (ok && h[9]) {
      c.has_mask = true;
      c.mask = Buffer(DType::u8, (size_t)(c.B * c.S));
      ok = fread(c.mask.bytes.data(), 1, c.mask.bytes.size(), f) == c.mask.bytes.size();
    }
    if (ok && h[10]) {
      c.has_segments = true;
      c.segments = Buffer(DType::i32, (size_t)(c.B * c.S));
      ok = fread(c.segments.bytes.data(), 1, c.segments.bytes.size(), f) == c.segments.bytes.size();
    }
    if (ok && h[11]) c.has_slopes = true, ok = read(c.slopes, (size_t)c.H);
    if (ok && h[12]) {
      c.has_bias = true;
      ok = read(c.bias, (size_t)(c.B * c.H * c.T * c.S));
      c.bs = {c.H * c.T * c.S, c.T * c.S, c.S, 1};
    }
    if (!ok) break;
    c.y = Buffer(DType::f32, (size_t)(c.B * c.H * c.T * c.E));
    std::vector<double> expect(out.bytes.size() / 4);
    for (int64_t b = 0; b < c.B; b++)
      for (int64_t x = 0; x < c.H; x++)
        for (int64_t t = 0; t < c.T; t++)
          for (int64_t e = 0; e < c.E; e++)
            expect[(size_t)(((b * c.T + t) * c.H + x) * c.E + e)] = out.get((size_t)(((b * c.H + x) * c.T + t) * c.E + e));
    check(c, name, a[2], pools, &expect);
    count++;
  }
  fclose(f);
  printf("%d golden cases\n", count);
}

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "test";
  if (mode == "bench") {
    emulated = false;
    bench(argc > 2 ? argv[2] : nullptr, argc > 3 ? argv[3] : "");
    return 0;
  }
  std::vector<Pool*> pools = {nullptr, Pool::create(2), Pool::create(3)};
  if (mode == "golden") {
    golden(argv[2], pools);
  } else {
    const int cases = argc > 2 ? atoi(argv[2]) : 400;
    for (int n = 0; n < cases && failures < 10; n++) {
      Case c = random_case(n);
      check(c, ("random " + std::to_string(n)).c_str(), 1e-5, pools);
    }
    test_append();
    printf("%d random cases on", cases);
    for (const Isa& isa : isas()) printf(" %s", isa.name);
    printf("\n");
  }
  for (Pool* p : pools) Pool::destroy(p);
  printf(failures ? "%d FAILED\n" : "all passed\n", failures);
  return failures != 0;
}
