// What a WASM module offers to src/backends/wasm/: one device. Either its commands run at once while submit() is under
// way, or a thread of its own takes them from a queue (the queue_ functions), as in the add-on. The checks are the same;
// the first failure is kept until it is taken.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

#include "../buffers.h"
#include "../call.h"
#include "../device.h"
#include "../memory.h"
#include "../panels.h"
#include "../pool.h"
#include "../queue.h"
#include "../registry.h"
#include "../registry_tables.h"
#include "../signature.h"
#include "../spin.h"
#include "export.h"

extern "C" __attribute__((import_module("host"), import_name("done"))) void host_done(octavo::Completion*);

namespace octavo {

namespace {

constexpr int kMaxKernels = 128;

struct State {
  Buffers buffers;
  Queue queue;
  Item* item = nullptr;  // being filled
  Call call;
  int kernels = 0;
  const Kernel* kernel[kMaxKernels] = {};
  Spec spec[kMaxKernels] = {};

  char* scratch = nullptr;
  size_t scratch_bytes = 0;
  int32_t* words = nullptr;
  uint32_t words_capacity = 0;

  Failure failure;
  const char* op = "";  // that runs, or ran last
  int32_t site = 0;
};

State* state = nullptr;

char* need(void*, size_t bytes) {
  State& s = *state;
  if (bytes > s.scratch_bytes) {
    free_block(s.scratch, s.scratch_bytes);
    const size_t wanted = bytes + bytes / 4;
    s.scratch = allocate_block(wanted);
    s.scratch_bytes = s.scratch ? wanted : 0;
  }
  return s.scratch;
}

void copy_text(char* to, size_t size, const char* text) {
  size_t n = std::strlen(text);
  if (n >= size) n = size - 1;
  std::memcpy(to, text, n);
  to[n] = 0;
}

void fail(const char* op, int32_t site, const char* message) {
  Failure& f = state->failure;
  f.failed = true;
  f.site = site;
  copy_text(f.op, sizeof f.op, op);
  copy_text(f.message, sizeof f.message, message);
}

// Runs the words. Nothing runs while an earlier failure has not been taken.
void run(const int32_t* at, int64_t count) {
  State& s = *state;
  const int32_t* end = at + count;
  while (at < end && !s.failure.failed) {
    if (end - at < 3 || at[1] < 3 || at[1] > end - at)
      return fail("submit", end - at >= 3 ? at[2] : 0, "a command is longer than what was submitted");
    const int32_t kernel = at[0], length = at[1];
    s.site = at[2];
    if (kernel < 0 || kernel >= s.kernels) return fail("submit", s.site, sentence("there is no kernel %d", kernel));
    s.op = s.kernel[kernel]->name;
    const char* error = decode(s.spec[kernel], at, length, s.buffers, s.call);
    if (!error) error = s.kernel[kernel]->run(s.call);
    if (error) return fail(s.op, s.site, error);
    at += length;
  }
}

void finish_read(int32_t id, uint64_t offset, Completion* completion) {
  State& s = *state;
  completion->failure = s.failure;
  if (s.failure.failed) s.failure.failed = false;
  else if (completion->bytes > 0) std::memcpy(completion->destination, s.buffers.slot(id)->data + offset, completion->bytes);
}

void* serve(void*) {
  State& s = *state;
  while (Item* item = s.queue.take([] {})) {
    const bool last = item->kind == Kind::close;
    switch (item->kind) {
      case Kind::commands:
        run((const int32_t*)item->payload(), (int64_t)item->count);
        break;
      case Kind::write:
        std::memcpy(s.buffers.slot(item->buffer)->data + item->offset, item->payload(), item->count);
        break;
      case Kind::free:
        s.buffers.release(item->buffer);
        break;
      case Kind::read:
        finish_read(item->buffer, item->offset, item->completion);
        break;
      case Kind::load:  // no files here
      case Kind::close:
        break;
    }
    Completion* completion = item->completion;
    // Before the owner hears of it, so that it then finds the queue idle.
    s.queue.finish();
    if (completion) host_done(completion);
    if (last) break;
  }
  return nullptr;
}

bool push(Kind kind, int32_t buffer, uint64_t offset, Completion* completion) {
  Item* item = make_item(kind, 0);
  if (!item) return false;
  item->buffer = buffer;
  item->offset = offset;
  item->completion = completion;
  state->queue.push(item);
  return true;
}

// Where the payload is to be written; null if memory ran out.
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
// `own_thread` one of them is its own and takes commands from the queue, else that is the caller.
EXPORT(open) int32_t open(int32_t threads, bool own_thread) {
  state = new (std::nothrow) State();
  if (!state) return -1;
  State& s = *state;
  const int count = op_count(0);
  for (int i = 0; i < count && s.kernels < kMaxKernels; i++) {
    const Kernel& kernel = op_kernel(0, i);
    // A signature that cannot be read is a mistake in a kernel file: the op is left out, so that nothing can run it.
    if (!s.spec[s.kernels].parse(kernel.signature) || std::strcmp(s.spec[s.kernels].op, kernel.name) != 0) continue;
    s.kernel[s.kernels++] = &kernel;
  }
  pthread_t thread;
  if (own_thread && !(s.queue.start() && start_thread(&thread, serve, nullptr, "octavo-queue"))) return -1;
  s.call.pool = Pool::create(threads);
  s.call.scratch = need;
  return s.call.pool ? s.kernels : -1;
}

// Threads that compute.
EXPORT(threads) int32_t threads() { return state->call.pool->threads(); }
EXPORT(kernel_name) const char* kernel_name(int32_t index) { return state->kernel[index]->name; }
EXPORT(kernel_signature) const char* kernel_signature(int32_t index) { return state->kernel[index]->signature; }

// Bytes of a matrix in panels, or a negative number.
EXPORT(panel_bytes) double wasm_panel_bytes(int32_t dtype, double rows, double columns) {
  return (double)panel_bytes((DType)dtype, (int64_t)rows, (int64_t)columns);
}

// The id of a new buffer, or -1.
EXPORT(allocate) int32_t allocate(uint32_t bytes) { return state->buffers.allocate(bytes); }
// Where a live buffer begins, 0 if there is none; and its size.
EXPORT(address) char* address(int32_t id) { return live(id) ? live(id)->data : nullptr; }
EXPORT(size) uint32_t size(int32_t id) { return live(id) ? (uint32_t)live(id)->bytes : 0; }

// Without a queue: gives a buffer back now; room for words of commands (null if memory ran out); runs them.
EXPORT(release) void release(int32_t id) {
  Buffers::Slot* slot = live(id);
  if (!slot) return;
  slot->live = Buffers::kNotLive;
  state->buffers.release(id);
}
EXPORT(words) int32_t* words(uint32_t count) {
  State& s = *state;
  if (count > s.words_capacity) {
    free_block((char*)s.words, s.words_capacity * 4);
    s.words = (int32_t*)allocate_block((uint64_t)count * 4);
    s.words_capacity = s.words ? count : 0;
  }
  return s.words;
}
EXPORT(submit) void submit(uint32_t count) { run(state->words, count); }

// With a queue. The first two say where their payload is to be written, which queue_push() then appends; null, or false,
// if memory ran out. Ranges must lie within live buffers.
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
EXPORT(queue_push) void queue_push() { state->queue.push(state->item); }
EXPORT(queue_free) bool queue_free(int32_t buffer) {
  Buffers::Slot* slot = live(buffer);
  if (!slot) return true;
  slot->live = Buffers::kNotLive;
  return push(Kind::free, buffer, 0, nullptr);
}
EXPORT(queue_read) bool queue_read(int32_t buffer, uint32_t offset, Completion* completion) {
  return push(Kind::read, buffer, offset, completion);
}
EXPORT(queue_close) bool queue_close(Completion* completion) { return push(Kind::close, 0, 0, completion); }
EXPORT(queue_idle) bool queue_idle() { return state->queue.idle(); }

// A read (or the closing) under way, with room for its bytes; null if memory ran out. The caller gives it back.
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

// The failure that has not been taken, while no queue is under way; and what a failure says.
EXPORT(failure) const Failure* failure() { return &state->failure; }
EXPORT(failure_is) bool failure_is(const Failure* f) { return f->failed; }
EXPORT(failure_op) const char* failure_op(const Failure* f) { return f->op; }
EXPORT(failure_site) int32_t failure_site(const Failure* f) { return f->site; }
EXPORT(failure_message) const char* failure_message(const Failure* f) { return f->message; }
EXPORT(failure_taken) void failure_taken() { state->failure.failed = false; }

// The command that runs now, or ran last.
EXPORT(running_op) const char* running_op() { return state->op; }
EXPORT(running_site) int32_t running_site() { return state->site; }
