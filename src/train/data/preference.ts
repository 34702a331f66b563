// Examples of preferences, in TRL's formats, as tokens: a prompt, and two answers to it of which one is preferred. Texts or messages; the
// prompt may be left out where both answers begin with it.

import { Callable } from "../../core/callable.js";
import { isList, isOf, numbersIn } from "../../core/checks.js";
import { OptionError } from "../../core/errors.js";
import { choice, number, type Options, readOptions, such, text } from "../../core/options.js";
import { show } from "../../core/show.js";
import { warnOnce } from "../../generate/warn.js";
import { PreTrainedTokenizer } from "../../tokenizer/api.js";
import { padRows, readFeatures } from "./collator-options.js";
import { Dataset } from "./dataset.js";
import { chatOf, chatTokens } from "./format.js";
import { IterableDataset } from "./iterable-dataset.js";
import { MAX_LENGTH } from "./prepared-sets.js";
import type { Feature } from "./types.js";

const isLength = (value: unknown): boolean => value === null || (Number.isSafeInteger(value) && (value as number) > 1);

const TRUNCATION = {
  /** Longest prompt with its answer, in tokens; null for none. Longer ones are cut. Default 1024. */
  max_length: such<number | null>(isLength, "a whole number above 1, or null"),
  /** What is left of a text that is too long: its beginning, the default, or its end. */
  truncation_mode: choice(["keep_start", "keep_end"]),
};

const PADDING = {
  /** Rows are filled up to a multiple of so many tokens. */
  pad_to_multiple_of: such<number | null>(
    (value) => value === null || (Number.isSafeInteger(value) && (value as number) > 0),
    "a whole number above 0, or null",
  ),
};

export const PREFERENCE = {
  ...TRUNCATION,
  ...PADDING,
  /** The token that ends an answer; by default the tokenizer's. */
  eos_token: text(),
  /** The text of a chat template, instead of the tokenizer's. */
  chat_template: text(),
};
export interface PreferenceOptions extends Options<typeof PREFERENCE> {}

/** Tokens of a prompt and of two answers. */
export interface Preference {
  readonly prompt_ids: readonly number[];
  readonly chosen_ids: readonly number[];
  readonly rejected_ids: readonly number[];
}

const NAMES = ["prompt_ids", "chosen_ids", "rejected_ids"] as const;
const CALL = "prepare_preference_dataset";

/**
 * Examples as tokens: `{ prompt_ids, chosen_ids, rejected_ids }`. Those that have them already keep theirs; those whose prompt alone is as
 * long as `max_length` are left out, unless the end is kept.
 * @throws OptionError for examples of no format, with their number; what the chat template throws
 */
export function prepare_preference_dataset<D extends Dataset | IterableDataset>(
  dataset: D,
  tokenizer: PreTrainedTokenizer,
  options: PreferenceOptions = {},
): D extends Dataset ? Dataset : IterableDataset {
  const given = readOptions(CALL, PREFERENCE, options);
  if (!isOf(tokenizer, PreTrainedTokenizer)) {
    throw new OptionError(`${CALL}: expected a tokenizer, got ${show(tokenizer)}`);
  }
  const { max_length = MAX_LENGTH, truncation_mode = "keep_start" } = given;
  const learns = ({ prompt_ids }: Preference): boolean =>
    max_length === null || truncation_mode === "keep_end" || prompt_ids.length < max_length;
  const rows = (list: readonly Preference[]): readonly Feature[] => list as readonly object[] as readonly Feature[];
  if (isOf(dataset, Dataset)) {
    const all = dataset.to_list().map((example, i) => tokensOf(example, tokenizer, given, `example ${i}`));
    return Dataset.from_list(rows(all.filter(learns))) as never;
  }
  if (!isOf(dataset, IterableDataset)) {
    throw new OptionError(`${CALL}: expected a Dataset or an IterableDataset, got ${show(dataset)}`, {
      hint: "Dataset.from_list(rows) makes one",
    });
  }
  return dataset.pipe(async function* (examples) {
    let index = 0;
    for await (const example of examples) {
      yield* rows([tokensOf(example, tokenizer, given, `example ${index++}`)].filter(learns));
    }
  }) as never;
}

function tokensOf(
  example: Feature,
  tokenizer: PreTrainedTokenizer,
  options: PreferenceOptions,
  place: string,
): Preference {
  if (NAMES.every((name) => example[name] !== undefined)) return givenTokens(example, place);
  const missing = ["chosen", "rejected"].find((name) => example[name] === undefined || example[name] === null);
  if (missing) {
    throw new OptionError(
      `${place}: expected chosen and rejected, got ${Object.keys(example).join(", ") || "nothing"}`,
      {
        hint: "an example has a prompt and two answers to it, of which the chosen one is preferred",
      },
    );
  }
  const { prompt, chosen, rejected } = withPrompt(example);
  const [whole, better, worse] = [prompt, chosen, rejected].some(isList)
    ? messages(example, { prompt, chosen, rejected }, tokenizer, options, place)
    : texts({ prompt, chosen, rejected }, tokenizer, options, place);
  const behind = (ids: readonly number[]): readonly number[] => {
    if (whole.some((id, at) => ids[at] !== id)) {
      warnOnce(
        "prompt tokens",
        "the tokens of a prompt are not the first ones of prompt and answer together, so that a few tokens at the border may count that are the prompt's, or the other way round",
      );
    }
    return ids.slice(whole.length);
  };
  return { prompt_ids: whole, chosen_ids: behind(better), rejected_ids: behind(worse) };
}

function givenTokens(example: Feature, place: string): Preference {
  const [prompt_ids, chosen_ids, rejected_ids] = NAMES.map((name) => {
    const ids = numbersIn(example[name], (id) => Number.isSafeInteger(id) && id >= 0);
    if (ids) return ids;
    throw new OptionError(`${place}: ${name} must be token ids, got ${show(example[name])}`);
  });
  return { prompt_ids: prompt_ids!, chosen_ids: chosen_ids!, rejected_ids: rejected_ids! };
}

interface Answers {
  readonly prompt: unknown;
  readonly chosen: unknown;
  readonly rejected: unknown;
}

/** The prompt apart, if it is what both answers begin with. */
function withPrompt({ prompt, chosen, rejected }: Feature): Answers {
  if (prompt !== undefined && prompt !== null) return { prompt, chosen, rejected };
  const [a, b] = [chosen, rejected] as [string | readonly unknown[], string | readonly unknown[]];
  if (typeof a !== typeof b || !(typeof a === "string" || isList(a))) return { prompt: "", chosen, rejected };
  const alike = (at: number): boolean => a[at] === b[at] || (typeof a !== "string" && same(a[at], b[at]));
  let end = 0;
  while (end < a.length && end < b.length && alike(end)) end++;
  if (typeof a === "string" && /[\ud800-\udbff]$/.test(a.slice(0, end))) end--; // half a character
  if (end > 0 && a[end - 1] === " ") end--; // a blank belongs to the answer
  return { prompt: a.slice(0, end), chosen: a.slice(end), rejected: b.slice(end) };
}

/** Whether two messages are the same. What JSON has no words for is told where messages are read. */
function same(a: unknown, b: unknown): boolean {
  try {
    return JSON.stringify(a) === JSON.stringify(b);
  } catch {
    return false;
  }
}

type Three = readonly [prompt: readonly number[], chosen: readonly number[], rejected: readonly number[]];

function texts(answers: Answers, tokenizer: PreTrainedTokenizer, options: PreferenceOptions, place: string): Three {
  const end = options.eos_token ?? tokenizer.eos_token ?? "";
  const read = (name: keyof Answers): string => {
    const value = answers[name];
    if (typeof value === "string") return value;
    throw new OptionError(`${place}: ${name} must be text, or a list of messages, got ${show(value)}`);
  };
  const [prompt, chosen, rejected] = [read("prompt"), read("chosen"), read("rejected")];
  const ended = (answer: string): string => (answer.endsWith(end) ? answer : answer + end);
  return [
    prompt === "" ? [] : tokenizer(prompt).input_ids,
    tokenizer(prompt + ended(chosen)).input_ids,
    tokenizer(prompt + ended(rejected)).input_ids,
  ];
}

function messages(
  example: Feature,
  { prompt, chosen, rejected }: Answers,
  tokenizer: PreTrainedTokenizer,
  options: PreferenceOptions,
  place: string,
): Three {
  const read = chatOf({ prompt }, "prompt", place);
  const both = { chosen, rejected };
  const whole = (name: keyof typeof both) =>
    chatTokens([...read, ...chatOf(both, name, place)], example, tokenizer, options, place);
  return [chatTokens(read, example, tokenizer, options, place, true), whole("chosen"), whole("rejected")];
}

const COLLATOR = {
  /** What fills rows. */
  pad_token_id: number((value) => Number.isSafeInteger(value) && value >= 0, "a token's id"),
  ...TRUNCATION,
  ...PADDING,
};
export interface PreferenceCollatorOptions extends Options<typeof COLLATOR> {}

/** A batch: prompts with the chosen answers, then the same prompts with the rejected ones. */
export interface PreferenceBatch extends Record<string, readonly (readonly number[])[]> {
  readonly input_ids: number[][];
  readonly attention_mask: number[][];
  /** 1 for tokens of answers. */
  readonly completion_mask: number[][];
}

const Collator = Callable as new () => (features: readonly Feature[]) => PreferenceBatch;

/** Makes batches of preferences: chosen ones first, rows filled on the right. */
export class DataCollatorForPreference extends Collator {
  readonly #options: PreferenceCollatorOptions;

  /** @throws OptionError */
  constructor(options: PreferenceCollatorOptions) {
    super();
    this.#options = readOptions("DataCollatorForPreference", COLLATOR, options);
    if (this.#options.pad_token_id === undefined) {
      throw new OptionError("DataCollatorForPreference: it needs a pad_token_id", {
        details: { option: "pad_token_id" },
      });
    }
  }

  /** @throws OptionError for what are no examples */
  _call(features: readonly Feature[]): PreferenceBatch {
    const call = "DataCollatorForPreference";
    const { pad_token_id = 0, max_length = null, truncation_mode = "keep_start", pad_to_multiple_of } = this.#options;
    const read = readFeatures(call, features).map((one, i) =>
      givenTokens(Object.fromEntries(one), `${call}: example ${i}`),
    );
    const cut = (row: readonly number[]): readonly number[] => {
      if (max_length === null) return row;
      return truncation_mode === "keep_start" ? row.slice(0, max_length) : row.slice(-max_length);
    };
    const rows = (["chosen_ids", "rejected_ids"] as const).flatMap((name) =>
      read.map((one) => ({
        ids: cut([...one.prompt_ids, ...one[name]]),
        mask: cut([...one.prompt_ids.map(() => 0), ...one[name].map(() => 1)]),
      })),
    );
    const most = Math.max(...rows.map(({ ids }) => ids.length));
    const longest = pad_to_multiple_of ? Math.ceil(most / pad_to_multiple_of) * pad_to_multiple_of : most;
    const filled = (list: readonly (readonly number[])[], value: number) => padRows(list, longest, value, "right");
    return {
      input_ids: filled(
        rows.map(({ ids }) => ids),
        pad_token_id,
      ),
      attention_mask: filled(
        rows.map(({ ids }) => ids.map(() => 1)),
        0,
      ),
      completion_mask: filled(
        rows.map(({ mask }) => mask),
        0,
      ),
    };
  }
}
