// Feeds texts into forward passes chunk by chunk: so a signal is noticed during a long prompt, the event loop gets its turn
// on synchronous devices, and the scratch memory of a pass is bounded by the chunk.

import type { Device } from "../core/device.js";
import { throwIfAborted } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import { turn } from "../core/turns.js";
import { type Batch, lanesOf } from "./inputs.js";

/**
 * Tokens of one chunk, all rows together. Products reach full speed at 512 rows (one read of a matrix serves them all), and a
 * chunk of a model of 1B parameters takes well under a second on two cores.
 */
const CHUNK_TOKENS = 512;
/** Fewest steps of a chunk of a rectangular batch, however many rows there are. */
const LEAST_STEPS = 16;

/**
 * Bytes of free blocks that stay on the device after a prompt, for the next one: the scratch of a chunk of a model of 1B
 * parameters, so a series of short prompts never allocates.
 */
const KEEP_IDLE = 96 << 20;

/** Columns `at` .. `at + steps` of a batch. */
export interface Chunk {
  readonly at: number;
  readonly steps: number;
  /** [B,steps] */
  readonly ids: Int32Array;
  readonly positions: Int32Array;
  /** [2,B,steps] */
  readonly lanes: Int32Array;
  /** Tokens of each row without padding. */
  readonly counts: readonly number[];
}

/** The chunks of a batch, in order, of at most `most` steps each. */
export function chunksOf(
  batch: Batch,
  positions: Int32Array,
  most: number = Math.max(LEAST_STEPS, Math.floor(CHUNK_TOKENS / batch.rows)),
): Chunk[] {
  const { rows, steps } = batch;
  const places = lanesOf(batch);
  const [owners, offsets] = [places.subarray(0, rows * steps), places.subarray(rows * steps)];
  const chunks: Chunk[] = [];
  for (let at = 0; at < steps; at += most) {
    const count = Math.min(most, steps - at);
    const cut = (values: Int32Array): Int32Array => {
      const part = new Int32Array(rows * count);
      for (let r = 0; r < rows; r++) part.set(values.subarray(r * steps + at, r * steps + at + count), r * count);
      return part;
    };
    const lanes = new Int32Array(2 * rows * count);
    lanes.set(cut(owners));
    lanes.set(cut(offsets), rows * count);
    const counts = Array.from({ length: rows }, (_, r) =>
      lanes.subarray(r * count, (r + 1) * count).reduce((n, row) => n + (row < 0 ? 0 : 1), 0),
    );
    chunks.push({ at, steps: count, ids: cut(batch.ids), positions: cut(positions), lanes, counts });
  }
  return chunks;
}

/** Tokens for a row's cache, from position `from` on. */
export interface RowText {
  readonly row: number;
  readonly ids: readonly number[];
  readonly from: number;
}

/** N tokens of several rows, one after the other. */
export interface FlatChunk {
  /** [N] */
  readonly ids: Int32Array;
  /** [2,N]: the row of each token, then its position in that row. */
  readonly lanes: Int32Array;
  /** Tokens of each row. */
  readonly counts: ReadonlyMap<number, number>;
  /** Texts that end in this chunk, by number, with the lane of their last token. */
  readonly ends: readonly (readonly [text: number, lane: number])[];
}

/** The tokens of all texts, one text after the other, cut into chunks of at most `most` tokens. */
export function flatChunks(texts: readonly RowText[], most: number = CHUNK_TOKENS): FlatChunk[] {
  const flat = texts.flatMap(({ row, ids, from }, text) =>
    ids.map((id, i) => ({ id, row, position: from + i, text, last: i === ids.length - 1 })),
  );
  const chunks: FlatChunk[] = [];
  for (let at = 0; at < flat.length; at += most) {
    const tokens = flat.slice(at, at + most);
    const counts = new Map<number, number>();
    for (const { row } of tokens) counts.set(row, (counts.get(row) ?? 0) + 1);
    chunks.push({
      ids: Int32Array.from(tokens, ({ id }) => id),
      lanes: Int32Array.from([...tokens.map(({ row }) => row), ...tokens.map(({ position }) => position)]),
      counts,
      ends: tokens.flatMap(({ text, last }, lane) => (last ? [[text, lane] as const] : [])),
    });
  }
  return chunks;
}

/** Progress of a prompt, in the manner of a load's: tokens of all rows. */
export interface PromptProgress {
  /**
   * "initiate" before the first chunk, "progress" after each chunk that has run while others follow, "done" with the first
   * new tokens.
   */
  readonly status: "initiate" | "progress" | "done";
  /** Tokens read, and tokens to read. */
  readonly loaded: number;
  readonly total: number;
  /** Percent. */
  readonly progress: number;
}

/** Tells how far the prompts of all rows are. */
export function promptProgress(status: PromptProgress["status"], loaded: number, total: number): PromptProgress {
  return { status, loaded, total, progress: (100 * loaded) / (total || 1) };
}

/**
 * Records the chunks, each by `record`, which returns a tensor that is ready when the chunk has run. The next chunk is
 * recorded while one runs, but no more. `ran` gets the tokens of all chunks that are known to have run; it asks nothing of the
 * device.
 * @throws AbortError when the chunk that runs as the signal fires has ended; KernelError, OutOfMemoryError
 */
export async function runChunks(
  chunks: readonly FlatChunk[],
  record: (chunk: FlatChunk) => Tensor,
  signal: AbortSignal | undefined,
  ran?: (tokens: number) => void,
): Promise<void> {
  let tokens = 0;
  let running: Tensor | undefined;
  let device: Device | undefined;
  try {
    for (const [n, chunk] of chunks.entries()) {
      throwIfAborted(signal, "generation");
      const before = running;
      running = undefined;
      try {
        running = record(chunk).keep();
        device = running.device;
        device.flush();
        if (before) {
          await before.ready();
          tokens += chunks[n - 1]!.ids.length;
          ran?.(tokens);
        }
      } finally {
        before?.dispose();
      }
      if (n + 1 < chunks.length) await turn(); // a synchronous device would never let the event loop turn
    }
    throwIfAborted(signal, "generation");
  } finally {
    running?.dispose();
    device?.arena.trim(KEEP_IDLE);
  }
}
