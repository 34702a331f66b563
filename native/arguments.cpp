#include "arguments.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "cpu.h"
#include "registry_tables.h"
#include "system.h"

namespace octavo {

namespace {

// Appends to a list of names in `to`.
void append(char* to, size_t size, const char* name) {
  const size_t n = std::strlen(to);
  std::snprintf(to + n, size - n, "%s%s", n ? ", " : "", name);
}

// True if the option is given (neither undefined nor null).
bool option(napi_env env, napi_value options, const char* name, napi_value* value) {
  napi_valuetype type;
  return napi_get_named_property(env, options, name, value) == napi_ok &&
         napi_typeof(env, *value, &type) == napi_ok && type != napi_undefined && type != napi_null;
}

}  // namespace

napi_value fail(napi_env env, const char* code, const char* format, ...) {
  char text[640];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  if (!pending) napi_throw_error(env, code, text);
  return nullptr;
}

Arguments::Arguments(napi_env e, napi_callback_info info, const char* name, size_t wanted) : env(e), method(name) {
  napi_value self = nullptr;
  if (napi_get_cb_info(env, info, &count, value, &self, nullptr) != napi_ok) return;
  bool tagged = false;
  void* data = nullptr;
  if (napi_check_object_type_tag(env, self, &kTag, &tagged) != napi_ok || !tagged ||
      napi_unwrap(env, self, &data) != napi_ok) {
    fail(env, "ERR_NATIVE_ARGUMENT", "%s: the receiver is not a device", method);
    return;
  }
  handle = static_cast<Handle*>(data);
  if (handle->closing || !handle->device) {
    fail(env, "ERR_NATIVE_CLOSED", "%s: the device is closed", method);
    return;
  }
  if (count < wanted) {
    fail(env, "ERR_NATIVE_ARGUMENT", "%s: wants %d arguments, got %d", method, (int)wanted, (int)count);
    return;
  }
  ok = true;
}

bool Arguments::whole(size_t i, const char* name, double most, uint64_t* out) {
  double v = 0;
  if (napi_get_value_double(env, value[i], &v) != napi_ok || !(v >= 0 && v <= most) || v != std::floor(v)) {
    fail(env, "ERR_NATIVE_ARGUMENT", "%s: %s must be a whole number from 0 to %.0f", method, name, most);
    return ok = false;
  }
  *out = (uint64_t)v;
  return true;
}

bool Arguments::buffer(size_t i, int32_t* id, uint64_t* size) {
  uint64_t v;
  if (!whole(i, "buffer", 2147483647.0, &v)) return false;
  *id = (int32_t)v;
  *size = device().size(*id);
  if (*size == UINT64_MAX) {
    fail(env, "ERR_NATIVE_BUFFER", "%s: there is no buffer %d", method, *id);
    return ok = false;
  }
  return true;
}

bool Arguments::within(uint64_t offset, uint64_t count_, uint64_t size) {
  if (offset <= size && count_ <= size - offset) return true;
  fail(env, "ERR_NATIVE_RANGE", "%s: bytes %llu+%llu are outside a buffer of %llu", method,
       (unsigned long long)offset, (unsigned long long)count_, (unsigned long long)size);
  return ok = false;
}

napi_value Arguments::no_memory(uint64_t bytes) {
  return fail(env, "ERR_NATIVE_OOM", "%s: %llu bytes could not be allocated", method, (unsigned long long)bytes);
}

bool read_options(napi_env env, napi_value argument, Device::Options* options) {
  options->threads = usable_cores();
  options->isa = best_isa();
  napi_value value = nullptr;
  napi_valuetype type = napi_undefined;
  if (argument) napi_typeof(env, argument, &type);
  if (type != napi_undefined && type != napi_object) {
    fail(env, "ERR_NATIVE_OPTION", "open: options must be an object");
    return false;
  }
  if (type == napi_object && option(env, argument, "threads", &value)) {
    double threads = 0;
    if (napi_get_value_double(env, value, &threads) != napi_ok || !(threads >= 1 && threads <= 1024) ||
        threads != std::floor(threads)) {
      fail(env, "ERR_NATIVE_OPTION", "open: threads must be a whole number from 1 to 1024");
      return false;
    }
    options->threads = (int)threads;
  }
  if (type == napi_object && option(env, argument, "isa", &value)) {
    char name[64] = "", known[256] = "";
    size_t length = 0;
    if (napi_get_value_string_utf8(env, value, name, sizeof name, &length) != napi_ok) {
      fail(env, "ERR_NATIVE_OPTION", "open: isa must be a string");
      return false;
    }
    int found = -1;
    for (int i = 0; i < isa_count(); i++) {
      if (std::strcmp(isa(i).name, name) == 0) found = i;
      if (isa(i).supported && isa_compiled(i)) append(known, sizeof known, isa(i).name);
    }
    const char* why = found < 0                  ? "is not an instruction set level of this architecture"
                      : !isa(found).supported    ? "is not supported by this CPU"
                      : !isa_compiled(found)     ? "was not compiled into this build"
                                                 : nullptr;
    if (why) {
      fail(env, "ERR_NATIVE_OPTION", "open: isa `%s` %s; usable here: %s", name, why, known);
      return false;
    }
    options->isa = found;
  }
  if (options->isa < 0) {
    fail(env, "ERR_NATIVE_OPTION", "open: this build has no instruction set level that this CPU supports");
    return false;
  }
  return true;
}

}  // namespace octavo
