// The `generation_kwargs` of tasks: which of them are lm-evaluation-harness's own, and what is left for generate().

import { OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";

/** Options of `generate_until`: `until`, `max_gen_toks`, and those of generate(). */
export type GenerationKwargs = Readonly<Record<string, unknown>>;

/** Names of the most new tokens, the first that is given counts. */
const LENGTHS = ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"];

/** Options of generate() that are the evaluation's own: it gives the prompts, and reads one text of each. */
const OURS = [
  ...["input_ids", "attention_mask", "tokenizer", "signal", "streamer", "token_healing"],
  ...["num_return_sequences", "return_dict_in_generate"],
];
/** Values that ask for nothing else. */
const USUAL: readonly unknown[] = [undefined, null, false, 1];

/** A copy of what a caller gives. @throws OptionError for what JSON does not hold */
export function copyOf(kwargs: unknown): GenerationKwargs {
  try {
    const text = JSON.stringify(kwargs, (name, value: unknown) => {
      if (["function", "bigint", "symbol"].includes(typeof value))
        throw new TypeError(`a ${typeof value} in "${name}"`);
      return value;
    });
    const copy: unknown = JSON.parse(text);
    if (typeof copy !== "object" || copy === null || Array.isArray(copy)) throw new TypeError("no object");
    return copy as GenerationKwargs;
  } catch (cause) {
    throw new OptionError(`generation_kwargs must be an object of JSON's values, got ${show(kwargs)}`, { cause });
  }
}

/**
 * What a task asks for. Temperature 0 is the likeliest token at each step, as `do_sample: false` is.
 * @throws OptionError for an `until` that is no text or list of texts, a length that is no whole number above 0, and options of
 * generate() that an evaluation does not leave to its tasks
 */
export function generationOf(kwargs: GenerationKwargs): {
  readonly until: readonly string[];
  readonly max_gen_toks: number | undefined;
  readonly options: Readonly<Record<string, unknown>>;
} {
  const { until = [], ...rest } = kwargs;
  const list = Array.isArray(until) ? (until as unknown[]) : [until];
  if (!list.every((text) => typeof text === "string")) {
    throw new OptionError(`generation_kwargs.until must be a text or a list of texts, got ${show(until)}`);
  }
  const length = LENGTHS.map((name) => rest[name]).find((value) => value !== undefined && value !== null);
  if (length !== undefined && !(Number.isSafeInteger(length) && (length as number) > 0)) {
    throw new OptionError(`generation_kwargs.max_gen_toks must be a whole number above 0, got ${show(length)}`);
  }
  const ours = OURS.find((name) => !USUAL.includes(rest[name]));
  if (ours !== undefined) {
    throw new OptionError(`generation_kwargs.${ours} is not for tasks: each prompt has one text, which follows it`, {
      details: { option: ours },
    });
  }
  const names = Object.keys(rest).filter((name) => !LENGTHS.includes(name) && !OURS.includes(name));
  const options: Record<string, unknown> = Object.fromEntries(names.map((name) => [name, rest[name]]));
  const greedy = options.do_sample === false || (options.do_sample === undefined && !options.temperature);
  if (greedy) delete options.temperature;
  return {
    until: list as string[],
    max_gen_toks: length as number | undefined,
    options: { ...options, do_sample: !greedy },
  };
}

/** A text up to the first place of each of the texts that end it. */
export function textUntil(text: string, until: readonly string[]): string {
  return until.reduce((left, end) => (end === "" ? left : left.split(end, 1)[0]!), text);
}
