// The Node-API face of the runtime: what it exports, and completions turned into promises.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "addon_link.h"
#include "arguments.h"
#include "cpu.h"
#include "panels.h"
#include "registry_tables.h"
#include "sync.h"
#include "system.h"

namespace {

using namespace octavo;

struct Pending : Completion {
  Handle* handle = nullptr;
  napi_deferred deferred = nullptr;
  napi_ref array = nullptr;  // the ArrayBuffer that is filled; null for closing
};

void begin_wait(Handle* h) {
  if (h->pending++ > 0) return;
  uint32_t count;
  napi_ref_threadsafe_function(h->env, h->answers);
  napi_reference_ref(h->env, h->self, &count);
}

void end_wait(Handle* h) {
  if (--h->pending > 0) return;
  uint32_t count;
  napi_reference_unref(h->env, h->self, &count);
  napi_unref_threadsafe_function(h->env, h->answers);
}

void tear_down(void* data) {
  Handle* h = static_cast<Handle*>(data);
  h->torn_down = true;
  h->closing = true;
  Device::destroy(h->device);
  h->device = nullptr;
}

// Ends a device that is closed or no longer reachable.
void finish(Handle* h) {
  if (h->torn_down || !h->device) return;
  Device::destroy(h->device);
  h->device = nullptr;
  h->closing = true;
  napi_remove_env_cleanup_hook(h->env, tear_down, h);
  napi_release_threadsafe_function(h->answers, napi_tsfn_release);
}

napi_value bytes_of(napi_env env, napi_ref reference, uint64_t count) {
  napi_value array = nullptr, bytes = nullptr;
  napi_get_reference_value(env, reference, &array);
  napi_create_typedarray(env, napi_uint8_array, (size_t)count, array, 0, &bytes);
  return bytes;
}

napi_value error_of(napi_env env, const Failure& failure) {
  char message[sizeof failure.op + sizeof failure.message + 2];
  std::snprintf(message, sizeof message, "%s: %s", failure.op, failure.message);
  napi_value error = nullptr, facts = object(env);
  napi_create_error(env, text(env, "ERR_NATIVE_KERNEL"), text(env, message), &error);
  set(env, facts, "op", text(env, failure.op));
  set(env, facts, "site", number(env, failure.site));
  set(env, facts, "message", text(env, failure.message));
  set(env, error, "failure", facts);
  return error;
}

void settle(napi_env env, Pending* p) {
  if (p->failure.failed) napi_reject_deferred(env, p->deferred, error_of(env, p->failure));
  else napi_resolve_deferred(env, p->deferred, bytes_of(env, p->array, p->bytes));
  napi_delete_reference(env, p->array);
}

// On Node's thread, for each completion.
void answer(napi_env env, napi_value, void*, void* data) {
  Pending* p = static_cast<Pending*>(data);
  if (env) {
    Handle* h = p->handle;
    end_wait(h);
    if (p->array) {
      settle(env, p);
    } else {
      finish(h);
      napi_value nothing = nullptr;
      napi_get_undefined(env, &nothing);
      napi_resolve_deferred(env, p->deferred, nothing);
    }
  }
  delete p;
}

// On the queue thread.
void done(void* owner, Completion* completion) {
  Handle* h = static_cast<Handle*>(owner);
  napi_call_threadsafe_function(h->answers, static_cast<Pending*>(completion), napi_tsfn_nonblocking);
}

napi_value Allocate(napi_env env, napi_callback_info info) {
  Arguments a(env, info, "allocate", 1);
  uint64_t bytes;
  if (!a.ok || !a.whole(0, "bytes", kMostSafe, &bytes)) return nullptr;
  const int32_t id = a.device().allocate(bytes);
  return id < 0 ? a.no_memory(bytes) : number(env, id);
}

napi_value Free(napi_env env, napi_callback_info info) {
  Arguments a(env, info, "free", 1);
  int32_t id;
  uint64_t size;
  if (!a.ok || !a.buffer(0, &id, &size)) return nullptr;
  if (!a.device().free(id)) return a.no_memory(0);
  return nullptr;
}

napi_value Write(napi_env env, napi_callback_info info) {
  Arguments a(env, info, "write", 3);
  int32_t id;
  uint64_t size, offset;
  if (!a.ok || !a.buffer(0, &id, &size) || !a.whole(1, "offset", kMostSafe, &offset)) return nullptr;
  napi_typedarray_type type;
  size_t length = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(env, a.value[2], &type, &length, &data, nullptr, nullptr) != napi_ok ||
      (type != napi_uint8_array && type != napi_uint8_clamped_array))
    return fail(env, "ERR_NATIVE_ARGUMENT", "write: bytes must be a Uint8Array");
  if (!a.within(offset, length, size)) return nullptr;
  if (!a.device().write(id, offset, data, length)) return a.no_memory(length);
  return nullptr;
}

napi_value Submit(napi_env env, napi_callback_info info) {
  Arguments a(env, info, "submit", 2);
  if (!a.ok) return nullptr;
  napi_typedarray_type type;
  size_t length = 0;
  void* data = nullptr;
  uint64_t words;
  if (napi_get_typedarray_info(env, a.value[0], &type, &length, &data, nullptr, nullptr) != napi_ok ||
      type != napi_int32_array)
    return fail(env, "ERR_NATIVE_ARGUMENT", "submit: commands must be an Int32Array");
  if (!a.whole(1, "words", (double)length, &words)) return nullptr;
  if (!a.device().submit(static_cast<const int32_t*>(data), (int64_t)words)) return a.no_memory(words * 4);
  return nullptr;
}

napi_value Read(napi_env env, napi_callback_info info) {
  Arguments a(env, info, "read", 4);
  int32_t id;
  uint64_t size, offset, bytes, sound;
  if (!a.ok || !a.buffer(0, &id, &size) || !a.whole(1, "offset", kMostSafe, &offset) ||
      !a.whole(2, "bytes", kMostSafe, &bytes) || !a.whole(3, "sound", kMostSafe, &sound) ||
      !a.within(offset, bytes, size) || !a.within(offset, sound, size))
    return nullptr;
  void* data = nullptr;
  napi_value array = nullptr, promise = nullptr;
  Pending* p = new (std::nothrow) Pending();
  if (!p || napi_create_arraybuffer(env, (size_t)bytes, &data, &array) != napi_ok || !array || (bytes && !data)) {
    napi_value ignored;
    napi_get_and_clear_last_exception(env, &ignored);
    delete p;
    return a.no_memory(bytes);
  }
  if (napi_create_promise(env, &p->deferred, &promise) != napi_ok ||
      napi_create_reference(env, array, 1, &p->array) != napi_ok) {
    delete p;
    return fail(env, "ERR_NATIVE", "read: no promise could be made");
  }
  p->handle = a.handle;
  p->destination = static_cast<char*>(data);
  p->bytes = bytes;
  begin_wait(a.handle);
  // Answers must stay in order: only if none is pending may this one be given at once.
  switch (a.device().read(id, offset, sound, p, a.handle->pending == 1)) {
    case Device::Read::queued:
      break;
    case Device::Read::no_memory:
      p->failure.set("read", 0, "memory ran out");
      [[fallthrough]];
    case Device::Read::done:
      end_wait(a.handle);
      settle(env, p);
      delete p;
      break;
  }
  return promise;
}

napi_value Load(napi_env env, napi_callback_info info) {
  Arguments a(env, info, "load", 5);  // and whether ahead, the site, and the stamp
  int32_t id;
  uint64_t size, offset, position, bytes;
  if (!a.ok || !a.buffer(0, &id, &size) || !a.whole(1, "offset", kMostSafe, &offset)) return nullptr;
  char path[4097];
  size_t length = 0;
  if (napi_get_value_string_utf8(env, a.value[2], path, sizeof path, &length) != napi_ok || length == 0 ||
      length >= sizeof path - 1 || std::strlen(path) != length)
    return fail(env, "ERR_NATIVE_ARGUMENT", "load: file must be a path of at most 4095 bytes");
  if (!a.whole(3, "position", kMostSafe, &position) || !a.whole(4, "bytes", kMostSafe, &bytes) ||
      !a.within(offset, bytes, size))
    return nullptr;
  bool ahead = false;
  int32_t site = 0;
  if (a.count > 5) napi_get_value_bool(env, a.value[5], &ahead);
  if (a.count > 6) napi_get_value_int32(env, a.value[6], &site);
  FileStamp stamp;
  bool whole = false;
  if (a.count > 8 && napi_get_value_bigint_uint64(env, a.value[7], &stamp.inode, &whole) == napi_ok)
    stamp.given = napi_get_value_bigint_uint64(env, a.value[8], &stamp.modified, &whole) == napi_ok;
  if (!a.device().load(id, offset, path, position, bytes, ahead, site, stamp)) return a.no_memory(length);
  return nullptr;
}

napi_value Close(napi_env env, napi_callback_info info) {
  Arguments a(env, info, "close", 0);
  if (!a.ok) return nullptr;
  napi_value promise = nullptr;
  Pending* p = new (std::nothrow) Pending();
  if (!p || napi_create_promise(env, &p->deferred, &promise) != napi_ok) {
    delete p;
    return fail(env, "ERR_NATIVE", "close: no promise could be made");
  }
  p->handle = a.handle;
  begin_wait(a.handle);
  if (!a.device().close(p)) {
    end_wait(a.handle);
    delete p;
    return a.no_memory(0);
  }
  a.handle->closing = true;
  return promise;
}

napi_value Info(napi_env env, napi_callback_info info) {
  Arguments a(env, info, "info", 0);
  if (!a.ok) return nullptr;
  napi_value result = object(env);
  set(env, result, "isa", text(env, isa(a.device().isa()).name));
  set(env, result, "threads", number(env, a.device().threads()));
  set(env, result, "loadsAhead", number(env, (double)a.device().loads().ahead));
  set(env, result, "overlapped", number(env, (double)a.device().loads().overlapped));
  return result;
}

napi_value Kernels(napi_env env, napi_callback_info info) {
  Arguments a(env, info, "kernels", 0);
  if (!a.ok) return nullptr;
  napi_value result = list(env);
  for (int i = 0; i < a.device().op_count(); i++) {
    napi_value entry = object(env);
    set(env, entry, "name", text(env, a.device().op(i).name));
    set(env, entry, "signature", text(env, a.device().op(i).signature));
    set(env, entry, "isa", text(env, isa(a.device().op_isa(i)).name));
    napi_set_element(env, result, (uint32_t)i, entry);
  }
  return result;
}

napi_value Profile(napi_env env, napi_callback_info info) {
  Arguments a(env, info, "profile", 1);
  if (!a.ok) return nullptr;
  bool on = false;
  if (napi_get_value_bool(env, a.value[0], &on) != napi_ok)
    return fail(env, "ERR_NATIVE_ARGUMENT", "profile: wants true or false");
  a.device().profile(on);
  if (on) a.device().profile_reset();
  return nullptr;
}

napi_value ProfileReport(napi_env env, napi_callback_info info) {
  Arguments a(env, info, "profileReport", 0);
  if (!a.ok) return nullptr;
  napi_value result = list(env);
  uint32_t at = 0;
  for (int i = 0; i < a.device().op_count(); i++) {
    const OpProfile profile = a.device().profile_of(i);
    if (profile.calls == 0) continue;
    napi_value entry = object(env);
    set(env, entry, "op", text(env, a.device().op(i).name));
    set(env, entry, "isa", text(env, isa(a.device().op_isa(i)).name));
    set(env, entry, "calls", number(env, (double)profile.calls));
    set(env, entry, "ns", number(env, (double)profile.ns));
    napi_set_element(env, result, at++, entry);
  }
  return result;
}

void finalize(napi_env, void* data, void*) {
  Handle* h = static_cast<Handle*>(data);
  finish(h);
  delete h;
}

napi_value Open(napi_env env, napi_callback_info info) {
  napi_value argument = nullptr;
  size_t count = 1;
  if (napi_get_cb_info(env, info, &count, &argument, nullptr, nullptr) != napi_ok) return nullptr;
  Device::Options options;
  if (!read_options(env, count > 0 ? argument : nullptr, &options)) return nullptr;
  bool pending = false;
  if (napi_is_exception_pending(env, &pending) != napi_ok || pending) return nullptr;
  if (!prepare_isa(options.isa)) options.isa = isa(options.isa).below;

  static const napi_property_descriptor methods[] = {
      {"allocate", nullptr, Allocate, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"free", nullptr, Free, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"write", nullptr, Write, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"submit", nullptr, Submit, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"read", nullptr, Read, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"load", nullptr, Load, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"spoil", nullptr, Spoil, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"send", nullptr, Send, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"receive", nullptr, Receive, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"close", nullptr, Close, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"info", nullptr, Info, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"kernels", nullptr, Kernels, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"profile", nullptr, Profile, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"profileReport", nullptr, ProfileReport, nullptr, nullptr, nullptr, napi_default, nullptr},
  };
  Handle* h = new (std::nothrow) Handle();
  if (!h) return fail(env, "ERR_NATIVE_OOM", "open: memory ran out");
  h->env = env;
  napi_value self = object(env);
  if (napi_define_properties(env, self, sizeof methods / sizeof methods[0], methods) != napi_ok ||
      napi_type_tag_object(env, self, &kTag) != napi_ok ||
      napi_create_threadsafe_function(env, nullptr, nullptr, text(env, "octavo"), 0, 1, nullptr, nullptr, nullptr,
                                      answer, &h->answers) != napi_ok) {
    delete h;
    return fail(env, "ERR_NATIVE", "open: the device object could not be made");
  }
  napi_unref_threadsafe_function(env, h->answers);
  options.done = done;
  options.owner = h;
  h->device = Device::open(options);
  if (!h->device || napi_wrap(env, self, h, finalize, nullptr, &h->self) != napi_ok) {
    Device::destroy(h->device);
    napi_release_threadsafe_function(h->answers, napi_tsfn_release);
    delete h;
    return fail(env, "ERR_NATIVE_OOM", "open: the queue thread could not be started");
  }
  // Registered after the thread-safe function, so that it runs before that one's own clean-up.
  napi_add_env_cleanup_hook(env, tear_down, h);
  return self;
}

napi_value MachineInfo(napi_env env, napi_callback_info) {
  napi_value result = object(env), compiled = list(env), supported = list(env);
  uint32_t c = 0, s = 0;
  for (int i = 0; i < isa_count(); i++) {
    if (isa_compiled(i)) napi_set_element(env, compiled, c++, text(env, isa(i).name));
    if (isa(i).supported) napi_set_element(env, supported, s++, text(env, isa(i).name));
  }
  set(env, result, "model", text(env, cpu_model()));
  set(env, result, "features", text(env, cpu_features()));
  set(env, result, "cores", number(env, usable_cores()));
  set(env, result, "memory", number(env, (double)usable_memory()));
  set(env, result, "isasCompiled", compiled);
  set(env, result, "isasSupported", supported);
  const int best = best_isa();
  set(env, result, "best", text(env, best < 0 ? "" : isa(best).name));
  return result;
}

// panelBytes(dtype code, rows, columns): bytes in panel layout, or -1 where rows are best.
napi_value PanelBytes(napi_env env, napi_callback_info info) {
  napi_value arguments[3] = {};
  size_t count = 3;
  double v[3] = {};
  if (napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr) != napi_ok) return nullptr;
  for (size_t i = 0; i < 3; i++) {
    if (i >= count || napi_get_value_double(env, arguments[i], &v[i]) != napi_ok ||
        !(v[i] >= 0 && v[i] <= (i == 0 ? 6.0 : 2147483647.0)) || v[i] != std::floor(v[i]))
      return fail(env, "ERR_NATIVE_ARGUMENT", "panelBytes: wants a dtype code, rows and columns");
  }
  return number(env, (double)panel_bytes((DType)(int)v[0], (int64_t)v[1], (int64_t)v[2]));
}

// exchange(a, b): swaps the files or folders at two paths in one step. Returns 0, or the system's error number: some systems
// and file systems cannot.
napi_value Exchange(napi_env env, napi_callback_info info) {
  napi_value arguments[2] = {};
  size_t count = 2;
  char* paths[2] = {};
  if (napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr) != napi_ok) return nullptr;
  bool read = count == 2;
  for (size_t i = 0; i < 2 && read; i++) {
    size_t length = 0;
    read = napi_get_value_string_utf8(env, arguments[i], nullptr, 0, &length) == napi_ok &&
           (paths[i] = static_cast<char*>(malloc(length + 1))) != nullptr &&
           napi_get_value_string_utf8(env, arguments[i], paths[i], length + 1, &length) == napi_ok;
  }
  const int error = read ? exchange_paths(paths[0], paths[1]) : 0;
  for (char* path : paths) free(path);
  return read ? number(env, error) : fail(env, "ERR_NATIVE_ARGUMENT", "exchange: wants two paths");
}

}  // namespace

NAPI_MODULE_INIT() {
  // Threads of Node's may load the add-on at once, and its tables are made on first use, without guards.
  static Mutex loading;
  {
    Lock lock(loading);
    best_isa();
  }
  const napi_property_descriptor functions[] = {
      {"open", nullptr, Open, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"machine", nullptr, MachineInfo, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"link", nullptr, MakeLink, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"failLink", nullptr, FailLink, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"panelBytes", nullptr, PanelBytes, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"exchange", nullptr, Exchange, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
  };
  // Of the package that it belongs to.
  set(env, exports, "version", text(env, OCTAVO_VERSION));
  napi_define_properties(env, exports, sizeof functions / sizeof functions[0], functions);
  return exports;
}
