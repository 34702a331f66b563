// A lock and a condition of the platform's own threads: std's are in a C++ library, which an add-on would have to bring along.
// WebAssembly has its own (wasm/include/). Not for kernel files.
#pragma once

#if defined(__wasm__)

#include <condition_variable>
#include <mutex>

namespace octavo {
using Mutex = std::mutex;
using Lock = std::unique_lock<std::mutex>;
using Condition = std::condition_variable;
}  // namespace octavo

#else

#if defined(_WIN32)
#include "windows/sync.h"
#else
#include "posix/sync.h"
#endif

namespace octavo {

// Holds a mutex until the end of its scope, or until it is unlocked.
class Lock {
 public:
  explicit Lock(Mutex& mutex) : mutex_(mutex) { mutex_.lock(); }
  ~Lock() {
    if (held_) mutex_.unlock();
  }
  Lock(const Lock&) = delete;
  void lock() {
    mutex_.lock();
    held_ = true;
  }
  void unlock() {
    held_ = false;
    mutex_.unlock();
  }

 private:
  friend class Condition;
  Mutex& mutex_;
  bool held_ = true;
};

// May wake up without being told.
class Condition : public SystemCondition {
 public:
  void wait(Lock& lock) { SystemCondition::wait(lock.mutex_); }
  // At most about that long.
  void wait_ms(Lock& lock, int ms) { SystemCondition::wait_ms(lock.mutex_, ms); }
};

}  // namespace octavo

#endif
