// Tracks invalid bytes of buffers: those that a failed command, or one skipped because of spoilt inputs, should have written.
// Each range remembers the original failure.
#pragma once

#include <cstdint>

namespace octavo {

struct Failure {
  bool failed = false;
  int32_t site = 0;
  char op[48] = "";
  char message[512] = "";

  void set(const char* op, int32_t site, const char* message);
};

class Poison {
 public:
  ~Poison();

  bool clean() const { return count_ == 0 && !full_.failed; }
  // The failure that spoilt a byte of the range, or null.
  const Failure* find(int32_t buffer, uint64_t begin, uint64_t end) const;
  void add(int32_t buffer, uint64_t begin, uint64_t end, const Failure& failure);
  // The range was written.
  void clear(int32_t buffer, uint64_t begin, uint64_t end);
  // The buffer has another owner, or none.
  void forget(int32_t buffer) { clear(buffer, 0, UINT64_MAX); }

 private:
  struct Range {
    int32_t buffer;
    int32_t failure;  // index
    uint64_t begin, end;
  };

  bool push(const Range& range);
  // Index of a copy of the failure, or -1 when memory ran out.
  int32_t keep(const Failure& failure);

  Range* ranges_ = nullptr;
  int32_t count_ = 0, capacity_ = 0;
  Failure* failures_ = nullptr;
  int32_t failures_count_ = 0, failures_capacity_ = 0;
  // If there is no memory for tracking, everything counts as spoilt, permanently.
  Failure full_;
};

}  // namespace octavo
