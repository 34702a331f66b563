// GenerationConfig: the options of generate(), their defaults (transformers') and checks. A model's generation_config.json
// changes the defaults; the caller's options win.

import { isWhole } from "../core/checks.js";
import { ConfigError, OptionError } from "../core/errors.js";
import { choice, flag, number, type Options, option, problemWith, whole } from "../core/options.js";
import * as z from "../core/schema.js";
import { listed, show } from "../core/show.js";
import type { ConfigJson } from "../nn/architecture.js";
import type { CacheDType } from "../nn/cache.js";
import { type BeamConfig, beamsOf } from "./beam-config.js";
import { CACHE, cacheDTypeOf } from "./cache-options.js";
import { endOfText, IDS, isNoToken, isToken, padding, tokensOf, type WordKey, within } from "./config-ids.js";
import { ENDING } from "./ending-options.js";
import { type BEAMS, HOST, HOST_FIELDS, HOST_SAMPLING, type PROCESSORS } from "./host-options.js";
import { MODES, type ModeConfig, modeOf, modeOption } from "./mode-options.js";
import { NEUTRAL, type ProcessorConfig } from "./processors/host/list.js";
import { warnOnce } from "./warn.js";
import { WITHOUT_EFFECT } from "./without-effect.js";

const share = (n: number): boolean => n >= 0 && n <= 1;

/** Dividing logits by less than this would overflow f32. */
const COLDEST = 1e-30;

const inRange = (n: number): boolean => Math.abs(n) <= 1 / COLDEST;

const OWN = {
  /** Tokens to generate at most. */
  max_new_tokens: whole(1, { value: "<n>", help: "tokens to generate at most" }),
  /** Length of prompt and new tokens together; `max_new_tokens` wins. */
  max_length: whole(0),
  /**
   * Sample instead of taking the likeliest token. The random numbers of a text depend only on the seed, the number of its
   * sequence and the step. Row b of a batch is sequence b: a prompt alone gives the same text as in row 0 of any batch, and the
   * same prompt in two rows gives two texts.
   */
  do_sample: flag({ help: "sample; temperature, top-k, top-p and min-p imply it" }),
  /**
   * Logits are divided by this: above 1 flattens the distribution, below 1 sharpens it. 0 takes the likeliest token, whatever
   * `do_sample` says.
   */
  temperature: number(
    (n) => n === 0 || (n >= COLDEST && Number.isFinite(Math.fround(n))),
    `0 (the likeliest token) or a number from ${COLDEST} to 3e38`,
    { value: "<t>", help: "above 1 is wilder, below is tamer; 0 takes the likeliest token" },
  ),
  /** Keep the k likeliest tokens; 0 for all. */
  top_k: whole(0, { value: "<k>", help: "sample from the k likeliest tokens; 0 for all" }),
  /** Keep the likeliest tokens up to this probability; 1 for all. */
  top_p: number((n) => share(n) && n > 0, "above 0 and at most 1", {
    value: "<p>",
    help: "sample from the likeliest tokens up to this probability",
  }),
  /** Drop tokens below this share of the likeliest one's probability; 0 for none. */
  min_p: number(share, "between 0 and 1", {
    value: "<p>",
    help: "leave out tokens below this share of the likeliest",
  }),
  /** Above 1 makes tokens that already occur less likely. */
  repetition_penalty: number((n) => n >= COLDEST && n <= 1 / COLDEST, "a number from 1e-30 to 1e30", {
    help: "above 1 makes repetition less likely",
  }),
  /** Subtracted from the logit of each token generated so far (not the prompt's); negative values favour them. */
  presence_penalty: number(inRange, "a number between -1e30 and 1e30", {
    help: "subtracted from the logits of tokens generated so far",
  }),
  /** Subtracted from a token's logit once for each time it was generated. */
  frequency_penalty: number(inRange, "a number between -1e30 and 1e30", {
    help: "subtracted from a token's logit for each time it was generated",
  }),
  /** The same seed gives the same tokens in the same row of a batch; drawn at random if absent. */
  seed: option(z.int(), "a whole number", {
    value: "<n>",
    help: "the same seed gives the same text (default: at random)",
  }),
  /** Guess up to this many tokens from earlier in the text; exact, and faster if the text repeats itself. */
  prompt_lookup_num_tokens: whole(0, {
    flag: "prompt-lookup",
    value: "<n>",
    help: "guess up to n tokens at once from earlier in the text: faster where it repeats itself",
  }),
  /** The last token of each prompt is chosen anew among those that begin with it. Needs `tokenizer`; of `generate` alone. */
  token_healing: flag(),
  /** Tokens that an `assistant_model` guesses at a time; default 5. */
  num_assistant_tokens: whole(1),
  /** "heuristic": two more tokens after a guess that was right, one less after another; "constant", the default. */
  num_assistant_tokens_schedule: choice(["constant", "heuristic", "heuristic_transient"]),
  /** An `assistant_model` stops guessing at a token less likely than this; 0, the default, for none. */
  assistant_confidence_threshold: number(share, "between 0 and 1"),
};

/** The options of generate() that decide what is generated; generation_config.json may hold the same names. */
export const GENERATION = { ...OWN, ...IDS, ...ENDING, ...HOST, ...MODES, ...CACHE };

/** The options of generate() beside its inputs. */
export interface GenerationOptions
  extends Options<typeof OWN>,
    Options<typeof IDS>,
    Options<typeof ENDING>,
    Options<typeof PROCESSORS>,
    Options<typeof BEAMS>,
    Options<typeof MODES>,
    Options<typeof CACHE> {}

/** The fields of a GenerationConfig that affect the next token. */
export type SamplingConfig = Pick<
  GenerationConfig,
  "do_sample" | "temperature" | "top_k" | "top_p" | "min_p" | "repetition_penalty" | "seed"
> &
  Partial<
    Pick<GenerationConfig, "presence_penalty" | "frequency_penalty" | "suppress_tokens" | "begin_suppress_tokens">
  > &
  LateCuts;

/** What follows temperature, top-k, top-p and min-p, where the device does it (`onHost` says so). */
export interface LateCuts {
  readonly typical_p?: number | undefined;
  readonly epsilon_cutoff?: number | undefined;
  readonly eta_cutoff?: number | undefined;
  /** Scores get a watermark then. */
  readonly marked?: boolean;
}

export interface GenerationConfig extends LateCuts {
  readonly max_new_tokens: number;
  readonly do_sample: boolean;
  readonly temperature: number;
  readonly top_k: number;
  readonly top_p: number;
  readonly min_p: number;
  readonly repetition_penalty: number;
  readonly presence_penalty: number;
  readonly frequency_penalty: number;
  readonly seed: number;
  readonly suppress_tokens: readonly number[];
  readonly begin_suppress_tokens: readonly number[];
  readonly eos_token_ids: readonly number[];
  readonly pad_token_id: number;
  readonly stop_strings: string | readonly string[] | undefined;
  /** Seconds. */
  readonly max_time: number | undefined;
  /** The id that is padding in prompts without an attention_mask; undefined if none is certain to be. */
  readonly prompt_padding: number | undefined;
  /** 0 for none. */
  readonly prompt_lookup_num_tokens: number;
  readonly num_assistant_tokens: number;
  readonly num_assistant_tokens_schedule: "constant" | "heuristic" | "heuristic_transient";
  readonly assistant_confidence_threshold: number;
  /** The caller's options for the key-value cache; undefined leaves it to the model's dtype. */
  readonly cache_dtype: CacheDType | undefined;
  /** What processors on the host do in each step; undefined if none is needed. */
  readonly host: ProcessorConfig | undefined;
  readonly beams: BeamConfig;
  readonly mode: ModeConfig;
  /** Tokens of the vocabulary. */
  readonly vocab_size: number;
  readonly token_healing: boolean;
}

/** Of requests that are not sampled. */
export const GREEDY: SamplingConfig = {
  do_sample: false,
  temperature: 1,
  top_k: 0,
  top_p: 1,
  min_p: 0,
  repetition_penalty: 1,
  seed: 0,
};

/** A seed as the 32 bits that key the random numbers: 0 to 2^32 - 1 as they are, of others all bits mixed. */
export function seedWord(seed: number): number {
  if (seed >= 0 && seed < 2 ** 32) return seed | 0;
  // The high word through the finalizer of MurmurHash3 (Appleby, public domain), so that near seeds end far apart.
  let high = Math.floor(seed / 2 ** 32) | 0;
  high = Math.imul(high ^ (high >>> 16), 0x85ebca6b);
  high = Math.imul(high ^ (high >>> 13), 0xc2b2ae35);
  return seed ^ high ^ (high >>> 16);
}

/** transformers' default length: 20 tokens in total. */
const DEFAULT_MAX_LENGTH = 20;

/** Tokens that an assistant guesses at a time: a much smaller model gets most later ones wrong. */
const DEFAULT_ASSISTANT_TOKENS = 5;

const FILE = "generation_config.json";
const MODEL_FILE = "config.json";

type Field = keyof typeof GENERATION;

/** The file in which a field of the generation config stands: a model without that file has the fields of its config.json. */
function fileOf(key: Field, fromFile: ConfigJson, fromModel: ConfigJson): string {
  return fromFile._from_model_config === true && fromFile[key] === fromModel[key] ? MODEL_FILE : FILE;
}

/** Options of the host whose ids are looked up in a model's scores. */
const isWordKey = (key: Field): key is WordKey => /^(forced_[be]os_token_id|bad_words_ids)$/.test(key);

/** Options of which null asks for nothing. */
const NULLABLE: ReadonlySet<string> = new Set(["token_healing", ...Object.keys({ ...HOST, ...ENDING, ...MODES })]);

/**
 * Merges the caller's options, generation_config.json and config.json, in that order. In the files null counts as absent, and
 * fields for sampling are checked only if tokens are sampled.
 * @param prompt length of the longest prompt, in tokens
 * @param vocab token ids are below this
 * @throws OptionError naming the caller's option, its allowed values and the actual one; ConfigError for a value in the file
 */
export function generationConfig(
  options: GenerationOptions,
  fromFile: ConfigJson,
  fromModel: ConfigJson,
  prompt: number,
  vocab: number,
): GenerationConfig {
  const inFile = (key: Field): unknown => fromFile[key] ?? undefined;
  const refuse: Refuse = (key, message) => {
    if (options[key] !== undefined) throw new OptionError(message, { details: { option: key } });
    const file = fileOf(key, fromFile, fromModel);
    throw new ConfigError(`${file}: ${message}`, {
      details: { file, key },
      hint: `correct the file, or pass ${key} to generate()`,
    });
  };
  /** The caller's value or the file's, checked. */
  const given = <Key extends Field>(key: Key): GenerationOptions[Key] => {
    // null from the caller means none, whatever the file says.
    const own: unknown = options[key] === null && NULLABLE.has(key) ? undefined : options[key];
    const value: unknown = options[key] !== undefined ? own : inFile(key);
    const problem = value === undefined ? undefined : problemWith(key, GENERATION[key], value);
    return problem ? refuse(key, problem.message) : (value as GenerationOptions[Key]);
  };
  const asked = given("do_sample") ?? false;
  const sampling = <Key extends Field>(key: Key): GenerationOptions[Key] =>
    asked || options[key] !== undefined ? given(key) : undefined;
  const temperature = sampling("temperature") ?? 1;
  const do_sample = asked && temperature > 0;

  const beams = beamsOf(options, given, do_sample, vocab, refuse);
  const mode = modeOf(
    {
      guidance_scale: given("guidance_scale"),
      // That of a file is of no account where the caller searches otherwise.
      penalty_alpha:
        options.penalty_alpha !== undefined || !(do_sample || beams.num_beams > 1) ? given("penalty_alpha") : undefined,
      dola_layers: options.dola_layers !== undefined || beams.num_beams === 1 ? given("dola_layers") : undefined,
      top_k: given("top_k") ?? 50,
      ...{ do_sample, beams, vocab },
    },
    refuse,
  );
  const host: Record<string, unknown> = {};
  for (const key of HOST_FIELDS) {
    const read = HOST_SAMPLING.has(key) && !do_sample ? undefined : given(key);
    const value = isWordKey(key) && read ? within(key, read, options[key] !== undefined, vocab, refuse) : read;
    if (value !== undefined && value !== null && value !== NEUTRAL[key]) host[key] = value;
  }
  const eos_token_ids = endOfText(options, inFile("eos_token_id"), fromModel.eos_token_id, vocab, refuse);
  const named = padding(options, inFile("pad_token_id"), fromModel.pad_token_id, vocab, refuse);
  return {
    max_new_tokens: newTokens(options, inFile("max_new_tokens") !== undefined, given, prompt),
    do_sample,
    temperature: temperature || 1,
    top_k: sampling("top_k") ?? 50,
    top_p: sampling("top_p") ?? 1,
    min_p: sampling("min_p") ?? 0,
    repetition_penalty: given("repetition_penalty") ?? 1,
    presence_penalty: given("presence_penalty") ?? 0,
    frequency_penalty: given("frequency_penalty") ?? 0,
    seed: seedWord(given("seed") ?? Math.floor(Math.random() * 2 ** 31)),
    suppress_tokens: tokensOf("suppress_tokens", options, inFile("suppress_tokens"), vocab, refuse),
    begin_suppress_tokens: tokensOf("begin_suppress_tokens", options, inFile("begin_suppress_tokens"), vocab, refuse),
    eos_token_ids,
    pad_token_id: named ?? eos_token_ids[0] ?? 0,
    prompt_padding: named !== undefined && !eos_token_ids.includes(named) ? named : undefined,
    stop_strings: given("stop_strings") ?? undefined,
    max_time: given("max_time") ?? undefined,
    prompt_lookup_num_tokens: given("prompt_lookup_num_tokens") ?? 0,
    num_assistant_tokens: given("num_assistant_tokens") ?? DEFAULT_ASSISTANT_TOKENS,
    num_assistant_tokens_schedule: given("num_assistant_tokens_schedule") ?? "constant",
    assistant_confidence_threshold: given("assistant_confidence_threshold") ?? 0,
    cache_dtype: cacheDTypeOf(options),
    host: Object.keys(host).length > 0 || beams.num_beams > 1 || modeOption(mode) ? host : undefined,
    beams,
    mode,
    vocab_size: vocab,
    token_healing: given("token_healing") ?? false,
  };
}

type Lengths = Pick<GenerationOptions, "max_new_tokens" | "max_length">;

/** True if nobody says how long a text may be, so that transformers' default length ends it. */
function isDefaultLength(options: Lengths, fromFile: ConfigJson): boolean {
  return ([options, fromFile] as const).every(
    ({ max_new_tokens, max_length }) => (max_new_tokens ?? max_length ?? undefined) === undefined,
  );
}

/** Warns once for each call that its texts end at the default length. */
export function warnOfDefaultLength(call: string, options: Lengths, fromFile: ConfigJson): void {
  if (!isDefaultLength(options, fromFile)) return;
  warnOnce(
    `${call}: max_new_tokens`,
    `${call}: without max_new_tokens a text ends at ${DEFAULT_MAX_LENGTH} tokens, its prompt included, as in Python`,
  );
}

/**
 * The lengths of a call as they are given: new tokens if anybody limits them, else those of prompt and new tokens.
 * Both are checked by `generationConfig`.
 */
export function givenLengths(
  options: Lengths,
  fromFile: ConfigJson,
): { readonly max_new_tokens: number | undefined; readonly max_length: number } {
  const own = options.max_new_tokens ?? (options.max_length === undefined ? fromFile.max_new_tokens : undefined);
  const length = options.max_length ?? fromFile.max_length;
  return {
    max_new_tokens: isWhole(own) ? own : undefined,
    max_length: isWhole(length) ? length : DEFAULT_MAX_LENGTH,
  };
}

/** Throws the error for the source of the value: the caller or the file. */
type Refuse = (key: Field, message: string) => never;

/** Tokens to generate, from `max_new_tokens` and `max_length`. */
function newTokens(
  options: GenerationOptions,
  inFile: boolean,
  given: (key: "max_new_tokens" | "max_length") => number | undefined,
  prompt: number,
): number {
  const length = (): number => given("max_length") ?? DEFAULT_MAX_LENGTH;
  if (options.max_new_tokens === undefined && options.max_length !== undefined) {
    const left = length() - prompt;
    if (left >= 1) return left;
    throw new OptionError(`max_length ${options.max_length} leaves no room after a prompt of ${prompt} tokens`, {
      hint: "use max_new_tokens instead",
    });
  }
  // A prompt that fills the default length still gets one token, so that first examples give a result.
  if (options.max_new_tokens === undefined && !inFile) return Math.max(1, length() - prompt);
  return given("max_new_tokens")!;
}

/** Warnings about the files for a model: values that generate() will reject, and unknown or invalid ones. */
export function fileWarnings(fromFile: ConfigJson, fromModel: ConfigJson, vocab: number): string[] {
  const warnings: string[] = [];
  try {
    generationConfig({}, fromFile, fromModel, 0, vocab);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    warnings.push(error.message.split("\n")[0]!);
  }
  const known = (key: string): boolean => Object.hasOwn(GENERATION, key) || WITHOUT_EFFECT.has(key);
  const unknown = Object.keys(fromFile).filter((key) => !known(key) && fromFile[key] !== null);
  if (unknown.length > 0) warnings.push(`${FILE}: unknown fields, ignored: ${listed(unknown)}`);
  const outside = isNoToken(vocab);
  const noId = (id: unknown): boolean => !isToken(vocab)(id);
  const ends = ["eos_token_id", "pad_token_id"] as const;
  for (const [file, wrong, keys] of [
    [fromFile, outside, [...ends, "forced_bos_token_id", "forced_eos_token_id"]] as const,
    [fromModel, noId, ends] as const,
  ]) {
    for (const key of keys) {
      const name = file === fromModel ? MODEL_FILE : fileOf(key, fromFile, fromModel);
      const ids = [file[key] ?? []].flat().filter(wrong);
      if (ids.length > 0)
        warnings.push(`${name}: ${key} ${listed(ids.map(show))} is not a token id below ${vocab}; ignored`);
    }
  }
  return warnings;
}
