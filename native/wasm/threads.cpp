// Clock and threads of a module. JavaScript starts the threads: each is a worker with an instance of this module on the same
// memory, a stack of its own, and a call of enter(). They may start late or never; nothing waits for them.
#include <atomic>

#include "../system.h"
#include "export.h"
#include "heap.h"

extern "C" __attribute__((import_module("host"), import_name("now"))) double host_now();

namespace octavo {

namespace {

constexpr int kMaxThreads = 64;
constexpr int64_t kNapNs = 50'000;

struct Start {
  void (*body)(void*);
  void* argument;
};
Start starts[kMaxThreads];
int32_t wanted = 0;
std::atomic<int> broken{0};

}  // namespace

int64_t now_ns() { return (int64_t)(host_now() * 1e6); }

void relax() {}

// Called during long waits for another thread. If that thread ended in the middle of its work, this ends the caller too.
void give_way() {
  if (broken.load()) __builtin_trap();
  static int32_t nothing = 0;
  __builtin_wasm_memory_atomic_wait32(&nothing, 0, kNapNs);
}

bool Thread::start(void (*body)(void*), void* argument, const char*) {
  if (wanted == kMaxThreads) return false;
  starts[wanted++] = {body, argument};
  return true;
}

// JavaScript owns the threads and ends them all at once.
void Thread::join() {}

}  // namespace octavo

using namespace octavo;

// The number of threads that JavaScript must start.
EXPORT(threads_wanted) int32_t threads_wanted() { return wanted; }
// Memory for a thread's stack and its own variables; null if there is none. It is never freed.
EXPORT(thread_memory) char* thread_memory(uint32_t bytes) { return heap_allocate(bytes); }
// The thread's main function.
EXPORT(enter) void enter(int32_t thread) { starts[thread].body(starts[thread].argument); }
// A thread ended by a trap.
EXPORT(thread_broke) void thread_broke() { broken.store(1); }
