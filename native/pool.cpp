#include "pool.h"

#include <atomic>
#include <new>

#include "sync.h"
#include "system.h"

namespace octavo {

namespace {

constexpr int64_t kSpinNs = 60'000;

struct alignas(64) Worker {
  std::atomic<int64_t> next{0};  // the next piece of this worker's own range
  int64_t end = 0;               // the end of that range
  alignas(64) std::atomic<uint32_t> inside{0};
  Thread thread;
  void* pool = nullptr;  // what the thread needs at its start
  int me = 0;
};

}  // namespace

struct Pool::State {
  int threads = 1;
  Worker* workers = nullptr;

  // Odd while a job is open. A helper raises its `inside` flag, checks again that the job is still open, and only then touches
  // it; run() closes the job and waits until no flag is up. So nothing waits for a sleeping helper.
  alignas(64) std::atomic<uint64_t> generation{0};
  std::atomic<bool> stop{false};
  std::atomic<int> sleepers{0};

  int64_t tasks = 0;
  int64_t grain = 1;
  Body body = nullptr;
  void* context = nullptr;

  Mutex mutex;
  Condition wake;

  void work(int me) {
    for (int i = 0; i < threads; i++) {
      Worker& owner = workers[me + i < threads ? me + i : me + i - threads];
      const int64_t end = owner.end;
      while (owner.next.load(std::memory_order_relaxed) < end) {
        const int64_t piece = owner.next.fetch_add(1, std::memory_order_relaxed);
        if (piece >= end) break;
        const int64_t begin = piece * grain;
        body(context, begin, begin + grain < tasks ? begin + grain : tasks, me);
      }
    }
  }

  void helper(int me) {
    uint64_t seen = 0;
    for (;;) {
      uint64_t now = generation.load(std::memory_order_acquire);
      if (!(now & 1) || now == seen) {
        now = wait(seen);
        if (stop.load(std::memory_order_relaxed)) return;
      }
      workers[me].inside.store(1, std::memory_order_seq_cst);
      if (generation.load(std::memory_order_seq_cst) == now) work(me);
      workers[me].inside.store(0, std::memory_order_release);
      seen = now;
    }
  }

  // Returns the number of an open job other than `seen`, or anything once the pool stops.
  uint64_t wait(uint64_t seen) {
    const auto open = [&](uint64_t g) { return ((g & 1) && g != seen) || stop.load(std::memory_order_relaxed); };
    const int64_t until = now_ns() + kSpinNs;
    do {
      for (int i = 0; i < 64; i++) {
        const uint64_t g = generation.load(std::memory_order_acquire);
        if (open(g)) return g;
        relax();
      }
    } while (now_ns() < until);
    Lock lock(mutex);
    sleepers.fetch_add(1, std::memory_order_seq_cst);
    uint64_t g;
    while (!open(g = generation.load(std::memory_order_seq_cst))) wake.wait(lock);
    sleepers.fetch_sub(1, std::memory_order_relaxed);
    return g;
  }

  void wake_all() {
    if (sleepers.load(std::memory_order_seq_cst) == 0) return;
    { Lock lock(mutex); }
    wake.notify_all();
  }
};

Pool* Pool::create(int threads) {
  Pool* pool = new (std::nothrow) Pool();
  State* state = new (std::nothrow) State();
  Worker* workers = new (std::nothrow) Worker[(size_t)threads];
  if (!pool || !state || !workers) {
    delete[] workers;
    delete state;
    delete pool;
    return nullptr;
  }
  pool->state_ = state;
  state->workers = workers;
  // The helpers wait for the first job before they read this, so it may still shrink here.
  int started = 1;
  for (; started < threads; started++) {
    Worker& worker = workers[started];
    worker.pool = state;
    worker.me = started;
    const auto body = [](void* argument) {
      const Worker& own = *static_cast<Worker*>(argument);
      static_cast<State*>(own.pool)->helper(own.me);
    };
    if (!worker.thread.start(body, &worker, "octavo-pool")) break;
  }
  state->threads = started;
  return pool;
}

void Pool::destroy(Pool* pool) {
  if (!pool) return;
  State* state = pool->state_;
  {
    Lock lock(state->mutex);
    state->stop.store(true, std::memory_order_seq_cst);
  }
  state->wake.notify_all();
  for (int i = 1; i < state->threads; i++) state->workers[i].thread.join();
  delete[] state->workers;
  delete state;
  delete pool;
}

int Pool::threads() const { return state_->threads; }

void Pool::run(int64_t tasks, int64_t grain, Body body, void* context) {
  State& s = *state_;
  if (tasks <= 0) return;
  if (grain < 1) grain = 1;
  const int64_t pieces = (tasks + grain - 1) / grain;
  if (s.threads == 1 || pieces == 1) {
    body(context, 0, tasks, 0);
    return;
  }
  s.tasks = tasks;
  s.grain = grain;
  s.body = body;
  s.context = context;
  const int64_t share = pieces / s.threads, rest = pieces % s.threads;
  int64_t begin = 0;
  for (int i = 0; i < s.threads; i++) {
    const int64_t end = share * (i + 1) + rest * (i + 1) / s.threads;
    s.workers[i].next.store(begin, std::memory_order_relaxed);
    s.workers[i].end = end;
    begin = end;
  }
  s.generation.fetch_add(1, std::memory_order_seq_cst);
  s.wake_all();
  s.work(0);
  s.generation.fetch_add(1, std::memory_order_seq_cst);
  for (int i = 1; i < s.threads; i++) {
    int spins = 0;
    while (s.workers[i].inside.load(std::memory_order_seq_cst) != 0) {
      relax();
      if (++spins > 20000) {
        give_way();
        spins = 0;
      }
    }
  }
}

}  // namespace octavo
