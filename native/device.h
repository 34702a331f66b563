// One device: buffers, an in-order queue with a thread of its own, and the thread pool of its kernels. No Node here.
// All methods not marked otherwise belong to one thread, the owner (Node's).
#pragma once

#include <cstdint>

#include "call.h"
#include "file_reader.h"
#include "poison.h"

namespace octavo {

// A pending read (or close). The owner makes it, the queue thread fills it and calls `done` with it.
struct Completion {
  char* destination = nullptr;  // null for closing
  uint64_t bytes = 0;
  Failure failure;
};

struct LoadCounts {
  uint64_t ahead = 0;       // loads that were read ahead
  uint64_t overlapped = 0;  // kernels that started during one
};

class Link;

struct OpProfile {
  uint64_t calls = 0;
  uint64_t ns = 0;
};

class Device {
 public:
  struct Options {
    int threads = 1;
    int isa = 0;  // index of the level, see cpu.h
    // Called on the queue thread when a completion is ready; must not block.
    void (*done)(void* owner, Completion* completion) = nullptr;
    void* owner = nullptr;
  };

  // Null if memory or threads ran out.
  static Device* open(const Options& options);
  // Abandons queued items (completions are not called), joins all threads and frees all buffers.
  static void destroy(Device* device);

  int threads() const;
  int isa() const;
  int op_count() const;
  const Kernel& op(int index) const;
  int op_isa(int index) const;

  // Id of a new buffer (64-byte aligned, contents undefined), or -1 when memory ran out.
  int32_t allocate(uint64_t bytes);
  // Size of a buffer, or UINT64_MAX if the id is not live.
  uint64_t size(int32_t id) const;
  // Stream-ordered: takes effect after everything queued before.
  bool free(int32_t id);
  // These three copy their arguments. False when memory ran out. Ranges must lie within the buffer.
  bool write(int32_t id, uint64_t offset, const void* bytes, uint64_t count);
  bool submit(const int32_t* words, int64_t count);
  // `ahead`: on the reader's thread, while commands that do not use the bytes run.
  bool load(int32_t id, uint64_t offset, const char* path, uint64_t position, uint64_t count, bool ahead, int32_t site,
            const FileStamp& stamp);
  // Marks bytes as spoilt by another device's failure.
  bool spoil(int32_t id, uint64_t offset, uint64_t count, const Failure& failure);
  // One end of a link to another device; keeps a reference until it is done.
  bool send(int32_t id, uint64_t offset, uint64_t count, Link* link);
  bool receive(int32_t id, uint64_t offset, uint64_t count, Link* link);

  enum class Read { queued, done, no_memory };
  // Fails if a failed command should have written one of `sound` bytes from `offset` on.
  // `done`: at_once was requested, the queue was empty, and the completion is already filled; it is not passed to
  // options.done.
  Read read(int32_t id, uint64_t offset, uint64_t sound, Completion* completion, bool at_once);
  // Queues the end: earlier items run, then the completion is handed over and the queue thread ends.
  bool close(Completion* completion);

  // True if everything queued has run.
  bool idle() const;

  LoadCounts loads() const;
  void profile(bool on);
  OpProfile profile_of(int op) const;
  void profile_reset();

 private:
  struct State;
  State* state_ = nullptr;
  Device() = default;
  ~Device() = default;
};

}  // namespace octavo
