// The pool where there are no threads: the caller does all of the work.
#include "../pool.h"

namespace octavo {

Pool* Pool::create(int) {
  static Pool pool;
  return &pool;
}

void Pool::destroy(Pool*) {}

int Pool::threads() const { return 1; }

void Pool::run(int64_t tasks, int64_t, Body body, void* context) {
  if (tasks > 0) body(context, 0, tasks, 0);
}

}  // namespace octavo
