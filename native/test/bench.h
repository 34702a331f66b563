// Time and limits for the benches.
#pragma once

#include <time.h>

#include <algorithm>
#include <chrono>
#include <functional>

#include "harness.h"
#include "limits.h"

// On a busy machine OCTAVO_BENCH_CLOCK=cpu with one thread counts only the time that this process ran.
inline double now() {
  static const char* clock_name = getenv("OCTAVO_BENCH_CLOCK");
  if (clock_name && !strcmp(clock_name, "cpu")) {
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Best and median of several runs, in seconds.
struct Time {
  double best, median;
};
inline Time measure(const std::function<void()>& f, double budget = 0.35) {
  f();
  std::vector<double> times;
  const double end = now() + budget;
  while (times.size() < 3 || (now() < end && times.size() < 1000)) {
    const double start = now();
    f();
    times.push_back(now() - start);
  }
  std::sort(times.begin(), times.end());
  return {times[0], times[times.size() / 2]};
}

inline void on_all(Machine& machine, int threads, void (*f)(void*, int)) {
  struct Job {
    void (*f)(void*, int);
  } job{f};
  machine.pool->run(
      threads, 1, [](void* c, int64_t begin, int64_t, int) { ((Job*)c)->f(nullptr, (int)begin); }, &job);
}

// The limits of this machine with a number of threads: GB/s, GFLOP/s, GOP/s.
struct Limits {
  double stream = 0, fma = 0, int8 = 0, bf16 = 0;
};
inline Limits measure_limits(Machine& machine, int threads) {
  static const Array big(DType::i8, {512 << 20});
  static int64_t part;
  part = big.bytes / threads / 64 * 64;
  // One stream per thread or four side by side, whichever is faster on this machine.
  const Time one = measure([&] { on_all(machine, threads, [](void*, int i) { stream_read(big.data + i * part, part, 1); }); }, 0.5);
  const Time four = measure([&] { on_all(machine, threads, [](void*, int i) { stream_read(big.data + i * part, part, 4); }); }, 0.5);
  const Time stream = four.median < one.median ? four : one;
  const auto peak = [&](void (*f)(void*, int), double work) {
    return work * threads / measure([&] { on_all(machine, threads, f); }, 0.2).median / 1e9;
  };
  Limits limits;
  limits.stream = (double)part * threads / stream.median / 1e9;
  limits.fma = peak([](void*, int) { spin_fma(); }, spin_fma_work());
  limits.int8 = peak([](void*, int) { spin_int8(); }, spin_int8_work());
  limits.bf16 = peak([](void*, int) { spin_bf16(); }, spin_bf16_work());
  std::printf("limits on %d threads: stream %.1f GB/s (best %.1f), f32 %.0f GFLOP/s, int8 %.0f GOP/s, bf16 %.0f GFLOP/s\n", threads,
              limits.stream, (double)part * threads / stream.best / 1e9, limits.fma, limits.int8, limits.bf16);
  return limits;
}

// The kernel of a level; with an empty name the best one of this machine.
inline const Kernel* find(const char* op, const std::string& isa) {
  const Kernel* best = nullptr;
  for (const Entry& e : kernels_named(op)) {
    if (isa.empty() && !strcmp(e.isa, "amx_emulated")) continue;
    best = e.kernel;
    if (isa == e.isa) break;
  }
  return best;
}
