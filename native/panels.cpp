#include "panels.h"

#include <cstdlib>

namespace octavo {

namespace {

bool panels_off() {
  static const bool off = [] {
    const char* value = std::getenv("OCTAVO_PANELS");
    return value && value[0] == '0' && !value[1];
  }();
  return off;
}

}  // namespace

int64_t panel_bytes(DType dtype, int64_t rows, int64_t cols) {
  int64_t per_step = 0;
  switch (dtype) {
    case DType::f32: per_step = 1; break;
    case DType::f16:
    case DType::bf16: per_step = 2; break;
    case DType::i8: per_step = 4; break;
    case DType::u4:
      if (cols % 8 != 0) return -1;
      per_step = 8;
      break;
    default: return -1;
  }
  if (panels_off()) return -1;
  const int64_t steps = (cols + per_step - 1) / per_step;
  return (rows + kPanelRows - 1) / kPanelRows * steps * kStepBytes;
}

}  // namespace octavo
