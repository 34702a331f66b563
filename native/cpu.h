// Properties of the machine: instruction set levels, cores, memory.
#pragma once

#include <cstdint>

namespace octavo {

// Levels that kernel files can be compiled for, by the name of their namespace.
struct Isa {
  const char* name;
  // Index of the level whose kernels substitute for missing ones; -1 for the lowest.
  int below;
  bool supported;
};

constexpr int kMaxIsas = 8;

// All levels of this architecture, lowest first.
int isa_count();
const Isa& isa(int index);

// Requests the AMX tile registers for this process, if the level needs them. False if refused.
bool prepare_isa(int index);

// Physical cores that this process may use (affinity and cgroup quota count), at least 1.
int usable_cores();
// Memory that this process may use: the machine's, or its cgroup's limit if that is less.
int64_t usable_memory();
const char* cpu_model();
// Features of interest, separated by spaces.
const char* cpu_features();

}  // namespace octavo
