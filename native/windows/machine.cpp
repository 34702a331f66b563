// What the machine has, and what of it this process may use.
#include "windows.h"

#include <cstdio>
#include <cstdlib>

#include "../system.h"

namespace octavo {

namespace {

constexpr WORD kGroups = 64;  // more than any machine has; a group holds up to 64 logical processors

// The logical processors of a group that this process may use; 0 for a group where it does not run.
struct Allowed {
  KAFFINITY mask[kGroups] = {};

  Allowed() {
    USHORT groups[kGroups], count = kGroups;
    if (!GetProcessGroupAffinity(GetCurrentProcess(), &count, groups)) count = 0;
    DWORD_PTR own = 0, all = 0;
    // Of a process that runs in several groups the mask is 0: it may use all of them.
    if (!GetProcessAffinityMask(GetCurrentProcess(), &own, &all)) own = 0;
    for (USHORT i = 0; i < count; i++)
      if (groups[i] < kGroups) mask[groups[i]] = count == 1 && own ? own : ~(KAFFINITY)0;
  }
};

// Calls f for every core that the system lists.
template <class F>
void each_core(const F& f) {
  DWORD bytes = 0;
  GetLogicalProcessorInformationEx(RelationProcessorCore, nullptr, &bytes);
  char* memory = bytes ? static_cast<char*>(std::malloc(bytes)) : nullptr;
  const auto record = [&](DWORD at) { return reinterpret_cast<SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX*>(memory + at); };
  const bool listed = memory && GetLogicalProcessorInformationEx(RelationProcessorCore, record(0), &bytes);
  for (DWORD at = 0; listed && at < bytes; at += record(at)->Size) f(record(at)->Processor);
  std::free(memory);
}

// A job (a container's, for instance) may have a share of the processors, in units of 1/10000 of all; -1 if it has none.
double job_processors() {
  JOBOBJECT_CPU_RATE_CONTROL_INFORMATION rate = {};
  constexpr DWORD kHard = JOB_OBJECT_CPU_RATE_CONTROL_ENABLE | JOB_OBJECT_CPU_RATE_CONTROL_HARD_CAP;
  if (!QueryInformationJobObject(nullptr, JobObjectCpuRateControlInformation, &rate, sizeof rate, nullptr)) return -1;
  if ((rate.ControlFlags & kHard) != kHard) return -1;
  return rate.CpuRate / 10'000.0 * GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
}

}  // namespace

int usable_cores() {
  const Allowed allowed;
  int cores = 0;
  each_core([&](const PROCESSOR_RELATIONSHIP& core) {
    for (WORD i = 0; i < core.GroupCount; i++) {
      const GROUP_AFFINITY& own = core.GroupMask[i];
      if (own.Group >= kGroups || !(own.Mask & allowed.mask[own.Group])) continue;
      cores++;
      break;
    }
  });
  if (cores < 1) cores = (int)GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
  const double share = job_processors();
  if (share > 0 && share + 0.5 < cores) cores = (int)(share + 0.5);
  return cores > 0 ? cores : 1;
}

int64_t usable_memory() {
  MEMORYSTATUSEX status = {};
  status.dwLength = sizeof status;
  if (!GlobalMemoryStatusEx(&status)) return 0;
  uint64_t total = status.ullTotalPhys;
  JOBOBJECT_EXTENDED_LIMIT_INFORMATION job = {};
  if (QueryInformationJobObject(nullptr, JobObjectExtendedLimitInformation, &job, sizeof job, nullptr)) {
    const DWORD flags = job.BasicLimitInformation.LimitFlags;
    if ((flags & JOB_OBJECT_LIMIT_PROCESS_MEMORY) && job.ProcessMemoryLimit < total) total = job.ProcessMemoryLimit;
    if ((flags & JOB_OBJECT_LIMIT_JOB_MEMORY) && job.JobMemoryLimit < total) total = job.JobMemoryLimit;
  }
  return (int64_t)total;
}

bool request_tiles() {
  using Enable = BOOL(WINAPI*)(DWORD64);
  constexpr DWORD64 kTileData = 1ull << 18;
  const Enable enable = system_function<Enable>("EnableProcessOptionalXStateFeatures");  // since Windows 11
  return enable && enable(kTileData);
}

#if defined(__aarch64__)

void arm_features(bool* dotprod, bool* i8mm, char* model, size_t size) {
  constexpr DWORD kDotProducts = 43;  // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE; of i8mm older systems say nothing
  *dotprod = IsProcessorFeaturePresent(kDotProducts);
  *i8mm = false;
  std::snprintf(model, size, "arm64");
}

#endif

}  // namespace octavo
