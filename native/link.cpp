#include "link.h"

#include <cstring>
#include <new>

#include "memory.h"
#include "system.h"

namespace octavo {

namespace {

constexpr int64_t kSpinNs = 60'000;
// How often a waiting thread checks whether its device is abandoned.
constexpr int kLookMs = 10;
// How much a source may leave before it goes on: one copy, and all copies in this process.
constexpr uint64_t kCopyBytes = 1 << 20;
constexpr uint64_t kCopiesBytes = 32 << 20;

std::atomic<uint64_t> copies{0};

}  // namespace

Link* Link::make() { return new (std::nothrow) Link(); }

void Link::release() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

Link::~Link() {
  if (!copy_) return;
  free_block(copy_, copy_bytes_);
  copies.fetch_sub(copy_bytes_, std::memory_order_relaxed);
}

void Link::finish(Lock& lock) {
  stage_.store(kDone, std::memory_order_release);
  lock.unlock();
  changed_.notify_all();
}

void Link::wait(Lock& lock, Stage stage, const std::atomic<bool>& abandoned) {
  lock.unlock();
  const int64_t until = now_ns() + kSpinNs;
  while (stage_.load(std::memory_order_acquire) == stage && now_ns() < until) {
    for (int i = 0; i < 32; i++) relax();
    give_way();  // the other end may need this core
  }
  lock.lock();
  while (stage_.load(std::memory_order_relaxed) == stage && !abandoned.load(std::memory_order_relaxed))
    changed_.wait_ms(lock, kLookMs);
}

void Link::send(const char* from, uint64_t bytes, const Failure& spoilt, const std::atomic<bool>& abandoned) {
  Lock lock(mutex_);
  if (stage_ == kDone) return;
  if (spoilt.failed) {
    failure_ = spoilt;
    return finish(lock);
  }
  if (stage_ == kEmpty && bytes <= kCopyBytes && copies.load(std::memory_order_relaxed) + bytes <= kCopiesBytes &&
      (copy_ = allocate_block(bytes))) {
    copy_bytes_ = bytes;
    copies.fetch_add(bytes, std::memory_order_relaxed);
    std::memcpy(copy_, from, bytes);
    stage_.store(kLeft, std::memory_order_release);
    lock.unlock();
    changed_.notify_all();
    return;
  }
  if (stage_ == kEmpty) wait(lock, kEmpty, abandoned);
  if (stage_ == kDone) return;
  if (stage_ == kWanted) std::memcpy(to_, from, bytes);
  else failure_.set("transfer", 0, "the device that the bytes come from was closed");
  finish(lock);
}

Failure Link::receive(char* to, uint64_t bytes, const std::atomic<bool>& abandoned) {
  Lock lock(mutex_);
  if (stage_ == kEmpty) {
    to_ = to;
    stage_.store(kWanted, std::memory_order_release);
    lock.unlock();
    changed_.notify_all();
    lock.lock();
    if (stage_ == kWanted) wait(lock, kWanted, abandoned);
  } else if (stage_ == kLeft) {
    std::memcpy(to, copy_, bytes);
  }
  const Failure failure = failure_;
  finish(lock);
  return failure;
}

void Link::fail(const char* message) {
  Lock lock(mutex_);
  if (stage_ == kDone) return;
  failure_.set("transfer", 0, message);
  finish(lock);
}

}  // namespace octavo
