// Signature lines (see src/core/signature.ts), parsed once per kernel, and the decoding of commands against them.
#pragma once

#include "call.h"

namespace octavo {

struct OperandSpec {
  char name[32];
  uint8_t dtypes;  // bit per DType; 0: the dtype of operand same_as
  int8_t same_as;
  bool leading, optional, mutated, strided, panels;
  bool replaced;  // every element is written in place
  bool marked;    // sticky flags, set in place; they survive a failed command
  int8_t rank;  // without the leading dims
  // Number of a named dim (>= 0), or -1 - size for a literal one.
  int64_t dims[kMaxRank];
};

struct Spec {
  char op[48];
  int operand_count;
  int input_count;  // operands before `->`
  int dim_count;
  int attr_count;
  OperandSpec operands[kMaxOperands];
  char dim_names[32][16];

  // False if the text is not a signature (or too large for the tables here).
  bool parse(const char* text);
};

// Looks up buffers: start and size of a live buffer, false for an invalid id.
struct BufferTable {
  virtual bool find(int32_t id, char** data, uint64_t* bytes) const = 0;

 protected:
  ~BufferTable() = default;
};

// Fills call.t and call.attr from `words` (the whole command, `count` words). Returns null, or an error sentence.
const char* decode(const Spec& spec, const int32_t* words, int64_t count, const BufferTable& buffers, Call& call);

// The range of one operand of a command, and how the command uses it.
struct Reach {
  int32_t buffer = 0;
  uint64_t begin = 0, end = 0;
  bool read = false;
  bool written = false;
  bool whole = false;  // written without gaps
};

// Visits the present operands of a command. It checks nothing: at malformed words it ends, or lets an operand reach to the
// end of its buffer.
class OperandReader {
 public:
  OperandReader(const Spec& spec, const int32_t* words, int64_t count)
      : spec_(spec), at_(words + 3), end_(words + count) {}
  bool next(Reach& reach);

 private:
  const Spec& spec_;
  const int32_t* at_;
  const int32_t* end_;
  int index_ = 0;
};

}  // namespace octavo
