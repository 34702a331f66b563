// The buffers of a device by id. The owner allocates and queries sizes; the queue thread finds and releases them.
#pragma once

#include <cstdint>

#include "signature.h"
#include "sync.h"

namespace octavo {

class Buffers final : public BufferTable {
 public:
  static constexpr uint64_t kNotLive = UINT64_MAX;

  struct Slot {
    char* data = nullptr;   // the queue thread's, once an item was queued
    uint64_t bytes = 0;     // the queue thread's
    uint64_t live = kNotLive;  // the owner's view of the size
  };

  ~Buffers();

  Slot* slot(int32_t id) const {
    if (id < 0 || id >= kChunks * kChunkSize) return nullptr;
    Slot* chunk = chunks_[id >> kChunkBits];
    return chunk ? &chunk[id & (kChunkSize - 1)] : nullptr;
  }

  // Owner: id of a new buffer, or -1 when memory ran out.
  int32_t allocate(uint64_t bytes);

  // Queue thread.
  bool find(int32_t id, char** data, uint64_t* bytes) const override;
  void release(int32_t id);

 private:
  static constexpr int kChunkBits = 12;
  static constexpr int kChunkSize = 1 << kChunkBits;
  static constexpr int kChunks = 4096;

  Slot* chunks_[kChunks] = {};  // a chunk is published to the queue thread by the queue itself
  int32_t slots_ = 0;           // ids ever used
  // Ids whose release has run.
  Mutex recycled_mutex_;
  int32_t* recycled_ = nullptr;
  int32_t recycled_count_ = 0, recycled_capacity_ = 0;
};

}  // namespace octavo
