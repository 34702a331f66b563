// Memory as the system gives it.
#include <sys/mman.h>

#include <cstdlib>

#include "../system.h"

namespace octavo {

char* map_memory(uint64_t bytes) {
  // A unit more than needed, with the ends cut off, so that the block starts on a huge page.
  void* map = mmap(nullptr, bytes + kMapUnit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  char* start = static_cast<char*>(map);
  char* block = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(start) + kMapUnit - 1) / kMapUnit * kMapUnit);
  if (block > start) munmap(start, (size_t)(block - start));
  char* end = start + bytes + kMapUnit;
  if (end > block + bytes) munmap(block + bytes, (size_t)(end - (block + bytes)));
#if defined(MADV_HUGEPAGE)
  madvise(block, bytes, MADV_HUGEPAGE);
#endif
  return block;
}

void unmap_memory(char* block, uint64_t bytes) { munmap(block, bytes); }

void* aligned_memory(size_t bytes, size_t alignment) {
  void* block = nullptr;
  return posix_memalign(&block, alignment, bytes) == 0 ? block : nullptr;
}

void free_aligned(void* block) { std::free(block); }

}  // namespace octavo
