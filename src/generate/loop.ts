// generate() as a loop over the steps of one decode session: a batch of prompts in, steps of one token per row out, whether
// rows get tokens singly or several at once from a drafter.

import type { RowAdapters } from "../adapters/rows.js";
import type { Device } from "../core/device.js";
import { OptionError, throwIfAborted } from "../core/errors.js";
import { type CacheDType, CHUNK, type CrossCache } from "../nn/cache.js";
import type { Decoder } from "../nn/decoder.js";
import type { AttentionChoice } from "../nn/pass.js";
import { rowsPerPrompt } from "./beam-config.js";
import { type GenerationConfig, GREEDY } from "./config.js";
import type { Drafter } from "./drafters/drafter.js";
import type { Ends } from "./ending.js";
import { type Batch, promptsOf } from "./inputs.js";
import { type PromptProgress, promptProgress } from "./prefill.js";
import type { TextEdits } from "./processors/edited.js";
import type { HostProcessor } from "./processors/host-processor.js";
import type { TokenMasks } from "./processors/masked.js";
import type { FinishReason, RequestConfig, RowToken } from "./sequence.js";
import { DecodeSession } from "./session.js";
import type { HeldTexts } from "./session-options.js";
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
  /** What each text changes in the scores of single tokens. */
  readonly edits?: TextEdits | undefined;
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
  /** With guidance: the text in place of each prompt where there is no condition. */
  readonly unconditional?: readonly (readonly number[])[] | undefined;
  /** The adapters of the session's rows, where they have adapters of their own. */
  readonly adapters?: RowAdapters | undefined;
  /** The caller's cache, whose texts the prompts go on from. */
  readonly held?: HeldTexts | undefined;
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
  const { cache_dtype, processors, masks, edits, scores, cross, ends, attention, held, unconditional = [] } = options;
  const texts = [...prompts, ...unconditional];
  const total = texts.reduce((sum, { length }) => sum + length, 0);
  const longest = texts.reduce((most, { length }) => Math.max(most, length), 0);
  const copies = rowsPerPrompt(config.beams);
  const rows = batch.rows * copies;
  const guided = unconditional.length > 0;
  const capacity = held?.cache.capacity ?? longest + config.max_new_tokens;
  const shape = { rows: texts.length * copies, capacity };
  using session = new DecodeSession(device, model, {
    ...shape,
    cache_dtype,
    processors,
    masks,
    edits,
    scores,
    cross,
    attention,
    guided,
    held,
    adapters: options.adapters,
  });
  const request = { ...config, ends };
  const sequenceOf = (row: number): number => {
    const item = Math.floor(row / copies);
    return (options.numbers?.[item] ?? item) * copies + (row % copies);
  };
  // What goes beside a guided text never ends by itself.
  const beside = { ...GREEDY, max_new_tokens: config.max_new_tokens, eos_token_ids: [] };
  const configOf = (row: number): RequestConfig => (row < rows ? request : beside);
  const requests = texts.map((prompt, item) => {
    const row = item * copies;
    return { row, prompt, config: configOf(row), sequence: sequenceOf(row) };
  });
  const ran = (tokens: number): void => progress?.(promptProgress("progress", tokens, total));
  progress?.(promptProgress("initiate", 0, total));
  const prefill = { signal, chunk, ran };
  if (held) await (drafter ? session.resumeForDrafts(requests, prefill) : session.resume(requests, prefill));
  else await (drafter ? session.addForDrafts(requests, prefill) : session.add(requests, prefill));
  for (let row = 0; row < shape.rows; row++) {
    if (row % copies > 0) session.fork(row - (row % copies), row, configOf(row), sequenceOf(row));
  }
  let reading = true;
  const columns = new Columns(rows, config.pad_token_id, scores ?? false);
  const passes = drafter ? drafted(session, drafter, options) : stepped(session);
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
async function* stepped(session: DecodeSession): AsyncGenerator<RowToken[]> {
  for (let step = session.step(); step; ) {
    step.catch(() => {}); // awaited below; avoids an unhandled rejection if step() throws first
    const ahead = session.step();
    ahead?.catch(() => {});
    const tokens = await step;
    if (tokens.length > 0) yield tokens;
    step = ahead ?? session.step();
  }
}

/** The tokens of each pass over drafts. Rows whose drafts were all right may get longer ones, others shorter ones. */
async function* drafted(
  session: DecodeSession,
  drafter: Drafter,
  { drafts = 0, config }: LoopOptions,
): AsyncGenerator<RowToken[]> {
  const counts = session.sequences.map(() => drafts);
  const adapts = config.num_assistant_tokens_schedule !== "constant" && config.prompt_lookup_num_tokens === 0;
  for (;;) {
    const running = session.sequences.map((sequence) => (sequence?.ended ? undefined : sequence));
    if (!running.some(Boolean)) return;
    const texts = running.map((sequence) => sequence?.ids);
    const most = running.map((sequence, row) => {
      if (!sequence) return 0;
      const { ids, prompt, config } = sequence;
      // One pass reads them, and the last certain token.
      return Math.min(counts[row]!, CHUNK - 1, config.max_new_tokens - (ids.length - prompt) - 1);
    });
    const draws = running.map((own) =>
      own?.config.do_sample
        ? { config: own.config, sequence: own.sequence, drawn: own.ids.length - own.prompt }
        : undefined,
    );
    const proposed = await drafter.propose(texts, most, draws);
    const guesses = texts.map((text, row) => (text ? (proposed[row] ?? []).slice(0, most[row]) : []));
    const tokens = await session.verify(guesses);
    for (const [row, own] of guesses.entries()) {
      if (!adapts || own.length === 0) continue;
      const right = tokens.filter((token) => token.row === row).length > own.length;
      counts[row] = right ? counts[row]! + 2 : Math.max(1, counts[row]! - 1);
    }
    yield tokens;
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
