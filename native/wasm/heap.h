// Blocks of a WASM module's linear memory, which only grows: 64-byte aligned, best fit, neighbours joined when freed.
#pragma once

#include <cstddef>

namespace octavo {

// Null if the memory cannot grow that far.
char* heap_allocate(size_t bytes);
void heap_free(char* block);

}  // namespace octavo
