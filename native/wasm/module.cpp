// The WASM module's interface for src/backends/wasm/: one device. Its commands run either inside submit(), or on a thread of
// its own that takes them from a queue (the queue_ functions). Queue, checks and tracking of failures are those of the add-on.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

#include "../buffers.h"
#include "../device.h"
#include "../interpreter.h"
#include "../memory.h"
#include "../panels.h"
#include "../pool.h"
#include "../queue.h"
#include "../system.h"
#include "export.h"

extern "C" __attribute__((import_module("host"), import_name("done"))) void host_done(octavo::Completion*);

namespace octavo {

namespace {

struct State {
  Buffers buffers;
  Interpreter interpreter{buffers};
  Pool* pool = nullptr;
  Queue queue;
  Item* item = nullptr;  // being filled
  Failure verdict;       // the last one of verdict()
  Failure foreign;       // of another device, being filled
  int32_t* words = nullptr;
  uint32_t words_capacity = 0;
};

State* state = nullptr;

void serve(void*) {
  State& s = *state;
  while (Item* item = s.queue.take([] {})) {
    const bool last = item->kind == Kind::close;
    Completion* completion = item->completion;
    switch (item->kind) {
      case Kind::commands:
        s.interpreter.run((const int32_t*)item->payload(), (int64_t)item->count);
        break;
      case Kind::write:
        std::memcpy(s.buffers.slot(item->buffer)->data + item->offset, item->payload(), item->count);
        s.interpreter.wrote(item->buffer, item->offset, item->count);
        break;
      case Kind::spoil:
        s.interpreter.spoilt(item->buffer, item->offset, item->count, *(const Failure*)item->payload());
        break;
      case Kind::free:
        s.interpreter.forget(item->buffer);
        s.buffers.release(item->buffer);
        break;
      case Kind::read:
        completion->failure = s.interpreter.verdict(item->buffer, item->offset, item->count);
        if (!completion->failure.failed && completion->bytes > 0)
          std::memcpy(completion->destination, s.buffers.slot(item->buffer)->data + item->offset, completion->bytes);
        break;
      case Kind::load:  // no files here, and no memory of other devices
      case Kind::send:
      case Kind::receive:
      case Kind::close:
        break;
    }
    // Before the owner is notified, so that it then finds the queue idle.
    s.queue.finish();
    if (completion) host_done(completion);
    if (last) break;
  }
}

bool push(Kind kind, int32_t buffer, uint64_t offset, uint64_t count, Completion* completion) {
  Item* item = make_item(kind, 0);
  if (!item) return false;
  item->buffer = buffer;
  item->offset = offset;
  item->count = count;
  item->completion = completion;
  state->queue.push(item);
  return true;
}

// Address for the payload; null if memory ran out.
char* prepare(Kind kind, uint64_t bytes) {
  Item* item = make_item(kind, bytes);
  state->item = item;
  return item ? item->payload() : nullptr;
}

Buffers::Slot* live(int32_t id) {
  Buffers::Slot* slot = state->buffers.slot(id);
  return slot && slot->live != Buffers::kNotLive ? slot : nullptr;
}

}  // namespace

}  // namespace octavo

using namespace octavo;

// Prepares the device; returns the number of its kernels, or -1 if memory ran out. It computes on `threads` threads; with
// `own_thread` one of them is its own and takes commands from the queue, else the caller is one of them.
EXPORT(open) int32_t open(int32_t threads, bool own_thread) {
  state = new (std::nothrow) State();
  if (!state) return -1;
  State& s = *state;
  Thread thread;
  if (own_thread && !(s.queue.start() && thread.start(serve, nullptr, "octavo-queue"))) return -1;
  s.pool = Pool::create(threads);
  if (!s.pool) return -1;
  s.interpreter.open(0, s.pool);
  return s.interpreter.count();
}

// Whether the kernels use relaxed SIMD.
EXPORT(relaxed) bool relaxed() {
#if defined(__wasm_relaxed_simd__)
  return true;
#else
  return false;
#endif
}
// Threads that compute.
EXPORT(threads) int32_t threads() { return state->pool->threads(); }
EXPORT(kernel_name) const char* kernel_name(int32_t index) { return state->interpreter.kernel(index).name; }
EXPORT(kernel_signature) const char* kernel_signature(int32_t index) { return state->interpreter.kernel(index).signature; }

// Bytes of a matrix in panels, or a negative number.
EXPORT(panel_bytes) double wasm_panel_bytes(int32_t dtype, double rows, double columns) {
  return (double)panel_bytes((DType)dtype, (int64_t)rows, (int64_t)columns);
}

// The id of a new buffer, or -1.
EXPORT(allocate) int32_t allocate(uint32_t bytes) { return state->buffers.allocate(bytes); }
// Start of a live buffer, 0 if there is none; and its size.
EXPORT(address) char* address(int32_t id) { return live(id) ? live(id)->data : nullptr; }
EXPORT(size) uint32_t size(int32_t id) { return live(id) ? (uint32_t)live(id)->bytes : 0; }

// These five are only for use without a queue. Frees a buffer.
EXPORT(release) void release(int32_t id) {
  Buffers::Slot* slot = live(id);
  if (!slot) return;
  slot->live = Buffers::kNotLive;
  state->interpreter.forget(id);
  state->buffers.release(id);
}
// Room for words of commands, to be filled before submit(); null if memory ran out.
EXPORT(words) int32_t* words(uint32_t count) {
  State& s = *state;
  if (count > s.words_capacity) {
    free_block((char*)s.words, s.words_capacity * 4);
    s.words = (int32_t*)allocate_block((uint64_t)count * 4);
    s.words_capacity = s.words ? count : 0;
  }
  return s.words;
}
EXPORT(submit) void submit(uint32_t count) { state->interpreter.run(state->words, count); }
// The host wrote bytes of a buffer.
EXPORT(wrote) void wrote(int32_t id, uint32_t offset, uint32_t bytes) {
  state->interpreter.wrote(id, offset, bytes);
}
// A failure of another device: write its text to these addresses, at most this many bytes including the zero.
EXPORT(foreign_op) char* foreign_op() { return state->foreign.op; }
EXPORT(foreign_message) char* foreign_message() { return state->foreign.message; }
EXPORT(foreign_sizes) int32_t foreign_sizes(bool message) {
  return message ? (int32_t)sizeof state->foreign.message : (int32_t)sizeof state->foreign.op;
}
// That failure spoilt bytes of a buffer.
EXPORT(spoil) void spoil(int32_t id, uint32_t offset, uint32_t bytes, int32_t site) {
  state->foreign.failed = true;
  state->foreign.site = site;
  state->interpreter.spoilt(id, offset, bytes, state->foreign);
}
// The state of bytes: the failure that a read of them must report.
EXPORT(verdict) const Failure* verdict(int32_t id, uint32_t offset, uint32_t bytes) {
  state->verdict = state->interpreter.verdict(id, offset, bytes);
  return &state->verdict;
}

// With a queue. The first two return the address for their payload, which queue_push() then appends; null, or false, if memory
// ran out. Ranges must lie within live buffers.
EXPORT(queue_commands) char* queue_commands(uint32_t count) {
  char* payload = prepare(Kind::commands, (uint64_t)count * 4);
  if (payload) state->item->count = count;
  return payload;
}
EXPORT(queue_write) char* queue_write(int32_t buffer, uint32_t offset, uint32_t bytes) {
  char* payload = prepare(Kind::write, bytes);
  if (payload) {
    state->item->buffer = buffer;
    state->item->offset = offset;
    state->item->count = bytes;
  }
  return payload;
}
EXPORT(queue_spoil) bool queue_spoil(int32_t buffer, uint32_t offset, uint32_t bytes, int32_t site) {
  char* payload = prepare(Kind::spoil, sizeof(Failure));
  if (!payload) return false;
  state->foreign.failed = true;
  state->foreign.site = site;
  *new (payload) Failure() = state->foreign;
  state->item->buffer = buffer;
  state->item->offset = offset;
  state->item->count = bytes;
  state->queue.push(state->item);
  return true;
}
EXPORT(queue_push) void queue_push() { state->queue.push(state->item); }
EXPORT(queue_free) bool queue_free(int32_t buffer) {
  Buffers::Slot* slot = live(buffer);
  if (!slot) return true;
  slot->live = Buffers::kNotLive;
  return push(Kind::free, buffer, 0, 0, nullptr);
}
EXPORT(queue_read) bool queue_read(int32_t buffer, uint32_t offset, uint32_t sound, Completion* completion) {
  return push(Kind::read, buffer, offset, sound, completion);
}
EXPORT(queue_close) bool queue_close(Completion* completion) { return push(Kind::close, 0, 0, 0, completion); }
EXPORT(queue_idle) bool queue_idle() { return state->queue.idle(); }

// A pending read (or close), with room for its bytes; null if memory ran out. The caller frees it.
EXPORT(completion_new) Completion* completion_new(uint32_t bytes) {
  char* block = allocate_block(sizeof(Completion) + (uint64_t)bytes);
  if (!block) return nullptr;
  Completion* completion = new (block) Completion();
  completion->destination = block + sizeof(Completion);
  completion->bytes = bytes;
  return completion;
}
EXPORT(completion_bytes) const char* completion_bytes(const Completion* c) { return c->destination; }
EXPORT(completion_failure) const Failure* completion_failure(const Completion* c) { return &c->failure; }
EXPORT(completion_free) void completion_free(Completion* c) { free_block((char*)c, 0); }

EXPORT(failure_is) bool failure_is(const Failure* f) { return f->failed; }
EXPORT(failure_op) const char* failure_op(const Failure* f) { return f->op; }
EXPORT(failure_site) int32_t failure_site(const Failure* f) { return f->site; }
EXPORT(failure_message) const char* failure_message(const Failure* f) { return f->message; }

// The command that runs now, or ran last.
EXPORT(running_op) const char* running_op() { return state->interpreter.op(); }
EXPORT(running_site) int32_t running_site() { return state->interpreter.site(); }
