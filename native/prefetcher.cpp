#include "prefetcher.h"

#include <cstdlib>
#include <cstring>
#include <new>

namespace octavo {

Prefetcher::~Prefetcher() {
  if (started_) {
    {
      Lock lock(mutex_);
      stop_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  while (count_ > 0) drop(pending_[--count_]);
}

bool Prefetcher::start(int32_t buffer, uint64_t begin, uint64_t bytes, int32_t site, char* to, const char* path,
                       uint64_t position, const FileStamp& stamp) {
  if (!started_) {
    const auto body = [](void* self) { static_cast<Prefetcher*>(self)->loop(); };
    if (!(started_ = thread_.start(body, this, "octavo-reader"))) return false;
  }
  const size_t length = std::strlen(path) + 1;
  void* memory = std::malloc(sizeof(Load) + length);
  if (!memory) return false;
  Load* load = new (memory) Load();
  load->buffer = buffer;
  load->begin = begin;
  load->end = begin + bytes;
  load->failure.site = site;
  load->to = to;
  load->position = position;
  load->stamp = stamp;
  std::memcpy(load->path(), path, length);
  pending_[count_++] = load;
  open_.fetch_add(1, std::memory_order_relaxed);
  {
    Lock lock(mutex_);
    *last_ = load;
    last_ = &load->next;
  }
  wake_.notify_one();
  return true;
}

void Prefetcher::loop() {
  FileReader files;
  Lock lock(mutex_);
  for (;;) {
    if (!first_ && !stop_) files.close_all();
    while (!first_ && !stop_) wake_.wait(lock);
    if (stop_) return;
    Load* load = first_;
    first_ = load->next;
    if (!first_) last_ = &first_;
    lock.unlock();
    const int32_t site = load->failure.site;
    const char* error = files.read(nullptr, load->path(), load->position, load->to, load->end - load->begin,
                                   load->stamp, abandoned_);
    if (error) load->failure.set("load", site, error);
    open_.fetch_sub(1, std::memory_order_relaxed);
    lock.lock();
    load->done = true;
    done_.notify_one();
  }
}

Prefetcher::Load* Prefetcher::take_at(int index) {
  Load* load = pending_[index];
  {
    Lock lock(mutex_);
    while (!load->done) done_.wait(lock);
  }
  count_--;
  for (int i = index; i < count_; i++) pending_[i] = pending_[i + 1];
  return load;
}

Prefetcher::Load* Prefetcher::take(int32_t buffer, uint64_t begin, uint64_t end) {
  for (int i = 0; i < count_; i++) {
    const Load& load = *pending_[i];
    if (load.buffer == buffer && load.begin < end && begin < load.end) return take_at(i);
  }
  return nullptr;
}

Prefetcher::Load* Prefetcher::take_oldest(bool wait) {
  if (count_ == 0) return nullptr;
  if (!wait) {
    Lock lock(mutex_);
    if (!pending_[0]->done) return nullptr;
  }
  return take_at(0);
}

void Prefetcher::drop(Load* load) {
  load->~Load();
  std::free(load);
}

void Prefetcher::forget(int32_t buffer) {
  for (int i = 0; i < count_; i++)
    if (pending_[i]->buffer == buffer) pending_[i]->forgotten = true;
}

}  // namespace octavo
