// One window of sound: its text, tried at one temperature after the other until it is good enough, and what is known of it: how
// likely and how repetitive it is, whether anybody speaks, and when each token is said.

import { isWhole, listOf } from "../core/checks.js";
import type { Device } from "../core/device.js";
import { ConfigError, throwIfAborted } from "../core/errors.js";
import { show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import type { CacheDType, CrossCache } from "../nn/cache.js";
import { logits } from "../nn/decoder.js";
import type { AttentionChoice } from "../nn/pass.js";
import type { Seq2SeqLM } from "../nn/seq2seq.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { beamSearch } from "./beams.js";
import type { GenerationConfig } from "./config.js";
import type { EndingOptions, Ends } from "./ending.js";
import type { FeatureBatch } from "./features.js";
import type { Batch } from "./inputs.js";
import { generateSteps } from "./loop.js";
import { softmax } from "./processors/host/base.js";
import { onHost } from "./processors/host/chain.js";
import type { HostProcessor, PrefixAllowedTokens } from "./processors/host-processor.js";
import { type Kept, ScoreRecord } from "./scores.js";
import { crossOf, encoded } from "./seq2seq.js";
import { type HeadWeights, tokenTimes } from "./word-times.js";

/** What every window of a call has in common. */
export interface WindowOptions extends EndingOptions {
  readonly attention: AttentionChoice;
  readonly cache_dtype: CacheDType;
  readonly logits_processor: readonly HostProcessor[];
  readonly prefix_allowed_tokens_fn?: PrefixAllowedTokens | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly ends: () => Ends | undefined;
  readonly compression_ratio_threshold?: number | undefined;
  readonly logprob_threshold?: number | undefined;
  readonly no_speech_threshold?: number | undefined;
  /** [layer, head] of the decoder. */
  readonly alignment_heads?: readonly (readonly [number, number])[] | undefined;
  readonly median_filter_width: number;
  readonly time_precision: number;
  /** The token of silence. */
  readonly silence: number;
}

/** A row of a window. */
export interface WindowRow {
  /** Its number among all rows, by which its random numbers are drawn. */
  readonly number: number;
  /** The decoder's start. */
  readonly prompt: readonly number[];
  /** Where in it the transcript starts, after the text before it. */
  readonly start: number;
  /** Positions of the encoder's output that hold sound. */
  readonly positions: number;
}

export interface WindowText {
  /** Without the token that ends it. */
  readonly tokens: readonly number[];
  /** The temperature of the last try. */
  readonly temperature: number;
  /** Nobody speaks. */
  readonly silent: boolean;
  /** Of each token, seconds from the window's beginning; only with `alignment_heads`, and not of silence. */
  readonly times: readonly number[] | undefined;
}

interface Attempt {
  /** With the token that ends it. */
  readonly ids: readonly number[];
  /** The mean log-probability of a token. */
  readonly logprob: number;
}

/** Keeps no scores, but what the log-probabilities of the tokens that are then chosen need. */
class LogSums extends ScoreRecord {
  readonly #sums = new Map<string, number>();
  readonly #rows = new Map<number, Float32Array>();
  readonly #scale: number;

  /** @param scale the temperature by which scores were divided */
  constructor(scale: number) {
    super(0);
    this.#scale = scale;
  }

  override add(step: number, row: number, scores: Float32Array): void {
    const scaled = scores.map((score) => score * this.#scale);
    const most = scaled.reduce((all, one) => Math.max(all, one), Number.NEGATIVE_INFINITY);
    const sum = most + Math.log(scaled.reduce((all, score) => all + Math.exp(score - most), 0));
    this.#sums.set(`${step},${row}`, sum);
    this.#rows.set(row, scaled);
  }

  /** log of the sum over all tokens. */
  sum(step: number, row: number): number {
    return this.#sums.get(`${step},${row}`)!;
  }

  /** The log-probability of a token of the row's last step. */
  logprob(step: number, row: number, id: number): number {
    return this.#rows.get(row)![id]! - this.sum(step, row);
  }
}

/** Texts of one batch of windows. */
export class Windows {
  readonly #device: Device;
  readonly #model: Seq2SeqLM;
  readonly #options: WindowOptions;

  constructor(device: Device, model: Seq2SeqLM, options: WindowOptions) {
    this.#device = device;
    this.#model = model;
    this.#options = options;
  }

  /** The encoder's output f32[B,S,hidden] for a window of each row, which the caller disposes. */
  encode(features: FeatureBatch): Tensor {
    return encoded(this.#device, this.#model, features, this.#options.attention);
  }

  /**
   * @param hidden f32[B,S,hidden], what `encode` gave for a window of each row
   * @param configs how tokens are chosen in each try
   */
  async texts(rows: readonly WindowRow[], hidden: Tensor, configs: readonly GenerationConfig[]): Promise<WindowText[]> {
    const { no_speech_threshold, alignment_heads, cache_dtype, signal } = this.#options;
    const silence = no_speech_threshold === undefined ? undefined : await this.#silence(rows, hidden);
    const found = new Array<WindowText>(rows.length);
    let cross: CrossCache | undefined;
    let cached = ""; // which rows are in `cross`, for how many beams
    try {
      let left = rows.map((_, n) => n);
      for (const [n, config] of configs.entries()) {
        throwIfAborted(signal, "generation");
        const beams = config.beams.num_beams;
        const key = `${beams}: ${left.join()}`;
        if (key !== cached) {
          cross?.dispose();
          cross = undefined;
          using own = chosen(hidden, left);
          cross = crossOf(this.#device, this.#model, own, cache_dtype, beams);
          cached = key;
        }
        const attempts = await this.#attempt(
          left.map((row) => rows[row]!),
          cross!,
          config,
        );
        const again: number[] = [];
        for (const [i, attempt] of attempts.entries()) {
          const row = left[i]!;
          const quality = await this.#quality(attempt, silence?.[row]);
          if (quality === "bad" && n < configs.length - 1) {
            again.push(row);
            continue;
          }
          const silent = quality === "silent";
          const ends = config.eos_token_ids.includes(attempt.ids.at(-1)!);
          const timed = alignment_heads !== undefined && !silent;
          found[row] = {
            tokens: ends ? attempt.ids.slice(0, -1) : attempt.ids,
            temperature: config.do_sample ? config.temperature : 0,
            silent,
            times: timed ? await this.#times(rows[row]!, attempt.ids, hidden, row) : undefined,
          };
        }
        left = again;
        if (left.length === 0) break;
      }
      return found;
    } finally {
      cross?.dispose();
    }
  }

  async #attempt(rows: readonly WindowRow[], cross: CrossCache, given: GenerationConfig): Promise<Attempt[]> {
    const { logprob_threshold, cache_dtype, ends: start, signal, attention, ...own } = this.#options;
    const sums = logprob_threshold === undefined ? undefined : new LogSums(given.do_sample ? given.temperature : 1);
    const kept: Kept | undefined = sums && { scores: sums, logits: undefined };
    const { config, processors, edits } = onHost(given, { ...own, kept }, []);
    const decoder = batchOf(rows.map(({ prompt }) => prompt));
    const numbers = rows.map(({ number }) => number);
    const ends = start();
    const { beams } = config;
    if (beams.num_beams > 1) {
      const search = { config, beams, cache_dtype, ends, signal, processors, numbers, cross, kept, attention };
      const { texts, scores, rows: from } = await beamSearch(this.#device, this.#model, decoder, search);
      return texts.map((ids, n) => {
        // Scores of beams are sums of what processors left of log-probabilities, which need not be log-probabilities any more.
        const most = scores[n]! * ids.length ** beams.length_penalty;
        const off = sums ? ids.reduce((all, _, step) => all + sums.sum(step, from[n]![step]!), 0) : 0;
        return { ids, logprob: (most - off) / ids.length };
      });
    }
    const texts = rows.map((): { ids: number[]; sum: number } => ({ ids: [], sum: 0 }));
    const done = rows.map(() => false);
    const loop = { config, cache_dtype, ends, signal, processors, edits, numbers, cross, attention };
    for await (const { token_ids, finished } of generateSteps(this.#device, this.#model, decoder, loop)) {
      for (const [row, text] of texts.entries()) {
        if (done[row]) continue;
        const id = token_ids[row]!;
        if (sums) text.sum += sums.logprob(text.ids.length, row, id);
        text.ids.push(id);
        done[row] = finished[row]!;
      }
    }
    return texts.map(({ ids, sum }) => ({ ids, logprob: sum / ids.length }));
  }

  async #quality({ ids, logprob }: Attempt, silence: number | undefined): Promise<"good" | "bad" | "silent"> {
    const { compression_ratio_threshold, logprob_threshold, no_speech_threshold } = this.#options;
    const unlikely = logprob_threshold !== undefined && logprob < logprob_threshold;
    if (unlikely && no_speech_threshold !== undefined && silence! > no_speech_threshold) return "silent";
    if (unlikely) return "bad";
    if (compression_ratio_threshold === undefined) return "good";
    const ratio = await compressionRatio(ids, this.#model.geometry.vocab);
    return ratio > compression_ratio_threshold ? "bad" : "good";
  }

  /** The probability of each row that nobody speaks: that of a token of its own, where the transcript starts. */
  async #silence(rows: readonly WindowRow[], hidden: Tensor): Promise<number[]> {
    const shares: number[] = [];
    for (const [row, { prompt, start }] of rows.entries()) {
      const scores = scope(() => {
        using pass = this.#decoding(hidden, row, start + 1, false);
        const ids = Tensor.from(this.#device, Int32Array.from(prompt.slice(0, start + 1)), [1, start + 1]);
        return logits(this.#model, pass, ids, { logits_to_keep: 1 });
      });
      try {
        shares.push(softmax(await scores.readFloats())[this.#options.silence]!);
      } finally {
        scores.dispose();
      }
    }
    return shares;
  }

  #decoding(hidden: Tensor, row: number, steps: number, capture_attentions: boolean) {
    const positions = Tensor.from(
      this.#device,
      Int32Array.from({ length: steps }, (_, t) => t),
      [1, steps],
    );
    const encoded = { hidden: hidden.narrow(0, row, 1) };
    return this.#model.pass({ positions, encoded }, { capture_attentions, attention: this.#options.attention });
  }

  /** When each new token is said. The last one is not read by the decoder, and has the time of the one before. */
  async #times({ prompt, positions }: WindowRow, ids: readonly number[], hidden: Tensor, row: number) {
    const count = ids.length - 1;
    if (count < 1) return ids.map(() => 0);
    const { alignment_heads, median_filter_width, time_precision } = this.#options;
    const steps = prompt.length + count;
    const weights: Tensor[] = [];
    scope(() => {
      using pass = this.#decoding(hidden, row, steps, true);
      this.#model.hidden(
        pass,
        Tensor.from(this.#device, Int32Array.from([...prompt, ...ids.slice(0, -1)]), [1, steps]),
      );
      const layers = pass.take_attentions("cross");
      for (const [layer, head] of alignment_heads!) {
        const own = layers[layer]!.select(0, 0).select(0, head).narrow(0, prompt.length, count);
        weights.push(contiguous(own).keep());
      }
      for (const layer of layers) layer.dispose();
      return undefined;
    });
    try {
      const heads = await Promise.all(
        weights.map(async (tensor): Promise<HeadWeights> => {
          return { values: await tensor.readFloats(), tokens: count, positions: tensor.shape[1]! };
        }),
      );
      const times = tokenTimes(heads, positions, median_filter_width, time_precision);
      return [...times, times.at(-1)!];
    } finally {
      for (const tensor of weights) tensor.dispose();
    }
  }
}

/** Some rows of the encoder's output. */
function chosen(hidden: Tensor, rows: readonly number[]): Tensor {
  const [all = 0, ...shape] = hidden.shape;
  if (rows.length === all) return hidden.alias();
  return scope(() => {
    const own = Tensor.empty(hidden.device, [rows.length, ...shape], "f32", "encoded");
    for (const [n, row] of rows.entries()) copyInto(hidden.narrow(0, row, 1), own.narrow(0, n, 1));
    return own;
  });
}

/** A batch of prompts, filled on the left. */
function batchOf(prompts: readonly (readonly number[])[]): Batch {
  const rows = prompts.length;
  const steps = prompts.reduce((most, { length }) => Math.max(most, length), 0);
  const ids = new Int32Array(rows * steps);
  const mask = new Uint8Array(rows * steps);
  for (const [row, prompt] of prompts.entries()) {
    const end = (row + 1) * steps;
    ids.set(prompt, end - prompt.length);
    mask.fill(1, end - prompt.length, end);
  }
  return { rows, steps, ids, mask: mask.includes(0) ? mask : undefined };
}

/** How much smaller zlib makes the ids of a text, as little-endian numbers of as few bytes as the vocabulary needs. */
export async function compressionRatio(ids: readonly number[], vocab: number): Promise<number> {
  const width = Math.floor(Math.log2(vocab) / 8) + 1;
  const bytes = Uint8Array.from({ length: ids.length * width }, (_, at) => {
    return Math.floor(ids[Math.floor(at / width)]! / 256 ** (at % width)) % 256;
  });
  const packed = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  const { byteLength } = await new Response(packed).arrayBuffer();
  return bytes.length / byteLength;
}

/** The heads that tell times, of generation_config.json. @throws ConfigError */
export function alignmentHeads(value: unknown, { layers, heads }: Seq2SeqLM["geometry"]): readonly [number, number][] {
  const isHead = (pair: unknown): pair is [number, number] => {
    const [layer, head] = listOf(pair, isWhole) ?? [];
    return layer !== undefined && layer < layers && head !== undefined && head < heads;
  };
  const found = listOf(value, isHead);
  if (found && found.length > 0) return found;
  const given = value === undefined || value === null ? "missing" : show(value);
  throw new ConfigError(
    `generation_config.json: alignment_heads is ${given}: times of words need [layer, head] of some`,
    {
      hint: "return_timestamps: true gives the times of segments",
    },
  );
}
