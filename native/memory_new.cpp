// Where `new` takes its memory: from malloc, so that the add-on needs no C++ library. All of its `new` are the kinds that give
// null; WebAssembly has them in wasm/libc.cpp.

#include <cstdlib>
#include <new>

#include "system.h"

namespace {

void* aligned(size_t bytes, std::align_val_t alignment) noexcept {
  return octavo::aligned_memory(bytes > 0 ? bytes : 1, (size_t)alignment);
}

}  // namespace

namespace std {
const nothrow_t nothrow{};
}

void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return std::malloc(bytes > 0 ? bytes : 1); }
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept { return std::malloc(bytes > 0 ? bytes : 1); }
void* operator new(size_t bytes, std::align_val_t to, const std::nothrow_t&) noexcept { return aligned(bytes, to); }
void* operator new[](size_t bytes, std::align_val_t to, const std::nothrow_t&) noexcept { return aligned(bytes, to); }
void operator delete(void* block) noexcept { std::free(block); }
void operator delete[](void* block) noexcept { std::free(block); }
void operator delete(void* block, size_t) noexcept { std::free(block); }
void operator delete[](void* block, size_t) noexcept { std::free(block); }
void operator delete(void* block, std::align_val_t) noexcept { octavo::free_aligned(block); }
void operator delete[](void* block, std::align_val_t) noexcept { octavo::free_aligned(block); }
void operator delete(void* block, size_t, std::align_val_t) noexcept { octavo::free_aligned(block); }
void operator delete[](void* block, size_t, std::align_val_t) noexcept { octavo::free_aligned(block); }
// In a call of the kinds above with a constructor that throws, which none is compiled to.
void operator delete(void* block, const std::nothrow_t&) noexcept { std::free(block); }
void operator delete[](void* block, const std::nothrow_t&) noexcept { std::free(block); }
void operator delete(void* block, std::align_val_t, const std::nothrow_t&) noexcept { octavo::free_aligned(block); }
void operator delete[](void* block, std::align_val_t, const std::nothrow_t&) noexcept { octavo::free_aligned(block); }
// A class with a virtual destructor names it, and none is ever called where there is no body.
extern "C" void __cxa_pure_virtual() { std::abort(); }
