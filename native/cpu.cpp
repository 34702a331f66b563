#include "cpu.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "system.h"

namespace octavo {

namespace {

struct Machine {
  Isa isas[kMaxIsas] = {};
  int count = 0;
  char model[128] = "unknown CPU";
  char features[256] = "";

  Machine();
  int add(const char* name, int below, bool supported) {
    isas[count] = {name, below, supported && (below < 0 || isas[below].supported)};
    return count++;
  }
  bool feature(const char* name, bool present) {
    if (present) {
      if (features[0]) std::strncat(features, " ", sizeof features - std::strlen(features) - 1);
      std::strncat(features, name, sizeof features - std::strlen(features) - 1);
    }
    return present;
  }
};

#if defined(__x86_64__)

Machine::Machine() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  unsigned c1 = 0, b7 = 0, c7 = 0, d7 = 0, a71 = 0;
  if (__get_cpuid(1, &a, &b, &c, &d)) c1 = c;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) b7 = b, c7 = c, d7 = d;
  if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) a71 = a;
  uint64_t xcr0 = 0;
  if (c1 & (1u << 27)) {
    uint32_t low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    xcr0 = (uint64_t)high << 32 | low;
  }
  const bool ymm = (xcr0 & 0x6) == 0x6;
  const bool zmm = (xcr0 & 0xe6) == 0xe6;
  const bool tiles = (xcr0 & 0x60000) == 0x60000;
  const auto bit = [](unsigned word, int n) { return (word >> n & 1u) != 0; };

  const bool fma = feature("fma", ymm && bit(c1, 12));
  const bool f16c = feature("f16c", ymm && bit(c1, 29));
  const bool avx2 = feature("avx2", ymm && bit(c1, 28) && bit(b7, 5));
  const bool bmi2 = bit(b7, 3) && bit(b7, 8);
  const bool vnni_vex = feature("avxvnni", ymm && bit(a71, 4));
  const bool f = feature("avx512f", zmm && bit(b7, 16));
  const bool bwdqvl = zmm && bit(b7, 30) && bit(b7, 17) && bit(b7, 31);
  const bool vnni = feature("avx512vnni", zmm && bit(c7, 11));
  feature("avx512vbmi", zmm && bit(c7, 1));
  const bool bf16 = feature("avx512bf16", zmm && bit(a71, 5));
  const bool amx_bf16 = feature("amx_bf16", tiles && bit(d7, 22));
  const bool amx_tile = tiles && bit(d7, 24);
  const bool amx_int8 = feature("amx_int8", tiles && bit(d7, 25));

  const int portable = add("portable", -1, true);
  const int level2 = add("avx2", portable, avx2 && fma && f16c && bmi2);
  add("avxvnni", level2, vnni_vex);
  const int level512 = add("avx512", level2, f && bwdqvl && vnni);
  const int level512bf16 = add("avx512bf16", level512, bf16);
  add("amx", level512bf16, amx_tile && amx_int8 && amx_bf16);

  unsigned brand[12] = {};
  if (__get_cpuid(0x80000000u, &a, &b, &c, &d) && a >= 0x80000004u) {
    for (unsigned i = 0; i < 3; i++)
      __get_cpuid(0x80000002u + i, &brand[4 * i], &brand[4 * i + 1], &brand[4 * i + 2], &brand[4 * i + 3]);
    std::memcpy(model, brand, sizeof brand);
    model[sizeof brand] = 0;
    for (size_t n = std::strlen(model); n > 0 && model[n - 1] == ' ';) model[--n] = 0;
  }
}

#else

Machine::Machine() {
  const int neon = add("neon", -1, true);
  bool has_dot = false, has_i8mm = false;
  arm_features(&has_dot, &has_i8mm, model, sizeof model);
  const bool dot = feature("dotprod", has_dot), i8mm = feature("i8mm", has_i8mm);
  const int level_dot = add("dotprod", neon, dot);
  add("i8mm", level_dot, i8mm);
}

#endif

const Machine& machine() {
  static const Machine instance;
  return instance;
}

}  // namespace

int isa_count() { return machine().count; }
const Isa& isa(int index) { return machine().isas[index]; }
const char* cpu_model() { return machine().model; }
const char* cpu_features() { return machine().features; }

bool prepare_isa(int index) { return std::strcmp(isa(index).name, "amx") != 0 || request_tiles(); }

}  // namespace octavo
