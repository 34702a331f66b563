// The arguments of a kernel for one command: tensors as pointers with shapes, attributes as words. The layout of commands is
// described in src/core/command.ts. No exceptions, no allocation, no Node here: kernels must also build to WASM.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace octavo {

enum class DType : uint8_t { f32 = 0, f16 = 1, bf16 = 2, i32 = 3, i8 = 4, u8 = 5, u4 = 6 };

constexpr int kMaxRank = 8;
constexpr int kMaxOperands = 16;
constexpr int kMaxAttrs = 16;

struct Tensor {
  char* data = nullptr;  // null: an absent optional operand
  DType dtype = DType::f32;
  bool panels = false;
  bool strided = false;
  int rank = 0;
  int64_t dim[kMaxRank] = {};
  int64_t stride[kMaxRank] = {};  // in elements; always filled, also for contiguous tensors

  explicit operator bool() const { return data != nullptr; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
  int64_t size() const {
    int64_t n = 1;
    for (int d = 0; d < rank; d++) n *= dim[d];
    return n;
  }
  int64_t last() const { return dim[rank - 1]; }
  // Elements before the last dim: rows of a matrix with any leading dims.
  int64_t rows() const {
    int64_t n = 1;
    for (int d = 0; d + 1 < rank; d++) n *= dim[d];
    return n;
  }
};

class Pool;

struct Call {
  Tensor t[kMaxOperands];  // signature order: inputs, then outputs
  union Word {
    int32_t i;
    float f;
  } attr[kMaxAttrs];
  Pool* pool = nullptr;
  // Scratch of the queue thread, valid during this call (64-byte aligned). Call need() at most once per kernel:
  // a second call may move it. Null when memory ran out.
  char* (*scratch)(void* owner, size_t bytes) = nullptr;
  void* scratch_owner = nullptr;

  char* need(size_t bytes) const { return scratch(scratch_owner, bytes); }
};

// Returns null on success, else one sentence that says what was wrong.
using KernelFn = const char* (*)(const Call&);

struct Kernel {
  const char* name;
  const char* signature;
  KernelFn run;
};

}  // namespace octavo
