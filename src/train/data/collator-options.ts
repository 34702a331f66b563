// Options that collators share, and how a batch of examples is padded.

import { isOf, listOf, numbersIn } from "../../core/checks.js";
import { entriesOf, OptionError } from "../../core/errors.js";
import { choice, number, type Options, such } from "../../core/options.js";
import { show } from "../../core/show.js";
import { PreTrainedTokenizer, type Side } from "../../tokenizer/api.js";

const isTokenizer = (value: unknown): boolean => isOf(value, PreTrainedTokenizer);
const isCount = (value: number): boolean => Number.isSafeInteger(value) && value > 0;

export const PADDING = {
  /** Whose token fills rows, on its `padding_side`. */
  tokenizer: such<PreTrainedTokenizer>(isTokenizer, "a tokenizer, as from AutoTokenizer.from_pretrained"),
  /** true or "longest": to the longest row (default); "max_length"; false or "do_not_pad": rows must be alike. */
  padding: choice([true, false, "longest", "max_length", "do_not_pad"]),
  /** The length of `padding: "max_length"`; by default the tokenizer's longest. */
  max_length: number(isCount, "a whole number above 0"),
  /** Lengths are multiples of this. */
  pad_to_multiple_of: number(isCount, "a whole number above 0"),
};
export interface PaddingOptions extends Options<typeof PADDING> {}

/** A collator's options: in one object, or the tokenizer and then an object, as in Python. */
export function collatorOptions(call: string, first: unknown, second: unknown): object {
  if (!isTokenizer(first)) {
    if (second !== undefined) throw new OptionError(`${call}: expected a tokenizer first, got ${show(first)}`);
    return Object.fromEntries(entriesOf(call, first));
  }
  return { ...Object.fromEntries(entriesOf(call, second)), tokenizer: first };
}

/** @throws OptionError */
export function needed(call: string, tokenizer: PreTrainedTokenizer | undefined): PreTrainedTokenizer {
  if (tokenizer) return tokenizer;
  throw new OptionError(`${call}: it needs a tokenizer`, { details: { option: "tokenizer" } });
}

/** The examples of a batch. @throws OptionError for what are none */
export function readFeatures(call: string, features: unknown): readonly ReadonlyMap<string, unknown>[] {
  const list = listOf(features, (one): one is object => typeof one === "object" && one !== null);
  if (!list || list.length === 0) {
    throw new OptionError(`${call}: it takes a list of examples, got ${show(features)}`);
  }
  return list.map((one, n) => new Map(entriesOf(`${call}: example ${n}`, one)));
}

/** A list of numbers of an example. @throws OptionError */
export function numbersOf(call: string, name: string, value: unknown, row: number): number[] {
  const numbers = numbersIn(value, (one) => Number.isFinite(one));
  if (numbers) return numbers;
  throw new OptionError(`${call}: ${name} of example ${row} must be a list of numbers, got ${show(value)}`);
}

/** The labels of an example, one for each token. @throws OptionError */
export function labelsOf(call: string, name: string, one: ReadonlyMap<string, unknown>, row: number): number[] {
  const labels = numbersOf(call, name, one.get(name), row);
  const { length } = numbersOf(call, "input_ids", one.get("input_ids"), row);
  if (labels.length === length) return labels;
  throw new OptionError(`${call}: example ${row} has ${length} tokens, and ${labels.length} labels`);
}

/** Whether all examples have a field. @throws OptionError if only some have */
export function allHave(call: string, name: string, features: readonly ReadonlyMap<string, unknown>[]): boolean {
  const having = features.filter((one) => one.get(name) !== undefined && one.get(name) !== null).length;
  if (having === 0 || having === features.length) return having > 0;
  throw new OptionError(`${call}: ${having} of ${features.length} examples have ${name}`);
}

/** Rows of one length. */
export function padRows(rows: readonly (readonly number[])[], length: number, value: number, side: Side): number[][] {
  return rows.map((row) => {
    const more = new Array<number>(length - row.length).fill(value);
    return side === "right" ? [...row, ...more] : [...more, ...row];
  });
}

/** `length`, or the next multiple above it. */
export function rounded(length: number, multiple: number | undefined): number {
  return multiple === undefined ? length : Math.ceil(length / multiple) * multiple;
}

/** Fields with a number for each token, and what fills them. */
const FILL: Readonly<Record<string, number>> = { attention_mask: 0, token_type_ids: 0, special_tokens_mask: 1 };

/** Fields of a batch: rows of numbers for each token, or a number for each example. */
export type Fields = Record<string, number[][] | number[]>;

/**
 * `tokenizer.pad`: the tokens of examples as rows of one length with an attention mask. A field that is one number becomes a list of
 * them; other fields with a number for each token must be of one length.
 * @param left names of fields that are left out
 * @throws OptionError
 */
export function padTokens(
  call: string,
  features: readonly ReadonlyMap<string, unknown>[],
  options: PaddingOptions,
  left: readonly string[] = [],
): Fields {
  const tokenizer = needed(call, options.tokenizer);
  const { padding = true, pad_to_multiple_of } = options;
  if (!allHave(call, "input_ids", features)) throw new OptionError(`${call}: the examples have no input_ids`);
  const ids = features.map((one, row) => numbersOf(call, "input_ids", one.get("input_ids"), row));
  const longest = Math.max(...ids.map((row) => row.length));
  const pads = padding !== false && padding !== "do_not_pad";
  const most = padding === "max_length" ? (options.max_length ?? tokenizer.model_max_length) : longest;
  if (!Number.isFinite(most)) throw new OptionError(`${call}: padding: "max_length" needs a max_length`);
  const length = pads ? Math.max(longest, rounded(most, pad_to_multiple_of)) : longest;
  const side = tokenizer.padding_side;
  const fill = (rows: number[][], name: string, value: number): number[][] => {
    const uneven = rows.findIndex((row, n) => row.length !== ids[n]!.length);
    if (uneven >= 0) {
      throw new OptionError(
        `${call}: example ${uneven} has ${ids[uneven]!.length} input_ids, and ${rows[uneven]!.length} of ${name}`,
      );
    }
    const short = rows.findIndex((row) => row.length !== length);
    if (short >= 0 && !pads) {
      throw new OptionError(`${call}: example ${short} has ${rows[short]!.length} tokens, and another one ${length}`, {
        hint: "padding: true makes rows of one length",
      });
    }
    return padRows(rows, length, value, side);
  };
  const made: Fields = { input_ids: fill(ids, "input_ids", padId(call, tokenizer, ids, length)) };
  made.attention_mask = fill(
    allHave(call, "attention_mask", features)
      ? features.map((one, row) => numbersOf(call, "attention_mask", one.get("attention_mask"), row))
      : ids.map((row) => row.map(() => 1)),
    "attention_mask",
    0,
  );
  for (const name of new Set(features.flatMap((one) => [...one.keys()]))) {
    if (name in made || left.includes(name) || !allHave(call, name, features)) continue;
    made[name] = fieldOf(call, name, features, (rows) => fill(rows, name, FILL[name]!));
  }
  return made;
}

function fieldOf(
  call: string,
  name: string,
  features: readonly ReadonlyMap<string, unknown>[],
  fill: (rows: number[][]) => number[][],
): number[][] | number[] {
  const values = features.map((one) => one.get(name));
  if (values.every((value) => typeof value === "number" || typeof value === "boolean")) return values.map(Number);
  const rows = values.map((value, row) => numbersOf(call, name, value, row));
  if (Object.hasOwn(FILL, name)) return fill(rows);
  if (rows.every((row) => row.length === rows[0]!.length)) return rows;
  throw new OptionError(`${call}: ${name} has other lengths in other examples`, {
    hint: name === "labels" ? "DataCollatorForTokenClassification and DataCollatorForSeq2Seq pad labels" : undefined,
  });
}

/** The token that fills; 0 where nothing is filled. @throws OptionError if there is none */
function padId(call: string, tokenizer: PreTrainedTokenizer, ids: readonly number[][], length: number): number {
  const id = tokenizer.pad_token_id;
  if (id !== null) return id;
  if (ids.every((row) => row.length === length)) return 0;
  throw new OptionError(`${call}: the tokenizer has no pad_token to fill rows with`, {
    hint: "tokenizer.pad_token = tokenizer.eos_token",
  });
}
