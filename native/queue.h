// The queue of a device: a linked list with one producer (the owner's thread) and one consumer (the queue thread).
#pragma once

#include <atomic>
#include <cstdint>

#include "device.h"
#include "sync.h"

namespace octavo {

class Link;

enum class Kind { commands, write, spoil, read, load, send, receive, free, close };

// One entry of the queue; its payload (words, bytes or a path) follows it in memory.
struct Item {
  std::atomic<Item*> next{nullptr};
  Kind kind = Kind::commands;
  int32_t buffer = 0;
  uint64_t offset = 0;
  uint64_t count = 0;     // bytes, or words of commands
  uint64_t position = 0;  // in the file
  FileStamp stamp;
  int32_t site = 0;
  bool ahead = false;
  Completion* completion = nullptr;
  // Shared with another device; `dropped` is called if the item does not run.
  Link* link = nullptr;
  void (*dropped)(Link* link) = nullptr;

  // Length of its range in the buffer, except for commands.
  uint64_t reach() const { return completion && completion->bytes > count ? completion->bytes : count; }
  char* payload() { return reinterpret_cast<char*>(this + 1); }
};

// Null when memory ran out.
Item* make_item(Kind kind, uint64_t payload);

class Queue {
 public:
  // False if memory ran out.
  bool start();
  ~Queue();

  // Producer: appends an item; `idle` is true if everything appended has run.
  void push(Item* item);
  bool idle() const { return finished_.load(std::memory_order_acquire) == queued_; }
  // Any thread: queued items will not run any more.
  void abandon();
  const std::atomic<bool>& abandoned() const { return abandoned_; }

  // Consumer: the next item, once there is one; null once the queue is abandoned. It lives until the next call.
  // `rest` is called before the consumer goes to sleep.
  template <class F>
  Item* take(const F& rest) {
    Item* next = poll();
    if (!next && !abandoned_.load(std::memory_order_relaxed)) {
      rest();
      next = sleep();
    }
    if (abandoned_.load(std::memory_order_relaxed)) return nullptr;
    drop_head();
    return head_ = next;
  }
  // Consumer: the item taken last has run.
  void finish() { finished_.fetch_add(1, std::memory_order_release); }

 private:
  Item* poll();
  Item* sleep();
  void drop_head();

  Item* head_ = nullptr;  // the item taken last
  alignas(64) Item* tail_ = nullptr;
  uint64_t queued_ = 0;  // the producer's
  alignas(64) std::atomic<uint64_t> finished_{0};
  std::atomic<bool> sleeping_{false};
  std::atomic<bool> abandoned_{false};
  Mutex mutex_;
  Condition wake_;
};

}  // namespace octavo
