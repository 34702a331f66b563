#include "poison.h"

#include <cstring>

#include "memory.h"

namespace octavo {

namespace {

void set_text(char* to, size_t size, const char* from) {
  size_t length = std::strlen(from);
  if (length >= size) length = size - 1;
  std::memcpy(to, from, length);
  to[length] = 0;
}

// Room for one more of `count` items; false when memory ran out.
template <class T>
bool widen(T*& items, int32_t count, int32_t& capacity) {
  if (count < capacity) return true;
  const int32_t wider = capacity ? capacity * 2 : 16;
  T* moved = (T*)allocate_block(sizeof(T) * (uint64_t)wider);
  if (!moved) return false;
  if (items) std::memcpy((void*)moved, (const void*)items, sizeof(T) * (size_t)count);
  free_block((char*)items, sizeof(T) * (uint64_t)capacity);
  items = moved;
  capacity = wider;
  return true;
}

}  // namespace

void Failure::set(const char* op_name, int32_t at, const char* text) {
  failed = true;
  site = at;
  set_text(op, sizeof op, op_name);
  set_text(message, sizeof message, text);
}

Poison::~Poison() {
  free_block((char*)ranges_, sizeof(Range) * (uint64_t)capacity_);
  free_block((char*)failures_, sizeof(Failure) * (uint64_t)failures_capacity_);
}

const Failure* Poison::find(int32_t buffer, uint64_t begin, uint64_t end) const {
  if (begin >= end) return nullptr;
  if (full_.failed) return &full_;
  for (int32_t i = 0; i < count_; i++) {
    const Range& r = ranges_[i];
    if (r.buffer == buffer && r.begin < end && begin < r.end) return &failures_[r.failure];
  }
  return nullptr;
}

bool Poison::push(const Range& range) {
  if (!widen(ranges_, count_, capacity_)) return false;
  ranges_[count_++] = range;
  return true;
}

int32_t Poison::keep(const Failure& failure) {
  if (count_ == 0) failures_count_ = 0;
  // The ranges of one failure are added in succession.
  if (count_ > 0) {
    const int32_t last = ranges_[count_ - 1].failure;
    const Failure& f = failures_[last];
    if (f.site == failure.site && std::strcmp(f.op, failure.op) == 0 && std::strcmp(f.message, failure.message) == 0)
      return last;
  }
  int32_t at = failures_count_;
  if (at == failures_capacity_) {
    // Before the list grows: reuse a failure that no range refers to.
    for (at = 0; at < failures_count_; at++) {
      bool used = false;
      for (int32_t i = 0; i < count_ && !used; i++) used = ranges_[i].failure == at;
      if (!used) break;
    }
  }
  if (at == failures_count_) {
    if (!widen(failures_, failures_count_, failures_capacity_)) return -1;
    failures_count_++;
  }
  failures_[at] = failure;
  return at;
}

void Poison::add(int32_t buffer, uint64_t begin, uint64_t end, const Failure& failure) {
  if (begin >= end || full_.failed) return;
  const Failure first = failure;  // a copy: it may be in our list
  clear(buffer, begin, end);
  const int32_t kept = full_.failed ? -1 : keep(first);
  if (kept < 0 || !push({buffer, kept, begin, end})) full_ = first;
}

void Poison::clear(int32_t buffer, uint64_t begin, uint64_t end) {
  if (begin >= end) return;
  for (int32_t i = count_ - 1; i >= 0; i--) {
    const Range r = ranges_[i];
    if (r.buffer != buffer || r.begin >= end || begin >= r.end) continue;
    ranges_[i] = ranges_[--count_];
    if (r.begin < begin && !push({buffer, r.failure, r.begin, begin})) full_ = failures_[r.failure];
    if (end < r.end && !push({buffer, r.failure, end, r.end})) full_ = failures_[r.failure];
  }
}

}  // namespace octavo
