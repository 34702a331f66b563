// The watermark of SynthID-Text (Dathathri et al. 2024, "Scalable watermarking for identifying large language model outputs", Nature 634):
// each of some keys says of every token, by those before it, whether its bit is set; tokens with set bits become likelier, one key
// after the other. Bits and scores are those of transformers.

import { isOf, listOf } from "../../../core/checks.js";
import { OptionError } from "../../../core/errors.js";
import { flag, type Needed, type Options, option, readOptions, such, whole } from "../../../core/options.js";
import * as z from "../../../core/schema.js";
import { RowProcessor, readRows, softmax, wholeOf } from "./base.js";
import { randomBits } from "./randperm.js";

const isInteger = (n: unknown): n is number => Number.isSafeInteger(n);

const SYNTHID = {
  /** Tokens that a bit depends on: the one that is chosen, and those before it. */
  ngram_len: whole(1),
  /** Whole numbers, one for each round of the choice. Whoever knows them finds the watermark. */
  keys: such<readonly number[]>((value) => (listOf(value, isInteger)?.length ?? 0) > 0, "a list of whole numbers"),
  /** What was chosen behind the same tokens is not marked again, as long as so many choices remember them; default 1024. */
  context_history_size: whole(1),
  /** Seed of the table of bits; default 0. */
  sampling_table_seed: option(z.int(), "a whole number"),
  /** Bits of the table, at most 2^24; default 65536. */
  sampling_table_size: option(
    z
      .int()
      .min(1)
      .max(2 ** 24),
    "a whole number from 1 to 2^24",
  ),
  /** Leave the first `ngram_len` - 1 tokens as they are. */
  skip_first_ngram_calls: flag(),
  /** Mark equal scores instead of the model's: shows what the watermark does. */
  debug_mode: flag(),
};

/** Fields of a SynthIDTextWatermarkingConfig. */
export interface SynthIDTextWatermarkingOptions
  extends Omit<Options<typeof SYNTHID>, "ngram_len" | "keys">,
    Needed<typeof SYNTHID, "ngram_len" | "keys"> {}

/** How texts are marked: `watermarking_config` of generate(). */
export class SynthIDTextWatermarkingConfig {
  readonly ngram_len: number;
  readonly keys: readonly number[];
  readonly context_history_size: number;
  readonly sampling_table_seed: number;
  readonly sampling_table_size: number;
  readonly skip_first_ngram_calls: boolean;
  readonly debug_mode: boolean;

  /** @throws OptionError naming the field */
  constructor(options: SynthIDTextWatermarkingOptions) {
    const given = isOf(options, SynthIDTextWatermarkingConfig) ? { ...options } : options;
    const read = readOptions("SynthIDTextWatermarkingConfig", SYNTHID, given, "watermarking_config.");
    const { ngram_len, keys } = read;
    if (ngram_len === undefined || keys === undefined) {
      throw new OptionError("SynthIDTextWatermarkingConfig needs ngram_len and keys");
    }
    this.ngram_len = ngram_len;
    this.keys = [...keys];
    this.context_history_size = read.context_history_size ?? 1024;
    this.sampling_table_seed = read.sampling_table_seed ?? 0;
    this.sampling_table_size = read.sampling_table_size ?? 2 ** 16;
    this.skip_first_ngram_calls = read.skip_first_ngram_calls ?? false;
    this.debug_mode = read.debug_mode ?? false;
  }
}

/** A whole number of 64 bits that wraps: the hash of some numbers so far. */
interface Hash {
  readonly high: number;
  readonly low: number;
}

const EMPTY: Hash = { high: 0, low: 1 };
const BITS = 2 ** 32;
/** Knuth's multiplier of linear congruential generators of 64 bits: 6364136223846793005. */
const HIGH = 0x5851f42d;
const LOW = 0x4c957f2d;

/** The upper half of a product with LOW; torch multiplies whole numbers of 64 bits, JavaScript's are exact to 53. */
function upper(low: number): number {
  const [a, b, c, d] = [low >>> 16, low & 0xffff, LOW >>> 16, LOW & 0xffff];
  const middle = a * d + ((b * d) >>> 16);
  return a * c + Math.floor((b * c + (middle & 0xffff)) / 0x10000) + (middle - (middle & 0xffff)) / 0x10000;
}

/** The hash with one number more: (hash + number) * multiplier + 1. */
function extend(hash: Hash, number: number): Hash {
  const sum = hash.low + (((number % BITS) + BITS) % BITS);
  const low = sum >>> 0;
  const high = (hash.high + Math.floor(number / BITS) + (sum >= BITS ? 1 : 0)) | 0;
  const product = Math.imul(low, LOW) >>> 0;
  const above = (Math.imul(high, LOW) + Math.imul(low, HIGH) + upper(low)) | 0;
  return product === 0xffffffff ? { high: (above + 1) | 0, low: 0 } : { high: above, low: product + 1 };
}

/** Python's remainder of a hash as a signed number; the divisor is at most 2^24, so all products are exact. */
function remainder({ high, low }: Hash, size: number): number {
  return ((((high % size) * (BITS % size) + (low % size)) % size) + size) % size;
}

/** The table that was made last: the same for all rows of a call. */
let made: { readonly seed: number; readonly bits: Uint8Array } | undefined;

function tableOf(size: number, seed: number): Uint8Array {
  if (made?.seed !== seed || made.bits.length !== size) made = { seed, bits: randomBits(size, BigInt(seed)) };
  return made.bits;
}

/** What -Infinity becomes, as in transformers: torch's least f32. */
const LEAST = -3.4028234663852886e38;

/** Makes tokens likelier whose bits are set. */
export class SynthIDTextWatermarkLogitsProcessor extends RowProcessor {
  readonly config: SynthIDTextWatermarkingConfig;
  readonly #bits: Uint8Array;
  /** Tokens of each row when it was first seen: its prompt, which no bit depends on. */
  readonly #prompts = new Map<number, number>();

  /** @throws OptionError */
  constructor(options: SynthIDTextWatermarkingOptions) {
    super();
    this.config = new SynthIDTextWatermarkingConfig(options);
    this.#bits = tableOf(this.config.sampling_table_size, this.config.sampling_table_seed);
  }

  /** What is behind a row's tokens at its first call is its text; before it, and as transformers has it, are zeros. */
  change(scores: Float32Array, ids: readonly number[], row: number): void {
    const { ngram_len: n, skip_first_ngram_calls, context_history_size: remembered, debug_mode } = this.config;
    if (debug_mode) scores.fill(1);
    const prompt = this.#prompts.get(row) ?? ids.length;
    this.#prompts.set(row, prompt);
    const text = ids.slice(prompt);
    const skipped = skip_first_ngram_calls ? n - 1 : 0;
    if (text.length < skipped) return;
    const padded = [...new Array<number>(n - 1).fill(0), ...text];
    const contextAt = (at: number): Hash => padded.slice(at, at + n - 1).reduce(extend, EMPTY);
    const context = contextAt(text.length);
    for (let at = Math.max(skipped, text.length - remembered); at < text.length; at++) {
      if (isSame(contextAt(at), context)) return;
    }
    const shares = softmax(scores);
    // A token that cannot follow stays at 0, whatever its bits are.
    const likely = new Uint32Array(shares.length);
    let count = 0;
    for (let id = 0; id < shares.length; id++) if (shares[id] !== 0) likely[count++] = id;
    const left = new Float64Array(count);
    for (let i = 0; i < count; i++) left[i] = shares[likely[i]!]!;
    for (const key of this.config.keys) {
      const bits = this.#bitsOf(likely.subarray(0, count), context, key);
      let mass = 0;
      for (let i = 0; i < left.length; i++) if (bits[i]) mass += left[i]!;
      for (let i = 0; i < left.length; i++) left[i] = left[i]! * (1 + bits[i]! - mass);
    }
    for (let i = 0; i < left.length; i++) shares[likely[i]!] = left[i]!;
    for (let id = 0; id < scores.length; id++) {
      const score = Math.fround(Math.log(shares[id]!));
      scores[id] = Number.isFinite(score) ? score : LEAST;
    }
  }

  /** The bits that a key gives to tokens behind a context. */
  #bitsOf(ids: Uint32Array, context: Hash, key: number): Uint8Array {
    const table = this.#bits;
    const found = new Uint8Array(ids.length);
    if ((table.length & (table.length - 1)) !== 0) {
      for (let i = 0; i < ids.length; i++) found[i] = this.#bit(extend(context, ids[i]!), key);
      return found;
    }
    // The place in a table of 2^n bits is the low n bits of the hash, which only low bits decide.
    const own = (((key % BITS) + BITS) % BITS) | 0;
    for (let i = 0; i < ids.length; i++) {
      const hash = (Math.imul(context.low + ids[i]!, LOW) + 1) | 0;
      found[i] = table[(Math.imul(hash + own, LOW) + 1) & (table.length - 1)]!;
    }
    return found;
  }

  #bit(hash: Hash, key: number): number {
    return this.#bits[remainder(extend(hash, key), this.#bits.length)]!;
  }

  /**
   * The bits of texts [B][T], [B][T - ngram_len + 1][keys]. In texts that are marked more than half of them are set; count those
   * alone whose context is new, and that stand before the text's end (the masks below).
   * @throws OptionError
   */
  compute_g_values(input_ids: readonly (readonly number[])[]): number[][][] {
    const { ngram_len, keys } = this.config;
    return readRows(input_ids).map((ids) =>
      windows(ids, ngram_len).map((own) => {
        const hash = own.reduce(extend, EMPTY);
        return keys.map((key) => this.#bit(hash, key));
      }),
    );
  }

  /**
   * 1 for each token of texts [B][T] whose context was not there before in its text, else 0: [B][T - ngram_len + 1].
   * @throws OptionError
   */
  compute_context_repetition_mask(input_ids: readonly (readonly number[])[]): number[][] {
    const { ngram_len, context_history_size } = this.config;
    return readRows(input_ids).map((ids) => {
      const contexts = windows(ids.slice(0, -1), ngram_len - 1).map((own) => own.reduce(extend, EMPTY));
      return contexts.map((own, at) =>
        contexts.slice(Math.max(0, at - context_history_size), at).some((one) => isSame(one, own)) ? 0 : 1,
      );
    });
  }

  /**
   * 1 for each token of texts [B][T] before the first that ends them, else 0: [B][T].
   * @throws OptionError
   */
  compute_eos_token_mask(input_ids: readonly (readonly number[])[], eos_token_id: number): number[][] {
    const end = wholeOf("eos_token_id", eos_token_id, 0);
    return readRows(input_ids).map((ids) => {
      const at = ids.indexOf(end);
      return ids.map((_, i) => (at < 0 || i < at ? 1 : 0));
    });
  }

  /**
   * The share of set bits to expect of a text that is marked with one key, if all tokens of the vocabulary are equally likely.
   * @throws OptionError
   */
  expected_mean_g_value(vocab_size: number, coinflip_prob = 0.5): number {
    const size = wholeOf("vocab_size", vocab_size, 1);
    if (typeof coinflip_prob !== "number" || !(coinflip_prob >= 0 && coinflip_prob <= 1)) {
      throw new OptionError("coinflip_prob must be a number from 0 to 1");
    }
    return coinflip_prob + coinflip_prob * (1 - coinflip_prob) * (1 - 1 / size);
  }
}

function isSame(a: Hash, b: Hash): boolean {
  return a.low === b.low && a.high === b.high;
}

/** All pieces of `size` numbers, in order. */
function windows(ids: readonly number[], size: number): number[][] {
  return Array.from({ length: Math.max(0, ids.length - size + 1) }, (_, at) => ids.slice(at, at + size));
}
