// Implements what include/ declares and the compiler requires. Mathematics comes from JavaScript's Math: it is used in double
// precision and rarely (tables of angles, the few logarithms of sampling), never in an inner loop.
#include <cmath>
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "heap.h"

#define FROM_MATH(name)                                                                              \
  __attribute__((import_module("math"), import_name(#name))) double math_##name(double);             \
  double name(double x) { return math_##name(x); }

extern "C" {

FROM_MATH(cos)
FROM_MATH(exp)
FROM_MATH(log)
FROM_MATH(sin)

// For a call of a pure virtual function, which cannot happen.
void __cxa_pure_virtual() { __builtin_trap(); }

void* malloc(size_t bytes) { return octavo::heap_allocate(bytes); }
void* realloc(void* block, size_t bytes) { return octavo::heap_resize((char*)block, bytes); }
void free(void* block) { octavo::heap_free((char*)block); }

size_t strlen(const char* text) {
  size_t n = 0;
  while (text[n]) n++;
  return n;
}

int strncmp(const char* a, const char* b, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (a[i] != b[i]) return (unsigned char)a[i] < (unsigned char)b[i] ? -1 : 1;
    if (!a[i]) break;
  }
  return 0;
}

int strcmp(const char* a, const char* b) { return strncmp(a, b, (size_t)-1); }

const char* strchr(const char* text, int c) {
  for (;; text++) {
    if (*text == (char)c) return text;
    if (!*text) return nullptr;
  }
}

const void* memchr(const void* bytes, int c, size_t n) {
  const char* at = (const char*)bytes;
  for (size_t i = 0; i < n; i++)
    if (at[i] == (char)c) return at + i;
  return nullptr;
}

long long strtoll(const char* text, char** end, int) {
  long long value = 0;
  while (*text >= '0' && *text <= '9') value = value * 10 + (*text++ - '0');
  if (end) *end = const_cast<char*>(text);
  return value;
}

int vsnprintf(char* to, size_t size, const char* format, va_list arguments) {
  size_t length = 0;
  const auto put = [&](char c) {
    if (length + 1 < size) to[length] = c;
    length++;
  };
  for (; *format; format++) {
    if (*format != '%') {
      put(*format);
      continue;
    }
    format++;
    int width = 0, longs = 0;
    while (*format >= '0' && *format <= '9') width = width * 10 + (*format++ - '0');
    while (*format == 'l') {
      longs++;
      format++;
    }
    if (*format == 's') {
      for (const char* text = va_arg(arguments, const char*); *text; text++) put(*text);
    } else if (*format == 'd' || *format == 'u' || *format == 'x') {
      unsigned long long value;
      if (*format == 'd') {
        const long long given = longs > 1 ? va_arg(arguments, long long) : va_arg(arguments, int);
        if (given < 0) put('-');
        value = given < 0 ? 0ull - (unsigned long long)given : (unsigned long long)given;
      } else {
        value = longs > 1 ? va_arg(arguments, unsigned long long) : va_arg(arguments, unsigned);
      }
      char digits[24];
      int n = 0;
      const unsigned base = *format == 'x' ? 16 : 10;
      do digits[n++] = "0123456789abcdef"[value % base];
      while ((value /= base) > 0);
      for (int i = n; i < width; i++) put('0');
      while (n > 0) put(digits[--n]);
    } else if (*format) {
      put(*format);
    } else {
      break;
    }
  }
  if (size > 0) to[length < size ? length : size - 1] = 0;
  return (int)length;
}

}  // extern "C"

void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return malloc(bytes); }
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept { return malloc(bytes); }
// Every block is 64-byte aligned; nothing needs more.
void* operator new(size_t bytes, std::align_val_t, const std::nothrow_t&) noexcept { return malloc(bytes); }
void* operator new[](size_t bytes, std::align_val_t, const std::nothrow_t&) noexcept { return malloc(bytes); }
void operator delete(void* block) noexcept { free(block); }
void operator delete[](void* block) noexcept { free(block); }
void operator delete(void* block, size_t) noexcept { free(block); }
void operator delete[](void* block, size_t) noexcept { free(block); }
void operator delete(void* block, std::align_val_t) noexcept { free(block); }
void operator delete[](void* block, std::align_val_t) noexcept { free(block); }
void operator delete(void* block, size_t, std::align_val_t) noexcept { free(block); }
void operator delete[](void* block, size_t, std::align_val_t) noexcept { free(block); }
