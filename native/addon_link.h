// The add-on's exports for transfers between devices: links, their two ends, and the failures that come with the bytes.
#pragma once

#include "arguments.h"

namespace octavo {

// link(): an object for the transfer between two devices.
napi_value MakeLink(napi_env env, napi_callback_info info);
// failLink(link, message)
napi_value FailLink(napi_env env, napi_callback_info info);

// Methods of a device. send(buffer, offset, bytes, link), receive(buffer, offset, bytes, link).
napi_value Send(napi_env env, napi_callback_info info);
napi_value Receive(napi_env env, napi_callback_info info);
// spoil(buffer, offset, bytes, op, site, message)
napi_value Spoil(napi_env env, napi_callback_info info);

}  // namespace octavo
