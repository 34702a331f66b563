// Clock and threads.
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

#include <cstdlib>
#include <new>

#include "../system.h"

namespace octavo {

namespace {

struct Start {
  void (*body)(void*);
  void* argument;
};

void* enter(void* argument) {
  const Start start = *static_cast<Start*>(argument);
  std::free(argument);
  start.body(start.argument);
  return nullptr;
}

}  // namespace

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1'000'000'000 + t.tv_nsec;
}

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

void give_way() { sched_yield(); }

bool Thread::start(void (*body)(void*), void* argument, const char* name) {
  void* memory = std::malloc(sizeof(Start));
  pthread_attr_t attributes;
  if (!memory || pthread_attr_init(&attributes) != 0) {
    std::free(memory);
    return false;
  }
  Start* start = new (memory) Start{body, argument};
  pthread_attr_setstacksize(&attributes, 4u << 20);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread{};
  const bool started = pthread_create(&thread, &attributes, enter, start) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  if (!started) {
    std::free(memory);
    return false;
  }
#if defined(__linux__)
  pthread_setname_np(thread, name);
#else
  (void)name;
#endif
  static_assert(sizeof thread <= sizeof handle_);
  handle_ = (uintptr_t)thread;
  return true;
}

void Thread::join() { pthread_join((pthread_t)handle_, nullptr); }

}  // namespace octavo
