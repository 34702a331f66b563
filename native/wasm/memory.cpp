// Memory of buffers: blocks of the one heap.
#include "../memory.h"

#include "heap.h"

namespace octavo {

char* allocate_block(uint64_t bytes) { return bytes >> 32 ? nullptr : heap_allocate((size_t)bytes); }
void free_block(char* block, uint64_t) { heap_free(block); }

}  // namespace octavo
