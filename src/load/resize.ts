// A vocabulary of another size: the table of input ids, the output embeddings and their biases get more rows or fewer. New rows are drawn
// as in transformers: around the mean of the others, so that a causal model gives what it gave before (Hewitt 2021, "Initializing new
// word embeddings for pretrained language models").

import type { Device } from "../core/device.js";
import { OctavoError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { normal } from "../nn/init.js";
import type { Model, Vocabulary } from "../nn/model.js";
import type { Matrix, Parameter } from "../nn/module.js";
import type { FloatDType, Weight } from "../nn/weight.js";
import { add } from "../ops/add.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { filled, fillInto } from "../ops/fill.js";
import { linear, linearBack } from "../ops/linear.js";
import { scale } from "../ops/scale.js";

/** Factor on the covariance of the old rows; transformers' number. */
const SPREAD = 1e-9;
/** New rows that are drawn at once: each needs a number for every old row. */
const AT_ONCE = 64;

export interface ResizeOptions {
  /** New rows are drawn around the mean of the old ones; else around zero. */
  readonly mean: boolean;
  /** Standard deviation of those around zero. */
  readonly deviation: number;
}

/**
 * Gives a model `tokens` tokens. Rows that stay keep their values; nothing changes if it throws.
 * @throws OctavoError for matrices that are codes or have adapters; OutOfMemoryError
 */
export function resizeVocabulary(model: Model, vocabulary: Vocabulary, tokens: number, options: ResizeOptions): void {
  const { words, geometry, offsets } = vocabulary;
  const head = model.output_embeddings();
  const matrices = new Set([words.weight, ...(head ? [head.weight] : [])]);
  for (const matrix of matrices) checkFloats(matrix);
  const made: { fill(): void; dispose(): void }[] = [];
  try {
    for (const matrix of matrices) {
      const weight = resized(matrix, tokens, options);
      made.push({ fill: () => matrix.resize(weight), dispose: () => weight.dispose() });
    }
    const bias = head?.bias;
    for (const vector of new Set([bias, offsets])) {
      if (!vector?.filled) continue;
      const value = scope(() => longer(vector, tokens, vector === bias && options.mean)).keep();
      made.push({ fill: () => vector.resize(value), dispose: () => value.dispose() });
    }
  } catch (error) {
    for (const one of made) one.dispose();
    throw error;
  }
  for (const one of made) one.fill();
  Object.assign(geometry, { vocab: tokens });
}

/** @throws OctavoError */
function checkFloats({ inner, weight }: Matrix): void {
  if (inner === weight && weight.scheme === "dense") return;
  const adapted = inner !== weight;
  throw new OctavoError(
    "ERR_UNSUPPORTED",
    `resize_token_embeddings: the embeddings ${adapted ? "have an adapter" : `are stored as ${weight.scheme}`}`,
    { hint: adapted ? "merge_and_unload() first" : "dequantize() first, or load the model without head_dtype" },
  );
}

function resized(matrix: Matrix, tokens: number, options: ResizeOptions): Weight {
  const { weight } = matrix;
  const [old, width] = matrix.shape;
  const { device } = weight.tensors[0]!;
  const dtype = weight.tensors[0]!.dtype as FloatDType;
  const builder = weight.alike!.begin(device, [tokens, width], "embeddings"); // floats are always alike
  try {
    scope(() => {
      const rows = Tensor.empty(device, [tokens, width], dtype, "embeddings");
      const kept = Math.min(old, tokens);
      const before = weight.dense(dtype);
      copyInto(before.narrow(0, 0, kept), rows.narrow(0, 0, kept));
      const draw = tokens > old ? drawing(before, options) : undefined;
      for (let at = old; at < tokens; at += AT_ONCE) {
        const count = Math.min(AT_ONCE, tokens - at);
        scope(() => copyInto(contiguous(draw!(count), dtype), rows.narrow(0, at, count)));
      }
      builder.put(rows, 0);
    });
    return builder.finish();
  } catch (error) {
    builder[Symbol.dispose]();
    throw error;
  }
}

/** Draws a number of new rows, f32, beside the rows of `old`; what is the same for all of them is computed once. */
function drawing(old: Tensor, { mean, deviation }: ResizeOptions): (count: number) => Tensor {
  const { device } = old;
  const [rows = 0, width = 0] = old.shape;
  if (!mean) return (count) => normal([count, width], deviation).tensor(device);
  const middle = contiguous(linearBack(filled(device, [1, rows], 1 / rows), old).permute(1, 0)); // [width,1]
  const means = (count: number): Tensor => linear(filled(device, [count, 1], 1), middle);
  // With fewer rows than columns the covariance is singular, and transformers takes the mean alone.
  if (rows <= width) return means;
  const ones = filled(device, [1, rows], 1);
  // z (W - mean) has the covariance of the rows, times their number.
  return (count) => {
    const z = normal([count, rows], Math.sqrt(SPREAD / rows)).tensor(device);
    const sums = linear(z, ones); // [count,1]
    return add(add(means(count), linearBack(z, old)), scale(linear(sums, middle), -1));
  };
}

/** A vector [vocab] or [1,vocab] with more numbers, which are the mean of the others or 0, or with fewer. */
function longer(vector: Parameter, tokens: number, mean: boolean): Tensor {
  const before = vector.own ?? vector.value;
  const old = before.shape.at(-1)!;
  const kept = Math.min(old, tokens);
  const dtype = before.dtype as FloatDType;
  const after = Tensor.empty(before.device, [...before.shape.slice(0, -1), tokens], dtype, "bias");
  const last = before.shape.length - 1;
  copyInto(before.narrow(last, 0, kept), after.narrow(last, 0, kept));
  if (tokens > old) {
    const added = after.narrow(last, old, tokens - old);
    if (mean) copyInto(contiguous(meanOf(before, tokens - old).view(...added.shape), dtype), added);
    else fillInto(added, 0);
  }
  return after;
}

function meanOf(vector: Tensor, count: number): Tensor {
  const { device, size } = vector;
  const mean = linear(contiguous(vector, "f32").view(1, size), filled(device as Device, [1, size], 1 / size));
  return linear(filled(device, [count, 1], 1), mean);
}
