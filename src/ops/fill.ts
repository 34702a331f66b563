// fill: writes one number to all elements.

import type { Device } from "../core/device.js";
import { Tensor } from "../core/tensor.js";
import { Op } from "./op.js";

export const fillOp = new Op({
  signature: "fill: y[..]:f32~!! ; value:f32 ->",
  reference({ y }, { value }) {
    y!.data.fill(value!);
    return undefined;
  },
  gradient: () => [undefined],
  keeps: () => [],
});

/** Writes `value` into every element of `y`. */
export function fillInto(y: Tensor, value: number): void {
  fillOp.run([y], [value]);
}

/** f32[shape] of `value`. */
export function filled(device: Device, shape: readonly number[], value: number): Tensor {
  const y = Tensor.empty(device, shape, "f32", "fill");
  fillInto(y, value);
  return y;
}
