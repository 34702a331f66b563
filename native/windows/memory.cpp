// Memory as the system gives it. Pages of 2 MB need a right that few users have (SeLockMemoryPrivilege), so they are not asked for.
#include "windows.h"

#include <malloc.h>

#include "../system.h"

namespace octavo {

char* map_memory(uint64_t bytes) {
  return static_cast<char*>(VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE));
}

void unmap_memory(char* block, uint64_t) { VirtualFree(block, 0, MEM_RELEASE); }

void* aligned_memory(size_t bytes, size_t alignment) { return _aligned_malloc(bytes, alignment); }

void free_aligned(void* block) { _aligned_free(block); }

}  // namespace octavo
