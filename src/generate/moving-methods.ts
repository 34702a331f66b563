// Methods of loaded models about where they are: to(), and what it is short for.

import type { Device } from "../core/device.js";
import { torchName } from "../core/dtype.js";
import { OptionError } from "../core/errors.js";
import type { FloatDType } from "../nn/weight.js";
import type { Places } from "./places.js";
import { TrainingMethods } from "./training-methods.js";

export abstract class MovingMethods extends TrainingMethods {
  abstract get quantized_modules(): readonly string[];

  protected abstract get places(): Places;
  /** @throws OctavoError for a model that is in use, is offloaded, or has adapters */
  protected abstract checkPlain(method: string): void;
  /** @throws OptionError for a dtype in which attention is not computed as it was asked for */
  protected abstract checkCast(dtype: FloatDType): void;

  /** Where the model runs; of a model on several devices the main one. */
  get device(): Device {
    return this.places.device;
  }

  /** Of everything that is not quantized. */
  get dtype(): FloatDType {
    return this.places.dtype;
  }

  /** Number of devices over which `tp_plan` cuts the model; undefined without it. */
  get tp_size(): number | undefined {
    return this.places.tp_size;
  }

  /**
   * Where the modules are, by their names, as accelerate gives it: `{ "": "cpu" }` on one device, else a device for each block and for
   * each module beside them. `device` is the main one.
   */
  get hf_device_map(): Readonly<Record<string, string | number>> {
    return this.places.device_map;
  }

  /**
   * Takes the model to a device, converts its floats to a dtype, or both, and gives the model itself. Codes move as they are. A name is
   * enough for the device that it is on ("cuda" and other names of a GPU mean WebGPU, "cpu" every device that computes on the CPU);
   * another one is opened first: `model.to(await requestDevice("webgpu"))`. The caller closes it, after the model. Results that lie on the
   * device that it leaves can still be read.
   * @throws OptionError for a device that is not open, casts of quantized models, and moves of models on several devices; OutOfMemoryError,
   * and OctavoError for a model that is in use or has adapters. The model then stays as it was
   */
  to(...where: readonly (Device | string | number)[]): this {
    const changes = this.places.changes(where);
    if (!changes.device && !changes.dtype) return this;
    this.checkUsable();
    this.checkPlain("to");
    if (changes.dtype) this.checkCast(changes.dtype);
    this.places.move(changes);
    return this;
  }

  /** `to("cpu")`. @throws as there */
  cpu(): this {
    return this.to("cpu");
  }

  /** `to("cuda")`. @throws as there */
  cuda(): this {
    return this.to("cuda");
  }

  /** `to("float16")`. @throws as there */
  half(): this {
    return this.#cast("half", "f16");
  }

  /** `to("float32")`. @throws as there */
  float(): this {
    return this.#cast("float", "f32");
  }

  /** `to("bfloat16")`. @throws as there */
  bfloat16(): this {
    return this.#cast("bfloat16", "bf16");
  }

  #cast(method: string, dtype: FloatDType): this {
    if (dtype !== this.dtype && this.quantized_modules.length > 0) {
      throw new OptionError(
        `\`.${method}()\` is not supported for quantized model. Please use the model as it is, since the model has already been casted to the correct \`dtype\`.`,
        { hint: `load it in another dtype: from_pretrained(name, { dtype: "${torchName(dtype)}" })` },
      );
    }
    return this.to(dtype);
  }
}
