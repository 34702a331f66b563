// The border between JavaScript and the add-on: checks arguments, makes values and errors. Everything thrown is a JS Error with
// a code that starts with ERR_NATIVE_.
#pragma once

#define NAPI_VERSION 8
#include <node_api.h>

#include <cstddef>
#include <cstdint>

#include "device.h"

namespace octavo {

constexpr double kMostSafe = 9007199254740991.0;
// Type tag of device objects.
constexpr napi_type_tag kTag = {0x6f637461766f2d64ull, 0x6576696365000001ull};

napi_value fail(napi_env env, const char* code, const char* format, ...) __attribute__((format(printf, 3, 4)));

inline napi_value text(napi_env env, const char* value) {
  napi_value result = nullptr;
  napi_create_string_utf8(env, value, NAPI_AUTO_LENGTH, &result);
  return result;
}
inline napi_value number(napi_env env, double value) {
  napi_value result = nullptr;
  napi_create_double(env, value, &result);
  return result;
}
inline napi_value object(napi_env env) {
  napi_value result = nullptr;
  napi_create_object(env, &result);
  return result;
}
inline napi_value list(napi_env env) {
  napi_value result = nullptr;
  napi_create_array(env, &result);
  return result;
}
inline void set(napi_env env, napi_value of, const char* name, napi_value value) {
  napi_set_named_property(env, of, name, value);
}

// Pending reads keep the device object alive and the event loop turning; an idle device does neither.
struct Handle {
  napi_env env = nullptr;
  Device* device = nullptr;
  napi_threadsafe_function answers = nullptr;
  napi_ref self = nullptr;
  uint32_t pending = 0;
  bool closing = false;
  bool torn_down = false;
};

// The arguments of a method: receiver checked, at most `kMost` of them.
struct Arguments {
  static constexpr size_t kMost = 9;
  napi_env env;
  const char* method;
  Handle* handle = nullptr;
  napi_value value[kMost] = {};
  size_t count = kMost;
  bool ok = false;

  Arguments(napi_env e, napi_callback_info info, const char* name, size_t wanted);

  Device& device() const { return *handle->device; }

  // A whole number from 0 to most.
  bool whole(size_t i, const char* name, double most, uint64_t* out);

  // Buffer, offset and length as arguments a, b: the range must lie in the buffer.
  bool buffer(size_t i, int32_t* id, uint64_t* size);

  bool within(uint64_t offset, uint64_t count_, uint64_t size);

  napi_value no_memory(uint64_t bytes);
};

// Threads and instruction set level from the options of open (null: none given); false if an error was thrown.
bool read_options(napi_env env, napi_value argument, Device::Options* options);

}  // namespace octavo
