// Files, read at positions: every read has its place and its event of its own (an "overlapped" one), so that threads do not wait for
// each other as they would on an ordinary handle.
#include "windows.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "../system.h"

namespace octavo {

namespace {

// From here on a path needs a prefix that switches off the old limit of 260 characters (folders: 248).
constexpr DWORD kLong = 248;

// A path as Windows wants it: UTF-16, whole, and prefixed if it is long. Null, with the system's error, if it is none.
class WidePath {
 public:
  explicit WidePath(const char* path) {
    const int units = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, nullptr, 0);
    if (units <= 0) return;
    wchar_t* given = static_cast<wchar_t*>(std::malloc(sizeof(wchar_t) * (size_t)units));
    if (!given) {
      SetLastError(ERROR_NOT_ENOUGH_MEMORY);
      return;
    }
    MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, given, units);
    const DWORD whole = GetFullPathNameW(given, 0, nullptr, nullptr);
    constexpr size_t kPrefix = 8;  // of "\\\\?\\UNC\\"
    memory_ = whole ? static_cast<wchar_t*>(std::malloc(sizeof(wchar_t) * (whole + kPrefix))) : nullptr;
    if (memory_) {
      path_ = memory_ + kPrefix;
      if (GetFullPathNameW(given, whole, path_, nullptr) >= whole) path_[0] = 0;
      if (whole >= kLong && !(path_[0] == L'\\' && path_[1] == L'\\' && (path_[2] == L'?' || path_[2] == L'.'))) {
        const bool share = path_[0] == L'\\' && path_[1] == L'\\';  // \\server\share becomes \\?\UNC\server\share
        if (share) path_ += 2;
        prepend(share ? L"\\\\?\\UNC\\" : L"\\\\?\\");
      }
    } else if (whole) {
      SetLastError(ERROR_NOT_ENOUGH_MEMORY);
    }
    std::free(given);
  }
  ~WidePath() { std::free(memory_); }
  WidePath(const WidePath&) = delete;

  const wchar_t* get() const { return path_; }

 private:
  void prepend(const wchar_t* prefix) {
    size_t length = 0;
    while (prefix[length]) length++;
    path_ -= length;
    for (size_t i = 0; i < length; i++) path_[i] = prefix[i];
  }

  wchar_t* memory_ = nullptr;
  wchar_t* path_ = nullptr;
};

// Others may write, rename and delete it meanwhile, as they may elsewhere.
HANDLE opened(const char* path, DWORD access, DWORD flags) {
  const WidePath wide(path);
  if (!wide.get()) return INVALID_HANDLE_VALUE;
  const DWORD share = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
  return CreateFileW(wide.get(), access, share, nullptr, OPEN_EXISTING, flags, nullptr);
}

HANDLE handle_of(intptr_t value) { return reinterpret_cast<HANDLE>(value); }

}  // namespace

// Windows' own words are in the user's language; errors of this library are not.
const char* error_words(int error) {
  switch (error) {
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND: return "No such file or directory";
    case ERROR_ACCESS_DENIED: return "Permission denied";
    case ERROR_SHARING_VIOLATION:
    case ERROR_LOCK_VIOLATION: return "another program holds it";
    case ERROR_TOO_MANY_OPEN_FILES: return "Too many open files";
    case ERROR_NOT_ENOUGH_MEMORY:
    case ERROR_NO_SYSTEM_RESOURCES: return "Cannot allocate memory";
  }
  static thread_local char text[32];
  std::snprintf(text, sizeof text, "Windows error %d", error);
  return text;
}

int stamp_of(const char* path, FileStamp* stamp) {
  HANDLE file = opened(path, FILE_READ_ATTRIBUTES, FILE_FLAG_BACKUP_SEMANTICS);
  if (file == INVALID_HANDLE_VALUE) return (int)GetLastError();
  BY_HANDLE_FILE_INFORMATION info;
  const int error = GetFileInformationByHandle(file, &info) ? 0 : (int)GetLastError();
  CloseHandle(file);
  if (error) return error;
  const auto joined = [](DWORD high, DWORD low) { return (uint64_t)high << 32 | low; };
  constexpr uint64_t kUntil1970 = 116'444'736'000'000'000;  // Windows counts units of 100 ns from 1601
  const uint64_t time = joined(info.ftLastWriteTime.dwHighDateTime, info.ftLastWriteTime.dwLowDateTime);
  *stamp = {true, joined(info.nFileIndexHigh, info.nFileIndexLow), (time - kUntil1970) * 100};
  return 0;
}

int exchange_paths(const char*, const char*) { return ENOSYS; }

int File::open(const char* path) {
  HANDLE file = opened(path, GENERIC_READ, FILE_FLAG_OVERLAPPED);
  if (file == INVALID_HANDLE_VALUE) {
    const DWORD error = GetLastError();
    const WidePath wide(path);
    const DWORD attributes = wide.get() ? GetFileAttributesW(wide.get()) : INVALID_FILE_ATTRIBUTES;
    const bool folder = attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY);
    return folder ? kNotRegular : (int)error;
  }
  if (GetFileType(file) != FILE_TYPE_DISK) {
    CloseHandle(file);
    return kNotRegular;
  }
  handle_ = reinterpret_cast<intptr_t>(file);
  return 0;
}

void File::close() {
  CloseHandle(handle_of(handle_));
  handle_ = -1;
}

int File::size(uint64_t* bytes) const {
  LARGE_INTEGER size;
  if (!GetFileSizeEx(handle_of(handle_), &size)) return (int)GetLastError();
  *bytes = (uint64_t)size.QuadPart;
  return 0;
}

void File::advise(uint64_t, uint64_t) const {}  // there is nothing to say it with but a mapping

int File::read(char* to, uint64_t bytes, uint64_t position, uint64_t* got) const {
  OVERLAPPED at = {};
  at.Offset = (DWORD)position;
  at.OffsetHigh = (DWORD)(position >> 32);
  at.hEvent = CreateEventW(nullptr, TRUE, FALSE, nullptr);
  if (!at.hEvent) return (int)GetLastError();
  DWORD count = 0, error = 0;
  const bool begun = ReadFile(handle_of(handle_), to, (DWORD)bytes, nullptr, &at) || GetLastError() == ERROR_IO_PENDING;
  if (!begun || !GetOverlappedResult(handle_of(handle_), &at, &count, TRUE)) error = GetLastError();
  CloseHandle(at.hEvent);
  if (error && error != ERROR_HANDLE_EOF) return (int)error;
  *got = count;
  return 0;
}

}  // namespace octavo
