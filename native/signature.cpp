#include "signature.h"

#include <cstdio>
#include <cstdlib>

#include "panels.h"
#include "registry.h"

namespace octavo {

namespace {

constexpr const char* kDTypeNames[] = {"f32", "f16", "bf16", "i32", "i8", "u8", "u4"};
constexpr int kDTypeBits[] = {32, 16, 16, 32, 8, 8, 4};
constexpr int kDTypes = 7;
// No tensor has more elements; this keeps the products below within int64.
constexpr int64_t kMostElements = (int64_t)1 << 48;

// elements * dim for a dim of at least 0, at most kMostElements + 1. (The compiler's checked product needs 128 bits.)
int64_t times(int64_t elements, int64_t dim) {
  return dim > 0 && elements > kMostElements / dim ? kMostElements + 1 : elements * dim;
}

int find_dtype(const char* text, size_t length) {
  for (int i = 0; i < kDTypes; i++)
    if (std::strlen(kDTypeNames[i]) == length && std::strncmp(kDTypeNames[i], text, length) == 0) return i;
  return -1;
}

bool copy_name(char* to, size_t size, const char* from, size_t length) {
  if (length == 0 || length >= size) return false;
  std::memcpy(to, from, length);
  to[length] = 0;
  return true;
}

// One word of operands: name[dims]:dtypes flags
bool parse_operand(Spec& spec, const char* word, size_t length) {
  if (spec.operand_count == kMaxOperands) return false;
  OperandSpec& o = spec.operands[spec.operand_count];
  const char* end = word + length;
  const char* open = static_cast<const char*>(std::memchr(word, '[', length));
  if (!open || !copy_name(o.name, sizeof o.name, word, (size_t)(open - word))) return false;
  o.same_as = -1;
  const char* at = open + 1;
  while (at < end && *at != ']') {
    const char* stop = at;
    while (stop < end && *stop != ',' && *stop != ']') stop++;
    const size_t n = (size_t)(stop - at);
    if (n == 2 && at[0] == '.' && at[1] == '.') {
      if (o.rank > 0) return false;
      o.leading = true;
    } else {
      if (o.rank == kMaxRank || n == 0) return false;
      if (*at >= '0' && *at <= '9') {
        o.dims[o.rank++] = -1 - std::strtoll(at, nullptr, 10);
      } else {
        int slot = 0;
        while (slot < spec.dim_count &&
               !(std::strlen(spec.dim_names[slot]) == n && std::strncmp(spec.dim_names[slot], at, n) == 0))
          slot++;
        if (slot == spec.dim_count) {
          if (slot == 32 || !copy_name(spec.dim_names[slot], sizeof spec.dim_names[slot], at, n)) return false;
          spec.dim_count++;
        }
        o.dims[o.rank++] = slot;
      }
    }
    at = stop < end && *stop == ',' ? stop + 1 : stop;
  }
  if (at >= end) return false;
  at++;
  if (at < end && *at == ':') {
    at++;
    const char* stop = at;
    while (stop < end && !std::strchr("?!~@", *stop)) stop++;
    if (*at == '=') {
      at++;
      for (int i = 0; i < spec.operand_count; i++)
        if (std::strlen(spec.operands[i].name) == (size_t)(stop - at) &&
            std::strncmp(spec.operands[i].name, at, (size_t)(stop - at)) == 0)
          o.same_as = (int8_t)i;
      if (o.same_as < 0) return false;
    } else {
      while (at < stop) {
        const char* bar = at;
        while (bar < stop && *bar != '|') bar++;
        const int dtype = find_dtype(at, (size_t)(bar - at));
        if (dtype < 0) return false;
        o.dtypes |= (uint8_t)(1u << dtype);
        at = bar < stop ? bar + 1 : bar;
      }
    }
    at = stop;
  } else {
    o.dtypes = 1;
  }
  for (; at < end; at++) {
    if (*at == '?') o.optional = true;
    else if (*at == '!') (o.mutated ? o.replaced : o.mutated) = true;
    else if (*at == '+') o.marked = true;
    else if (*at == '~') o.strided = true;
    else if (*at == '@') o.panels = true;
    else return false;
  }
  spec.operand_count++;
  return true;
}

}  // namespace

bool Spec::parse(const char* text) {
  *this = Spec{};
  const char* colon = std::strchr(text, ':');
  if (!colon || !copy_name(op, sizeof op, text, (size_t)(colon - text))) return false;
  bool attrs = false, outputs = false;
  for (const char* at = colon + 1; *at;) {
    if (*at == ' ') {
      at++;
      continue;
    }
    const char* stop = at;
    while (*stop && *stop != ' ') stop++;
    const size_t n = (size_t)(stop - at);
    if (n == 1 && *at == ';') {
      attrs = true;
    } else if (n == 2 && at[0] == '-' && at[1] == '>') {
      outputs = true;
      attrs = false;
      input_count = operand_count;
    } else if (attrs) {
      if (++attr_count > kMaxAttrs) return false;
    } else if (!parse_operand(*this, at, n)) {
      return false;
    }
    at = stop;
  }
  return outputs;
}

const char* decode(const Spec& spec, const int32_t* words, int64_t count, const BufferTable& buffers, Call& call) {
  const int32_t* at = words + 3;
  const int32_t* end = words + count;
  int64_t bound[32];
  for (int i = 0; i < spec.dim_count; i++) bound[i] = -1;
  const Tensor* first_leading = nullptr;
  int leading_rank = 0;
  for (int i = 0; i < spec.operand_count; i++) {
    const OperandSpec& o = spec.operands[i];
    Tensor& t = call.t[i];
    if (at >= end) return "the command is too short";
    const uint32_t header = (uint32_t)*at;
    if (header == 0) {
      if (!o.optional) return sentence("operand `%s` is missing", o.name);
      t.data = nullptr;
      t.rank = 0;
      at++;
      continue;
    }
    const int rank = (int)(header & 0xffu);
    const uint32_t dtype = header >> 8 & 0xffu;
    const bool panels = (header >> 16 & 1u) != 0;
    const bool strided = (header >> 24 & 1u) != 0;
    if (!(header & 0x80000000u) || (header & 0x7efe0000u) || rank > kMaxRank || dtype >= kDTypes)
      return sentence("operand `%s` has a bad header (0x%08x)", o.name, header);
    if (end - at < 4 + rank * (strided ? 2 : 1)) return "the command is too short";
    if (!(o.same_as >= 0 ? dtype == (uint32_t)call.t[o.same_as].dtype : (o.dtypes >> dtype & 1) != 0))
      return sentence("operand `%s` cannot be %s", o.name, kDTypeNames[dtype]);
    if (strided && !o.strided) return sentence("operand `%s` must be contiguous", o.name);
    if (panels && !o.panels) return sentence("operand `%s` must be in rows, not in panels", o.name);
    const int extra = rank - o.rank;
    if (extra < 0 || (extra > 0 && !o.leading)) return sentence("operand `%s` cannot have %d dims", o.name, rank);

    char* base;
    uint64_t bytes;
    if (!buffers.find(at[1], &base, &bytes)) return sentence("operand `%s`: no buffer %d", o.name, at[1]);
    const uint64_t offset = (uint64_t)(uint32_t)at[2] | (uint64_t)(uint32_t)at[3] << 32;
    if (offset > bytes) return sentence("operand `%s` starts beyond its buffer", o.name);
    at += 4;

    t.dtype = (DType)dtype;
    t.panels = panels;
    t.strided = strided;
    t.rank = rank;
    t.data = base + offset;
    int64_t size = 1;
    for (int d = 0; d < rank; d++) {
      t.dim[d] = at[d];
      if (at[d] < 0) return sentence("operand `%s` has a negative dim", o.name);
      size = times(size, at[d]);
      if (size > kMostElements) return sentence("operand `%s` is too large", o.name);
    }
    at += rank;
    int64_t reach = size;  // elements from the start to the end of the last one
    if (strided) {
      if (t.dtype == DType::u4) return sentence("operand `%s`: u4 cannot be strided", o.name);
      int64_t last = 0;
      for (int d = 0; d < rank; d++) {
        t.stride[d] = at[d];
        if (at[d] < 0) return sentence("operand `%s` has a negative stride", o.name);
        if (t.dim[d] > 1) last += (t.dim[d] - 1) * (int64_t)at[d];  // below 8 * 2^62: checked as it grows
        if (last > kMostElements) return sentence("operand `%s` reaches too far", o.name);
      }
      at += rank;
      if (size > 0) reach = last + 1;
    } else {
      int64_t stride = 1;
      for (int d = rank - 1; d >= 0; d--) {
        t.stride[d] = stride;
        stride = size > 0 ? stride * t.dim[d] : 0;
      }
    }
    uint64_t need = ((uint64_t)reach * (uint64_t)kDTypeBits[dtype] + 7) / 8;
    if (panels) {
      if (rank < 2) return sentence("operand `%s`: panels are matrices, or stacks of them", o.name);
      const int64_t padded = panel_bytes(t.dtype, t.rows(), t.last());
      if (padded < 0) return sentence("operand `%s` cannot be in panels", o.name);
      need = (uint64_t)padded;
    }
    if (need > bytes - offset)
      return sentence("operand `%s` needs %llu bytes at %llu of a buffer of %llu", o.name, (unsigned long long)need,
                      (unsigned long long)offset, (unsigned long long)bytes);

    if (o.leading) {
      if (!first_leading) {
        first_leading = &t;
        leading_rank = extra;
      } else {
        bool same = extra == leading_rank;
        for (int d = 0; same && d < extra; d++) same = t.dim[d] == first_leading->dim[d];
        if (!same) return sentence("operand `%s`: leading dims differ from those of the first operand", o.name);
      }
    }
    for (int d = 0; d < o.rank; d++) {
      const int64_t slot = o.dims[d];
      const int64_t got = t.dim[extra + d];
      if (slot < 0) {
        if (got != -1 - slot)
          return sentence("operand `%s`: dim %d is %lld, not %lld", o.name, extra + d, (long long)got,
                          (long long)(-1 - slot));
      } else if (bound[slot] < 0) {
        bound[slot] = got;
      } else if (bound[slot] != got) {
        return sentence("operand `%s`: %s is %lld, not %lld", o.name, spec.dim_names[slot], (long long)got,
                        (long long)bound[slot]);
      }
    }
  }
  if (end - at != spec.attr_count)
    return sentence("the command has %lld words left for %d attributes", (long long)(end - at), spec.attr_count);
  for (int i = 0; i < spec.attr_count; i++) call.attr[i].i = at[i];
  return nullptr;
}

bool OperandReader::next(Reach& reach) {
  while (index_ < spec_.operand_count && at_ < end_ && *at_ == 0) {
    at_++;
    index_++;
  }
  if (index_ >= spec_.operand_count || end_ - at_ < 4) return false;
  const OperandSpec& o = spec_.operands[index_];
  const uint32_t header = (uint32_t)*at_;
  const int rank = (int)(header & 0xffu);
  const uint32_t dtype = header >> 8 & 0xffu;
  const bool panels = (header >> 16 & 1u) != 0;
  const bool strided = (header >> 24 & 1u) != 0;
  if (end_ - at_ < 4 + rank * (strided ? 2 : 1)) return false;
  const int32_t* dim = at_ + 4;
  const int32_t* stride = dim + rank;
  int64_t elements = 1, far = 0;
  bool sane = dtype < kDTypes;
  for (int d = 0; d < rank && sane; d++) {
    sane = dim[d] >= 0;
    if (!sane) break;
    elements = times(elements, dim[d]);
    if (strided && dim[d] > 1) far += (int64_t)(dim[d] - 1) * stride[d];
    sane = (!strided || stride[d] >= 0) && elements <= kMostElements && far <= kMostElements;
  }
  if (strided && elements > 0) elements = far + 1;
  reach.buffer = at_[1];
  reach.begin = (uint64_t)(uint32_t)at_[2] | (uint64_t)(uint32_t)at_[3] << 32;
  reach.end = UINT64_MAX;
  if (sane) {
    int64_t bytes = (int64_t)(((uint64_t)elements * (uint64_t)kDTypeBits[dtype] + 7) / 8);
    if (panels) {
      int64_t rows = 1;
      for (int d = 0; d + 1 < rank; d++) rows *= dim[d];
      bytes = rank >= 2 ? panel_bytes((DType)dtype, rows, dim[rank - 1]) : -1;
    }
    if (bytes >= 0 && reach.begin <= UINT64_MAX - (uint64_t)bytes) reach.end = reach.begin + (uint64_t)bytes;
  }
  const bool output = index_ >= spec_.input_count;
  reach.written = output || (o.mutated && !o.marked);
  reach.read = !output && !o.replaced && !o.marked;
  reach.whole = (output || o.replaced) && !strided;
  at_ += 4 + rank * (strided ? 2 : 1);
  index_++;
  return true;
}

}  // namespace octavo
