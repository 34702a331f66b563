// Steps of adapters on a model, for tests against peft: an adapter of a folder, its loss and gradients for a batch, and AdamW.

import { join } from "node:path";
import { readAdapter } from "../../src/adapters/read.js";
import { Adapters } from "../../src/adapters/set.js";
import type { Device } from "../../src/core/device.js";
import type { Tensor } from "../../src/core/tensor.js";
import type { Loaded } from "../../src/load/index.js";
import type { CausalLM } from "../../src/nn/decoder.js";
import type { Matrix } from "../../src/nn/module.js";
import { denseScheme, storeRows } from "../../src/nn/weight.js";
import { valueAndGradients } from "../../src/ops/gradient.js";
import { Disk } from "../../src/sources/disk.js";
import { FIXTURES } from "./fixtures.js";
import { lossOf } from "./losses.js";

/** expected.json of a training fixture. */
export interface Training {
  lr: number;
  betas: [number, number];
  eps: number;
  weight_decay: number;
  batches: number[][][];
  losses: number[];
  tolerance: { loss: number; adapter: number };
}

export interface Step {
  readonly loss: number;
  readonly gradients: ReadonlyMap<string, Float32Array>;
}

/** Puts the adapter of a folder on a model. Its tensors, by their names in the file. */
export async function adapt(
  { model, architecture }: Loaded,
  folder: readonly string[],
): Promise<{ readonly adapters: Adapters; readonly tensors: Map<string, Tensor> }> {
  const adapters = new Adapters(model, architecture);
  const options = { trainable: false, signal: undefined, warn: () => {} };
  const { adapter } = await readAdapter(adapters, new Disk(join(FIXTURES, ...folder)), "default", options);
  adapters.put(adapter, false);
  adapters.activate(["default"]);
  const named = [...adapters.named_parameters()].map(
    ([name, { data }]) => [name.replace(".default", ""), data] as const,
  );
  return { adapters, tensors: new Map(named) };
}

export async function stepOf(
  device: Device,
  model: CausalLM,
  tensors: Map<string, Tensor>,
  batch: number[][],
): Promise<Step> {
  const { value, gradients } = valueAndGradients([...tensors.values()], () =>
    // Pieces that do not divide the tokens.
    lossOf(device, model, batch, { rows: 7 }),
  );
  const loss = (await value.readFloats())[0]!;
  value.dispose();
  const read = new Map<string, Float32Array>();
  for (const [i, name] of [...tensors.keys()].entries()) {
    read.set(name, await gradients[i]!.readFloats());
    gradients[i]!.dispose();
  }
  return { loss, gradients: read };
}

/** Stores quantized matrices as the floats that they stand for. */
export function decoded(model: CausalLM): void {
  for (const parameter of model.parameters()) {
    if (!("product" in parameter) || parameter.weight.scheme === "dense") continue;
    const matrix: Matrix = parameter;
    using rows = matrix.weight.dense("f32");
    matrix.fill(storeRows(denseScheme("f32"), rows, "decoded", matrix.experts));
  }
}

/** AdamW in numbers on the host, as PyTorch has it. */
export function adamW({ lr, betas: [b1, b2], eps, weight_decay }: Training) {
  const states = new Map<string, { m: Float64Array; v: Float64Array; p: Float64Array }>();
  let t = 0;
  return async (adapters: Map<string, Tensor>, gradients: ReadonlyMap<string, Float32Array>): Promise<void> => {
    t++;
    for (const [name, tensor] of adapters) {
      const n = tensor.size;
      let state = states.get(name);
      if (!state) {
        const p = Float64Array.from(await tensor.readFloats());
        states.set(name, (state = { m: new Float64Array(n), v: new Float64Array(n), p }));
      }
      const { m, v, p } = state;
      gradients.get(name)!.forEach((g, i) => {
        m[i] = b1 * m[i]! + (1 - b1) * g;
        v[i] = b2 * v[i]! + (1 - b2) * g * g;
        const size = Math.sqrt(v[i]! / (1 - b2 ** t)) + eps;
        p[i] = p[i]! * (1 - lr * weight_decay) - (lr * (m[i]! / (1 - b1 ** t))) / size;
      });
      tensor.write(Float32Array.from(p));
    }
  };
}

export const off = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Array.from(a).reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0);
export const largest = (a: ArrayLike<number>): number => off(a, new Float32Array(a.length));
