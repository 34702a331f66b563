#include "device.h"

#include <pthread.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <new>

#include "buffers.h"
#include "file_reader.h"
#include "memory.h"
#include "pool.h"
#include "queue.h"
#include "registry_tables.h"
#include "signature.h"
#include "spin.h"

namespace octavo {

struct Device::State {
  Options options;
  Pool* pool = nullptr;
  pthread_t thread{};
  bool joinable = false;

  // Kernels in command order.
  int ops = 0;
  const Kernel** kernels = nullptr;
  int* isas = nullptr;
  Spec* specs = nullptr;

  Buffers buffers;
  Queue queue;

  // Queue thread's.
  Call call;
  char* scratch = nullptr;
  size_t scratch_bytes = 0;
  Failure failure;
  FileReader files;
  std::atomic<bool> profiling{false};
  struct Counter {
    std::atomic<uint64_t> calls{0}, ns{0};
  }* counters = nullptr;

  static char* need(void* self, size_t bytes) {
    State* s = static_cast<State*>(self);
    if (bytes > s->scratch_bytes) {
      free_block(s->scratch, s->scratch_bytes);
      const size_t wanted = bytes + bytes / 4;
      s->scratch = allocate_block(wanted);
      s->scratch_bytes = s->scratch ? wanted : 0;
    }
    return s->scratch;
  }

  void fail(const char* op, int32_t site, const char* message) {
    failure.failed = true;
    failure.site = site;
    std::snprintf(failure.op, sizeof failure.op, "%s", op);
    std::snprintf(failure.message, sizeof failure.message, "%s", message);
  }

  void loop() {
    while (Item* item = queue.take([this] { files.close_all(); })) {
      const bool last = item->kind == Kind::close;
      switch (item->kind) {
        case Kind::commands:
          run(reinterpret_cast<const int32_t*>(item->payload()), (int64_t)item->count);
          break;
        case Kind::write: {
          std::memcpy(buffers.slot(item->buffer)->data + item->offset, item->payload(), item->count);
          break;
        }
        case Kind::load: {
          if (failure.failed) break;
          const char* error = files.read(*pool, item->payload(), item->position,
                                         buffers.slot(item->buffer)->data + item->offset, item->count, queue.abandoned());
          if (error) fail("load", 0, error);
          break;
        }
        case Kind::free:
          buffers.release(item->buffer);
          break;
        case Kind::read:
          finish_read(item->buffer, item->offset, item->completion);
          break;
        case Kind::close:
          break;
      }
      Completion* completion = item->completion;
      // Before the owner hears of it, so that it then finds the queue idle.
      queue.finish();
      if (completion) options.done(options.owner, completion);
      if (last) break;
    }
  }

  void finish_read(int32_t id, uint64_t offset, Completion* completion) {
    completion->failure = failure;
    if (failure.failed) failure.failed = false;
    else if (completion->bytes > 0) std::memcpy(completion->destination, buffers.slot(id)->data + offset, completion->bytes);
  }

  void run(const int32_t* words, int64_t count) {
    const int32_t* end = words + count;
    const bool timed = profiling.load(std::memory_order_relaxed);
    while (words < end) {
      if (failure.failed || queue.abandoned().load(std::memory_order_relaxed)) return;
      if (end - words < 3 || words[1] < 3 || words[1] > end - words)
        return fail("submit", end - words >= 3 ? words[2] : 0, "a command is longer than what was submitted");
      const int32_t kernel = words[0], size = words[1], site = words[2];
      if (kernel < 0 || kernel >= ops) {
        char text[64];
        std::snprintf(text, sizeof text, "there is no kernel %d", kernel);
        return fail("submit", site, text);
      }
      const char* error = decode(specs[kernel], words, size, buffers, call);
      if (!error) {
        if (timed) {
          const int64_t start = now_ns();
          error = kernels[kernel]->run(call);
          counters[kernel].ns.fetch_add((uint64_t)(now_ns() - start), std::memory_order_relaxed);
          counters[kernel].calls.fetch_add(1, std::memory_order_relaxed);
        } else {
          error = kernels[kernel]->run(call);
        }
      }
      if (error) return fail(kernels[kernel]->name, site, error);
      words += size;
    }
  }

  ~State() {
    free_block(scratch, scratch_bytes);
    delete[] kernels;
    delete[] isas;
    delete[] specs;
    delete[] counters;
    Pool::destroy(pool);
  }
};

Device* Device::open(const Options& options) {
  Device* device = new (std::nothrow) Device();
  State* s = new (std::nothrow) State();
  if (!device || !s) {
    delete s;
    delete device;
    return nullptr;
  }
  device->state_ = s;
  s->options = options;
  const int ops = octavo::op_count(options.isa);
  s->kernels = new (std::nothrow) const Kernel*[(size_t)ops + 1];
  s->isas = new (std::nothrow) int[(size_t)ops + 1];
  s->specs = new (std::nothrow) Spec[(size_t)ops + 1];
  s->counters = new (std::nothrow) State::Counter[(size_t)ops + 1];
  const bool started = s->queue.start();
  s->pool = Pool::create(options.threads);
  if (!s->kernels || !s->isas || !s->specs || !s->counters || !started || !s->pool) {
    delete s;
    delete device;
    return nullptr;
  }
  for (int i = 0; i < ops; i++) {
    const Kernel& kernel = op_kernel(options.isa, i);
    // A signature that cannot be read is a mistake in a kernel file: the op is left out, so that nothing can run it.
    if (!s->specs[s->ops].parse(kernel.signature) || std::strcmp(s->specs[s->ops].op, kernel.name) != 0) {
      std::fprintf(stderr, "octavo: kernel %s: cannot read its signature\n", kernel.name);
      continue;
    }
    s->kernels[s->ops] = &kernel;
    s->isas[s->ops++] = op_kernel_isa(options.isa, i);
  }
  s->call.pool = s->pool;
  s->call.scratch = State::need;
  s->call.scratch_owner = s;
  prepare_isa(options.isa);
  const auto body = [](void* state) -> void* {
    static_cast<State*>(state)->loop();
    return nullptr;
  };
  s->joinable = start_thread(&s->thread, body, s, "octavo-queue");
  if (!s->joinable) {
    delete s;
    delete device;
    return nullptr;
  }
  return device;
}

void Device::destroy(Device* device) {
  if (!device) return;
  State* s = device->state_;
  s->queue.abandon();
  if (s->joinable) pthread_join(s->thread, nullptr);
  delete s;
  delete device;
}

int Device::threads() const { return state_->pool->threads(); }
int Device::isa() const { return state_->options.isa; }
int Device::op_count() const { return state_->ops; }
const Kernel& Device::op(int index) const { return *state_->kernels[index]; }
int Device::op_isa(int index) const { return state_->isas[index]; }
bool Device::idle() const { return state_->queue.idle(); }

int32_t Device::allocate(uint64_t bytes) { return state_->buffers.allocate(bytes); }

uint64_t Device::size(int32_t id) const {
  const Buffers::Slot* slot = state_->buffers.slot(id);
  return slot ? slot->live : Buffers::kNotLive;
}

bool Device::free(int32_t id) {
  Item* item = make_item(Kind::free, 0);
  if (!item) return false;
  item->buffer = id;
  state_->buffers.slot(id)->live = Buffers::kNotLive;
  state_->queue.push(item);
  return true;
}

bool Device::write(int32_t id, uint64_t offset, const void* bytes, uint64_t count) {
  if (count == 0) return true;
  if (state_->queue.idle()) {
    std::memcpy(state_->buffers.slot(id)->data + offset, bytes, count);
    return true;
  }
  Item* item = make_item(Kind::write, count);
  if (!item) return false;
  item->buffer = id;
  item->offset = offset;
  item->count = count;
  std::memcpy(item->payload(), bytes, count);
  state_->queue.push(item);
  return true;
}

bool Device::submit(const int32_t* words, int64_t count) {
  if (count == 0) return true;
  Item* item = make_item(Kind::commands, (uint64_t)count * 4);
  if (!item) return false;
  item->count = (uint64_t)count;
  std::memcpy(item->payload(), words, (size_t)count * 4);
  state_->queue.push(item);
  return true;
}

bool Device::load(int32_t id, uint64_t offset, const char* path, uint64_t position, uint64_t count) {
  const size_t length = std::strlen(path) + 1;
  Item* item = make_item(Kind::load, length);
  if (!item) return false;
  item->buffer = id;
  item->offset = offset;
  item->count = count;
  item->position = position;
  std::memcpy(item->payload(), path, length);
  state_->queue.push(item);
  return true;
}

Device::Read Device::read(int32_t id, uint64_t offset, Completion* completion, bool at_once) {
  if (at_once && state_->queue.idle()) {
    state_->finish_read(id, offset, completion);
    return Read::done;
  }
  Item* item = make_item(Kind::read, 0);
  if (!item) return Read::no_memory;
  item->buffer = id;
  item->offset = offset;
  item->completion = completion;
  state_->queue.push(item);
  return Read::queued;
}

bool Device::close(Completion* completion) {
  Item* item = make_item(Kind::close, 0);
  if (!item) return false;
  item->completion = completion;
  state_->queue.push(item);
  return true;
}

void Device::profile(bool on) { state_->profiling.store(on, std::memory_order_relaxed); }

OpProfile Device::profile_of(int op) const {
  const State::Counter& counter = state_->counters[op];
  return {counter.calls.load(std::memory_order_relaxed), counter.ns.load(std::memory_order_relaxed)};
}

void Device::profile_reset() {
  for (int i = 0; i < state_->ops; i++) {
    state_->counters[i].calls.store(0, std::memory_order_relaxed);
    state_->counters[i].ns.store(0, std::memory_order_relaxed);
  }
}

}  // namespace octavo
