// The loss of a language model on a batch, as training computes it, and the trainable tensors of a model.

import type { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import type { CausalLM } from "../../src/nn/decoder.js";
import { headLoss, headOf, nextTokenLabels } from "../../src/nn/head-loss.js";
import { Matrix } from "../../src/nn/module.js";

export interface LossOptions {
  /** Rows per chunk of the loss. */
  readonly rows?: number;
  readonly smoothing?: number;
}

/** Records the mean cross-entropy of the next tokens of equally long rows: [1]. */
export function lossOf(
  device: Device,
  model: CausalLM,
  batch: readonly (readonly number[])[],
  options: LossOptions = {},
): Tensor {
  return scope(() => {
    const shape = [batch.length, batch[0]!.length];
    const ids = Tensor.from(device, Int32Array.from(batch.flat()), shape);
    const positions = Tensor.from(device, Int32Array.from(batch.flatMap((row) => row.map((_, t) => t))), shape);
    const { labels, items } = nextTokenLabels(batch.flat(), shape[1]!);
    using pass = model.pass({ positions });
    const hidden = model.hidden(pass, ids);
    return headLoss(hidden, headOf(model), Tensor.from(device, labels, [labels.length]), { items, ...options });
  });
}

/** All trainable tensors by name; a tied matrix once. */
export function trainableOf(model: CausalLM): Map<string, Tensor> {
  const found = new Map<string, Tensor>();
  const met = new Set<object>();
  for (const [name, parameter] of model.named_parameters()) {
    if (met.has(parameter)) continue;
    met.add(parameter);
    const tensors = parameter instanceof Matrix ? parameter.weight.trainable : [parameter.value];
    for (const [i, tensor] of tensors.entries()) found.set(i === 0 ? name : `${name}.${i}`, tensor);
  }
  return found;
}
