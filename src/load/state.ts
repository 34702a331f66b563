// The tensors of a loaded model by their names in checkpoints, and quantized matrices turned into floats.

import { elementsOf, type StoredDType } from "../checkpoints/stored.js";
import { convertBytes } from "../checkpoints/values.js";
import type { Device } from "../core/device.js";
import { widen } from "../core/dtype.js";
import { scope } from "../core/tensor.js";
import type { Model } from "../nn/model.js";
import { Matrix } from "../nn/module.js";
import { computeFor, denseScheme, type FloatDType, type WeightPart } from "../nn/weight.js";
import { publishedParameters, storedParts } from "./published.js";
import type { Savable } from "./save.js";

/** A tensor as checkpoints store it. Its bytes stay on the device until they are read. */
export class StateTensor {
  /** The element type, in the words of safetensors: "F32", "BF16", "I8" ... */
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  readonly #bytes: () => Promise<Uint8Array>;

  constructor({ dtype, shape, bytes }: WeightPart) {
    this.dtype = dtype;
    this.shape = shape;
    this.#bytes = bytes;
  }

  /** Number of elements. */
  get size(): number {
    return elementsOf(this.shape);
  }

  /** The bytes as files hold them. @throws OctavoError if the model was disposed */
  bytes(): Promise<Uint8Array> {
    return this.#bytes();
  }

  /** The elements: codes as integers, floats of any dtype as f32. @throws OctavoError if the model was disposed */
  async read(): Promise<Float32Array | Int8Array | Uint8Array> {
    const bytes = await this.#bytes();
    if (this.dtype === "U8") return bytes;
    if (this.dtype === "I8") return new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return widen("f32", convertBytes(this.dtype, bytes, "f32"));
  }
}

/** What `save_pretrained` writes, by name. */
export async function stateOf({
  model,
  architecture,
  dtype,
}: Pick<Savable, "model" | "architecture" | "dtype">): Promise<Map<string, StateTensor>> {
  const state = new Map<string, StateTensor>();
  for (const one of publishedParameters(model, architecture)) {
    for (const part of await storedParts(one, dtype)) state.set(part.name, new StateTensor(part));
  }
  return state;
}

/** Replaces each quantized matrix of a model by its values, in `dtype`. One matrix at a time is there twice. */
export function dequantizeModel(device: Device, model: Model, dtype: FloatDType): void {
  for (const parameter of model.parameters()) {
    if (!(parameter instanceof Matrix) || !parameter.filled || parameter.weight.scheme === "dense") continue;
    const { weight, shape, product, experts } = parameter;
    const builder = denseScheme(dtype, product, computeFor(dtype)).begin(device, shape, "dense", experts);
    try {
      scope(() => builder.put(weight.dense(dtype), 0));
    } catch (error) {
      builder[Symbol.dispose]();
      throw error;
    }
    parameter.fill(builder.finish());
  }
}
