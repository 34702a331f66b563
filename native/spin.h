// Small helpers of the pool and the queue: clock, spinning, threads. Not for kernel files.
#pragma once

#include <pthread.h>

#include <cstdint>

namespace octavo {

int64_t now_ns();
// Tells the core that this is a waiting loop.
void relax();
// A thread with all signals blocked (Node handles them) and a stack of 4 MB. False if the system refuses.
bool start_thread(pthread_t* thread, void* (*body)(void*), void* argument, const char* name);

}  // namespace octavo
