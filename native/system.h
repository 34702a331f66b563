// What the native code asks of the operating system, beside locks (sync.h): clock, threads, memory, files, and the size of the
// machine. posix/ and windows/ answer it, wasm/ as much as a module needs; nothing else here knows a system. Not for kernel files.
#pragma once

#include <cstddef>
#include <cstdint>

namespace octavo {

// --- clock and threads ---

// Of a clock that nobody sets.
int64_t now_ns();
// Tells the core that this is a waiting loop.
void relax();
// Lets another thread have this core, if one waits for it.
void give_way();

// A thread with a stack of 4 MB that handles no signals (Node does).
class Thread {
 public:
  // False if the system refuses. The name is for debuggers, of at most 15 characters.
  bool start(void (*body)(void*), void* argument, const char* name);
  // Waits for its end.
  void join();

 private:
  [[maybe_unused]] uintptr_t handle_ = 0;  // a WASM module has none
};

// --- memory ---

// Memory as the system gives it, a multiple of kMapUnit, zeroed, on huge pages if there are some; null if there is none.
constexpr uint64_t kMapUnit = 2u << 20;
char* map_memory(uint64_t bytes);
void unmap_memory(char* block, uint64_t bytes);
// As malloc gives it, at a multiple of `alignment` (a power of two, from 8); null if there is none.
void* aligned_memory(size_t bytes, size_t alignment);
void free_aligned(void* block);

// --- files; paths are UTF-8 ---

// Which file it is, and when it was last written to, in nanoseconds since 1970: as Node's stat says. `given` if anyone cares.
struct FileStamp {
  bool given = false;
  uint64_t inode = 0;
  uint64_t modified = 0;
};

// The system's words for one of its error numbers; they live until the same thread asks again.
const char* error_words(int error);
// Fills in `stamp`; returns 0 or the system's error number.
int stamp_of(const char* path, FileStamp* stamp);
// Swaps what lies at two paths in one step of the file system. Returns 0 or the system's error number; some cannot.
int exchange_paths(const char* a, const char* b);

// A regular file, open for reading at any position by several threads at once. While it is open, others may replace it.
class File {
 public:
  static constexpr int kNotRegular = -1;

  // Returns 0, the system's error number, or kNotRegular.
  int open(const char* path);
  void close();
  // Returns 0 or the system's error number.
  int size(uint64_t* bytes) const;
  // Says that these bytes will be read soon.
  void advise(uint64_t position, uint64_t bytes) const;
  // Up to `bytes` (at most 1 GB) from a position on; how many, in `got`: none at the end of the file. Returns 0 or the error.
  int read(char* to, uint64_t bytes, uint64_t position, uint64_t* got) const;

 private:
  intptr_t handle_ = -1;
};

// --- the machine ---

// Physical cores that this process may use (affinity and quotas count), at least 1.
int usable_cores();
// Memory that this process may use: the machine's, or a limit of its group of processes if that is less.
int64_t usable_memory();
// Asks for the tile registers of AMX for this process. False if they are refused.
bool request_tiles();
#if defined(__aarch64__)
// What an ARM processor has, which only the system knows, and its name.
void arm_features(bool* dotprod, bool* i8mm, char* model, size_t size);
#endif

}  // namespace octavo
