// Pixels, waveforms and spectrograms from callers (nested arrays, typed arrays, data with a shape, tensors), checked and laid
// out for the device.

import { isList } from "../core/checks.js";
import type { Device } from "../core/device.js";
import { OctavoError, OptionError, ShapeError } from "../core/errors.js";
import { wholeList } from "../core/shape.js";
import { shapeText, show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import type { FeatureInput } from "../nn/features.js";
import { contiguous } from "../ops/copy.js";

/** Numbers with a shape, as processors return them. */
export interface FloatTensorLike {
  readonly data: ArrayLike<number>;
  readonly shape: readonly number[];
}

/** Lists in lists, of numbers at last. */
export type Nested = ArrayLike<number> | readonly Nested[];

export type FeatureValues = Nested | FloatTensorLike | Tensor;

/** A batch of features. */
export interface FeatureBatch {
  readonly shape: readonly number[];
  /** f32 on the device, in the caller's scope. */
  on(device: Device): Tensor;
  /** The same on the host. */
  values(): Promise<Float32Array>;
}

/** Elements of a batch at most: 4 GB. */
const MOST = 2 ** 30;

/**
 * Checks features against what a model reads. A missing batch dim is one row.
 * @throws ShapeError, OptionError; `on` throws DTypeError for a tensor of another dtype, and what `Tensor.from` throws
 */
export function readFeatures(value: unknown, { name, dims, fixed }: FeatureInput): FeatureBatch {
  const wanted = `[${dims.map((dim) => fixed[dim] ?? dim).join(", ")}]`;
  if (value === undefined) {
    throw new OptionError(`${name} are missing`, {
      hint: `pass ${name} of shape ${wanted}, as a processor makes them`,
    });
  }
  const { shape: given, on, values } = laidOut(name, value, dims.length);
  const shape = given.length === dims.length - 1 ? [1, ...given] : given;
  const fits = shape.length === dims.length && dims.every((dim, d) => (fixed[dim] ?? shape[d]) === shape[d]);
  if (!fits || shape.includes(0)) {
    throw new ShapeError(`${name} must have the shape ${wanted}, got ${shapeText(given)}`, {
      details: { operand: name, expected: wanted, got: shapeText(given) },
    });
  }
  return { shape, on: (device) => on(device).view(...shape), values };
}

function laidOut(name: string, value: unknown, rank: number): FeatureBatch {
  if (Tensor.is(value)) {
    const on = (): Tensor => contiguous(value, "f32");
    const values = async (): Promise<Float32Array> => {
      const tensor = scope(on);
      try {
        return await tensor.readFloats();
      } finally {
        if (tensor !== value) tensor.dispose();
      }
    };
    return { shape: value.shape, on, values };
  }
  try {
    if (isList(value) || isNumeric(value)) {
      const shape: number[] = [];
      const values: number[] = [];
      gather(name, value, rank, 0, shape, values);
      return hosted(Float32Array.from(values), shape);
    }
    if (typeof value === "object" && value !== null) {
      const { data, shape: given } = value as Partial<FloatTensorLike>;
      const shape = wholeList(given);
      if (shape && (isList(data) || isNumeric(data))) {
        const size = shape.reduce((n, one) => n * one, 1);
        if (data.length !== size) {
          throw new ShapeError(`${name}: ${data.length} values do not fill ${shapeText(shape)}`);
        }
        return hosted(floats(name, data), shape);
      }
    }
  } catch (cause) {
    if (cause instanceof OctavoError) throw cause;
    throw new ShapeError(`${name} cannot be read`, { cause });
  }
  throw new ShapeError(`${name} must be nested arrays of numbers, { data, shape } or a Tensor, got ${show(value)}`);
}

/** Features that are on the host. */
export function hosted(values: Float32Array, shape: readonly number[]): FeatureBatch {
  return { shape, on: (device) => Tensor.from(device, values, shape), values: async () => values };
}

/** Appends the numbers of nested lists; `shape` gets the lengths that the first list of each depth has. */
function gather(name: string, list: unknown, rank: number, depth: number, shape: number[], values: number[]): void {
  const numeric = isNumeric(list);
  if (depth === rank || !(isList(list) || numeric)) throw new ShapeError(`${name} is nested irregularly`);
  const { length } = list;
  shape[depth] ??= length;
  if (length !== shape[depth]) {
    throw new ShapeError(`${name}: lists of ${shape[depth]} and of ${length} entries at depth ${depth + 1}`);
  }
  if (length > MOST) throw new ShapeError(`${name} holds too many numbers`);
  if (numeric || typeof list[0] === "number") {
    if (shape.length > depth + 1) throw new ShapeError(`${name} is nested irregularly`);
    for (const one of floats(name, list)) values.push(one);
    return;
  }
  for (let i = 0; i < length; i++) gather(name, list[i], rank, depth + 1, shape, values);
}

/** Stops at the first hole or value that is no number: a list may claim any length. */
function floats(name: string, list: ArrayLike<unknown>): Float32Array {
  if (isNumeric(list)) return Float32Array.from(list as ArrayLike<number>);
  const values: number[] = [];
  for (let i = 0; i < list.length; i++) {
    const value = list[i];
    if (typeof value !== "number") throw new ShapeError(`${name} holds ${show(value)}, which is no number`);
    values.push(value);
  }
  return Float32Array.from(values);
}

/** A typed array of numbers. */
function isNumeric(value: unknown): value is ArrayLike<number> {
  if (!ArrayBuffer.isView(value) || value instanceof DataView) return false;
  return !(value instanceof BigInt64Array || value instanceof BigUint64Array);
}
