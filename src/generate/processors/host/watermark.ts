// Watermarks of Kirchenbauer et al. 2023 ("A Watermark for Large Language Models"; "On the Reliability of Watermarks"): in each step
// a part of the vocabulary is green, chosen by the tokens before, and gets a bias. The green lists are those of transformers on a
// CPU, whatever the device here. Texts are looked at in watermark-detector.ts.

import { isOf } from "../../../core/checks.js";
import { OctavoError } from "../../../core/errors.js";
import { choice, number, type Options, option, readOptions, whole } from "../../../core/options.js";
import * as z from "../../../core/schema.js";
import { largest, RowProcessor, wholeOf } from "./base.js";
import { isAmong, randperm } from "./randperm.js";
import {
  SynthIDTextWatermarkingConfig,
  type SynthIDTextWatermarkingOptions,
  SynthIDTextWatermarkLogitsProcessor,
} from "./synthid.js";

const WATERMARK = {
  /** Share of the vocabulary that is green; default 0.25. */
  greenlist_ratio: number((n) => n > 0 && n < 1, "above 0 and below 1"),
  /** Added to the scores of green tokens; default 2. */
  bias: number((n) => Number.isFinite(Math.fround(n)), "a number"),
  /** Whoever knows it finds the watermark; default 15485863, the millionth prime. */
  hashing_key: option(z.int(), "a whole number"),
  /**
   * What chooses the green tokens: "lefthash", the default, the token before them; "selfhash", the token itself and those before,
   * looked at for the 40 likeliest.
   */
  seeding_scheme: choice(["lefthash", "selfhash"]),
  /** Tokens that a green list depends on; default 1. Of "selfhash" the token itself is one of them. */
  context_width: whole(1),
};

/** Fields of a WatermarkingConfig. */
export interface WatermarkingOptions extends Options<typeof WATERMARK> {}

/** How texts are marked: `watermarking_config` of generate(). */
export class WatermarkingConfig {
  readonly greenlist_ratio: number;
  readonly bias: number;
  readonly hashing_key: number;
  readonly seeding_scheme: "lefthash" | "selfhash";
  readonly context_width: number;

  /** @throws OptionError naming the field */
  constructor(options: WatermarkingOptions = {}) {
    const given = isOf(options, WatermarkingConfig) ? { ...options } : options;
    const read = readOptions("WatermarkingConfig", WATERMARK, given, "watermarking_config.");
    this.greenlist_ratio = read.greenlist_ratio ?? 0.25;
    this.bias = read.bias ?? 2;
    this.hashing_key = read.hashing_key ?? 15485863;
    this.seeding_scheme = read.seeding_scheme ?? "lefthash";
    this.context_width = read.context_width ?? 1;
  }
}

/** A `watermarking_config`: the kind that has keys, or the other. */
export type Watermarking =
  | WatermarkingConfig
  | WatermarkingOptions
  | SynthIDTextWatermarkingConfig
  | SynthIDTextWatermarkingOptions;

/** The processor that marks texts so. @throws OptionError naming the field */
export function watermarkProcessor(vocab_size: number, config: Watermarking): RowProcessor {
  if (isSynthId(config)) return new SynthIDTextWatermarkLogitsProcessor(config);
  return new WatermarkLogitsProcessor(vocab_size, config);
}

function isSynthId(config: unknown): config is SynthIDTextWatermarkingOptions {
  return typeof config === "object" && config !== null && Object.hasOwn(config, "keys");
}

/** What is wrong with a `watermarking_config`; undefined if nothing is. */
export function problemWithWatermark(value: unknown): string | undefined {
  try {
    if (isSynthId(value)) new SynthIDTextWatermarkingConfig(value);
    else new WatermarkingConfig(value as WatermarkingOptions);
    return undefined;
  } catch (error) {
    if (error instanceof OctavoError) return error.message.split("\n")[0];
    return "it cannot be read";
  }
}

/** Candidates of "selfhash" in each step, as in the authors' code. */
const CANDIDATES = 40;
/** Seeds whose token is remembered: pairs of tokens come again and again. */
const REMEMBERED = 65_536;
/** Tokens are hashed by their places in a permutation of so many. */
const TABLE = 1_000_003;

/** The permutation of the key that was used last: 4 MB, the same for all rows of a call. */
let hashed: { readonly key: number; readonly table: Int32Array } | undefined;

function tableOf(key: number): Int32Array {
  if (hashed?.key !== key) hashed = { key, table: randperm(TABLE, BigInt(key)) };
  return hashed.table;
}

/** Adds a bias to the tokens of a green list. */
export class WatermarkLogitsProcessor extends RowProcessor {
  readonly vocab_size: number;
  readonly config: WatermarkingConfig;
  /** Of "selfhash", which tokens were found green. */
  readonly #known = new Map<bigint, { readonly id: number; readonly green: boolean }>();

  /** @throws OptionError */
  constructor(vocab_size: number, options: WatermarkingOptions = {}) {
    super();
    this.vocab_size = wholeOf("vocab_size", vocab_size, 1);
    this.config = new WatermarkingConfig(options);
  }

  /** Texts that are shorter than `context_width` are left as they are. */
  change(scores: Float32Array, ids: readonly number[]): void {
    const { context_width, seeding_scheme, bias } = this.config;
    if (ids.length < context_width) return;
    const green = seeding_scheme === "lefthash" ? this.greenlist(ids) : this.#likely(scores, ids);
    const more = Math.fround(bias);
    for (const id of green) if (id < scores.length) scores[id] = scores[id]! + more;
  }

  /** The green tokens behind a text; with "selfhash" the text has the token itself at its end. */
  greenlist(ids: readonly number[]): Int32Array {
    const { greenlist_ratio } = this.config;
    return randperm(this.vocab_size, this.#seed(ids), Math.floor(this.vocab_size * greenlist_ratio));
  }

  /** Which of the likeliest tokens are green behind a text. */
  #likely(scores: Float32Array, ids: readonly number[]): number[] {
    return largest(scores, CANDIDATES).filter((id) => this.#isGreen([...ids, id], id));
  }

  /** True if a token is green behind a text that has it at its end. */
  #isGreen(text: readonly number[], id: number): boolean {
    const seed = this.#seed(text);
    const known = this.#known.get(seed);
    if (known?.id === id) return known.green;
    const size = this.vocab_size;
    const green = isAmong(size, seed, Math.floor(size * this.config.greenlist_ratio), id);
    if (this.#known.size >= REMEMBERED) this.#known.clear();
    this.#known.set(seed, { id, green });
    return green;
  }

  #seed(ids: readonly number[]): bigint {
    const { hashing_key, seeding_scheme, context_width } = this.config;
    const key = BigInt(hashing_key);
    const last = ids.at(-1)!;
    const seed = ((): bigint => {
      if (seeding_scheme === "lefthash") return key * BigInt(last);
      const table = tableOf(hashing_key);
      const hash = (id: number): bigint => BigInt(table[id % TABLE]! + 1);
      // Products of int64 that wrap, as torch's.
      const products = ids.slice(-context_width).map((id) => BigInt.asIntN(64, key * hash(id) * hash(last)));
      return products.reduce((least, one) => (one < least ? one : least));
    })();
    // Python's remainder has the sign of the divisor.
    const most = 2n ** 64n - 1n;
    return ((seed % most) + most) % most;
  }
}
