#include "memory.h"

#include "system.h"

namespace octavo {

namespace {

constexpr uint64_t kMapFrom = 4u << 20;

uint64_t rounded(uint64_t bytes, uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

char* allocate_block(uint64_t bytes) {
  if (bytes > (uint64_t)1 << 47) return nullptr;
  if (bytes >= kMapFrom) return map_memory(rounded(bytes, kMapUnit));
  return static_cast<char*>(aligned_memory(rounded(bytes > 0 ? bytes : 1, 64), 64));
}

void free_block(char* block, uint64_t bytes) {
  if (!block) return;
  if (bytes < kMapFrom) free_aligned(block);
  else unmap_memory(block, rounded(bytes, kMapUnit));
}

}  // namespace octavo
