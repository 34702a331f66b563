// Preloaded into a program, it ends it without warning before its n-th call that changes files below a folder whose path holds
// KILL_BELOW; KILL_AT is n. Such calls are counted on stderr's file descriptor 3 if it is open.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

namespace {

std::atomic<int> calls{0};

bool below(const char* path) {
  const char* mark = getenv("KILL_BELOW");
  return path && mark && strstr(path, mark);
}

bool below(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return false;
  path[length] = 0;
  return below(path);
}

void count(const char* what) {
  const int n = ++calls;
  const char* at = getenv("KILL_AT");
  if (at && n == atoi(at)) {
    dprintf(2, "killed before call %d: %s\n", n, what);
    kill(getpid(), SIGKILL);
    for (;;) pause();
  }
}

template <typename F>
F real(const char* name) {
  return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}

}  // namespace

#define PATH_CALL(name, parameters, arguments, path)                        \
  extern "C" int name parameters {                                         \
    if (below(path)) count(#name);                                         \
    static const auto next = real<int(*) parameters>(#name);               \
    return next arguments;                                                 \
  }

PATH_CALL(mkdir, (const char* p, mode_t m), (p, m), p)
PATH_CALL(rmdir, (const char* p), (p), p)
PATH_CALL(unlink, (const char* p), (p), p)
PATH_CALL(chmod, (const char* p, mode_t m), (p, m), p)
PATH_CALL(rename, (const char* a, const char* b), (a, b), b)
PATH_CALL(link, (const char* a, const char* b), (a, b), b)
PATH_CALL(symlink, (const char* a, const char* b), (a, b), b)
PATH_CALL(fsync, (int fd), (fd), fd)
PATH_CALL(fdatasync, (int fd), (fd), fd)

extern "C" ssize_t write(int fd, const void* data, size_t size) {
  if (fd > 2 && below(fd)) count("write");
  static const auto next = real<ssize_t (*)(int, const void*, size_t)>("write");
  return next(fd, data, size);
}

extern "C" ssize_t pwrite64(int fd, const void* data, size_t size, off64_t at) {
  if (below(fd)) count("pwrite");
  static const auto next = real<ssize_t (*)(int, const void*, size_t, off64_t)>("pwrite64");
  return next(fd, data, size, at);
}

extern "C" int open64(const char* path, int flags, ...) {
  mode_t mode = 0;
  if (flags & (O_CREAT | O_TMPFILE)) {
    va_list list;
    va_start(list, flags);
    mode = va_arg(list, mode_t);
    va_end(list);
    if (below(path)) count("open");
  }
  static const auto next = real<int (*)(const char*, int, ...)>("open64");
  return next(path, flags, mode);
}

extern "C" long syscall(long number, ...) {
  long a[6];
  va_list list;
  va_start(list, number);
  for (long& one : a) one = va_arg(list, long);
  va_end(list);
  if (number == SYS_renameat2 && below(reinterpret_cast<const char*>(a[3]))) count("renameat2");
  static const auto next = real<long (*)(long, ...)>("syscall");
  return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
