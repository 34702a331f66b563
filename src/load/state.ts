// The tensors of a loaded model by their names in checkpoints, and quantized matrices turned into floats.

import { scope } from "../core/tensor.js";
import type { Model } from "../nn/model.js";
import { Matrix } from "../nn/module.js";
import { StateTensor } from "../nn/state.js";
import { computeFor, denseScheme, type FloatDType } from "../nn/weight.js";
import { publishedParameters, storedParts } from "./published.js";
import type { Savable } from "./save.js";

/** What `save_pretrained` writes, by name. */
export async function stateOf({
  model,
  architecture,
  dtype,
}: Pick<Savable, "model" | "architecture" | "dtype">): Promise<Map<string, StateTensor>> {
  const state = new Map<string, StateTensor>();
  for (const one of publishedParameters(model, architecture)) {
    for (const part of await storedParts(model, one, dtype)) state.set(part.name, new StateTensor(part));
  }
  return state;
}

/**
 * Replaces each quantized matrix of a model by its values, in `dtype`. One matrix at a time is there twice.
 * @param compute how products with them may round
 */
export function dequantizeModel(model: Model, dtype: FloatDType, compute = computeFor(dtype)): void {
  for (const parameter of model.parameters()) {
    if (!(parameter instanceof Matrix) || !parameter.inner || parameter.inner.scheme === "dense") continue;
    const { inner: weight, shape, product, experts } = parameter;
    const { device } = parameter.tensors[0]!;
    const builder = denseScheme(dtype, product, compute).begin(device, shape, "dense", experts);
    try {
      scope(() => builder.put(weight.dense(dtype), 0));
    } catch (error) {
      builder[Symbol.dispose]();
      throw error;
    }
    const floats = builder.finish();
    parameter.refill(weight.likewise?.(floats) ?? floats);
  }
}
