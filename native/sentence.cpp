#include <cstdarg>
#include <cstdio>

#include "registry.h"

namespace octavo {

const char* sentence(const char* format, ...) {
  static thread_local char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return text;
}

}  // namespace octavo
