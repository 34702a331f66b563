// Splits work over the pool from inside a kernel.
#pragma once

#include "call.h"
#include "pool.h"

namespace octavo::OCTAVO_ISA {

// f(begin, end, worker) over pieces of at most `grain` tasks; runs inline, as worker 0, if there is only one piece.
template <class F>
inline void parallel(const Call& call, int64_t tasks, int64_t grain, const F& f) {
  if (tasks <= 0) return;
  if (grain < 1) grain = 1;
  if (call.pool == nullptr || tasks <= grain) {
    f((int64_t)0, tasks, 0);
    return;
  }
  call.pool->run(
      tasks, grain,
      [](void* context, int64_t begin, int64_t end, int worker) { (*(const F*)context)(begin, end, worker); },
      (void*)&f);
}

// Elements of plain arithmetic per task.
constexpr int64_t kGrainElements = 16384;

// A grain for rows of `width` elements: about kGrainElements elements each.
inline int64_t row_grain(int64_t width) {
  const int64_t rows = width > 0 ? kGrainElements / width : kGrainElements;
  return rows > 0 ? rows : 1;
}

}  // namespace octavo::OCTAVO_ISA
