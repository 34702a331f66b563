#include "cpu.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <unistd.h>
#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif

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
#if defined(__APPLE__)
  const auto has = [](const char* name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
  };
  const bool dot = feature("dotprod", has("hw.optional.arm.FEAT_DotProd"));
  const bool i8mm = feature("i8mm", has("hw.optional.arm.FEAT_I8MM"));
  size_t size = sizeof model;
  sysctlbyname("machdep.cpu.brand_string", model, &size, nullptr, 0);
#elif defined(__linux__) && defined(__aarch64__)
  const bool dot = feature("dotprod", (getauxval(AT_HWCAP) >> 20 & 1) != 0);
  const bool i8mm = feature("i8mm", (getauxval(AT_HWCAP2) >> 13 & 1) != 0);
  std::snprintf(model, sizeof model, "arm64");
#else
  const bool dot = false, i8mm = false;
#endif
  const int level_dot = add("dotprod", neon, dot);
  add("i8mm", level_dot, i8mm);
}

#endif

const Machine& machine() {
  static const Machine instance;
  return instance;
}

#if defined(__linux__)

// First number in a small file, or -1.
int64_t read_number(const char* path) {
  FILE* file = std::fopen(path, "re");
  if (!file) return -1;
  long long value = -1;
  if (std::fscanf(file, "%lld", &value) != 1) value = -1;
  std::fclose(file);
  return value;
}

// The cgroup (v2) directory of this process, or "" if there is none.
void own_cgroup(char* out, size_t size) {
  out[0] = 0;
  FILE* file = std::fopen("/proc/self/cgroup", "re");
  if (!file) return;
  char line[1024];
  while (std::fgets(line, sizeof line, file)) {
    if (std::strncmp(line, "0::", 3) != 0) continue;
    line[std::strcspn(line, "\n")] = 0;
    std::snprintf(out, size, "/sys/fs/cgroup%s", std::strcmp(line + 3, "/") == 0 ? "" : line + 3);
  }
  std::fclose(file);
}

// The least limit on the way from this process's cgroup up to the root; read(path) gives one limit, or -1.
template <class Read>
double cgroup_limit(const Read& read) {
  double least = -1;
  char directory[1100];
  own_cgroup(directory, sizeof directory);
  if (!directory[0]) std::snprintf(directory, sizeof directory, "/sys/fs/cgroup");
  for (;;) {
    const double limit = read(directory);
    if (limit > 0 && (least < 0 || limit < least)) least = limit;
    char* slash = std::strrchr(directory, '/');
    if (!slash || std::strlen(directory) <= std::strlen("/sys/fs/cgroup")) break;
    *slash = 0;
  }
  return least;
}

double cpu_quota(const char* directory) {
  char path[1200];
  std::snprintf(path, sizeof path, "%s/cpu.max", directory);
  if (FILE* file = std::fopen(path, "re")) {
    char quota[32];
    long long period = 0;
    const int n = std::fscanf(file, "%31s %lld", quota, &period);
    std::fclose(file);
    return n == 2 && std::strcmp(quota, "max") != 0 && period > 0 ? std::atof(quota) / (double)period : -1;
  }
  std::snprintf(path, sizeof path, "%s/cpu/cpu.cfs_quota_us", directory);
  const int64_t quota = read_number(path);
  std::snprintf(path, sizeof path, "%s/cpu/cpu.cfs_period_us", directory);
  const int64_t period = read_number(path);
  return quota > 0 && period > 0 ? (double)quota / (double)period : -1;
}

double memory_limit(const char* directory) {
  char path[1200];
  std::snprintf(path, sizeof path, "%s/memory.max", directory);
  const int64_t v2 = read_number(path);
  if (v2 > 0) return (double)v2;
  std::snprintf(path, sizeof path, "%s/memory/memory.limit_in_bytes", directory);
  return (double)read_number(path);
}

int allowed_cores() {
  // The largest machines need more CPUs than the default set of 1024.
  constexpr int kMost = 4096;
  cpu_set_t* set = CPU_ALLOC(kMost);
  if (!set) return 1;
  const size_t size = CPU_ALLOC_SIZE(kMost);
  CPU_ZERO_S(size, set);
  int cores = 0;
  if (sched_getaffinity(0, size, set) == 0) {
    char path[128];
    for (int cpu = 0; cpu < kMost; cpu++) {
      if (!CPU_ISSET_S((size_t)cpu, size, set)) continue;
      // A core counts once: by the first of its threads that this process may use.
      std::snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
      bool first = true;
      if (FILE* file = std::fopen(path, "re")) {
        char list[256] = "";
        if (std::fgets(list, sizeof list, file)) {
          char* at = list;
          while (*at >= '0' && *at <= '9') {
            long from = std::strtol(at, &at, 10), to = from;
            if (*at == '-') to = std::strtol(at + 1, &at, 10);
            for (long other = from; other <= to && other < cpu; other++)
              if (other >= 0 && CPU_ISSET_S((size_t)other, size, set)) first = false;
            if (*at == ',') at++;
          }
        }
        std::fclose(file);
      }
      if (first) cores++;
    }
  }
  CPU_FREE(set);
  return cores > 0 ? cores : 1;
}

#endif

}  // namespace

int isa_count() { return machine().count; }
const Isa& isa(int index) { return machine().isas[index]; }
const char* cpu_model() { return machine().model; }
const char* cpu_features() { return machine().features; }

bool prepare_isa(int index) {
#if defined(__linux__) && defined(__x86_64__)
  if (std::strcmp(isa(index).name, "amx") == 0) {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }
#endif
  (void)index;
  return true;
}

int usable_cores() {
#if defined(__linux__)
  int cores = allowed_cores();
  const double quota = cgroup_limit(cpu_quota);
  if (quota > 0) {
    const int whole = (int)(quota + 0.5) > 0 ? (int)(quota + 0.5) : 1;
    if (whole < cores) cores = whole;
  }
  return cores;
#elif defined(__APPLE__)
  int value = 0;
  size_t size = sizeof value;
  if (sysctlbyname("hw.perflevel0.physicalcpu", &value, &size, nullptr, 0) == 0 && value > 0) return value;
  if (sysctlbyname("hw.physicalcpu", &value, &size, nullptr, 0) == 0 && value > 0) return value;
  return 1;
#else
  return 1;
#endif
}

int64_t usable_memory() {
  int64_t total = (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);
#if defined(__APPLE__)
  size_t size = sizeof total;
  sysctlbyname("hw.memsize", &total, &size, nullptr, 0);
#elif defined(__linux__)
  const double limit = cgroup_limit(memory_limit);
  if (limit > 0 && limit < (double)total) total = (int64_t)limit;
#endif
  return total;
}

}  // namespace octavo
