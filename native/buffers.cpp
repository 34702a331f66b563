#include "buffers.h"

#include <cstdlib>
#include <new>

#include "memory.h"

namespace octavo {

Buffers::~Buffers() {
  for (int32_t id = 0; id < slots_; id++) free_block(slot(id)->data, slot(id)->bytes);
  for (Slot* chunk : chunks_) delete[] chunk;
  std::free(recycled_);
}

int32_t Buffers::allocate(uint64_t bytes) {
  int32_t id = -1;
  {
    Lock lock(recycled_mutex_);
    if (recycled_count_ > 0) id = recycled_[--recycled_count_];
  }
  if (id < 0) {
    if (slots_ == kChunks * kChunkSize) return -1;
    Slot*& chunk = chunks_[slots_ >> kChunkBits];
    if (!chunk) chunk = new (std::nothrow) Slot[kChunkSize];
    if (!chunk) return -1;
    id = slots_++;
  }
  Slot& slot = *this->slot(id);
  slot.data = allocate_block(bytes);
  if (!slot.data) {
    Lock lock(recycled_mutex_);
    if (recycled_count_ < recycled_capacity_) recycled_[recycled_count_++] = id;
    return -1;
  }
  slot.bytes = bytes;
  slot.live = bytes;
  return id;
}

bool Buffers::find(int32_t id, char** data, uint64_t* bytes) const {
  const Slot* s = slot(id);
  if (!s || !s->data) return false;
  *data = s->data;
  *bytes = s->bytes;
  return true;
}

void Buffers::release(int32_t id) {
  Slot* s = slot(id);
  free_block(s->data, s->bytes);
  s->data = nullptr;
  Lock lock(recycled_mutex_);
  if (recycled_count_ == recycled_capacity_) {
    const int32_t capacity = recycled_capacity_ ? recycled_capacity_ * 2 : 256;
    void* wider = std::realloc(recycled_, sizeof(int32_t) * (size_t)capacity);
    if (!wider) return;  // the id is never used again
    recycled_ = static_cast<int32_t*>(wider);
    recycled_capacity_ = capacity;
  }
  recycled_[recycled_count_++] = id;
}

}  // namespace octavo
