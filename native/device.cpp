#include "device.h"

#include <pthread.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <new>

#include "buffers.h"
#include "file_reader.h"
#include "interpreter.h"
#include "pool.h"
#include "queue.h"
#include "spin.h"

namespace octavo {

struct Device::State final : private Interpreter {
  Options options;
  Pool* pool = nullptr;
  pthread_t thread{};
  bool joinable = false;

  Buffers buffers;
  Queue queue;

  // The rest is the queue thread's; while the queue is idle, the owner's.
  FileReader files;
  std::atomic<bool> profiling{false};
  struct Counter {
    std::atomic<uint64_t> calls{0}, ns{0};
  } counters[kMaxKernels];

  State() : Interpreter(buffers) {}

  using Interpreter::count;
  using Interpreter::isa;
  using Interpreter::kernel;
  using Interpreter::open;

  bool stopped() const override { return queue.abandoned().load(std::memory_order_relaxed); }

  const char* call(int kernel) override {
    if (!profiling.load(std::memory_order_relaxed)) return Interpreter::call(kernel);
    const int64_t start = now_ns();
    const char* error = Interpreter::call(kernel);
    counters[kernel].ns.fetch_add((uint64_t)(now_ns() - start), std::memory_order_relaxed);
    counters[kernel].calls.fetch_add(1, std::memory_order_relaxed);
    return error;
  }

  void loop() {
    while (Item* item = queue.take([this] { files.close_all(); })) {
      const bool last = item->kind == Kind::close;
      switch (item->kind) {
        case Kind::commands:
          run(reinterpret_cast<const int32_t*>(item->payload()), (int64_t)item->count);
          break;
        case Kind::write:
          write(item->buffer, item->offset, item->payload(), item->count);
          break;
        case Kind::load: {
          const char* error = files.read(*pool, item->payload(), item->position,
                                         buffers.slot(item->buffer)->data + item->offset, item->count, queue.abandoned());
          if (error) spoilt(item->buffer, item->offset, item->count, "load", error);
          else wrote(item->buffer, item->offset, item->count);
          break;
        }
        case Kind::free:
          forget(item->buffer);
          buffers.release(item->buffer);
          break;
        case Kind::read:
          finish_read(item->buffer, item->offset, item->count, item->completion);
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

  void write(int32_t id, uint64_t offset, const void* bytes, uint64_t count) {
    std::memcpy(buffers.slot(id)->data + offset, bytes, count);
    wrote(id, offset, count);
  }

  void finish_read(int32_t id, uint64_t offset, uint64_t sound, Completion* completion) {
    completion->failure = verdict(id, offset, sound);
    if (!completion->failure.failed && completion->bytes > 0)
      std::memcpy(completion->destination, buffers.slot(id)->data + offset, completion->bytes);
  }

  ~State() { Pool::destroy(pool); }
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
  const bool started = s->queue.start();
  s->pool = Pool::create(options.threads);
  if (!started || !s->pool) {
    delete s;
    delete device;
    return nullptr;
  }
  s->open(options.isa, s->pool);
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
int Device::op_count() const { return state_->count(); }
const Kernel& Device::op(int index) const { return state_->kernel(index); }
int Device::op_isa(int index) const { return state_->isa(index); }
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
    state_->write(id, offset, bytes, count);
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

Device::Read Device::read(int32_t id, uint64_t offset, uint64_t sound, Completion* completion, bool at_once) {
  if (at_once && state_->queue.idle()) {
    state_->finish_read(id, offset, sound, completion);
    return Read::done;
  }
  Item* item = make_item(Kind::read, 0);
  if (!item) return Read::no_memory;
  item->buffer = id;
  item->offset = offset;
  item->count = sound;
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
  for (int i = 0; i < state_->count(); i++) {
    state_->counters[i].calls.store(0, std::memory_order_relaxed);
    state_->counters[i].ns.store(0, std::memory_order_relaxed);
  }
}

}  // namespace octavo
