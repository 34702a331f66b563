// A transfer from one device of this process to another. The source's queue thread sends, the target's receives; whichever
// comes second copies. A source that comes first leaves a copy if it is small, and otherwise waits. No deadlock: each end
// waits only for work that was queued before it.
#pragma once

#include <atomic>
#include <cstdint>

#include "poison.h"
#include "sync.h"

namespace octavo {

class Link {
 public:
  // With one reference; null if memory ran out.
  static Link* make();
  void retain() { references_.fetch_add(1, std::memory_order_relaxed); }
  void release();

  // Source's queue thread. `spoilt` is the failure that spoilt the bytes, if any. Returns early once abandoned.
  void send(const char* from, uint64_t bytes, const Failure& spoilt, const std::atomic<bool>& abandoned);
  // Target's queue thread: fills `to`, or returns the failure.
  Failure receive(char* to, uint64_t bytes, const std::atomic<bool>& abandoned);
  // Any thread: one of the ends will not come.
  void fail(const char* message);

  // Owner: which ends are queued.
  bool sending = false, receiving = false;

 private:
  enum Stage { kEmpty, kWanted, kLeft, kDone };

  ~Link();
  void finish(Lock& lock);
  // Waits until the stage differs from `stage`, or the device is abandoned.
  void wait(Lock& lock, Stage stage, const std::atomic<bool>& abandoned);

  Mutex mutex_;
  Condition changed_;
  std::atomic<int> stage_{kEmpty};
  std::atomic<int> references_{1};
  char* to_ = nullptr;
  char* copy_ = nullptr;
  uint64_t copy_bytes_ = 0;
  Failure failure_;
};

}  // namespace octavo
