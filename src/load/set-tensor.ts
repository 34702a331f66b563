// accelerate's set_module_tensor_to_device: one parameter of a tree by its name.

import { Device } from "../core/device.js";
import { DTYPE_SPELLINGS, parseDType } from "../core/dtype.js";
import { OptionError } from "../core/errors.js";
import { type Options, readOptions, such } from "../core/options.js";
import { shapeText, show } from "../core/show.js";
import { Tensor } from "../core/tensor.js";
import { Module } from "../nn/module.js";
import { loadState, StateTensor } from "../nn/state.js";

const SET_TENSOR = {
  /** Its values, of its shape: a tensor, or one of a state (`load`). Default: those that it has. */
  value: such<Tensor | StateTensor>((value) => Tensor.is(value) || value instanceof StateTensor, "a tensor"),
  /** A float dtype; default: its own. */
  dtype: such<string>(
    (value) => typeof value === "string" && parseDType(value) !== undefined,
    `one of ${DTYPE_SPELLINGS.join(", ")}`,
  ),
};

/**
 * Gives one parameter of a module a device, and values. What is declared as quantized is quantized by it.
 * @param tensor_name its path: "linear1.weight"
 * @throws OptionError in accelerate's words: an unknown name, another shape, a parameter without values; OutOfMemoryError
 */
export async function set_module_tensor_to_device(
  module: Module,
  tensor_name: string,
  device: Device,
  given: Options<typeof SET_TENSOR> = {},
): Promise<void> {
  if (!isModule(module)) {
    throw new OptionError(`set_module_tensor_to_device: expected a module, got ${show(module)}`, {
      hint: "of a loaded model it is `model.module`",
    });
  }
  if (!Device.is(device)) {
    throw new OptionError(`set_module_tensor_to_device: expected a Device, got ${show(device)}`, {
      hint: 'openDevice("cpu") gives one',
    });
  }
  const { value, dtype } = readOptions("set_module_tensor_to_device", SET_TENSOR, given);
  const named = [...module.named_parameters()].find(([name]) => name === tensor_name);
  if (!named) {
    throw new OptionError(`${module.class_name} does not have a parameter or a buffer named ${show(tensor_name)}`);
  }
  const [, parameter] = named;
  if (!value && !parameter.filled && !parameter.pending) {
    throw new OptionError(`${tensor_name} is on the meta device, we need a \`value\` to put in on ${device.name}`, {
      details: { option: "value" },
    });
  }
  const codes = /^[iu]8$/i.test(value?.dtype ?? ""); // with shapes of their own
  if (value && !codes && value.shape.join() !== parameter.shape.join()) {
    throw new OptionError(
      `Trying to set a tensor of shape ${shapeText(value.shape)} in "${tensor_name}" (which has shape ` +
        `${shapeText(parameter.shape)}), this looks incorrect`,
      { details: { option: "value" } },
    );
  }
  if (value) await loadState(module.class_name, [named], { [tensor_name]: value }, { strict: true });
  parameter.to(device, dtype === undefined ? undefined : parseDType(dtype));
}

function isModule(value: unknown): value is Module {
  try {
    return value instanceof Module;
  } catch {
    return false; // a proxy
  }
}
