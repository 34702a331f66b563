// The locks of ../sync.h, of Windows: an SRWLOCK and a CONDITION_VARIABLE, which are a pointer each, null at the beginning, and need
// no end. Not inline, so that no file but those of this folder sees windows.h.
#pragma once

namespace octavo {

class Mutex {
 public:
  constexpr Mutex() = default;
  Mutex(const Mutex&) = delete;
  void lock();
  void unlock();

 private:
  friend class SystemCondition;
  void* lock_ = nullptr;
};

class SystemCondition {
 public:
  SystemCondition() = default;
  SystemCondition(const SystemCondition&) = delete;
  void wait(Mutex& mutex);
  void wait_ms(Mutex& mutex, int ms);
  void notify_one();
  void notify_all();

 private:
  void* condition_ = nullptr;
};

}  // namespace octavo
