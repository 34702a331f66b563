// Takes a loaded model to another device, or converts its floats. What moves stays where it was until all of it has arrived, so that a
// move that fails changes nothing. Converted in its place, one parameter at a time is there twice.

import type { Device } from "../core/device.js";
import { bytesOf } from "../core/dtype.js";
import type { Model } from "../nn/model.js";
import { Matrix, type Moving, type Parameter, Scalar, within } from "../nn/module.js";
import { computeFor, type FloatDType } from "../nn/weight.js";
import type { Compute } from "../ops/linear.js";
import { settle } from "./storage.js";

export interface Move {
  /** Absent: each parameter stays on its device. */
  readonly device?: Device | undefined;
  /** What floats are converted to, and how their products may round then; by default as the dtype has it. */
  readonly dtype?: FloatDType | undefined;
  readonly compute?: Compute | undefined;
}

/**
 * Records the move of all parameters; codes move as they are. The model must be idle.
 * @throws OutOfMemoryError, DeviceError, OctavoError for a wrapped matrix; the model then is where it was. (If a device has less memory
 * than its budget says, some floats may be converted by then; the same call goes on from there.)
 */
export function moveModel(model: Model, from: Device, { device: to, dtype, compute }: Move): void {
  const names = new Map([...model.named_parameters()].map(([name, parameter]) => [parameter, name]));
  const parameters = [...names.keys()].filter(({ filled }) => filled);
  // What can fail early does: floats that were converted cannot be taken back.
  to?.checkOpen();
  for (const parameter of parameters) if (parameter instanceof Matrix) parameter.moves(to, dtype);
  checkRoom(model, parameters, to, dtype);
  const moving: Moving[] = [];
  try {
    for (const parameter of parameters) {
      const device = to ?? parameter.tensors[0]!.device;
      const one = within(device, names.get(parameter)!, () => parameter.moving(to, dtype, dtype && compute));
      if (to && one) moving.push(one);
      else one?.take();
    }
    if (to) for (const [, buffer] of model.named_buffers()) buffer.on(to);
  } catch (error) {
    for (const one of moving) one.dispose();
    if (to) for (const [, buffer] of model.named_buffers()) buffer.leave(to);
    throw error;
  }
  for (const one of moving) one.take();
  if (to) for (const [, buffer] of model.named_buffers()) buffer.leave(from);
  if (dtype) {
    for (const parameter of parameters) {
      if (parameter instanceof Scalar) parameter.number = parameter.rounded(parameter.number);
    }
  }
  settle(to ?? from, model, dtype ? (compute ?? computeFor(dtype)) : model.attention.compute);
}

/** @throws OutOfMemoryError before anything moves */
function checkRoom(
  model: Model,
  parameters: readonly (Parameter | Matrix)[],
  to: Device | undefined,
  dtype: FloatDType | undefined,
): void {
  /** What each device gets more, and the most that it holds of one parameter on its way, beside that. */
  const needed = new Map<Device, { more: number; most: number }>();
  const on = (device: Device): { more: number; most: number } => {
    const one = needed.get(device) ?? { more: 0, most: 0 };
    needed.set(device, one);
    return one;
  };
  for (const parameter of parameters) {
    const codes = parameter instanceof Matrix && parameter.inner?.scheme !== "dense";
    const passing = new Map<Device, number>();
    const pass = (device: Device, bytes: number): void => void passing.set(device, (passing.get(device) ?? 0) + bytes);
    for (const { device, nbytes, size } of parameter.tensors) {
      const target = to ?? device;
      const after = dtype && !codes ? bytesOf(dtype, size) : nbytes;
      if (target === device && after === nbytes) continue;
      on(target).more += after;
      on(device).more -= nbytes;
      pass(device, 2 * nbytes); // the old one, until the new one is whole, and its rows
      pass(target, nbytes + after); // rows that have arrived, and those converted
    }
    for (const [device, bytes] of passing) on(device).most = Math.max(on(device).most, bytes);
  }
  if (to) for (const [, { facts }] of model.named_buffers()) on(to).more += 4 * facts.elements;
  for (const [device, { more, most }] of needed) {
    device.arena.checkRoom(Math.max(0, more) + most, "moving the model");
  }
}
