// Generation by an encoder-decoder: the encoder runs once, its keys and values go into a cache that the decoder's rows read,
// and the decode session then works as for any decoder.

import type { Device } from "../core/device.js";
import { throwIfAborted } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { CrossCache } from "../nn/cache.js";
import type { Pass, PassOptions } from "../nn/pass.js";
import { layerDevices } from "../nn/placement.js";
import type { Seq2SeqLM } from "../nn/seq2seq.js";
import { taping } from "../ops/tape.js";
import type { FeatureBatch } from "./features.js";
import { type Batch, promptsOf } from "./inputs.js";
import type { LoopOptions, Step } from "./loop.js";
import { rowsOf } from "./mode-options.js";
import { stepsOf } from "./steps.js";

/** What an encoder reads: texts, or features of sound. */
export type EncoderInput = Batch | FeatureBatch;

/** Rows of a batch, and positions of each in the encoder's output. */
export function encodedShape(model: Seq2SeqLM, input: EncoderInput): { rows: number; steps: number } {
  return "ids" in input ? input : { rows: input.shape[0]!, steps: model.encoder_positions! };
}

/** Positions i32[rows * steps]: columns, or how many tokens that are no padding stand before each. */
function placesOf(rows: number, steps: number, ids: Int32Array | undefined, padding: number | undefined): Int32Array {
  const places = Int32Array.from({ length: rows * steps }, (_, at) => at % steps);
  if (!ids || padding === undefined) return places;
  for (let at = 0, count = 0; at < places.length; at++) {
    if (at % steps === 0) count = 0;
    places[at] = ids[at] === padding ? 0 : count++; // nothing reads what is padding
  }
  return places;
}

/** Records the encoder: its pass, which the caller disposes, its output, and the mask of that. */
export function encodeBatch(
  device: Device,
  model: Seq2SeqLM,
  input: EncoderInput,
  options?: PassOptions,
): { pass: Pass; hidden: Tensor; mask: Tensor | undefined } {
  const text = "ids" in input ? input : undefined;
  const { rows, steps } = encodedShape(model, input);
  const places = placesOf(rows, steps, text?.ids, model.padding_idx);
  const mask = text?.mask && Tensor.from(device, text.mask, [rows, steps], "u8");
  const given = text ? Tensor.from(device, text.ids, [rows, steps]) : (input as FeatureBatch).on(device);
  const pass = model.pass({ positions: Tensor.from(device, places, [rows, steps]), mask }, options);
  try {
    return { pass, hidden: model.encode(pass, given), mask };
  } catch (error) {
    pass.dispose();
    throw error;
  }
}

/** A batch of texts without what is padding in all of them, on the right. */
function packed(batch: Batch): Batch & { lengths: readonly number[] } {
  const texts = promptsOf(batch);
  const lengths = texts.map(({ length }) => length);
  const steps = Math.max(...lengths);
  const rows = texts.length;
  const ids = new Int32Array(rows * steps);
  const mask = new Uint8Array(rows * steps);
  for (const [row, text] of texts.entries()) {
    ids.set(text, row * steps);
    mask.fill(1, row * steps, row * steps + text.length);
  }
  return { rows, steps, ids, mask: mask.includes(0) ? mask : undefined, lengths };
}

/** Records the encoder alone: its output f32[B,S,hidden], which the caller disposes. */
export function encoded(
  device: Device,
  model: Seq2SeqLM,
  input: EncoderInput,
  attention: LoopOptions["attention"],
): Tensor {
  return taping(undefined, () =>
    scope(() => {
      const { pass, hidden } = encodeBatch(device, model, input, attention && { attention });
      using _ = pass;
      return hidden;
    }),
  );
}

/**
 * Keys and values of the encoder's output for every row of a batch, without padding. The caller disposes the cache.
 * @param beams rows of the decoder that read the same text
 * @param attention how it is computed; by default as the model has it
 * @throws OutOfMemoryError
 */
export function encodeInto(
  device: Device,
  model: Seq2SeqLM,
  batch: EncoderInput,
  cache_dtype: LoopOptions["cache_dtype"],
  beams = 1,
  attention?: LoopOptions["attention"],
): CrossCache {
  const text = "ids" in batch ? packed(batch) : undefined;
  const { rows, steps } = text ?? encodedShape(model, batch);
  const lengths = text?.lengths ?? new Array<number>(rows).fill(steps);
  return crossCache(device, model, { lengths, steps, beams, cache_dtype }, (cross) => {
    const { pass, hidden } = encodeBatch(device, model, text ?? batch, attention && { attention });
    using _ = pass;
    model.writeCross(hidden, cross);
  });
}

/** The same for an output of the encoder, `hidden` f32[B,S,hidden], all of whose positions count. */
export function crossOf(
  device: Device,
  model: Seq2SeqLM,
  hidden: Tensor,
  cache_dtype: LoopOptions["cache_dtype"],
  beams: number,
): CrossCache {
  const [rows = 0, steps = 0] = hidden.shape;
  const lengths = new Array<number>(rows).fill(steps);
  return crossCache(device, model, { lengths, steps, beams, cache_dtype }, (cross) => model.writeCross(hidden, cross));
}

interface CrossRows {
  /** Positions of each row that count, of `steps`. */
  readonly lengths: readonly number[];
  readonly steps: number;
  readonly beams: number;
  readonly cache_dtype: LoopOptions["cache_dtype"];
}

/** @param write records keys and values into the cache */
function crossCache(
  device: Device,
  model: Seq2SeqLM,
  { lengths, steps, beams, cache_dtype }: CrossRows,
  write: (cross: CrossCache) => void,
): CrossCache {
  const rows = lengths.length * beams;
  const where = layerDevices(model, device);
  const cross = new CrossCache(where, { layers: model.cross_layers, rows, capacity: steps, dtype: cache_dtype });
  try {
    cross.begin(
      lengths.map((_, item) => item * beams),
      lengths,
      steps,
    );
    taping(undefined, () =>
      scope(() => {
        write(cross);
        return undefined;
      }),
    );
    if (beams > 1) cross.reorder(Array.from({ length: rows }, (_, row) => row - (row % beams)));
    return cross;
  } catch (error) {
    cross.dispose();
    throw error;
  }
}

/**
 * Generates after the decoder's prompts, one for each text of the encoder's batch, until every row has ended.
 * @throws as `generateSteps`
 */
export async function* seq2seqSteps(
  device: Device,
  model: Seq2SeqLM,
  encoder: EncoderInput,
  decoder: Batch,
  options: LoopOptions,
): AsyncGenerator<Step> {
  throwIfAborted(options.signal, "generation");
  const rows = rowsOf(options.config);
  using cross = encodeInto(device, model, encoder, options.cache_dtype, rows, options.attention);
  yield* stepsOf(device, model, decoder, { ...options, cross });
}
