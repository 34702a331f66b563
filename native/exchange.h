// Swaps what lies at two paths.
#pragma once

namespace octavo {

// In one step of the file system. Returns 0, or the system's error number.
int exchange_paths(const char* a, const char* b);

}  // namespace octavo
