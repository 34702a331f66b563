// accelerate's `load_and_quantize_model`, in Node: an empty model of one's own, filled from files and quantized on the way.

import { isOf } from "../core/checks.js";
import { Device } from "../core/device.js";
import { OptionError } from "../core/errors.js";
import { flag, type Options, readOptions, such, text } from "../core/options.js";
import { show } from "../core/show.js";
import { load } from "../load/state-file.js";
import { Module } from "../nn/module.js";
import { REPLACE, replace_with_bnb_linear } from "./replace.js";

const LOAD_AND_QUANTIZE = {
  ...REPLACE,
  /** A safetensors file, or a folder with a checkpoint. */
  weights_location: text(),
  /** Where the model goes. */
  device: such<Device>(Device.is, "a Device"),
  /** As of `load_state_dict` (default: true). */
  strict: flag(),
};
export interface LoadAndQuantizeOptions extends Options<typeof LOAD_AND_QUANTIZE> {}

/**
 * Replaces the linears of `model` by quantized ones, fills it from `weights_location`, and moves it to `device`, where they are
 * quantized. Gives the model itself.
 * @throws OptionError, CheckpointError (other keys or shapes), NotFoundError, FormatError, OutOfMemoryError
 */
export async function load_and_quantize_model<M extends Module>(model: M, options: LoadAndQuantizeOptions): Promise<M> {
  const read = readOptions("load_and_quantize_model", LOAD_AND_QUANTIZE, options);
  const { weights_location, device, strict = true, ...how } = read;
  if (!isOf(model, Module)) {
    throw new OptionError(`load_and_quantize_model: it takes a Module, got ${show(model)}`, {
      hint: "loaded models are quantized by from_pretrained(name, { quantization_config })",
    });
  }
  if (!device) throw new OptionError("load_and_quantize_model: option `device` is missing");
  const state = weights_location === undefined ? undefined : await load(weights_location);
  replace_with_bnb_linear(model, how);
  if (state) await model.load_state_dict(state, { strict });
  return model.to(device);
}
