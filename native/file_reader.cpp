#include "file_reader.h"

#include <cstdlib>
#include <cstring>

#include "pool.h"
#include "registry.h"

namespace octavo {

namespace {

constexpr int64_t kPieceBytes = 2 << 20;

struct Range {
  const File& file;
  uint64_t position;
  char* to;
  uint64_t bytes;
  const std::atomic<bool>* abandon;
  std::atomic<int> error{0};
  std::atomic<bool> cut{false};
};

void read_pieces(void* context, int64_t begin, int64_t end, int) {
  Range& range = *static_cast<Range*>(context);
  uint64_t at = (uint64_t)(begin * kPieceBytes);
  uint64_t stop = (uint64_t)(end * kPieceBytes);
  if (stop > range.bytes) stop = range.bytes;
  while (at < stop) {
    if (range.abandon->load(std::memory_order_relaxed) || range.error.load(std::memory_order_relaxed)) return;
    const uint64_t want = stop - at < (uint64_t)kPieceBytes ? stop - at : (uint64_t)kPieceBytes;
    uint64_t got = 0;
    if (const int error = range.file.read(range.to + at, want, range.position + at, &got)) {
      range.error.store(error, std::memory_order_relaxed);
      return;
    }
    if (got == 0) {
      range.cut.store(true, std::memory_order_relaxed);
      return;
    }
    at += got;
  }
}

// A copy of a text on the heap; null if there is no memory.
char* copied(const char* text) {
  const size_t bytes = std::strlen(text) + 1;
  void* memory = std::malloc(bytes);
  return memory ? static_cast<char*>(std::memcpy(memory, text, bytes)) : nullptr;
}

}  // namespace

File* FileReader::open(const char* path, const char** error) {
  for (auto& file : files_)
    if (file.path && std::strcmp(file.path, path) == 0) return &file.file;
  File opened;
  if (const int code = opened.open(path)) {
    *error = code == File::kNotRegular ? sentence("%s is not a regular file", path)
                                       : sentence("cannot open %s: %s", path, error_words(code));
    return nullptr;
  }
  auto& file = files_[next_++ % kOpen];
  if (file.path) {
    file.file.close();
    std::free(file.path);
  }
  file.path = copied(path);
  file.file = opened;
  if (!file.path) {
    file.file.close();
    *error = "memory ran out";
    return nullptr;
  }
  return &file.file;
}

void FileReader::close_all() {
  for (auto& file : files_) {
    if (!file.path) continue;
    file.file.close();
    std::free(file.path);
    file.path = nullptr;
  }
}

const char* FileReader::read(Pool* pool, const char* path, uint64_t position, char* to, uint64_t bytes,
                             const std::atomic<bool>& abandon) {
  if (bytes == 0) return nullptr;
  const char* error = nullptr;
  const File* file = open(path, &error);
  if (!file) return error;
  uint64_t size = 0;
  if (const int code = file->size(&size)) return sentence("cannot read %s: %s", path, error_words(code));
  if (position > size || bytes > size - position)
    return sentence("%s ends at byte %llu; bytes %llu to %llu are wanted", path, (unsigned long long)size,
                    (unsigned long long)position, (unsigned long long)(position + bytes));
  file->advise(position, bytes);
  Range range{*file, position, to, bytes, &abandon};
  const int64_t pieces = (int64_t)((bytes + kPieceBytes - 1) / kPieceBytes);
  if (pool) pool->run(pieces, 1, read_pieces, &range);
  else read_pieces(&range, 0, pieces, 0);
  if (const int code = range.error.load()) return sentence("cannot read %s: %s", path, error_words(code));
  if (range.cut.load()) return sentence("%s became shorter while it was read", path);
  return nullptr;
}

const char* FileReader::read(Pool* pool, const char* path, uint64_t position, char* to, uint64_t bytes,
                             const FileStamp& stamp, const std::atomic<bool>& abandon) {
  const char* error = read(pool, path, position, to, bytes, abandon);
  if (!stamp.given) return error;
  // Asked after reading: a write sets the time before it changes a byte, so no changed byte can have been read unseen. (Windows
  // promises less: there the time may be set when the writer closes the file.)
  FileStamp now;
  if (const int code = stamp_of(path, &now)) return error ? error : sentence("cannot open %s: %s", path, error_words(code));
  if (now.inode == stamp.inode && now.modified == stamp.modified) return error;
  return sentence("%s was changed or replaced while it is in use", path);
}

}  // namespace octavo
