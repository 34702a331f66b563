// Reads ranges of files into memory, in pieces over a pool if there is one. Keeps a few files open between ranges.
#pragma once

#include <atomic>
#include <cstdint>

namespace octavo {

class Pool;

class FileReader {
 public:
  ~FileReader() { close_all(); }
  // Null, or an error sentence. Stops early once `abandon` is set.
  const char* read(Pool* pool, const char* path, uint64_t position, char* to, uint64_t bytes,
                   const std::atomic<bool>& abandon);
  void close_all();

 private:
  static constexpr int kOpen = 4;
  struct {
    char* path = nullptr;
    int fd = -1;
  } files_[kOpen];
  int next_ = 0;

  int open(const char* path, const char** error);
};

}  // namespace octavo
