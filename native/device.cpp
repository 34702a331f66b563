#include "device.h"

#include <atomic>
#include <cstdio>
#include <cstring>
#include <new>

#include "buffers.h"
#include "file_reader.h"
#include "interpreter.h"
#include "link.h"
#include "pool.h"
#include "prefetcher.h"
#include "queue.h"
#include "system.h"

namespace octavo {

struct Device::State final : private Interpreter {
  Options options;
  Pool* pool = nullptr;
  Thread thread;
  bool joinable = false;

  Buffers buffers;
  Queue queue;

  // The rest is the queue thread's; while the queue is idle, the owner's.
  FileReader files;
  Prefetcher prefetcher{queue.abandoned()};
  std::atomic<int64_t> ahead_open{0};  // loads ahead queued by the owner and not yet settled by the queue thread
  std::atomic<uint64_t> ahead{0}, overlapped{0};
  std::atomic<bool> profiling{false};
  struct Counter {
    std::atomic<uint64_t> calls{0}, ns{0};
  } counters[kMaxKernels];

  State() : Interpreter(buffers) {}

  using Interpreter::count;
  using Interpreter::isa;
  using Interpreter::kernel;
  using Interpreter::open;

  bool idle() const { return queue.idle() && ahead_open.load(std::memory_order_acquire) == 0; }

  bool stopped() const override { return queue.abandoned().load(std::memory_order_relaxed); }

  const char* call(int kernel) override {
    if (prefetcher.reading()) overlapped.fetch_add(1, std::memory_order_relaxed);
    if (!profiling.load(std::memory_order_relaxed)) return Interpreter::call(kernel);
    const int64_t start = now_ns();
    const char* error = Interpreter::call(kernel);
    counters[kernel].ns.fetch_add((uint64_t)(now_ns() - start), std::memory_order_relaxed);
    counters[kernel].calls.fetch_add(1, std::memory_order_relaxed);
    return error;
  }

  // Handles the outcome of a load that was read ahead.
  void account(Prefetcher::Load* load) {
    if (!load->forgotten) {
      if (load->failure.failed) spoilt(load->buffer, load->begin, load->end - load->begin, load->failure);
      else wrote(load->buffer, load->begin, load->end - load->begin);
    }
    prefetcher.drop(load);
    awaiting_ = prefetcher.any();
    ahead_open.fetch_sub(1, std::memory_order_release);
  }

  void settle(int32_t id, uint64_t begin, uint64_t end) override {
    while (Prefetcher::Load* load = prefetcher.take(id, begin, end)) account(load);
  }

  void forgotten(int32_t id) override { prefetcher.forget(id); }

  void load(Item& item) {
    char* to = buffers.slot(item.buffer)->data + item.offset;
    if (item.ahead) {
      if (prefetcher.full()) account(prefetcher.take_oldest(true));
      if (prefetcher.start(item.buffer, item.offset, item.count, item.site, to, item.payload(), item.position,
                           item.stamp)) {
        ahead.fetch_add(1, std::memory_order_relaxed);
        awaiting_ = true;
        return;
      }
      ahead_open.fetch_sub(1, std::memory_order_release);
    }
    const char* error =
        files.read(pool, item.payload(), item.position, to, item.count, item.stamp, queue.abandoned());
    if (error) {
      Failure failure;
      failure.set("load", item.site, error);
      spoilt(item.buffer, item.offset, item.count, failure);
    } else {
      wrote(item.buffer, item.offset, item.count);
    }
  }

  void pass(Item& item) {
    char* data = buffers.slot(item.buffer)->data + item.offset;
    if (item.kind == Kind::send) {
      item.link->send(data, item.count, verdict(item.buffer, item.offset, item.count), queue.abandoned());
    } else {
      const Failure failure = item.link->receive(data, item.count, queue.abandoned());
      if (failure.failed) spoilt(item.buffer, item.offset, item.count, failure);
      else wrote(item.buffer, item.offset, item.count);
    }
    item.dropped = nullptr;
    item.link->release();
  }

  void loop() {
    while (Item* item = queue.take([this] { files.close_all(); })) {
      const bool last = item->kind == Kind::close;
      if (awaiting_) {
        while (Prefetcher::Load* load = prefetcher.take_oldest(last)) account(load);
        // Every item except commands uses one range.
        if (item->kind == Kind::free) settle(item->buffer, 0, UINT64_MAX);
        else if (item->kind != Kind::commands) settle(item->buffer, item->offset, item->offset + item->reach());
      }
      switch (item->kind) {
        case Kind::commands:
          run(reinterpret_cast<const int32_t*>(item->payload()), (int64_t)item->count);
          break;
        case Kind::write:
          write(item->buffer, item->offset, item->payload(), item->count);
          break;
        case Kind::spoil:
          spoilt(item->buffer, item->offset, item->count, *reinterpret_cast<const Failure*>(item->payload()));
          break;
        case Kind::load:
          load(*item);
          break;
        case Kind::send:
        case Kind::receive:
          pass(*item);
          break;
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
      // Before the owner is notified, so that it then finds the queue idle.
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
  const auto body = [](void* state) { static_cast<State*>(state)->loop(); };
  s->joinable = s->thread.start(body, s, "octavo-queue");
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
  if (s->joinable) s->thread.join();
  delete s;
  delete device;
}

int Device::threads() const { return state_->pool->threads(); }
int Device::isa() const { return state_->options.isa; }
int Device::op_count() const { return state_->count(); }
const Kernel& Device::op(int index) const { return state_->kernel(index); }
int Device::op_isa(int index) const { return state_->isa(index); }
bool Device::idle() const { return state_->idle(); }

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
  if (state_->idle()) {
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

bool Device::load(int32_t id, uint64_t offset, const char* path, uint64_t position, uint64_t count, bool ahead,
                  int32_t site, const FileStamp& stamp) {
  const size_t length = std::strlen(path) + 1;
  Item* item = make_item(Kind::load, length);
  if (!item) return false;
  item->buffer = id;
  item->offset = offset;
  item->count = count;
  item->position = position;
  item->stamp = stamp;
  item->ahead = ahead;
  item->site = site;
  std::memcpy(item->payload(), path, length);
  if (ahead) state_->ahead_open.fetch_add(1, std::memory_order_relaxed);
  state_->queue.push(item);
  return true;
}

bool Device::spoil(int32_t id, uint64_t offset, uint64_t count, const Failure& failure) {
  Item* item = make_item(Kind::spoil, sizeof(Failure));
  if (!item) return false;
  item->buffer = id;
  item->offset = offset;
  item->count = count;
  new (item->payload()) Failure(failure);
  state_->queue.push(item);
  return true;
}

namespace {

Item* end_of(Kind kind, int32_t id, uint64_t offset, uint64_t count, Link* link) {
  Item* item = make_item(kind, 0);
  if (!item) return nullptr;
  item->buffer = id;
  item->offset = offset;
  item->count = count;
  item->link = link;
  item->dropped = [](Link* dropped) {
    dropped->fail("its device was closed before the bytes had passed");
    dropped->release();
  };
  link->retain();
  return item;
}

}  // namespace

bool Device::send(int32_t id, uint64_t offset, uint64_t count, Link* link) {
  Item* item = end_of(Kind::send, id, offset, count, link);
  if (item) state_->queue.push(item);
  return item;
}

bool Device::receive(int32_t id, uint64_t offset, uint64_t count, Link* link) {
  Item* item = end_of(Kind::receive, id, offset, count, link);
  if (item) state_->queue.push(item);
  return item;
}

Device::Read Device::read(int32_t id, uint64_t offset, uint64_t sound, Completion* completion, bool at_once) {
  if (at_once && state_->idle()) {
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

LoadCounts Device::loads() const {
  return {state_->ahead.load(std::memory_order_relaxed), state_->overlapped.load(std::memory_order_relaxed)};
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
