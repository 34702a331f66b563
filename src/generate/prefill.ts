// A prompt on its way into a cache, a piece at a time: so that a signal is noticed while a long one runs, the event loop
// gets its turn on devices that run at once, and what a forward pass needs in between is bounded by the piece.

import type { Device } from "../core/device.js";
import { throwIfAborted } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import type { KVCache } from "../nn/cache.js";
import type { CausalLM } from "../nn/decoder.js";
import { type Batch, positionsOf } from "./inputs.js";

/**
 * Tokens of one piece, all rows together. From 512 rows on products run as fast as they ever do (a matrix that is read once
 * serves them all), and a piece of a model of 1B parameters takes well under a second of two cores.
 */
const PIECE_TOKENS = 512;
/** Steps of a piece at least, however many rows there are. */
const LEAST_STEPS = 16;

/** Columns `at` .. `at + steps` of a batch. */
export interface Piece {
  readonly at: number;
  readonly steps: number;
  /** [B,steps] */
  readonly ids: Int32Array;
  readonly positions: Int32Array;
}

/** The pieces of a batch, in order; `most` steps each. */
export function piecesOf(
  batch: Batch,
  positions: Int32Array,
  most: number = Math.max(LEAST_STEPS, Math.floor(PIECE_TOKENS / batch.rows)),
): Piece[] {
  const { rows, steps } = batch;
  const pieces: Piece[] = [];
  for (let at = 0; at < steps; at += most) {
    const count = Math.min(most, steps - at);
    const cut = (values: Int32Array): Int32Array => {
      const part = new Int32Array(rows * count);
      for (let r = 0; r < rows; r++) part.set(values.subarray(r * steps + at, r * steps + at + count), r * count);
      return part;
    };
    pieces.push({ at, steps: count, ids: cut(batch.ids), positions: cut(positions) });
  }
  return pieces;
}

export interface PrefillOptions {
  readonly cache: KVCache;
  /** u8[B,capacity] */
  readonly mask: Tensor | undefined;
  readonly signal?: AbortSignal;
  /** Steps of a piece, for tests. */
  readonly piece?: number;
}

/**
 * Runs all of a prompt but its last piece, whose ids and positions [B,steps] `last` records. The batch must be padded on
 * the left. While a piece runs, the next one is recorded already; no more than that.
 * @throws AbortError when the piece that runs as the signal fires has ended; KernelError, OutOfMemoryError
 */
export async function prefill(
  device: Device,
  model: CausalLM,
  batch: Batch,
  options: PrefillOptions,
  last: (ids: Tensor, positions: Tensor) => void,
): Promise<void> {
  const { cache, mask, signal } = options;
  const pieces = piecesOf(batch, positionsOf(batch), options.piece);
  let running: Tensor | undefined;
  try {
    for (const [n, { steps, ...piece }] of pieces.entries()) {
      throwIfAborted(signal, "generation");
      const shape = [batch.rows, steps];
      const next = scope(() => {
        const ids = Tensor.from(device, piece.ids, shape);
        const positions = Tensor.from(device, piece.positions, shape);
        if (n + 1 < pieces.length) {
          using pass = model.pass({ positions, mask, cache });
          return model.hidden(pass, ids);
        }
        last(ids, positions);
        return undefined;
      });
      const before = running;
      running = next?.keep();
      device.flush();
      if (before) {
        try {
          await before.ready();
        } finally {
          before.dispose();
        }
      }
      if (next) await turn();
    }
    throwIfAborted(signal, "generation");
  } finally {
    running?.dispose();
  }
}

/** Lets the event loop turn once: a device that runs what it is given at once would never let it. */
function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}
