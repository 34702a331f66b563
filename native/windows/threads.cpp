// Clock, threads and locks.
#include "windows.h"

#include <cstdlib>
#include <new>

#include "../sync.h"
#include "../system.h"

namespace octavo {

namespace {

struct Start {
  void (*body)(void*);
  void* argument;
};

DWORD WINAPI enter(void* argument) {
  const Start start = *static_cast<Start*>(argument);
  std::free(argument);
  start.body(start.argument);
  return 0;
}

// For debuggers; Windows has it since 10.0.14393.
void set_name(HANDLE thread, const char* name) {
  using Set = HRESULT(WINAPI*)(HANDLE, PCWSTR);
  const Set set = system_function<Set>("SetThreadDescription");
  if (!set) return;
  wchar_t wide[16] = {};
  for (int i = 0; i < 15 && name[i]; i++) wide[i] = (wchar_t)name[i];
  set(thread, wide);
}

SRWLOCK* lock_of(void** lock) { return reinterpret_cast<SRWLOCK*>(lock); }
CONDITION_VARIABLE* condition_of(void** condition) { return reinterpret_cast<CONDITION_VARIABLE*>(condition); }
static_assert(sizeof(SRWLOCK) == sizeof(void*) && sizeof(CONDITION_VARIABLE) == sizeof(void*));

}  // namespace

int64_t now_ns() {
  LARGE_INTEGER unit, value;
  QueryPerformanceFrequency(&unit);
  QueryPerformanceCounter(&value);
  // In two parts: the product of a long time would not fit.
  const int64_t seconds = value.QuadPart / unit.QuadPart, rest = value.QuadPart % unit.QuadPart;
  return seconds * 1'000'000'000 + rest * 1'000'000'000 / unit.QuadPart;
}

void relax() { YieldProcessor(); }

void give_way() { SwitchToThread(); }

bool Thread::start(void (*body)(void*), void* argument, const char* name) {
  void* memory = std::malloc(sizeof(Start));
  if (!memory) return false;
  HANDLE thread = CreateThread(nullptr, 4u << 20, enter, new (memory) Start{body, argument},
                               STACK_SIZE_PARAM_IS_A_RESERVATION, nullptr);
  if (!thread) {
    std::free(memory);
    return false;
  }
  set_name(thread, name);
  handle_ = reinterpret_cast<uintptr_t>(thread);
  return true;
}

void Thread::join() {
  HANDLE thread = reinterpret_cast<HANDLE>(handle_);
  WaitForSingleObject(thread, INFINITE);
  CloseHandle(thread);
}

void Mutex::lock() { AcquireSRWLockExclusive(lock_of(&lock_)); }
void Mutex::unlock() { ReleaseSRWLockExclusive(lock_of(&lock_)); }

void SystemCondition::wait(Mutex& mutex) { wait_ms(mutex, -1); }
void SystemCondition::wait_ms(Mutex& mutex, int ms) {
  SleepConditionVariableSRW(condition_of(&condition_), lock_of(&mutex.lock_), ms < 0 ? INFINITE : (DWORD)ms, 0);
}
void SystemCondition::notify_one() { WakeConditionVariable(condition_of(&condition_)); }
void SystemCondition::notify_all() { WakeAllConditionVariable(condition_of(&condition_)); }

}  // namespace octavo
