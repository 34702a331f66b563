#include "device.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#include "file_reader.h"
#include "memory.h"
#include "pool.h"
#include "registry_tables.h"
#include "signature.h"
#include "spin.h"

namespace octavo {

namespace {

constexpr int kChunkBits = 12;
constexpr int kChunkSize = 1 << kChunkBits;
constexpr int kChunks = 4096;
constexpr uint64_t kNotLive = UINT64_MAX;
constexpr int64_t kSpinNs = 60'000;

struct Slot {
  char* data = nullptr;   // queue thread's, once the slot was handed over by queueing something
  uint64_t bytes = 0;     // queue thread's
  uint64_t live = kNotLive;  // the owner's view of the size
};

enum class Kind { commands, write, read, load, free, close };

// One entry of the queue; its payload (words, bytes or a path) follows it in memory.
struct Item {
  std::atomic<Item*> next{nullptr};
  Kind kind = Kind::commands;
  int32_t buffer = 0;
  uint64_t offset = 0;
  uint64_t count = 0;     // bytes, or words of commands
  uint64_t position = 0;  // in the file
  Completion* completion = nullptr;

  char* payload() { return reinterpret_cast<char*>(this + 1); }
};

Item* make_item(Kind kind, uint64_t payload) {
  if (payload > (uint64_t)1 << 47) return nullptr;
  void* memory = std::malloc(sizeof(Item) + payload);
  if (!memory) return nullptr;
  Item* item = new (memory) Item();
  item->kind = kind;
  return item;
}

}  // namespace

struct Device::State final : BufferTable {
  Options options;
  Pool* pool = nullptr;
  pthread_t thread{};
  bool joinable = false;

  // Kernels in command order.
  int ops = 0;
  const Kernel** kernels = nullptr;
  int* isas = nullptr;
  Spec* specs = nullptr;

  // Buffers. A chunk is published to the queue thread by the queue itself.
  Slot* chunks[kChunks] = {};
  int32_t slots = 0;  // ids ever used
  // Ids whose free has run, linked through `recycled_next`.
  std::mutex recycled_mutex;
  int32_t* recycled = nullptr;
  int32_t recycled_count = 0, recycled_capacity = 0;

  // The queue: a linked list with one producer and one consumer. `head` is the last item that was taken.
  Item* head = nullptr;
  alignas(64) Item* tail = nullptr;
  uint64_t queued = 0;  // producer's
  alignas(64) std::atomic<uint64_t> finished{0};
  std::atomic<bool> sleeping{false};
  std::atomic<bool> abandon{false};
  std::mutex mutex;
  std::condition_variable wake;

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

  Slot* slot(int32_t id) const {
    if (id < 0 || id >= kChunks * kChunkSize) return nullptr;
    Slot* chunk = chunks[id >> kChunkBits];
    return chunk ? &chunk[id & (kChunkSize - 1)] : nullptr;
  }

  bool find(int32_t id, char** data, uint64_t* bytes) const override {
    const Slot* s = slot(id);
    if (!s || !s->data) return false;
    *data = s->data;
    *bytes = s->bytes;
    return true;
  }

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

  void push(Item* item) {
    queued++;
    // Both sides first say what they did and then look at the other (in one total order), so no wake-up is lost.
    tail->next.store(item, std::memory_order_seq_cst);
    tail = item;
    if (sleeping.load(std::memory_order_seq_cst)) {
      { std::lock_guard<std::mutex> lock(mutex); }
      wake.notify_one();
    }
  }

  bool idle() const { return finished.load(std::memory_order_acquire) == queued; }

  // The item after head, when there is one; null once the device is abandoned.
  Item* take() {
    Item* next = head->next.load(std::memory_order_acquire);
    if (!next) {
      const int64_t until = now_ns() + kSpinNs;
      do {
        for (int i = 0; i < 32 && !next; i++) {
          relax();
          next = head->next.load(std::memory_order_acquire);
        }
        if (abandon.load(std::memory_order_relaxed)) return nullptr;
      } while (!next && now_ns() < until);
    }
    if (!next) {
      files.close_all();
      std::unique_lock<std::mutex> lock(mutex);
      sleeping.store(true, std::memory_order_seq_cst);
      while (!(next = head->next.load(std::memory_order_seq_cst)) && !abandon.load(std::memory_order_relaxed))
        wake.wait(lock);
      sleeping.store(false, std::memory_order_relaxed);
    }
    if (abandon.load(std::memory_order_relaxed)) return nullptr;
    head->~Item();
    std::free(head);
    head = next;
    return next;
  }

  void loop() {
    while (Item* item = take()) {
      const bool last = item->kind == Kind::close;
      switch (item->kind) {
        case Kind::commands:
          run(reinterpret_cast<const int32_t*>(item->payload()), (int64_t)item->count);
          break;
        case Kind::write: {
          std::memcpy(slot(item->buffer)->data + item->offset, item->payload(), item->count);
          break;
        }
        case Kind::load: {
          if (failure.failed) break;
          const char* error = files.read(*pool, item->payload(), item->position,
                                         slot(item->buffer)->data + item->offset, item->count, abandon);
          if (error) fail("load", 0, error);
          break;
        }
        case Kind::free:
          release(item->buffer);
          break;
        case Kind::read:
          finish_read(item->buffer, item->offset, item->completion);
          break;
        case Kind::close:
          break;
      }
      Completion* completion = item->completion;
      // Before the owner hears of it, so that it then finds the queue idle.
      finished.fetch_add(1, std::memory_order_release);
      if (completion) options.done(options.owner, completion);
      if (last) break;
    }
  }

  void finish_read(int32_t id, uint64_t offset, Completion* completion) {
    completion->failure = failure;
    if (failure.failed) failure.failed = false;
    else if (completion->bytes > 0) std::memcpy(completion->destination, slot(id)->data + offset, completion->bytes);
  }

  void release(int32_t id) {
    Slot* s = slot(id);
    free_block(s->data, s->bytes);
    s->data = nullptr;
    std::lock_guard<std::mutex> lock(recycled_mutex);
    if (recycled_count == recycled_capacity) {
      const int32_t capacity = recycled_capacity ? recycled_capacity * 2 : 256;
      void* wider = std::realloc(recycled, sizeof(int32_t) * (size_t)capacity);
      if (!wider) return;  // the id is never used again
      recycled = static_cast<int32_t*>(wider);
      recycled_capacity = capacity;
    }
    recycled[recycled_count++] = id;
  }

  void run(const int32_t* words, int64_t count) {
    const int32_t* end = words + count;
    const bool timed = profiling.load(std::memory_order_relaxed);
    while (words < end) {
      if (failure.failed || abandon.load(std::memory_order_relaxed)) return;
      if (end - words < 3 || words[1] < 3 || words[1] > end - words)
        return fail("submit", end - words >= 3 ? words[2] : 0, "a command is longer than what was submitted");
      const int32_t kernel = words[0], size = words[1], site = words[2];
      if (kernel < 0 || kernel >= ops) {
        char text[64];
        std::snprintf(text, sizeof text, "there is no kernel %d", kernel);
        return fail("submit", site, text);
      }
      const char* error = decode(specs[kernel], words, size, *this, call);
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
    while (head) {
      Item* next = head->next.load(std::memory_order_relaxed);
      head->~Item();
      std::free(head);
      head = next;
    }
    for (int32_t id = 0; id < slots; id++) free_block(slot(id)->data, slot(id)->bytes);
    for (Slot* chunk : chunks) delete[] chunk;
    free_block(scratch, scratch_bytes);
    std::free(recycled);
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
  s->head = s->tail = make_item(Kind::commands, 0);
  s->pool = Pool::create(options.threads);
  if (!s->kernels || !s->isas || !s->specs || !s->counters || !s->head || !s->pool) {
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
  {
    std::lock_guard<std::mutex> lock(s->mutex);
    s->abandon.store(true, std::memory_order_seq_cst);
  }
  s->wake.notify_one();
  if (s->joinable) pthread_join(s->thread, nullptr);
  delete s;
  delete device;
}

int Device::threads() const { return state_->pool->threads(); }
int Device::isa() const { return state_->options.isa; }
int Device::op_count() const { return state_->ops; }
const Kernel& Device::op(int index) const { return *state_->kernels[index]; }
int Device::op_isa(int index) const { return state_->isas[index]; }
bool Device::idle() const { return state_->idle(); }

int32_t Device::allocate(uint64_t bytes) {
  State& s = *state_;
  int32_t id = -1;
  {
    std::lock_guard<std::mutex> lock(s.recycled_mutex);
    if (s.recycled_count > 0) id = s.recycled[--s.recycled_count];
  }
  if (id < 0) {
    if (s.slots == kChunks * kChunkSize) return -1;
    Slot*& chunk = s.chunks[s.slots >> kChunkBits];
    if (!chunk) chunk = new (std::nothrow) Slot[kChunkSize];
    if (!chunk) return -1;
    id = s.slots++;
  }
  Slot& slot = *s.slot(id);
  slot.data = allocate_block(bytes);
  if (!slot.data) {
    std::lock_guard<std::mutex> lock(s.recycled_mutex);
    if (s.recycled_count < s.recycled_capacity) s.recycled[s.recycled_count++] = id;
    return -1;
  }
  slot.bytes = bytes;
  slot.live = bytes;
  return id;
}

uint64_t Device::size(int32_t id) const {
  const Slot* slot = state_->slot(id);
  return slot ? slot->live : kNotLive;
}

bool Device::free(int32_t id) {
  Item* item = make_item(Kind::free, 0);
  if (!item) return false;
  item->buffer = id;
  state_->slot(id)->live = kNotLive;
  state_->push(item);
  return true;
}

bool Device::write(int32_t id, uint64_t offset, const void* bytes, uint64_t count) {
  if (count == 0) return true;
  if (state_->idle()) {
    std::memcpy(state_->slot(id)->data + offset, bytes, count);
    return true;
  }
  Item* item = make_item(Kind::write, count);
  if (!item) return false;
  item->buffer = id;
  item->offset = offset;
  item->count = count;
  std::memcpy(item->payload(), bytes, count);
  state_->push(item);
  return true;
}

bool Device::submit(const int32_t* words, int64_t count) {
  if (count == 0) return true;
  Item* item = make_item(Kind::commands, (uint64_t)count * 4);
  if (!item) return false;
  item->count = (uint64_t)count;
  std::memcpy(item->payload(), words, (size_t)count * 4);
  state_->push(item);
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
  state_->push(item);
  return true;
}

Device::Read Device::read(int32_t id, uint64_t offset, Completion* completion, bool at_once) {
  if (at_once && state_->idle()) {
    state_->finish_read(id, offset, completion);
    return Read::done;
  }
  Item* item = make_item(Kind::read, 0);
  if (!item) return Read::no_memory;
  item->buffer = id;
  item->offset = offset;
  item->completion = completion;
  state_->push(item);
  return Read::queued;
}

bool Device::close(Completion* completion) {
  Item* item = make_item(Kind::close, 0);
  if (!item) return false;
  item->completion = completion;
  state_->push(item);
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
