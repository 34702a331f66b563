// Reads ranges of files into memory, in pieces over a pool if there is one. Keeps a few files open between ranges.
#pragma once

#include <atomic>
#include <cstdint>

#include "system.h"

namespace octavo {

class Pool;

class FileReader {
 public:
  ~FileReader() { close_all(); }
  // Null, or an error sentence, if the file is no longer what `stamp` says as well. Stops early once `abandon` is set.
  const char* read(Pool* pool, const char* path, uint64_t position, char* to, uint64_t bytes, const FileStamp& stamp,
                   const std::atomic<bool>& abandon);
  void close_all();

 private:
  const char* read(Pool* pool, const char* path, uint64_t position, char* to, uint64_t bytes,
                   const std::atomic<bool>& abandon);
  static constexpr int kOpen = 4;
  struct {
    char* path = nullptr;
    File file;
  } files_[kOpen];
  int next_ = 0;

  // Null, with an error sentence, if there is none.
  File* open(const char* path, const char** error);
};

}  // namespace octavo
