// Models with random weights from a config alone: for benchmarks and tests at sizes too large to download. The values are
// normal with a small deviation, generated in f32 on the host, a piece at a time.

import { elementsOf } from "../checkpoints/stored.js";
import type { Device } from "../core/device.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Model } from "../nn/model.js";
import { Matrix } from "../nn/module.js";
import { computeFor } from "../nn/weight.js";
import { contiguous } from "../ops/copy.js";
import { rowSteps } from "./rows.js";
import { type StorageOptions, schemesOf, settle, untieHead } from "./storage.js";

const DRAW = 1 << 21;
/** transformers' initial deviation. */
const DEVIATION = 0.02;

/**
 * A pool of normal numbers for a model of `needed` parameters; pieces are cut from it at varying offsets. Speed matters more
 * here than independence, and no kernel's time depends on the values.
 */
function normals(seed: number, needed: number): (count: number) => Float32Array {
  let state = seed >>> 0 || 1;
  const uniform = (): number => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return ((state >>> 0) + 0.5) / 4294967296;
  };
  const pool = new Float32Array(Math.min(DRAW, needed) * 2);
  for (let i = 0; i < pool.length; i += 2) {
    const radius = DEVIATION * Math.sqrt(-2 * Math.log(uniform()));
    const angle = 2 * Math.PI * uniform();
    pool[i] = radius * Math.cos(angle);
    pool[i + 1] = radius * Math.sin(angle);
  }
  return (count) => {
    if (count > DRAW) throw new RangeError(`a row of ${count} is too long`);
    const start = Math.floor(uniform() * (pool.length - count));
    return pool.subarray(start, start + count);
  };
}

/**
 * Fills every parameter of a declared model: matrices with random values, vectors with ones. The head is untied if it has a
 * scheme of its own. If this throws, dispose the model.
 */
export async function fillRandomly(device: Device, model: Model, storage: StorageOptions, seed = 1): Promise<void> {
  let needed = 0;
  for (const [, { shape }] of model.named_parameters()) needed += elementsOf(shape);
  const draw = normals(seed, needed);
  if (storage.head) untieHead(model);
  const schemes = schemesOf(model, storage);
  for (const [name, parameter] of model.named_parameters()) {
    if (parameter.filled) continue;
    if (!(parameter instanceof Matrix)) {
      const { shape } = parameter;
      const ones = new Float32Array(elementsOf(shape)).fill(1);
      parameter.fill(scope(() => contiguous(Tensor.from(device, ones, shape), storage.dtype)));
      continue;
    }
    const inputs = parameter.shape[1];
    const builder = schemes.get(parameter)!.begin(device, parameter.shape, name, parameter.experts);
    const step = Math.max(1, Math.floor(DRAW / inputs / builder.granularity)) * builder.granularity;
    try {
      for (const { at, count } of rowSteps(parameter, step)) {
        {
          using piece = Tensor.from(device, draw(count * inputs), [count, inputs]);
          builder.put(piece, at);
        }
        await device.synchronize();
      }
      parameter.fill(builder.finish());
    } catch (error) {
      builder[Symbol.dispose]();
      throw error;
    }
  }
  settle(device, model, storage.compute ?? computeFor(storage.dtype));
}
