// windows.h without its macros, and what the files of this folder share.
#pragma once

#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#define _WIN32_WINNT 0x0A00
#include <windows.h>

namespace octavo {

// A function of kernel32.dll that older systems lack; null there.
template <class F>
F system_function(const char* name) {
  return reinterpret_cast<F>(reinterpret_cast<void*>(GetProcAddress(GetModuleHandleW(L"kernel32.dll"), name)));
}

}  // namespace octavo
