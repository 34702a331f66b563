#include "memory.h"

#include <sys/mman.h>

#include <cstdlib>

namespace octavo {

namespace {

constexpr uint64_t kMapFrom = 4u << 20;
constexpr uint64_t kHuge = 2u << 20;

uint64_t rounded(uint64_t bytes, uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

char* allocate_block(uint64_t bytes) {
  if (bytes > (uint64_t)1 << 47) return nullptr;
  if (bytes < kMapFrom) {
    void* block = nullptr;
    if (posix_memalign(&block, 64, rounded(bytes > 0 ? bytes : 1, 64)) != 0) return nullptr;
    return static_cast<char*>(block);
  }
  // Map a huge page more than needed and cut the ends off, so that the block starts on one.
  const uint64_t size = rounded(bytes, kHuge);
  void* map = mmap(nullptr, size + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  char* start = static_cast<char*>(map);
  char* block = reinterpret_cast<char*>(rounded(reinterpret_cast<uintptr_t>(start), kHuge));
  if (block > start) munmap(start, (size_t)(block - start));
  char* end = start + size + kHuge;
  if (end > block + size) munmap(block + size, (size_t)(end - (block + size)));
#if defined(MADV_HUGEPAGE)
  madvise(block, size, MADV_HUGEPAGE);
#endif
  return block;
}

void free_block(char* block, uint64_t bytes) {
  if (!block) return;
  if (bytes < kMapFrom) std::free(block);
  else munmap(block, rounded(bytes, kHuge));
}

}  // namespace octavo
