// GenerationConfig: the options of generate(), their defaults (transformers') and checks. A model's
// generation_config.json gives other defaults; what the caller says wins.

import { checkOptions, OptionError } from "../core/errors.js";
import type { CacheDType } from "../nn/cache.js";
import type { ConfigJson } from "../nn/decoder.js";

export interface GenerationOptions {
  /** Tokens to generate at most. */
  max_new_tokens?: number;
  /** Length of prompt and new tokens together; `max_new_tokens` wins. */
  max_length?: number;
  /** Sample instead of taking the likeliest token. */
  do_sample?: boolean;
  temperature?: number;
  /** Keep the k likeliest tokens; 0 for all. */
  top_k?: number;
  /** Keep the likeliest tokens up to this probability; 1 for all. */
  top_p?: number;
  /** Drop tokens below this share of the likeliest one's probability; 0 for none. */
  min_p?: number;
  /** Above 1 makes tokens that are already there less likely. */
  repetition_penalty?: number;
  /** The same seed gives the same tokens; drawn at random if absent. */
  seed?: number;
  eos_token_id?: number | readonly number[] | null;
  pad_token_id?: number | null;
  /** Guess up to so many tokens from earlier in the text (greedy, one prompt); exact, and faster where text repeats. */
  prompt_lookup_num_tokens?: number;
  /** "quantized" keeps keys and values as 8-bit codes, one scale per token and head; the others keep numbers. */
  cache_implementation?: "dynamic" | "static" | "quantized";
  /** Of a quantized cache; `nbits` is 8. */
  cache_config?: { nbits?: number };
  /** Dtype of keys and values kept as numbers; by default float32 for a float32 model and bfloat16 for others. */
  cache_dtype?: "float32" | "bfloat16" | "float16";
}

export const GENERATION_FIELDS: readonly (keyof GenerationOptions)[] = [
  "max_new_tokens",
  "max_length",
  "do_sample",
  "temperature",
  "top_k",
  "top_p",
  "min_p",
  "repetition_penalty",
  "seed",
  "eos_token_id",
  "pad_token_id",
  "prompt_lookup_num_tokens",
  "cache_implementation",
  "cache_config",
  "cache_dtype",
];

export interface GenerationConfig {
  readonly max_new_tokens: number;
  readonly do_sample: boolean;
  readonly temperature: number;
  readonly top_k: number;
  readonly top_p: number;
  readonly min_p: number;
  readonly repetition_penalty: number;
  readonly seed: number;
  readonly eos_token_ids: readonly number[];
  readonly pad_token_id: number;
  /** 0 for none. */
  readonly prompt_lookup_num_tokens: number;
  /** What the caller asks of the key-value cache; undefined leaves it to the model's dtype. */
  readonly cache_dtype: CacheDType | undefined;
}

/** What transformers generates without being told how much: 20 tokens in all. */
const DEFAULT_MAX_LENGTH = 20;

/**
 * Puts together what the caller, generation_config.json and config.json say, in that order.
 * @param prompt length of the longest prompt, in tokens
 * @throws OptionError naming the option, what it may be, and what came
 */
export function generationConfig(
  options: GenerationOptions,
  fromFile: ConfigJson,
  fromModel: ConfigJson,
  prompt: number,
): GenerationConfig {
  const given = <K extends keyof GenerationOptions>(key: K): GenerationOptions[K] =>
    options[key] !== undefined ? options[key] : (fromFile[key] as GenerationOptions[K]);
  const number = (
    key: keyof GenerationOptions,
    fallback: number,
    check: (n: number) => boolean,
    want: string,
  ): number => {
    const value = given(key) ?? fallback;
    if (typeof value !== "number" || !check(value)) {
      throw new OptionError(`${key} must be ${want}, got ${JSON.stringify(value)}`, { details: { option: key } });
    }
    return value;
  };
  const whole = (n: number): boolean => Number.isSafeInteger(n) && n >= 0;
  const do_sample = given("do_sample") ?? false;
  if (typeof do_sample !== "boolean")
    throw new OptionError(`do_sample must be true or false, got ${JSON.stringify(do_sample)}`);

  let max_new_tokens: number;
  if (
    options.max_new_tokens === undefined &&
    options.max_length === undefined &&
    fromFile.max_new_tokens === undefined
  ) {
    const max_length = number("max_length", DEFAULT_MAX_LENGTH, whole, "a whole number of at least 0");
    // A prompt that fills the default length still gets one token, as users of a first example expect.
    max_new_tokens = Math.max(1, max_length - prompt);
  } else if (options.max_new_tokens === undefined && options.max_length !== undefined) {
    max_new_tokens = number("max_length", 0, whole, "a whole number of at least 0") - prompt;
    if (max_new_tokens < 1) {
      throw new OptionError(`max_length ${options.max_length} leaves no room after a prompt of ${prompt} tokens`, {
        hint: "use max_new_tokens instead",
      });
    }
  } else max_new_tokens = number("max_new_tokens", 0, (n) => whole(n) && n > 0, "a whole number above 0");

  const temperature = number(
    "temperature",
    1,
    (n) => n > 0 && Number.isFinite(n),
    "a number above 0 (for the likeliest token use do_sample: false)",
  );
  const share = (n: number): boolean => n >= 0 && n <= 1;
  const ids = given("eos_token_id") ?? (options.eos_token_id === null ? undefined : fromModel.eos_token_id) ?? [];
  const eos_token_ids = (Array.isArray(ids) ? ids : [ids]) as number[];
  for (const id of eos_token_ids)
    if (!whole(id)) throw new OptionError(`eos_token_id must be token ids, got ${JSON.stringify(ids)}`);
  const pad = given("pad_token_id") ?? fromModel.pad_token_id ?? eos_token_ids[0] ?? 0;
  if (typeof pad !== "number" || !whole(pad))
    throw new OptionError(`pad_token_id must be a token id, got ${JSON.stringify(pad)}`);
  return {
    max_new_tokens,
    do_sample,
    temperature,
    top_k: number("top_k", 50, whole, "a whole number of at least 0"),
    top_p: number("top_p", 1, (n) => share(n) && n > 0, "above 0 and at most 1"),
    min_p: number("min_p", 0, share, "between 0 and 1"),
    repetition_penalty: number("repetition_penalty", 1, (n) => n > 0 && Number.isFinite(n), "a number above 0"),
    seed: number("seed", Math.floor(Math.random() * 2 ** 31), (n) => Number.isSafeInteger(n), "a whole number") | 0,
    eos_token_ids: options.eos_token_id === null ? [] : eos_token_ids,
    pad_token_id: pad,
    prompt_lookup_num_tokens: number("prompt_lookup_num_tokens", 0, whole, "a whole number of at least 0"),
    cache_dtype: cacheDTypeOf(options),
  };
}

const CACHES = ["dynamic", "static", "quantized"];
const CACHE_DTYPES: Readonly<Record<string, CacheDType>> = { float32: "f32", bfloat16: "bf16", float16: "f16" };

/** What the caller says of the cache. (A model's own `cache_implementation` names a class of Python's, and is not asked.) */
function cacheDTypeOf({ cache_implementation, cache_config, cache_dtype }: GenerationOptions): CacheDType | undefined {
  if (cache_implementation !== undefined && !CACHES.includes(cache_implementation)) {
    throw new OptionError(
      `cache_implementation must be one of ${CACHES.join(", ")}, got ${JSON.stringify(cache_implementation)}`,
      {
        hint: 'leave it out, or use "quantized" for keys and values in 8 bits',
      },
    );
  }
  if (cache_dtype !== undefined && !Object.hasOwn(CACHE_DTYPES, cache_dtype)) {
    throw new OptionError(
      `cache_dtype must be one of ${Object.keys(CACHE_DTYPES).join(", ")}, got ${JSON.stringify(cache_dtype)}`,
      { hint: 'for 8 bits use cache_implementation: "quantized"' },
    );
  }
  if (cache_implementation !== "quantized") {
    if (cache_config !== undefined) {
      throw new OptionError("cache_config is for a quantized cache", { hint: 'add cache_implementation: "quantized"' });
    }
    return cache_dtype && CACHE_DTYPES[cache_dtype];
  }
  if (cache_dtype !== undefined) {
    throw new OptionError(`a quantized cache has no cache_dtype, got ${JSON.stringify(cache_dtype)}`, {
      hint: "leave out one of the two",
    });
  }
  if (cache_config === null) throw new OptionError("cache_config must be an object, got null");
  checkOptions("cache_config", cache_config, ["nbits"]);
  const nbits = cache_config?.nbits ?? 8;
  if (nbits !== 8) {
    throw new OptionError(`cache_config.nbits must be 8, got ${JSON.stringify(nbits)}`, {
      hint: "keys and values are kept in 8 bits or as numbers; use nbits: 8",
    });
  }
  return "i8";
}

/** @throws OptionError for an option that generate() does not have */
export function checkGenerationOptions(options: object, more: readonly string[]): void {
  checkOptions("generate", options, [...GENERATION_FIELDS, ...more]);
}
