// Reads ranges of files ahead of the queue, on a thread of its own that never uses the pool: reading and computing overlap.
// The queue thread starts loads and takes them back when a command needs their bytes.
#pragma once

#include <atomic>
#include <cstdint>

#include "file_reader.h"
#include "poison.h"
#include "sync.h"
#include "system.h"

namespace octavo {

class Prefetcher {
 public:
  struct Load {
    Load* next = nullptr;  // in the reader's list
    int32_t buffer = 0;
    uint64_t begin = 0, end = 0;
    bool forgotten = false;  // the buffer has another owner: its failure is ignored
    char* to = nullptr;
    uint64_t position = 0;
    FileStamp stamp;
    bool done = false;  // under the mutex
    Failure failure;

    char* path() { return reinterpret_cast<char*>(this + 1); }
  };

  // `abandoned` ends a load early.
  explicit Prefetcher(const std::atomic<bool>& abandoned) : abandoned_(abandoned) {}
  ~Prefetcher();

  // All methods but `reading` belong to the queue thread. False if memory ran out or the system refuses a thread.
  bool start(int32_t buffer, uint64_t begin, uint64_t bytes, int32_t site, char* to, const char* path,
             uint64_t position, const FileStamp& stamp);
  bool any() const { return count_ > 0; }
  bool full() const { return count_ == kMost; }
  // Removes a load that fills bytes of the range, once it is done; null if there is none. The caller drops it.
  Load* take(int32_t buffer, uint64_t begin, uint64_t end);
  // Removes the oldest load; waits for it if `wait`, else returns null if it is not done.
  Load* take_oldest(bool wait);
  void drop(Load* load);
  void forget(int32_t buffer);

  // Any thread: true while a load is in flight.
  bool reading() const { return open_.load(std::memory_order_relaxed) > 0; }

 private:
  static constexpr int kMost = 64;

  void loop();
  Load* take_at(int index);

  const std::atomic<bool>& abandoned_;
  Load* pending_[kMost] = {};  // oldest first
  int count_ = 0;
  Thread thread_;
  bool started_ = false;

  Mutex mutex_;
  Condition wake_, done_;
  Load* first_ = nullptr;  // to be read
  Load** last_ = &first_;
  bool stop_ = false;
  std::atomic<int> open_{0};
};

}  // namespace octavo
