#include "interpreter.h"

#include "memory.h"
#include "registry.h"

namespace octavo {

Interpreter::~Interpreter() { free_block(scratch_, scratch_bytes_); }

char* Interpreter::need(void* self, size_t bytes) {
  Interpreter* s = static_cast<Interpreter*>(self);
  if (bytes > s->scratch_bytes_) {
    free_block(s->scratch_, s->scratch_bytes_);
    const uint64_t wanted = (uint64_t)bytes + bytes / 4;
    s->scratch_ = allocate_block(wanted);
    s->scratch_bytes_ = s->scratch_ ? wanted : 0;
  }
  return s->scratch_;
}

void Interpreter::open(int level, Pool* pool) {
  const int ops = op_count(level);
  for (int i = 0; i < ops && count_ < kMaxKernels; i++) {
    const Kernel& kernel = op_kernel(level, i);
    // An unreadable signature is a mistake in a kernel file: the op is omitted, so nothing can run it.
    if (!specs_[count_].parse(kernel.signature) || std::strcmp(specs_[count_].op, kernel.name) != 0) continue;
    kernels_[count_] = &kernel;
    isas_[count_++] = op_kernel_isa(level, i);
  }
  call_.pool = pool;
  call_.scratch = need;
  call_.scratch_owner = this;
}

void Interpreter::run(const int32_t* words, int64_t count) {
  const int32_t* end = words + count;
  while (words < end && !stopped()) {
    op_ = "submit";
    site_ = end - words >= 3 ? words[2] : 0;
    if (end - words < 3 || words[1] < 3 || words[1] > end - words)
      return stray("a command is longer than what was submitted");
    const int32_t kernel = words[0], size = words[1];
    if (kernel >= 0 && kernel < count_) run_one(kernel, words, size);
    else if (kernel != kForget || size != 4) stray(sentence("there is no kernel %d", kernel));
    else {
      if (awaiting_) forgotten(words[3]);
      forget(words[3]);
    }
    words += size;
  }
}

void Interpreter::run_one(int kernel, const int32_t* words, int64_t count) {
  const Spec& spec = specs_[kernel];
  op_ = kernels_[kernel]->name;
  if (awaiting_) {
    OperandReader operands(spec, words, count);
    for (Reach reach; operands.next(reach);) settle(reach.buffer, reach.begin, reach.end);
  }
  if (!poison_.clean()) {
    if (const Failure* first = spoilt_input(spec, words, count)) return spoil(spec, words, count, *first);
  }
  const char* error = decode(spec, words, count, buffers_, call_);
  if (!error) error = call(kernel);
  if (error) {
    Failure failure;
    failure.set(op_, site_, error);
    return spoil(spec, words, count, failure);
  }
  if (poison_.clean()) return;
  OperandReader operands(spec, words, count);
  for (Reach reach; operands.next(reach);)
    if (reach.whole) poison_.clear(reach.buffer, reach.begin, reach.end);
}

const Failure* Interpreter::spoilt_input(const Spec& spec, const int32_t* words, int64_t count) const {
  OperandReader operands(spec, words, count);
  for (Reach reach; operands.next(reach);) {
    if (!reach.read) continue;
    if (const Failure* failure = poison_.find(reach.buffer, reach.begin, reach.end)) return failure;
  }
  return nullptr;
}

void Interpreter::spoil(const Spec& spec, const int32_t* words, int64_t count, const Failure& failure) {
  const Failure first = failure;  // a copy: `failure` may lie in the list that changes here
  bool named = false;
  OperandReader operands(spec, words, count);
  for (Reach reach; operands.next(reach);) {
    if (!reach.written) continue;
    poison_.add(reach.buffer, reach.begin, reach.end, first);
    named = true;
  }
  if (!named && !stray_.failed) stray_ = first;
}

void Interpreter::stray(const char* message) {
  if (!stray_.failed) stray_.set(op_, site_, message);
}

Failure Interpreter::verdict(int32_t buffer, uint64_t begin, uint64_t bytes) {
  Failure result;
  if (stray_.failed) {
    result = stray_;
    stray_.failed = false;
  } else if (!poison_.clean()) {
    if (const Failure* failure = poison_.find(buffer, begin, begin + bytes)) result = *failure;
  }
  return result;
}

}  // namespace octavo
