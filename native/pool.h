// A private pool of threads for one device. The queue thread is worker 0 and works too; the helpers spin for a short while
// after each job and then sleep. Nothing here is inline: kernel files are compiled per instruction set and share this header
// (see native/parallel.h for the form that kernels use).
#pragma once

#include <cstdint>

namespace octavo {

class Pool {
 public:
  // Called with [begin, end) of the tasks and the number of the worker that runs it (0 <= worker < threads()).
  using Body = void (*)(void* context, int64_t begin, int64_t end, int worker);

  // Starts threads - 1 helpers; fewer if the system refuses some. Null if memory ran out.
  static Pool* create(int threads);
  // Waits for the helpers to end.
  static void destroy(Pool* pool);

  int threads() const;

  // Runs body over [0, tasks) in pieces of `grain`, and returns when all are done. Each worker starts with a range of its own
  // (so it gets the same rows again in the next call) and then helps the others. Which worker runs a piece is undetermined,
  // so results must not depend on it. Called by the queue thread only; never nested.
  void run(int64_t tasks, int64_t grain, Body body, void* context);

 private:
  struct State;
  State* state_ = nullptr;
  Pool() = default;
  ~Pool() = default;
};

}  // namespace octavo
