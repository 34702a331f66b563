#include "queue.h"

#include <cstdlib>
#include <new>

#include "system.h"

namespace octavo {

namespace {

constexpr int64_t kSpinNs = 60'000;

}  // namespace

Item* make_item(Kind kind, uint64_t payload) {
  if (payload > (uint64_t)1 << 47) return nullptr;
  void* memory = std::malloc(sizeof(Item) + payload);
  if (!memory) return nullptr;
  Item* item = new (memory) Item();
  item->kind = kind;
  return item;
}

bool Queue::start() { return (head_ = tail_ = make_item(Kind::commands, 0)) != nullptr; }

Queue::~Queue() {
  while (head_) {
    Item* next = head_->next.load(std::memory_order_relaxed);
    drop_head();
    head_ = next;
  }
}

void Queue::push(Item* item) {
  queued_++;
  // Each side first publishes its state and then checks the other's (in one total order), so no wake-up is lost.
  tail_->next.store(item, std::memory_order_seq_cst);
  tail_ = item;
  if (sleeping_.load(std::memory_order_seq_cst)) {
    { Lock lock(mutex_); }
    wake_.notify_one();
  }
}

void Queue::abandon() {
  {
    Lock lock(mutex_);
    abandoned_.store(true, std::memory_order_seq_cst);
  }
  wake_.notify_one();
}

// The item after head, if it arrives within a moment.
Item* Queue::poll() {
  Item* next = head_->next.load(std::memory_order_acquire);
  if (next) return next;
  const int64_t until = now_ns() + kSpinNs;
  do {
    for (int i = 0; i < 32 && !next; i++) {
      relax();
      next = head_->next.load(std::memory_order_acquire);
    }
    if (abandoned_.load(std::memory_order_relaxed)) return nullptr;
  } while (!next && now_ns() < until);
  return next;
}

Item* Queue::sleep() {
  Item* next;
  Lock lock(mutex_);
  sleeping_.store(true, std::memory_order_seq_cst);
  while (!(next = head_->next.load(std::memory_order_seq_cst)) && !abandoned_.load(std::memory_order_relaxed))
    wake_.wait(lock);
  sleeping_.store(false, std::memory_order_relaxed);
  return next;
}

void Queue::drop_head() {
  if (head_->dropped) head_->dropped(head_->link);
  head_->~Item();
  std::free(head_);
}

}  // namespace octavo
