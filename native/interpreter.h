// Executes submitted commands: finds each one's kernel, checks its operands, runs it, and tracks failures. A failed command
// spoils its outputs; a later command that would read spoilt bytes does not run and spoils its own outputs; writing them anew
// makes them valid. Knows no queue, no threads of its own and no Node.
#pragma once

#include "poison.h"
#include "registry_tables.h"
#include "signature.h"

namespace octavo {

class Interpreter {
 public:
  static constexpr int kMaxKernels = 128;
  // Replaces the kernel number: the buffer in the fourth word has no owner any more (src/core/command.ts).
  static constexpr int32_t kForget = -1;

  explicit Interpreter(const BufferTable& buffers) : buffers_(buffers) {}
  ~Interpreter();

  // Takes the kernels of a level.
  void open(int level, Pool* pool);
  int count() const { return count_; }
  const Kernel& kernel(int index) const { return *kernels_[index]; }
  int isa(int index) const { return isas_[index]; }

  void run(const int32_t* words, int64_t count);

  // Bytes written by something other than a command: valid ones, or a failure.
  void wrote(int32_t buffer, uint64_t begin, uint64_t bytes) {
    if (!poison_.clean()) poison_.clear(buffer, begin, begin + bytes);
  }
  void spoilt(int32_t buffer, uint64_t begin, uint64_t bytes, const Failure& failure) {
    poison_.add(buffer, begin, begin + bytes, failure);
  }
  void forget(int32_t buffer) {
    if (!poison_.clean()) poison_.forget(buffer);
  }
  // The failure that a read of the range must report; `failed` is false if there is none. A failure without a range, from
  // malformed commands, is reported to the first read.
  Failure verdict(int32_t buffer, uint64_t begin, uint64_t bytes);

  // The command that runs now, or ran last.
  const char* op() const { return op_; }
  int32_t site() const { return site_; }

 protected:
  // Hooks around a kernel for derived classes; and when to stop.
  virtual const char* call(int kernel) { return kernels_[kernel]->run(call_); }
  virtual bool stopped() const { return false; }
  // `awaiting_` is true if bytes may still be in flight: a command waits for its ranges before it uses them.
  virtual void settle(int32_t, uint64_t, uint64_t) {}
  virtual void forgotten(int32_t) {}
  bool awaiting_ = false;
  Call call_;

 private:
  static char* need(void* self, size_t bytes);
  void run_one(int kernel, const int32_t* words, int64_t count);
  // The failure that spoilt an input of the command, or null.
  const Failure* spoilt_input(const Spec& spec, const int32_t* words, int64_t count) const;
  void spoil(const Spec& spec, const int32_t* words, int64_t count, const Failure& failure);
  void stray(const char* message);

  const BufferTable& buffers_;
  int count_ = 0;
  const Kernel* kernels_[kMaxKernels] = {};
  int isas_[kMaxKernels] = {};
  Spec specs_[kMaxKernels] = {};
  char* scratch_ = nullptr;
  uint64_t scratch_bytes_ = 0;
  Poison poison_;
  Failure stray_;
  const char* op_ = "";
  int32_t site_ = 0;
};

}  // namespace octavo
