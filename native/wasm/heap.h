// Blocks of a WASM module's linear memory, which only grows: 64-byte aligned, best fit, neighbours joined when freed.
// Any thread may ask.
#pragma once

#include <cstddef>

namespace octavo {

// Null if the memory cannot grow that far.
char* heap_allocate(size_t bytes);
void heap_free(char* block);
// The same bytes in a block of another size; null, and the old block untouched, if memory ran out.
char* heap_resize(char* block, size_t bytes);

}  // namespace octavo
