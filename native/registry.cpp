// Collects the kernel tables of all files and levels. scripts/build-native.mjs passes their list as OCTAVO_TABLES:
// T(portable, norm) T(avx2, norm) ... A build for one machine has some files at lower levels only; it passes the levels that
// are whole as OCTAVO_LEVELS: L(avx512) L(avx512bf16).
#include "registry.h"

#include "registry_tables.h"

#ifndef OCTAVO_TABLES
#define OCTAVO_TABLES
#endif

namespace octavo {

#define T(isa, file)                      \
  namespace isa {                         \
  extern const Kernel file##_kernels[];   \
  extern const int file##_kernels_count;  \
  }
OCTAVO_TABLES
#undef T

namespace {

struct Table {
  const char* isa;
  const Kernel* kernels;
  const int* count;
};

const Table kTables[] = {
#define T(isa, file) {#isa, isa::file##_kernels, &isa::file##_kernels_count},
    OCTAVO_TABLES
#undef T
        {nullptr, nullptr, nullptr},
};

constexpr int kMaxOps = 128;

struct Choice {
  const Kernel* kernel[kMaxIsas] = {};  // per level, null where it has none of its own
};

struct Ops {
  Choice op[kMaxOps];
  const char* name[kMaxOps] = {};
  int count = 0;
  bool compiled[kMaxIsas] = {};

  Ops() {
    for (const Table* table = kTables; table->isa; table++) {
      int level = -1;
      for (int i = 0; i < isa_count(); i++)
        if (std::strcmp(isa(i).name, table->isa) == 0) level = i;
      if (level < 0) continue;
      compiled[level] = true;
      for (int k = 0; k < *table->count; k++) {
        const Kernel& kernel = table->kernels[k];
        int at = 0;
        while (at < count && std::strcmp(name[at], kernel.name) != 0) at++;
        if (at == count) {
          if (count == kMaxOps) continue;
          name[count++] = kernel.name;
        }
        op[at].kernel[level] = &kernel;
      }
    }
  }
};

const Ops& ops() {
  static const Ops instance;
  return instance;
}

int source(int level, int index) {
  while (level >= 0 && !ops().op[index].kernel[level]) level = isa(level).below;
  return level;
}

// Position of the index-th op that the level can run.
int position(int level, int index) {
  for (int at = 0; at < ops().count; at++)
    if (source(level, at) >= 0 && index-- == 0) return at;
  return 0;
}

}  // namespace

bool isa_compiled(int level) {
#ifdef OCTAVO_LEVELS
#define L(name) #name,
  static const char* const kWhole[] = {OCTAVO_LEVELS nullptr};
#undef L
  for (const char* const* whole = kWhole; *whole; whole++)
    if (std::strcmp(*whole, isa(level).name) == 0) return ops().compiled[level];
  return false;
#else
  return ops().compiled[level];
#endif
}

int best_isa() {
  int best = -1;
  for (int i = 0; i < isa_count(); i++)
    if (isa(i).supported && isa_compiled(i)) best = i;
  return best;
}

int op_count(int level) {
  int count = 0;
  for (int at = 0; at < ops().count; at++) count += source(level, at) >= 0;
  return count;
}

const Kernel& op_kernel(int level, int index) {
  const int at = position(level, index);
  return *ops().op[at].kernel[source(level, at)];
}

int op_kernel_isa(int level, int index) { return source(level, position(level, index)); }

}  // namespace octavo
