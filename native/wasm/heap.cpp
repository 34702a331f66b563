#include "heap.h"

#include <cstdint>
#include <cstring>
#include <mutex>

extern "C" char __heap_base;

namespace octavo {

namespace {

constexpr uint32_t kAlign = 64;
constexpr uint32_t kPage = 65536;

// Precedes each block and takes 64 bytes, so that the block is aligned.
struct alignas(kAlign) Header {
  uint32_t size;  // with the header
  Header* next;   // of the free ones, by address
};

// Of everything below: threads of one memory share it.
std::mutex mutex;
Header* free_list = nullptr;
uint32_t end = 0;  // of the memory taken so far; the last page may end at 2^32, which is never reached

char* start_of(Header* header) { return (char*)header; }

void give_back(char* data);

// More memory, as one free block at the end; joined with a free block that ends there. False if there is none.
bool grow(uint32_t bytes) {
  if (end == 0) end = (uint32_t)((uintptr_t)&__heap_base + kAlign - 1) / kAlign * kAlign;
  const uint64_t wanted = (uint64_t)end + bytes;
  const uint64_t have = (uint64_t)__builtin_wasm_memory_size(0) * kPage;
  // The very last bytes stay unused: the address after them does not fit 32 bits.
  if (wanted > ((uint64_t)1 << 32) - kPage) return false;
  if (wanted > have) {
    const uint64_t pages = (wanted - have + kPage - 1) / kPage;
    if (__builtin_wasm_memory_grow(0, (size_t)pages) == (size_t)-1) return false;
  }
  Header* block = (Header*)(uintptr_t)end;
  block->size = bytes;
  end += bytes;
  give_back(start_of(block) + sizeof(Header));
  return true;
}

void give_back(char* data) {
  Header* block = (Header*)(data - sizeof(Header));
  Header* before = nullptr;
  Header* after = free_list;
  while (after && after < block) {
    before = after;
    after = after->next;
  }
  block->next = after;
  if (after && start_of(block) + block->size == start_of(after)) {
    block->size += after->size;
    block->next = after->next;
  }
  if (before && start_of(before) + before->size == start_of(block)) {
    before->size += block->size;
    before->next = block->next;
  } else if (before) {
    before->next = block;
  } else {
    free_list = block;
  }
}

}  // namespace

char* heap_allocate(size_t bytes) {
  if ((uint64_t)bytes > ((uint64_t)1 << 32) - 4 * kPage) return nullptr;
  const uint32_t size = (uint32_t)(sizeof(Header) + (bytes + kAlign - 1) / kAlign * kAlign);
  std::lock_guard<std::mutex> lock(mutex);
  for (int tries = 0; tries < 2; tries++) {
    Header** best = nullptr;
    Header** last = nullptr;
    for (Header** at = &free_list; *at; at = &(*at)->next) {
      if ((*at)->size >= size && (!best || (*at)->size < (*best)->size)) best = at;
      last = at;
    }
    if (best) {
      Header* block = *best;
      if (block->size - size >= 2 * sizeof(Header)) {
        Header* rest = (Header*)(start_of(block) + size);
        rest->size = block->size - size;
        rest->next = block->next;
        *best = rest;
        block->size = size;
      } else {
        *best = block->next;
      }
      return start_of(block) + sizeof(Header);
    }
    // A free block at the very end is extended.
    const bool touches = last && (uint32_t)(uintptr_t)start_of(*last) + (*last)->size == end;
    if (!grow(touches ? size - (*last)->size : size)) return nullptr;
  }
  return nullptr;
}

void heap_free(char* data) {
  if (!data) return;
  std::lock_guard<std::mutex> lock(mutex);
  give_back(data);
}

char* heap_resize(char* data, size_t bytes) {
  char* moved = heap_allocate(bytes);
  if (!moved || !data) return moved;
  const size_t had = ((Header*)(data - sizeof(Header)))->size - sizeof(Header);
  std::memcpy(moved, data, had < bytes ? had : bytes);
  heap_free(data);
  return moved;
}

}  // namespace octavo
