// transfer: a tensor on another device. It is the one op of two devices, and no command: each device does its half in its
// own order (core/transfer.ts).

import type { Device } from "../core/device.js";
import { scope, Tensor } from "../core/tensor.js";
import { moveBytes } from "../core/transfer.js";
import { contiguous } from "./copy.js";
import { unpack } from "./pack.js";

/**
 * Records a copy of `x` on device `to`: contiguous rows of the same shape and dtype; `x` itself if it is there already.
 * Waits for nothing: what is recorded later on `to` runs once the bytes have come. What spoilt `x` spoils the copy; so does
 * the loss of its device. In a recording both devices must take part (`captureAll`).
 * @throws DeviceError (a device that is closed, or no part of the recording), OutOfMemoryError
 */
export function transfer(x: Tensor, to: Device): Tensor {
  const from = x.device;
  if (from === to) return x;
  return scope(() => {
    const rows = contiguous(unpack(x));
    const y = Tensor.empty(to, x.shape, x.dtype, "transfer");
    if (y.nbytes > 0) {
      moveBytes(
        { device: from, buffer: rows.buffer, offset: rows.offset },
        { device: to, buffer: y.buffer, offset: y.offset },
        y.nbytes,
      );
    }
    return y;
  });
}
