// Shared by the kernel tests and benches: the kernels of every instruction set of this machine, hand-made tensors, calls
// without the add-on.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../call.h"
#include "../memory.h"
#include "../panels.h"
#include "../pool.h"
#include "../system.h"

using namespace octavo;

#define T(isa, file)                     \
  namespace octavo::isa {                \
  extern const Kernel file##_kernels[];  \
  extern const int file##_kernels_count; \
  }
OCTAVO_TABLES
#undef T

struct Entry {
  const char* isa;
  const Kernel* kernel;
};

inline bool machine_has([[maybe_unused]] const std::string& isa) {
#if defined(__x86_64__)
  if (isa == "portable") return true;
  if (isa == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == "avxvnni") {
    unsigned a = 7, b = 0, c = 1, d = 0;
    asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return a >> 4 & 1;
  }
  if (isa == "avx512") return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw");
  if (isa == "avx512bf16" || isa == "amx_emulated") return __builtin_cpu_supports("avx512bf16");
  if (isa == "amx") {
    unsigned a = 7, b = 0, c = 0, d = 0;
    asm volatile("cpuid" : "+a"(a), "+b"(b), "+c"(c), "+d"(d));
    return (d >> 22 & 1) && (d >> 24 & 1) && request_tiles();
  }
  return false;
#else
  return true;
#endif
}

inline std::vector<Entry> kernels_named(const std::string& name) {
  std::vector<Entry> found;
#define T(isa_name, file)                                                      \
  for (int i = 0; i < octavo::isa_name::file##_kernels_count; i++)             \
    if (name == octavo::isa_name::file##_kernels[i].name && machine_has(#isa_name)) \
      found.push_back({#isa_name, &octavo::isa_name::file##_kernels[i]});
  OCTAVO_TABLES
#undef T
  return found;
}

inline std::mt19937& random_bits() {
  static std::mt19937 generator(7);
  return generator;
}
inline float gauss() {
  // Rounded from doubles, so that every system's logarithms give the same floats.
  static std::normal_distribution<double> normal;
  return (float)normal(random_bits());
}
inline int64_t below(int64_t n) { return (int64_t)(random_bits()() % (uint64_t)n); }

inline uint16_t to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  if (f != f) return 0x7fc0;
  return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
inline float from_bf16(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
#if defined(__aarch64__)
typedef __fp16 Half;  // g++ 12 has no _Float16 in C++ here
#else
typedef _Float16 Half;
#endif
inline float from_f16(uint16_t h) {
  Half x;
  memcpy(&x, &h, 2);
  return (float)x;
}
inline uint16_t to_f16(float f) {
  const Half x = (Half)f;
  uint16_t h;
  memcpy(&h, &x, 2);
  return h;
}

inline int64_t bytes_of(DType dtype, int64_t n) {
  switch (dtype) {
    case DType::f32:
    case DType::i32: return 4 * n;
    case DType::f16:
    case DType::bf16: return 2 * n;
    case DType::u4: return (n + 1) / 2;
    default: return n;
  }
}

// A tensor with memory of its own, as a device would allocate it: exactly sized if it is small (so that sanitizers see
// overruns), on huge pages if it is large.
struct Array {
  DType dtype = DType::f32;
  std::vector<int64_t> dims;
  bool panels = false;
  char* data = nullptr;
  int64_t bytes = 0;

  Array() = default;
  Array(DType type, std::vector<int64_t> shape, bool in_panels = false) : dtype(type), dims(shape), panels(in_panels) {
    int64_t n = 1;
    for (int64_t d : dims) n *= d;
    bytes = panels ? panel_bytes(dtype, dims[0], dims[1]) : bytes_of(dtype, n);
    data = allocate_block((uint64_t)bytes);
    memset(data, 0x5a, (size_t)bytes);
  }
  Array(const Array& other) { *this = other; }
  Array& operator=(const Array& other) {
    if (this == &other) return *this;
    free_block(data, (uint64_t)bytes);
    dtype = other.dtype;
    dims = other.dims;
    panels = other.panels;
    bytes = other.bytes;
    data = other.data ? allocate_block((uint64_t)bytes) : nullptr;
    if (data) memcpy(data, other.data, (size_t)bytes);
    return *this;
  }
  ~Array() { free_block(data, (uint64_t)bytes); }

  int64_t size() const {
    int64_t n = 1;
    for (int64_t d : dims) n *= d;
    return n;
  }
  float* f() const { return (float*)data; }
  uint16_t* h() const { return (uint16_t*)data; }
  int8_t* c() const { return (int8_t*)data; }
  uint8_t* u() const { return (uint8_t*)data; }
  float at(int64_t i) const {
    switch (dtype) {
      case DType::f32: return f()[i];
      case DType::bf16: return from_bf16(h()[i]);
      case DType::f16: return from_f16(h()[i]);
      default: return c()[i];
    }
  }
  void set(int64_t i, float v) {
    switch (dtype) {
      case DType::f32: f()[i] = v; break;
      case DType::bf16: h()[i] = to_bf16(v); break;
      case DType::f16: h()[i] = to_f16(v); break;
      default: c()[i] = (int8_t)v;
    }
  }
  void fill_gauss(float scale = 1) {
    for (int64_t i = 0; i < size(); i++) set(i, gauss() * scale);
  }
  Tensor tensor() const { return view(dims); }
  Tensor view(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides = {}) const {
    Tensor t;
    if (!data) return t;
    t.data = data;
    t.dtype = dtype;
    t.panels = panels;
    t.strided = !strides.empty();
    t.rank = (int)shape.size();
    int64_t stride = 1;
    for (int d = t.rank - 1; d >= 0; d--) {
      t.dim[d] = shape[(size_t)d];
      t.stride[d] = strides.empty() ? stride : strides[(size_t)d];
      stride *= t.dim[d];
    }
    return t;
  }
};

struct Machine {
  Pool* pool;
  std::vector<char> memory;
  bool dirty = true;  // scratch is filled with NaNs before each call

  explicit Machine(int threads) : pool(Pool::create(threads)) {}
  ~Machine() { Pool::destroy(pool); }

  static char* scratch(void* owner, size_t bytes) {
    Machine* m = (Machine*)owner;
    if (m->memory.size() < bytes + 64) m->memory.resize(bytes + 64);
    char* p = (char*)(((uintptr_t)m->memory.data() + 63) & ~(uintptr_t)63);
    if (m->dirty) memset(p, 0xff, bytes);
    return p;
  }
  Call call(const std::vector<const Array*>& operands, const std::vector<Call::Word>& attrs) {
    Call c{};  // attributes that a test does not give are 0
    int i = 0;
    for (const Array* a : operands) c.t[i++] = a ? a->tensor() : Tensor();
    i = 0;
    for (Call::Word w : attrs) c.attr[i++] = w;
    attach(c);
    return c;
  }
  void attach(Call& c) {
    c.pool = pool;
    c.scratch = scratch;
    c.scratch_owner = this;
  }
};

// With OCTAVO_DIGEST set, a sum over the bits of all operands of all calls is printed at the end for each level: of two systems, or
// two compilers, it tells whether they compute the same bits.
struct Digests {
  const bool wanted = getenv("OCTAVO_DIGEST") != nullptr;
  std::map<std::string, uint64_t> sums;

  ~Digests() {
    for (const auto& [isa, sum] : sums) std::printf("digest %s %016llx\n", isa.c_str(), (unsigned long long)sum);
  }
  void add(const char* isa, const Call& call) {
    uint64_t& sum = sums.try_emplace(isa, 0xcbf29ce484222325).first->second;
    for (const Tensor& t : call.t) {
      if (!t || t.strided) continue;
      const int64_t bytes = t.panels ? panel_bytes(t.dtype, t.dim[0], t.dim[1]) : bytes_of(t.dtype, t.size());
      for (int64_t i = 0; i < bytes; i++) sum = (sum ^ (uint8_t)t.data[i]) * 0x100000001b3;  // FNV-1a
    }
  }
};

// Runs a kernel of a level; null, or what it says was wrong.
inline const char* ran(const char* isa, const Kernel* kernel, const Call& call) {
  static Digests digests;
  const char* wrong = kernel->run(call);
  if (digests.wanted) digests.add(isa, call);
  return wrong;
}

// Failures so far; the first ones are printed.
inline int failures = 0;
inline void fail(const char* isa, const std::string& what) {
  if (failures++ < 40) std::printf("FAIL %s %s\n", isa, what.c_str());
}
template <class... V>
std::string text(const char* format, V... values) {
  char buffer[400];
  std::snprintf(buffer, sizeof buffer, format, values...);
  return buffer;
}

inline Call::Word word(int v) {
  Call::Word w;
  w.i = v;
  return w;
}
inline Call::Word word(float v) {
  Call::Word w;
  w.f = v;
  return w;
}
