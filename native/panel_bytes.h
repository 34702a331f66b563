// panel_bytes of native/panels.h for the runtime. Until that file exists no matrix has panels.
#pragma once

#if __has_include("panels.h")
#include "panels.h"
#else
#include "call.h"
namespace octavo {
inline int64_t panel_bytes(DType, int64_t, int64_t) { return -1; }
}  // namespace octavo
#endif
