// GenerationConfig: the options of generate(), their defaults (transformers') and checks. A model's
// generation_config.json gives other defaults; what the caller says wins.

import { ConfigError, checkOptions, OptionError } from "../core/errors.js";
import type { ConfigJson } from "../nn/architecture.js";
import type { CacheDType } from "../nn/cache.js";
import { cacheDTypeOf } from "./cache-options.js";
import {
  isNeutral,
  type Neutral,
  OF_SAMPLING,
  UNSUPPORTED,
  UNSUPPORTED_FIELDS,
  type UnsupportedField,
  WITHOUT_EFFECT,
} from "./unsupported.js";

/**
 * What generate() takes beside its inputs. Fields of transformers that Octavo does not have (`num_beams`, ...) take only
 * the value that asks for nothing, which also overrules a generation_config.json.
 */
export interface GenerationOptions extends Partial<Readonly<Record<UnsupportedField, Neutral>>> {
  /** Tokens to generate at most. */
  max_new_tokens?: number;
  /** Length of prompt and new tokens together; `max_new_tokens` wins. */
  max_length?: number;
  /**
   * Sample instead of taking the likeliest token. The random numbers of a row depend on the seed, the step and the row's
   * place in the batch, and on nothing else: the same prompt in another row is another text, and a prompt alone is the
   * first row of any batch.
   */
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
  /** The same seed gives the same tokens in the same row of a batch; drawn at random if absent. */
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

const FILE = "generation_config.json";

/** Divided by less than this, logits leave the range of f32. */
const COLDEST = 1e-30;

const whole = (n: number): boolean => Number.isSafeInteger(n) && n >= 0;
const share = (n: number): boolean => n >= 0 && n <= 1;
const tokens =
  (vocab: number) =>
  (id: unknown): id is number =>
    typeof id === "number" && whole(id) && id < vocab;

/**
 * Puts together what the caller, generation_config.json and config.json say, in that order. In the files null is as good
 * as nothing, and what only sampling needs is looked at only where tokens are sampled.
 * @param prompt length of the longest prompt, in tokens
 * @param vocab token ids are below this
 * @throws OptionError naming the caller's option, what it may be, and what came; ConfigError for the same in the file
 */
export function generationConfig(
  options: GenerationOptions,
  fromFile: ConfigJson,
  fromModel: ConfigJson,
  prompt: number,
  vocab: number,
): GenerationConfig {
  const inFile = (key: keyof GenerationOptions): unknown => fromFile[key] ?? undefined;
  const given = (key: keyof GenerationOptions): unknown => (options[key] !== undefined ? options[key] : inFile(key));
  const refuse = (key: keyof GenerationOptions, wanted: string): never => {
    const text = `${key} must be ${wanted}, got ${JSON.stringify(given(key))}`;
    if (options[key] !== undefined) throw new OptionError(text, { details: { option: key } });
    throw new ConfigError(`${FILE}: ${text}`, {
      details: { file: FILE, key },
      hint: `mend the file, or pass ${key} to generate()`,
    });
  };
  const number = (
    key: keyof GenerationOptions,
    fallback: number,
    check: (n: number) => boolean,
    wanted: string,
  ): number => {
    const value = given(key);
    if (value === undefined) return fallback;
    return typeof value === "number" && check(value) ? value : refuse(key, wanted);
  };
  const do_sample = given("do_sample") ?? false;
  if (typeof do_sample !== "boolean") return refuse("do_sample", "true or false");
  const sampling = (...parts: Parameters<typeof number>): number =>
    do_sample || options[parts[0]] !== undefined ? number(...parts) : parts[1];
  refuseUnsupported(options, inFile, do_sample);

  const eos_token_ids = endOfText(options, inFile("eos_token_id"), fromModel.eos_token_id, vocab, refuse);
  const isToken = tokens(vocab);
  let pad = given("pad_token_id") ?? undefined;
  if (pad === undefined) pad = [fromModel.pad_token_id, eos_token_ids[0]].find(isToken) ?? 0;
  if (!isToken(pad)) return refuse("pad_token_id", `a token id below ${vocab}`);
  return {
    max_new_tokens: newTokens(options, inFile("max_new_tokens"), number, prompt),
    do_sample,
    temperature: sampling(
      "temperature",
      1,
      (n) => n >= COLDEST && Number.isFinite(Math.fround(n)),
      `a number of at least ${COLDEST} (for the likeliest token use do_sample: false)`,
    ),
    top_k: sampling("top_k", 50, whole, "a whole number of at least 0"),
    top_p: sampling("top_p", 1, (n) => share(n) && n > 0, "above 0 and at most 1"),
    min_p: sampling("min_p", 0, share, "between 0 and 1"),
    repetition_penalty: number("repetition_penalty", 1, (n) => n >= COLDEST && n <= 1 / COLDEST, "a number above 0"),
    seed: number("seed", Math.floor(Math.random() * 2 ** 31), (n) => Number.isSafeInteger(n), "a whole number") | 0,
    eos_token_ids,
    pad_token_id: pad,
    prompt_lookup_num_tokens: number("prompt_lookup_num_tokens", 0, whole, "a whole number of at least 0"),
    cache_dtype: cacheDTypeOf(options),
  };
}

/** Tokens to generate, from `max_new_tokens` and `max_length`. */
function newTokens(
  options: GenerationOptions,
  inFile: unknown,
  number: (
    key: "max_new_tokens" | "max_length",
    fallback: number,
    check: (n: number) => boolean,
    wanted: string,
  ) => number,
  prompt: number,
): number {
  const length = (): number => number("max_length", DEFAULT_MAX_LENGTH, whole, "a whole number of at least 0");
  if (options.max_new_tokens === undefined && options.max_length !== undefined) {
    const left = length() - prompt;
    if (left >= 1) return left;
    throw new OptionError(`max_length ${options.max_length} leaves no room after a prompt of ${prompt} tokens`, {
      hint: "use max_new_tokens instead",
    });
  }
  // A prompt that fills the default length still gets one token, as users of a first example expect.
  if (options.max_new_tokens === undefined && inFile === undefined) return Math.max(1, length() - prompt);
  return number("max_new_tokens", 1, (n) => whole(n) && n > 0, "a whole number above 0");
}

/** Ids that end a text; the caller's null means that none does. */
function endOfText(
  options: GenerationOptions,
  inFile: unknown,
  fromModel: unknown,
  vocab: number,
  refuse: (key: "eos_token_id", wanted: string) => never,
): readonly number[] {
  const isToken = tokens(vocab);
  const list = (ids: unknown): readonly unknown[] => (Array.isArray(ids) ? ids : [ids]);
  if (options.eos_token_id === null) return [];
  const chosen = options.eos_token_id ?? inFile;
  // What config.json says is for training too; what no token can be ends no text, and `fileWarnings` has told so.
  if (chosen === undefined) return list(fromModel ?? []).filter(isToken);
  const ids = list(chosen);
  return ids.every(isToken) ? ids : refuse("eos_token_id", `token ids below ${vocab}`);
}

/** @throws OptionError or ConfigError for what would change the text and is not there */
function refuseUnsupported(
  options: GenerationOptions,
  inFile: (key: UnsupportedField) => unknown,
  do_sample: boolean,
): void {
  for (const field of UNSUPPORTED_FIELDS) {
    const [neutral, what] = UNSUPPORTED[field];
    const own = options[field];
    if (own !== undefined) {
      if (isNeutral(field, own)) continue;
      throw new OptionError(`${field} can only be ${neutral}, got ${JSON.stringify(own)}: Octavo has no ${what}`, {
        details: { option: field },
        hint: "leave it out",
      });
    }
    const value = inFile(field);
    if (value === undefined || isNeutral(field, value) || (OF_SAMPLING.has(field) && !do_sample)) continue;
    throw new ConfigError(`${FILE}: ${field} is ${JSON.stringify(value)}, but Octavo has no ${what}`, {
      details: { file: FILE, key: field },
      hint: `pass ${field}: ${neutral} to generate() to do without it`,
    });
  }
}

/** What is odd in the files, for `warnings` of a model: what generate() will refuse, what it does not know or not believe. */
export function fileWarnings(fromFile: ConfigJson, fromModel: ConfigJson, vocab: number): string[] {
  const warnings: string[] = [];
  try {
    generationConfig({}, fromFile, fromModel, 0, vocab);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    warnings.push(error.message.split("\n")[0]!);
  }
  const known = (key: string): boolean =>
    (GENERATION_FIELDS as readonly string[]).includes(key) ||
    Object.hasOwn(UNSUPPORTED, key) ||
    WITHOUT_EFFECT.has(key);
  const unknown = Object.keys(fromFile).filter((key) => !known(key) && fromFile[key] !== null);
  if (unknown.length > 0) warnings.push(`${FILE}: fields that are not known and not used: ${unknown.join(", ")}`);
  for (const key of ["eos_token_id", "pad_token_id"] as const) {
    const wrong = [fromModel[key] ?? []].flat().filter((id) => !tokens(vocab)(id));
    if (wrong.length === 0) continue;
    warnings.push(`config.json: ${key} ${wrong.join(", ")} is no token id below ${vocab}, and is not used`);
  }
  return warnings;
}

/** @throws OptionError for an option that generate() does not have */
export function checkGenerationOptions(options: object, more: readonly string[]): void {
  checkOptions("generate", options, [...GENERATION_FIELDS, ...UNSUPPORTED_FIELDS, ...more]);
}
