// Node-API, found when the add-on is loaded. node_api.h declares its functions as imported: calls go through pointers called
// __imp_<name>, which an import library would fill from "node.exe". These here are filled from whatever program has loaded us, so
// that there need be no such library (nobody publishes one), and the host may have another name: Electron, Deno, Bun.
#include "windows.h"

#define NODE_API_FUNCTIONS(F)          \
  F(napi_add_env_cleanup_hook)         \
  F(napi_call_threadsafe_function)     \
  F(napi_check_object_type_tag)        \
  F(napi_create_array)                 \
  F(napi_create_arraybuffer)           \
  F(napi_create_double)                \
  F(napi_create_error)                 \
  F(napi_create_object)                \
  F(napi_create_promise)               \
  F(napi_create_reference)             \
  F(napi_create_string_utf8)           \
  F(napi_create_threadsafe_function)   \
  F(napi_create_typedarray)            \
  F(napi_define_properties)            \
  F(napi_delete_reference)             \
  F(napi_get_and_clear_last_exception) \
  F(napi_get_cb_info)                  \
  F(napi_get_named_property)           \
  F(napi_get_reference_value)          \
  F(napi_get_typedarray_info)          \
  F(napi_get_undefined)                \
  F(napi_get_value_bigint_uint64)      \
  F(napi_get_value_bool)               \
  F(napi_get_value_double)             \
  F(napi_get_value_int32)              \
  F(napi_get_value_string_utf8)        \
  F(napi_is_exception_pending)         \
  F(napi_ref_threadsafe_function)      \
  F(napi_reference_ref)                \
  F(napi_reference_unref)              \
  F(napi_reject_deferred)              \
  F(napi_release_threadsafe_function)  \
  F(napi_remove_env_cleanup_hook)      \
  F(napi_resolve_deferred)             \
  F(napi_set_element)                  \
  F(napi_set_named_property)           \
  F(napi_throw_error)                  \
  F(napi_type_tag_object)              \
  F(napi_typeof)                       \
  F(napi_unref_threadsafe_function)    \
  F(napi_unwrap)                       \
  F(napi_wrap)

// A function that is used and not listed here is missed by the linker.
#define F(name) void* __imp_##name = nullptr;
extern "C" {
NODE_API_FUNCTIONS(F)
}
#undef F

namespace {

// In the place of what the host lacks: napi_generic_failure, which every caller handles.
int refuse() { return 9; }

// The module of this process that has Node-API: the program, or Node as a library of a program.
HMODULE host() {
  HMODULE program = GetModuleHandleW(nullptr);
  if (GetProcAddress(program, "napi_create_object")) return program;
  HMODULE library = GetModuleHandleW(L"libnode.dll");
  if (!library) library = GetModuleHandleW(L"node.dll");
  return library ? library : program;
}

__attribute__((constructor)) void find_functions() {
  HMODULE from = host();
  const auto find = [from](const char* name) {
    void* found = reinterpret_cast<void*>(GetProcAddress(from, name));
    return found ? found : reinterpret_cast<void*>(refuse);
  };
#define F(name) __imp_##name = find(#name);
  NODE_API_FUNCTIONS(F)
#undef F
}

}  // namespace
