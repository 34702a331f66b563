// Signature lines (see src/core/signature.ts), parsed once per kernel, and the decoding of commands against them.
#pragma once

#include "call.h"

namespace octavo {

struct OperandSpec {
  char name[32];
  uint8_t dtypes;  // bit per DType; 0: the dtype of operand same_as
  int8_t same_as;
  bool leading, optional, mutated, strided, panels;
  int8_t rank;  // without the leading dims
  // Number of a named dim (>= 0), or -1 - size for a literal one.
  int64_t dims[kMaxRank];
};

struct Spec {
  char op[48];
  int operand_count;
  int dim_count;
  int attr_count;
  OperandSpec operands[kMaxOperands];
  char dim_names[32][16];

  // False if the text is not a signature (or too large for the tables here).
  bool parse(const char* text);
};

// Where buffers are: gives start and size of a live buffer, false for an id that is none.
struct BufferTable {
  virtual bool find(int32_t id, char** data, uint64_t* bytes) const = 0;

 protected:
  ~BufferTable() = default;
};

// Fills call.t and call.attr from `words` (the whole command, `count` words). Returns null, or what is wrong with it.
const char* decode(const Spec& spec, const int32_t* words, int64_t count, const BufferTable& buffers, Call& call);

}  // namespace octavo
