// The locks of ../sync.h, of POSIX threads.
#pragma once

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
  friend class SystemCondition;
  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
};

class SystemCondition {
 public:
  SystemCondition() = default;
  ~SystemCondition() { pthread_cond_destroy(&condition_); }
  SystemCondition(const SystemCondition&) = delete;
  void wait(Mutex& mutex) { pthread_cond_wait(&condition_, &mutex.mutex_); }
  // A clock that is set may make it shorter or longer, once.
  void wait_ms(Mutex& mutex, int ms) {
    timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)ms * 1'000'000;
    until.tv_sec += until.tv_nsec / 1'000'000'000;
    until.tv_nsec %= 1'000'000'000;
    pthread_cond_timedwait(&condition_, &mutex.mutex_, &until);
  }
  void notify_one() { pthread_cond_signal(&condition_); }
  void notify_all() { pthread_cond_broadcast(&condition_); }

 private:
  pthread_cond_t condition_ = PTHREAD_COND_INITIALIZER;
};

}  // namespace octavo
