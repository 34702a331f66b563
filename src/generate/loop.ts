// generate() as a loop over the steps of one decode session: a batch of prompts in, steps of one token per row out, whether
// rows get tokens singly or several at once from a drafter.

import type { Device } from "../core/device.js";
import { OptionError, throwIfAborted } from "../core/errors.js";
import type { CacheDType, CrossCache } from "../nn/cache.js";
import type { Decoder } from "../nn/decoder.js";
import type { AttentionChoice } from "../nn/pass.js";
import { type GenerationConfig, rowsPerPrompt } from "./config.js";
import type { Drafter } from "./drafters/drafter.js";
import type { Ends } from "./ending.js";
import { type Batch, promptsOf } from "./inputs.js";
import { type PromptProgress, promptProgress } from "./prefill.js";
import type { HostProcessor } from "./processors/host-processor.js";
import type { TokenMasks } from "./processors/masked.js";
import type { FinishReason, RowToken } from "./sequence.js";
import { DecodeSession } from "./session.js";
import type { Streamer } from "./streamers.js";

export interface LoopOptions {
  readonly config: GenerationConfig;
  readonly cache_dtype: CacheDType;
  /** What ends texts beside their length and the ids that end them. */
  readonly ends?: Ends | undefined;
  readonly signal?: AbortSignal;
  readonly processors?: readonly HostProcessor[];
  /** Which tokens may follow each text. */
  readonly masks?: TokenMasks | undefined;
  /** Guesses at most `drafts` tokens per pass; the caller disposes it. */
  readonly drafter?: Drafter;
  readonly drafts?: number;
  readonly scores?: boolean;
  /** Encoder-decoders: the encoder's output for each row. */
  readonly cross?: CrossCache;
  /** How attention is computed; by default as the model has it. */
  readonly attention?: AttentionChoice | undefined;
  /** Numbers of the prompts, by which their random numbers are drawn; their places by default. */
  readonly numbers?: readonly number[];
  /** Tokens of a chunk of the prompts, for tests. */
  readonly chunk?: number;
  /** Called while the prompts are read. */
  readonly progress?: (event: PromptProgress) => void;
}

/** One step's tokens on the host. */
export interface Step {
  /** One id per row; the padding id for finished rows. */
  readonly token_ids: readonly number[];
  /** Which rows have ended, this step included. */
  readonly finished: readonly boolean[];
  /**
   * Why each row has ended: a token of `eos_token_id` ("eos"), `max_new_tokens` ("length"), a stop string or a criterion ("stop"),
   * `max_time` ("time"); undefined while it continues.
   */
  readonly finish_reasons: readonly (FinishReason | undefined)[];
  /**
   * Log-probability of each row's token among all tokens, after penalties and before temperature; NaN for finished rows.
   * Absent unless requested.
   */
  readonly scores?: readonly number[];
  /** True if a drafter guessed all tokens of the step: it needed no pass over the weights. */
  readonly guessed?: boolean;
}

/**
 * Generates until every row has ended or has `max_new_tokens`. Each prompt has `num_return_sequences` rows, one after the other,
 * which share what the cache holds of it. Row r of all is sequence r, unless prompts have numbers of their own: its random numbers
 * depend on the seed, r and the step.
 * @throws AbortError when the signal fires; KernelError, OutOfMemoryError
 */
export async function* generateSteps(
  device: Device,
  model: Decoder,
  batch: Batch,
  options: LoopOptions,
): AsyncGenerator<Step> {
  const { config, signal, drafter, chunk, progress } = options;
  const stop = (): void => throwIfAborted(signal, "generation");
  stop();
  const prompts = promptsOf(batch);
  const total = prompts.reduce((sum, { length }) => sum + length, 0);
  const longest = prompts.reduce((most, { length }) => Math.max(most, length), 0);
  const { cache_dtype, processors, masks, scores, cross, ends, attention } = options;
  const copies = rowsPerPrompt(config.beams);
  const shape = { rows: batch.rows * copies, capacity: longest + config.max_new_tokens };
  const held = { cache_dtype, processors, masks, scores, cross, attention };
  using session = new DecodeSession(device, model, { ...shape, ...held });
  const request = { ...config, ends };
  const sequenceOf = (row: number): number => {
    const item = Math.floor(row / copies);
    return (options.numbers?.[item] ?? item) * copies + (row % copies);
  };
  const requests = prompts.map((prompt, item) => {
    const row = item * copies;
    return { row, prompt, config: request, sequence: sequenceOf(row) };
  });
  const ran = (tokens: number): void => progress?.(promptProgress("progress", tokens, total));
  progress?.(promptProgress("initiate", 0, total));
  const prefill = { signal, chunk, ran };
  await (drafter ? session.addForDrafts(requests, prefill) : session.add(requests, prefill));
  for (let row = 0; row < shape.rows; row++) {
    if (row % copies > 0) session.fork(row - (row % copies), row, request, sequenceOf(row));
  }
  let reading = true;
  const columns = new Columns(shape.rows, config.pad_token_id, scores ?? false);
  const passes = drafter ? drafted(session, drafter, options.drafts ?? 0) : stepped(session);
  for await (const tokens of passes) {
    stop();
    if (reading) progress?.(promptProgress("done", total, total));
    reading = false;
    columns.add(tokens);
    for (let step = columns.next(); step; step = columns.next()) {
      yield step;
      if (columns.done) return; // a step in flight is dropped
      stop();
    }
  }
}

/** The tokens of each step; the next step starts before this one is read. */
export async function* stepped(session: DecodeSession): AsyncGenerator<RowToken[]> {
  for (let step = session.step(); step; ) {
    step.catch(() => {}); // awaited below; avoids an unhandled rejection if step() throws first
    const ahead = session.pipelined ? session.step() : undefined;
    ahead?.catch(() => {});
    const tokens = await step;
    if (tokens.length > 0) yield tokens;
    step = ahead ?? session.step();
  }
}

/** The tokens of each pass over drafts. */
async function* drafted(session: DecodeSession, drafter: Drafter, drafts: number): AsyncGenerator<RowToken[]> {
  while (session.sequences.some(Boolean)) {
    const texts = session.sequences.map((sequence) => sequence?.ids);
    const most = session.sequences.map((sequence) => {
      if (!sequence) return 0;
      const { ids, prompt, config } = sequence;
      return Math.min(drafts, config.max_new_tokens - (ids.length - prompt) - 1);
    });
    const proposed = await drafter.propose(texts, most);
    yield await session.verify(texts.map((text, row) => (text ? (proposed[row] ?? []).slice(0, most[row]) : [])));
  }
}

/** Aligns rows that get tokens at different rates: a step has one token of each unfinished row. */
class Columns {
  readonly #waiting: RowToken[][];
  readonly #reasons: (FinishReason | undefined)[];
  readonly #pad: number;
  readonly #scores: boolean;

  constructor(rows: number, pad: number, scores: boolean) {
    this.#waiting = Array.from({ length: rows }, () => []);
    this.#reasons = new Array<undefined>(rows).fill(undefined);
    this.#pad = pad;
    this.#scores = scores;
  }

  add(tokens: readonly RowToken[]): void {
    for (const token of tokens) this.#waiting[token.row]!.push(token);
  }

  /** True when all rows have ended, and all their tokens were taken. */
  get done(): boolean {
    return this.#reasons.every(Boolean);
  }

  /** The next step, if each unfinished row has a token for it. */
  next(): Step | undefined {
    if (this.done) return undefined;
    if (this.#waiting.some(({ length }, row) => length === 0 && !this.#reasons[row])) return undefined;
    const tokens = this.#waiting.map((row) => row.shift());
    tokens.forEach((token, row) => {
      this.#reasons[row] ??= token?.finish_reason;
    });
    return {
      token_ids: tokens.map((token) => token?.id ?? this.#pad),
      finished: this.#reasons.map((reason) => reason !== undefined),
      finish_reasons: [...this.#reasons],
      ...(this.#scores ? { scores: tokens.map((token) => token?.score ?? Number.NaN) } : {}),
      guessed: tokens.every((token) => token?.guessed ?? true),
    };
  }
}

/**
 * Prompts and generated tokens of a batch, [B · copies][T + new], from its steps. A streamer gets the prompt and then each token.
 * @throws OptionError for a streamer and more than one row
 */
export async function collect(
  batch: Batch,
  copies: number,
  steps: () => AsyncGenerator<Step>,
  streamer: Streamer | undefined,
): Promise<number[][]> {
  if (streamer && batch.rows * copies > 1) throw new OptionError("a streamer takes one row; use stream() for batches");
  const rows = Array.from({ length: batch.rows * copies }, (_, r) => {
    const item = Math.floor(r / copies);
    return [...batch.ids.subarray(item * batch.steps, (item + 1) * batch.steps)];
  });
  try {
    streamer?.put(rows[0]!);
    for await (const { token_ids } of steps()) {
      token_ids.forEach((id, r) => {
        rows[r]!.push(id);
      });
      streamer?.put([token_ids[0]!]);
    }
  } finally {
    streamer?.end();
  }
  return rows;
}
