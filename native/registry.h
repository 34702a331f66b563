// How a kernel file offers its kernels. A file native/kernels/<file>.cpp is compiled once per instruction set, puts
// everything into `namespace octavo::OCTAVO_ISA`, and ends (inside that namespace) with
//
//   OCTAVO_KERNELS(<file>,
//     {"rms_norm", "rms_norm: x[..,K]:f32 ... -> y[..,K]:f32", rms_norm},
//     {"layer_norm", "...", layer_norm})
//
// Nothing else is needed: scripts/build-native.mjs finds the file. A line `// isa: portable avx2 amx` in its first 20
// lines names the x86-64 levels it is built for (default: portable avx2 avx512; on arm64 every file is built for neon,
// and for those of neon's levels that the line names). A level without the file uses the kernel of the next lower level that
// has one; a level's table may also hold only some of the file's kernels.
//
// Rules for kernel files: no std:: containers or algorithms (the linker would share their inline code between instruction
// sets) unless the file is built for `portable` alone; no exceptions, no allocation except Call::need, no threads except
// parallel() of native/parallel.h. Before a kernel runs, its operands were checked against the signature: presence, dtype,
// dims, contiguity, and that they lie inside their buffers.
#pragma once

#include "call.h"

namespace octavo {

// A sentence for a kernel's return value, printf style. Lives until the same thread makes the next one.
const char* sentence(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace octavo

#define OCTAVO_KERNELS(file, ...)                     \
  extern const Kernel file##_kernels[];               \
  extern const int file##_kernels_count;              \
  const Kernel file##_kernels[] = {__VA_ARGS__};      \
  const int file##_kernels_count = (int)(sizeof file##_kernels / sizeof file##_kernels[0]);
