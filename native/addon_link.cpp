#include "addon_link.h"

#include "link.h"

namespace octavo {

namespace {

constexpr napi_type_tag kLinkTag = {0x6f637461766f2d6cull, 0x696e6b0000000001ull};

// The object was collected: an end that is not queued by now never will be.
void finalize(napi_env, void* data, void*) {
  Link* link = static_cast<Link*>(data);
  if (!link->sending || !link->receiving) link->fail("the other end was never handed over");
  link->release();
}

Link* link_of(napi_env env, const char* method, napi_value value) {
  bool tagged = false;
  void* data = nullptr;
  if (napi_check_object_type_tag(env, value, &kLinkTag, &tagged) == napi_ok && tagged &&
      napi_unwrap(env, value, &data) == napi_ok)
    return static_cast<Link*>(data);
  fail(env, "ERR_NATIVE_ARGUMENT", "%s: link must be what link() gave", method);
  return nullptr;
}

// Buffer and range from the first three arguments.
bool range(Arguments& a, int32_t* id, uint64_t* offset, uint64_t* bytes) {
  uint64_t size;
  return a.ok && a.buffer(0, id, &size) && a.whole(1, "offset", kMostSafe, offset) &&
         a.whole(2, "bytes", kMostSafe, bytes) && a.within(*offset, *bytes, size);
}

bool string(napi_env env, napi_value value, char* to, size_t size) {
  size_t length = 0;
  return napi_get_value_string_utf8(env, value, to, size, &length) == napi_ok;
}

}  // namespace

napi_value MakeLink(napi_env env, napi_callback_info) {
  Link* link = Link::make();
  if (!link) return fail(env, "ERR_NATIVE_OOM", "link: memory ran out");
  napi_value self = object(env);
  if (napi_type_tag_object(env, self, &kLinkTag) != napi_ok ||
      napi_wrap(env, self, link, finalize, nullptr, nullptr) != napi_ok) {
    link->release();
    return fail(env, "ERR_NATIVE", "link: the object could not be made");
  }
  return self;
}

napi_value FailLink(napi_env env, napi_callback_info info) {
  napi_value arguments[2] = {};
  size_t count = 2;
  char message[sizeof Failure::message];
  if (napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr) != napi_ok) return nullptr;
  Link* link = link_of(env, "failLink", arguments[0]);
  if (!link) return nullptr;
  if (!string(env, arguments[1], message, sizeof message))
    return fail(env, "ERR_NATIVE_ARGUMENT", "failLink: message must be a string");
  link->fail(message);
  return nullptr;
}

napi_value Send(napi_env env, napi_callback_info info) {
  Arguments a(env, info, "send", 4);
  int32_t id;
  uint64_t offset, bytes;
  if (!range(a, &id, &offset, &bytes)) return nullptr;
  Link* link = link_of(env, a.method, a.value[3]);
  if (!link) return nullptr;
  if (link->sending) return fail(env, "ERR_NATIVE_ARGUMENT", "send: the link is used");
  if (!a.device().send(id, offset, bytes, link)) return a.no_memory(0);
  link->sending = true;
  return nullptr;
}

napi_value Receive(napi_env env, napi_callback_info info) {
  Arguments a(env, info, "receive", 4);
  int32_t id;
  uint64_t offset, bytes;
  if (!range(a, &id, &offset, &bytes)) return nullptr;
  Link* link = link_of(env, a.method, a.value[3]);
  if (!link) return nullptr;
  if (link->receiving) return fail(env, "ERR_NATIVE_ARGUMENT", "receive: the link is used");
  if (!a.device().receive(id, offset, bytes, link)) return a.no_memory(0);
  link->receiving = true;
  return nullptr;
}

napi_value Spoil(napi_env env, napi_callback_info info) {
  Arguments a(env, info, "spoil", 6);
  int32_t id;
  uint64_t offset, bytes;
  Failure failure;
  if (!range(a, &id, &offset, &bytes)) return nullptr;
  failure.failed = true;
  if (!string(env, a.value[3], failure.op, sizeof failure.op) ||
      napi_get_value_int32(env, a.value[4], &failure.site) != napi_ok ||
      !string(env, a.value[5], failure.message, sizeof failure.message))
    return fail(env, "ERR_NATIVE_ARGUMENT", "spoil: wants an op, a site and a message");
  if (!a.device().spoil(id, offset, bytes, failure)) return a.no_memory(sizeof failure);
  return nullptr;
}

}  // namespace octavo
