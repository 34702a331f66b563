// Files, read at positions.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "../system.h"

namespace octavo {

namespace {

uint64_t modified_ns(const struct stat& info) {
#if defined(__APPLE__)
  const timespec& time = info.st_mtimespec;
#else
  const timespec& time = info.st_mtim;
#endif
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

}  // namespace

const char* error_words(int error) { return std::strerror(error); }

int stamp_of(const char* path, FileStamp* stamp) {
  struct stat info;
  if (stat(path, &info) != 0) return errno;
  *stamp = {true, (uint64_t)info.st_ino, modified_ns(info)};
  return 0;
}

int exchange_paths(const char* a, const char* b) {
#if defined(__linux__) && defined(SYS_renameat2)
  constexpr unsigned kExchange = 2;  // RENAME_EXCHANGE; older C libraries have no name for it
  return syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, kExchange) == 0 ? 0 : errno;
#elif defined(__APPLE__)
  return renamex_np(a, b, RENAME_SWAP) == 0 ? 0 : errno;
#else
  (void)a;
  (void)b;
  return ENOSYS;
#endif
}

int File::open(const char* path) {
  // Non-blocking: a pipe or a device must not hold up the queue.
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return errno;
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    return kNotRegular;
  }
  handle_ = fd;
  return 0;
}

void File::close() {
  ::close((int)handle_);
  handle_ = -1;
}

int File::size(uint64_t* bytes) const {
  struct stat info;
  if (fstat((int)handle_, &info) != 0) return errno;
  *bytes = (uint64_t)info.st_size;
  return 0;
}

void File::advise(uint64_t position, uint64_t bytes) const {
#if defined(POSIX_FADV_WILLNEED)
  posix_fadvise((int)handle_, (off_t)position, (off_t)bytes, POSIX_FADV_WILLNEED);
#else
  (void)position;
  (void)bytes;
#endif
}

int File::read(char* to, uint64_t bytes, uint64_t position, uint64_t* got) const {
  ssize_t count;
  do count = pread((int)handle_, to, bytes, (off_t)position);
  while (count < 0 && errno == EINTR);
  if (count < 0) return errno;
  *got = (uint64_t)count;
  return 0;
}

}  // namespace octavo
