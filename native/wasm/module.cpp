// What a WASM module offers to src/backends/wasm/index.ts: one device without a thread of its own. Commands run while
// submit() is under way, after the same checks as in the add-on, whose interpreter it shares.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../interpreter.h"
#include "../panels.h"
#include "../pool.h"
#include "heap.h"

#define EXPORT(name) extern "C" __attribute__((export_name(#name)))

namespace octavo {

namespace {

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
  Interpreter interpreter{buffers};
  Failure verdict;  // of the last check()
  int32_t* words = nullptr;
  uint32_t words_capacity = 0;
};

alignas(64) char state_storage[sizeof(State)];
State* state = nullptr;

struct Placed {};

}  // namespace

}  // namespace octavo

inline void* operator new(size_t, void* place, octavo::Placed) noexcept { return place; }

using namespace octavo;

// Prepares the device; returns the number of its kernels.
EXPORT(open) int32_t open() {
  state = new (state_storage, Placed{}) State();
  state->interpreter.open(0, Pool::create(1));
  return state->interpreter.count();
}

EXPORT(kernel_name) const char* kernel_name(int32_t index) { return state->interpreter.kernel(index).name; }
EXPORT(kernel_signature) const char* kernel_signature(int32_t index) { return state->interpreter.kernel(index).signature; }

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
  state->interpreter.forget(id);
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

// Runs the words.
EXPORT(submit) void submit(uint32_t count) { state->interpreter.run(state->words, count); }

// The host wrote bytes of a buffer.
EXPORT(wrote) void wrote(int32_t id, uint32_t offset, uint32_t bytes) {
  state->interpreter.wrote(id, offset, bytes);
}

// True if all of the bytes are what they should be; if not, the three functions below say why.
EXPORT(check) bool check(int32_t id, uint32_t offset, uint32_t bytes) {
  state->verdict = state->interpreter.verdict(id, offset, bytes);
  return !state->verdict.failed;
}
EXPORT(failure_op) const char* failure_op() { return state->verdict.op; }
EXPORT(failure_site) int32_t failure_site() { return state->verdict.site; }
EXPORT(failure_message) const char* failure_message() { return state->verdict.message; }

// The command that runs now, or ran last.
EXPORT(running_op) const char* running_op() { return state->interpreter.op(); }
EXPORT(running_site) int32_t running_site() { return state->interpreter.site(); }
