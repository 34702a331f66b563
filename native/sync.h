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

#include <pthread.h>
#include <time.h>

namespace octavo {

class Mutex {
 public:
  constexpr Mutex() = default;
  ~Mutex() { pthread_mutex_destroy(&mutex_); }
  Mutex(const Mutex&) = delete;
  void lock() { pthread_mutex_lock(&mutex_); }
  void unlock() { pthread_mutex_unlock(&mutex_); }

 private:
  friend class Condition;
  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
};

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
class Condition {
 public:
  Condition() = default;
  ~Condition() { pthread_cond_destroy(&condition_); }
  Condition(const Condition&) = delete;
  void wait(Lock& lock) { pthread_cond_wait(&condition_, &lock.mutex_.mutex_); }
  // At most about that long; a clock that is set may make it shorter or longer, once.
  void wait_ms(Lock& lock, int ms) {
    timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)ms * 1'000'000;
    until.tv_sec += until.tv_nsec / 1'000'000'000;
    until.tv_nsec %= 1'000'000'000;
    pthread_cond_timedwait(&condition_, &lock.mutex_.mutex_, &until);
  }
  void notify_one() { pthread_cond_signal(&condition_); }
  void notify_all() { pthread_cond_broadcast(&condition_); }

 private:
  pthread_cond_t condition_ = PTHREAD_COND_INITIALIZER;
};

}  // namespace octavo

#endif
