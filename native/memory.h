// Memory of buffers: 64-byte aligned; large blocks come straight from the system, on huge pages if available, and are
// returned to it directly.
#pragma once

#include <cstdint>

namespace octavo {

char* allocate_block(uint64_t bytes);
void free_block(char* block, uint64_t bytes);

}  // namespace octavo
