// Takes a loaded model to another device, or converts its floats, parameter by parameter: one of them at a time is there twice.

import type { Device } from "../core/device.js";
import { bytesOf } from "../core/dtype.js";
import type { Model } from "../nn/model.js";
import { Matrix, type Parameter, Scalar, within } from "../nn/module.js";
import { computeFor, type FloatDType } from "../nn/weight.js";
import { settle } from "./storage.js";

/**
 * Records the move of all parameters; codes move as they are. The model must be idle.
 * @param to undefined: each parameter stays on its device
 * @throws OutOfMemoryError, DeviceError; the model then is where it was
 */
export function moveModel(model: Model, from: Device, to: Device | undefined, dtype: FloatDType | undefined): void {
  const names = new Map([...model.named_parameters()].map(([name, parameter]) => [parameter, name]));
  const parameters = [...names.keys()].filter(({ filled }) => filled);
  checkRoom(parameters, to, dtype);
  const moved: (Parameter | Matrix)[] = [];
  try {
    for (const parameter of parameters) {
      const device = to ?? parameter.tensors[0]!.device;
      within(device, names.get(parameter)!, () => parameter.to(to, dtype));
      moved.push(parameter);
    }
  } catch (error) {
    if (to) for (const parameter of moved) parameter.to(from);
    throw error;
  }
  if (dtype) {
    for (const parameter of parameters) {
      if (parameter instanceof Scalar) parameter.number = parameter.rounded(parameter.number);
    }
  }
  if (to) for (const [, buffer] of model.named_buffers()) buffer.dispose();
  settle(to ?? from, model, dtype ? computeFor(dtype) : model.attention.compute);
}

/** @throws OutOfMemoryError before anything moves */
function checkRoom(
  parameters: readonly (Parameter | Matrix)[],
  to: Device | undefined,
  dtype: FloatDType | undefined,
): void {
  /** What each device gets more, and the most that one parameter takes on its way: its rows, and those converted, beside its new memory. */
  const needed = new Map<Device, { more: number; scratch: number }>();
  for (const parameter of parameters) {
    const { device } = parameter.tensors[0]!;
    const target = to ?? device;
    const codes = parameter instanceof Matrix && parameter.inner?.scheme !== "dense";
    const elements = parameter.shape.reduce((n, size) => n * size, 1);
    const after = dtype && !codes ? bytesOf(dtype, elements) : parameter.nbytes;
    const one = needed.get(target) ?? { more: 0, scratch: 0 };
    one.more += after - (target === device ? parameter.nbytes : 0);
    one.scratch = Math.max(one.scratch, parameter.nbytes + 2 * after);
    needed.set(target, one);
  }
  for (const [device, { more, scratch }] of needed) {
    device.arena.checkRoom(Math.max(0, more) + scratch, "moving the model");
  }
}
