// Generation by an encoder-decoder: the encoder runs once, its keys and values go into a cache that the decoder's rows read,
// and the decode session then works as for any decoder.

import type { Device } from "../core/device.js";
import { throwIfAborted } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { CrossCache } from "../nn/cache.js";
import type { Seq2SeqLM } from "../nn/seq2seq.js";
import { type Batch, promptsOf } from "./inputs.js";
import { generateSteps, type LoopOptions, type Step } from "./loop.js";

/**
 * Keys and values of the encoder's output for every text of a batch, without padding. The caller disposes the cache.
 * @throws OutOfMemoryError
 */
export function encodeInto(
  device: Device,
  model: Seq2SeqLM,
  batch: Batch,
  cache_dtype: LoopOptions["cache_dtype"],
): CrossCache {
  const texts = promptsOf(batch);
  const lengths = texts.map(({ length }) => length);
  const steps = Math.max(...lengths);
  const rows = texts.length;
  const cross = new CrossCache(device, { layers: model.cross_layers, rows, capacity: steps, dtype: cache_dtype });
  try {
    const shape = [rows, steps];
    const ids = new Int32Array(rows * steps);
    const mask = new Uint8Array(rows * steps);
    for (const [row, text] of texts.entries()) {
      ids.set(text, row * steps);
      mask.fill(1, row * steps, row * steps + text.length);
    }
    cross.begin([...texts.keys()], lengths, steps);
    scope(() => {
      const positions = Tensor.from(
        device,
        ids.map((_, at) => at % steps),
        shape,
      );
      const padded = mask.includes(0) ? Tensor.from(device, mask, shape, "u8") : undefined;
      using pass = model.pass({ positions, mask: padded });
      model.writeCross(model.encode(pass, Tensor.from(device, ids, shape)), cross);
      return undefined;
    });
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
  encoder: Batch,
  decoder: Batch,
  options: LoopOptions,
): AsyncGenerator<Step> {
  throwIfAborted(options.signal, "generation");
  using cross = encodeInto(device, model, encoder, options.cache_dtype);
  yield* generateSteps(device, model, decoder, { ...options, cross });
}
