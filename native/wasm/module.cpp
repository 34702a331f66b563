// What a WASM module offers to src/backends/wasm/index.ts: one device without a thread of its own. Commands run while
// submit() is under way, after the same checks as in the add-on; the first failure is kept until it is taken.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../call.h"
#include "../panels.h"
#include "../pool.h"
#include "../registry.h"
#include "../registry_tables.h"
#include "../signature.h"
#include "heap.h"

#define EXPORT(name) extern "C" __attribute__((export_name(#name)))

namespace octavo {

namespace {

constexpr int kMaxKernels = 128;
constexpr int32_t kMaxBuffers = 1 << 20;

struct Slot {
  char* data;      // null: free
  uint32_t bytes;  // of a free one: the id of the next free one
};

struct Buffers final : BufferTable {
  Slot* slots = nullptr;
  int32_t capacity = 0, used = 0, recycled = -1;

  bool live(int32_t id) const { return id >= 0 && id < used && slots[id].data != nullptr; }

  bool find(int32_t id, char** data, uint64_t* bytes) const override {
    if (!live(id)) return false;
    *data = slots[id].data;
    *bytes = slots[id].bytes;
    return true;
  }

  bool room() {
    if (recycled >= 0 || used < capacity) return true;
    if (capacity == kMaxBuffers) return false;
    const int32_t wider = capacity ? capacity * 2 : 256;
    Slot* moved = (Slot*)heap_allocate(sizeof(Slot) * (size_t)wider);
    if (!moved) return false;
    if (slots) std::memcpy(moved, slots, sizeof(Slot) * (size_t)used);
    heap_free((char*)slots);
    slots = moved;
    capacity = wider;
    return true;
  }
};

struct State {
  Buffers buffers;
  Call call;
  int kernels = 0;
  const Kernel* kernel[kMaxKernels] = {};
  Spec spec[kMaxKernels] = {};

  char* scratch = nullptr;
  size_t scratch_bytes = 0;
  int32_t* words = nullptr;
  uint32_t words_capacity = 0;

  bool failed = false;
  int32_t site = 0;
  const char* op = "";  // also while it runs
  char message[512] = {};
};

alignas(64) char state_storage[sizeof(State)];
State* state = nullptr;

struct Placed {};

}  // namespace

}  // namespace octavo

inline void* operator new(size_t, void* place, octavo::Placed) noexcept { return place; }

namespace octavo {

namespace {

char* need(void*, size_t bytes) {
  State& s = *state;
  if (bytes > s.scratch_bytes) {
    heap_free(s.scratch);
    const size_t wanted = bytes + bytes / 4;
    s.scratch = heap_allocate(wanted);
    s.scratch_bytes = s.scratch ? wanted : 0;
  }
  return s.scratch;
}

void fail(const char* op, int32_t site, const char* message) {
  State& s = *state;
  s.failed = true;
  s.op = op;
  s.site = site;
  size_t n = std::strlen(message);
  if (n >= sizeof s.message) n = sizeof s.message - 1;
  std::memcpy(s.message, message, n);
  s.message[n] = 0;
}

}  // namespace

}  // namespace octavo

using namespace octavo;

// Prepares the device; returns the number of its kernels.
EXPORT(open) int32_t open() {
  state = new (state_storage, Placed{}) State();
  State& s = *state;
  const int count = op_count(0);
  for (int i = 0; i < count && s.kernels < kMaxKernels; i++) {
    const Kernel& kernel = op_kernel(0, i);
    // A signature that cannot be read is a mistake in a kernel file: the op is left out, so that nothing can run it.
    if (!s.spec[s.kernels].parse(kernel.signature) || std::strcmp(s.spec[s.kernels].op, kernel.name) != 0) continue;
    s.kernel[s.kernels++] = &kernel;
  }
  s.call.pool = Pool::create(1);
  s.call.scratch = need;
  return s.kernels;
}

EXPORT(kernel_name) const char* kernel_name(int32_t index) { return state->kernel[index]->name; }
EXPORT(kernel_signature) const char* kernel_signature(int32_t index) { return state->kernel[index]->signature; }

// Bytes of a matrix in panels, or a negative number.
EXPORT(panel_bytes) double wasm_panel_bytes(int32_t dtype, double rows, double columns) {
  return (double)panel_bytes((DType)dtype, (int64_t)rows, (int64_t)columns);
}

// The id of a new buffer, or -1.
EXPORT(allocate) int32_t allocate(uint32_t bytes) {
  Buffers& b = state->buffers;
  if (!b.room()) return -1;
  char* data = heap_allocate(bytes);
  if (!data) return -1;
  int32_t id = b.recycled;
  if (id >= 0) b.recycled = (int32_t)b.slots[id].bytes;
  else id = b.used++;
  b.slots[id] = {data, bytes};
  return id;
}

EXPORT(release) void release(int32_t id) {
  Buffers& b = state->buffers;
  if (!b.live(id)) return;
  heap_free(b.slots[id].data);
  b.slots[id] = {nullptr, (uint32_t)b.recycled};
  b.recycled = id;
}

// Where a live buffer begins, 0 if there is none; and its size.
EXPORT(address) char* address(int32_t id) { return state->buffers.live(id) ? state->buffers.slots[id].data : nullptr; }
EXPORT(size) uint32_t size(int32_t id) { return state->buffers.live(id) ? state->buffers.slots[id].bytes : 0; }

// Room for words of commands, to be filled before submit(); null if memory ran out.
EXPORT(words) int32_t* words(uint32_t count) {
  State& s = *state;
  if (count > s.words_capacity) {
    heap_free((char*)s.words);
    s.words = (int32_t*)heap_allocate((size_t)count * 4);
    s.words_capacity = s.words ? count : 0;
  }
  return s.words;
}

// Runs the words. True if all went well; nothing runs while an earlier failure has not been taken.
EXPORT(submit) bool submit(uint32_t count) {
  State& s = *state;
  const int32_t* at = s.words;
  const int32_t* end = at + count;
  while (at < end && !s.failed) {
    if (end - at < 3 || at[1] < 3 || at[1] > end - at) {
      fail("submit", end - at >= 3 ? at[2] : 0, "a command is longer than what was submitted");
      break;
    }
    const int32_t kernel = at[0], length = at[1];
    s.site = at[2];
    if (kernel < 0 || kernel >= s.kernels) {
      fail("submit", s.site, sentence("there is no kernel %d", kernel));
      break;
    }
    s.op = s.kernel[kernel]->name;
    const char* error = decode(s.spec[kernel], at, length, s.buffers, s.call);
    if (!error) error = s.kernel[kernel]->run(s.call);
    if (error) fail(s.op, s.site, error);
    at += length;
  }
  return !s.failed;
}

// The failure that has not been taken, or the command that runs now (or ran last).
EXPORT(failure_op) const char* failure_op() { return state->op; }
EXPORT(failure_site) int32_t failure_site() { return state->site; }
EXPORT(failure_message) const char* failure_message() { return state->message; }
EXPORT(failure_taken) void failure_taken() { state->failed = false; }
