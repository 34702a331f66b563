#include "file_reader.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pool.h"
#include "registry.h"

namespace octavo {

namespace {

constexpr int64_t kPieceBytes = 2 << 20;

struct Range {
  int fd;
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
    const ssize_t got = pread(range.fd, range.to + at, want, (off_t)(range.position + at));
    if (got < 0) {
      if (errno == EINTR) continue;
      range.error.store(errno, std::memory_order_relaxed);
      return;
    }
    if (got == 0) {
      range.cut.store(true, std::memory_order_relaxed);
      return;
    }
    at += (uint64_t)got;
  }
}

uint64_t modified_ns(const struct stat& info) {
#if defined(__APPLE__)
  const timespec& time = info.st_mtimespec;
#else
  const timespec& time = info.st_mtim;
#endif
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

}  // namespace

int FileReader::open(const char* path, const char** error) {
  for (auto& file : files_)
    if (file.path && std::strcmp(file.path, path) == 0) return file.fd;
  // Non-blocking: a pipe or a device must not hold up the queue.
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    *error = sentence("cannot open %s: %s", path, std::strerror(errno));
    return -1;
  }
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    *error = sentence("%s is not a regular file", path);
    return -1;
  }
  auto& file = files_[next_++ % kOpen];
  if (file.path) {
    ::close(file.fd);
    std::free(file.path);
  }
  file.path = strdup(path);
  file.fd = fd;
  return fd;
}

void FileReader::close_all() {
  for (auto& file : files_) {
    if (!file.path) continue;
    ::close(file.fd);
    std::free(file.path);
    file.path = nullptr;
  }
}

const char* FileReader::read(Pool* pool, const char* path, uint64_t position, char* to, uint64_t bytes,
                             const std::atomic<bool>& abandon) {
  if (bytes == 0) return nullptr;
  const char* error = nullptr;
  const int fd = open(path, &error);
  if (fd < 0) return error;
  struct stat info;
  if (fstat(fd, &info) != 0) return sentence("cannot read %s: %s", path, std::strerror(errno));
  if (position > (uint64_t)info.st_size || bytes > (uint64_t)info.st_size - position)
    return sentence("%s ends at byte %llu; bytes %llu to %llu are wanted", path, (unsigned long long)info.st_size,
                    (unsigned long long)position, (unsigned long long)(position + bytes));
#if defined(POSIX_FADV_WILLNEED)
  posix_fadvise(fd, (off_t)position, (off_t)bytes, POSIX_FADV_WILLNEED);
#endif
  Range range{fd, position, to, bytes, &abandon};
  const int64_t pieces = (int64_t)((bytes + kPieceBytes - 1) / kPieceBytes);
  if (pool) pool->run(pieces, 1, read_pieces, &range);
  else read_pieces(&range, 0, pieces, 0);
  if (range.error.load()) return sentence("cannot read %s: %s", path, std::strerror(range.error.load()));
  if (range.cut.load()) return sentence("%s became shorter while it was read", path);
  return nullptr;
}

const char* FileReader::read(Pool* pool, const char* path, uint64_t position, char* to, uint64_t bytes,
                             const FileStamp& stamp, const std::atomic<bool>& abandon) {
  const char* error = read(pool, path, position, to, bytes, abandon);
  if (!stamp.given) return error;
  // Asked after reading: a write sets the time before it changes a byte, so no changed byte can have been read unseen.
  struct stat info;
  if (stat(path, &info) != 0) return error ? error : sentence("cannot open %s: %s", path, std::strerror(errno));
  if ((uint64_t)info.st_ino == stamp.inode && modified_ns(info) == stamp.modified) return error;
  return sentence("%s was changed or replaced while it is in use", path);
}

}  // namespace octavo
