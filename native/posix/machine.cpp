// What the machine has, and what of it this process may use.
#include <unistd.h>
#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../system.h"

namespace octavo {

#if defined(__linux__)

namespace {

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

}  // namespace

#endif

bool request_tiles() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return true;
#endif
}

#if defined(__aarch64__)

void arm_features(bool* dotprod, bool* i8mm, char* model, size_t size) {
#if defined(__APPLE__)
  const auto has = [](const char* name) {
    int value = 0;
    size_t bytes = sizeof value;
    return sysctlbyname(name, &value, &bytes, nullptr, 0) == 0 && value != 0;
  };
  *dotprod = has("hw.optional.arm.FEAT_DotProd");
  *i8mm = has("hw.optional.arm.FEAT_I8MM");
  sysctlbyname("machdep.cpu.brand_string", model, &size, nullptr, 0);
#elif defined(__linux__)
  *dotprod = (getauxval(AT_HWCAP) >> 20 & 1) != 0;
  *i8mm = (getauxval(AT_HWCAP2) >> 13 & 1) != 0;
  std::snprintf(model, size, "arm64");
#else
  (void)dotprod, (void)i8mm, (void)model, (void)size;
#endif
}

#endif

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
