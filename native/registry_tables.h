// The kernels in this build, per instruction set level (see cpu.h), and the choice among them.
#pragma once

#include "call.h"
#include "cpu.h"

namespace octavo {

// True if the level can run: it has kernels of its own, and all that it lacks are there at lower levels.
bool isa_compiled(int isa);

// The highest level that the machine supports and that was compiled; -1 if there is none.
int best_isa();

// Number of ops that have a kernel at the lowest level or any level up to `isa`; names and signatures in a fixed order.
int op_count(int isa);
// The kernel of op `index` for a level: its own, or that of the nearest level below.
const Kernel& op_kernel(int isa, int index);
// Level that the kernel comes from.
int op_kernel_isa(int isa, int index);

}  // namespace octavo
