// The processor: its instruction set levels, name and features. What the system says of the machine is in system.h.
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

const char* cpu_model();
// Features of interest, separated by spaces.
const char* cpu_features();

}  // namespace octavo
