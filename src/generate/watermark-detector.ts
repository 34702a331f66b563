// Looks for the watermark of a WatermarkLogitsProcessor in texts, with the rules of transformers' WatermarkDetector.

import { OptionError } from "../core/errors.js";
import { checkedLater, flag, type Needed, number, type Options, readOptions, such, whole } from "../core/options.js";
import type { ConfigJson } from "../nn/architecture.js";
import { readRows } from "./processors/host/base.js";
import { type WatermarkingOptions, WatermarkLogitsProcessor } from "./processors/host/watermark.js";

const isObject = (value: unknown): boolean => typeof value === "object" && value !== null;

const DETECTOR = {
  /** `model.config` of the model that wrote the texts. */
  model_config: such<ConfigJson>(isObject, "the config of a model"),
  /** What the texts were marked with. */
  watermarking_config: checkedLater<WatermarkingOptions>(),
  /** Count a token that follows the same tokens once, however often it does. */
  ignore_repeated_ngrams: flag(),
  /** No effect: green lists are those of transformers on a CPU, whatever the device. */
  device: checkedLater<unknown>(),
  /** Green lists that are remembered; default 128. */
  max_cache_size: whole(0),
};

export interface WatermarkDetectorOptions
  extends Omit<Options<typeof DETECTOR>, "model_config" | "watermarking_config">,
    Needed<typeof DETECTOR, "model_config" | "watermarking_config"> {}

const DETECT = {
  /** A text is marked if its z-score is above this; default 3. */
  z_threshold: number((n) => Number.isFinite(n), "a number"),
  /** Give all counts and scores. */
  return_dict: flag(),
};

/** One value for each text. */
export interface WatermarkDetectorOutput {
  readonly num_tokens_scored: number[];
  readonly num_green_tokens: number[];
  readonly green_fraction: number[];
  /** Standard deviations between the green tokens and those of an unmarked text. */
  readonly z_score: number[];
  /** The probability of such a score in an unmarked text, as transformers approximates it. */
  readonly p_value: number[];
  readonly prediction: boolean[];
  /** 1 - p_value */
  readonly confidence: number[];
}

export class WatermarkDetector {
  readonly processor: WatermarkLogitsProcessor;
  readonly ignore_repeated_ngrams: boolean;
  readonly #start: unknown;
  readonly #most: number;
  /** Whether the last of some tokens is green, by those tokens. */
  readonly #known = new Map<string, boolean>();

  /** @throws OptionError */
  constructor(options: WatermarkDetectorOptions) {
    const read = readOptions("WatermarkDetector", DETECTOR, options);
    const { model_config: config, watermarking_config, ignore_repeated_ngrams = false } = read;
    if (!config || !watermarking_config) {
      throw new OptionError("WatermarkDetector needs model_config and watermarking_config");
    }
    const text = isObject(config.text_config) ? (config.text_config as ConfigJson) : config;
    this.processor = new WatermarkLogitsProcessor(text.vocab_size as number, watermarking_config);
    this.ignore_repeated_ngrams = ignore_repeated_ngrams;
    this.#start = config.is_encoder_decoder === true ? config.decoder_start_token_id : config.bos_token_id;
    this.#most = read.max_cache_size ?? 128;
  }

  /**
   * Says of each text [B][T] whether it is marked. Prompts count too, so leave them out; a token that begins texts is not counted
   * if the first text begins with it.
   * @throws OptionError for a text that is too short
   */
  call(
    input_ids: readonly (readonly number[])[],
    options: Options<typeof DETECT> & { return_dict: true },
  ): WatermarkDetectorOutput;
  call(input_ids: readonly (readonly number[])[], options?: Options<typeof DETECT>): boolean[];
  call(
    input_ids: readonly (readonly number[])[],
    options: Options<typeof DETECT> = {},
  ): boolean[] | WatermarkDetectorOutput {
    const { z_threshold = 3, return_dict = false } = readOptions("WatermarkDetector.call", DETECT, options);
    const rows = readRows(input_ids);
    const begun = rows[0]?.[0] !== undefined && rows[0][0] === this.#start;
    const counts = rows.map((row) => this.#count(begun ? row.slice(1) : row));
    const { greenlist_ratio: share } = this.processor.config;
    const num_tokens_scored = counts.map(([tokens]) => tokens);
    const num_green_tokens = counts.map(([, green]) => green);
    const z_score = counts.map(([n, green]) => (green - share * n) / Math.sqrt(n * share * (1 - share)));
    const prediction = z_score.map((z) => z > z_threshold);
    if (!return_dict) return prediction;
    const p_value = z_score.map((z) => 1 - 0.5 * (1 + Math.sign(z) * (1 - Math.exp((-2 * z ** 2) / Math.PI))));
    return {
      num_tokens_scored,
      num_green_tokens,
      green_fraction: counts.map(([n, green]) => green / n),
      z_score,
      p_value,
      prediction,
      confidence: p_value.map((p) => 1 - p),
    };
  }

  /** Tokens that count, and green ones among them. */
  #count(ids: readonly number[]): readonly [number, number] {
    const { context_width: width, seeding_scheme } = this.processor.config;
    const selfhash = seeding_scheme === "selfhash";
    if (ids.length - width < 1) {
      throw new OptionError(`a text of ${ids.length} tokens is too short: the first ${width} are not scored`);
    }
    const n = selfhash ? width : width + 1;
    const windows = Array.from({ length: ids.length - n + 1 }, (_, at) => ids.slice(at, at + n));
    const counted = this.ignore_repeated_ngrams
      ? [...new Map(windows.map((own) => [own.join(), own])).values()]
      : windows;
    return [counted.length, counted.filter((own) => this.#isGreen(own, selfhash)).length];
  }

  #isGreen(window: readonly number[], selfhash: boolean): boolean {
    const key = window.join();
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const green = this.processor.greenlist(selfhash ? window : window.slice(0, -1)).includes(window.at(-1)!);
    if (this.#known.size >= this.#most) this.#known.delete(this.#known.keys().next().value!);
    if (this.#most > 0) this.#known.set(key, green);
    return green;
  }
}
