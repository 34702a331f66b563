// transfer: a tensor on another device. It is the only op on two devices, and not a command: each device does its half in its
// own order (core/transfer.ts).

import { Device } from "../core/device.js";
import { DeviceError, OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import { moveBytes } from "../core/transfer.js";
import { contiguous } from "./copy.js";
import { unpack } from "./pack.js";
import { type GradientRule, recordAs } from "./tape.js";

/**
 * Records a copy of `x` on device `to`: contiguous rows of the same shape and dtype; `x` itself if it is already there.
 * Its gradient goes back the same way. Waits for nothing: later commands on `to` run once the bytes have arrived. A spoilt `x` spoils the copy, and so does the
 * loss of its device. In a recording both devices must take part (`captureAll`).
 * @throws DeviceError (no device, one that is closed, or not part of the recording), OutOfMemoryError; OptionError if `x` is
 * no tensor
 */
export function transfer(x: Tensor, to: Device): Tensor {
  if (!Tensor.is(x)) throw new OptionError(`transfer: x must be a Tensor, got ${show(x)}`);
  if (!Device.is(to)) {
    throw new DeviceError(`transfer: the target must be a Device, got ${show(to)}`, { hint: "openDevice() gives one" });
  }
  const from = x.device;
  if (from === to) return x;
  const back: GradientRule = ({ dy: [dy] }) => [dy && transfer(dy, from)];
  const [y] = recordAs("transfer", [x], back, () => ({ outputs: [moved(x, to)], saved: [] }));
  return y!;
}

function moved(x: Tensor, to: Device): Tensor {
  return scope(() => {
    const rows = contiguous(unpack(x));
    const y = Tensor.empty(to, x.shape, x.dtype, "transfer");
    if (y.nbytes > 0) {
      moveBytes(
        { device: x.device, buffer: rows.buffer, offset: rows.offset },
        { device: to, buffer: y.buffer, offset: y.offset },
        y.nbytes,
      );
    }
    return y;
  });
}
