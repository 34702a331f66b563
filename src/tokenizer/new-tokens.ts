// Tokens that a program adds to a tokenizer: what callers may write, and which ids they get, as in Python's library.

import { listOf } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { flag, type Options, readOptions } from "../core/options.js";
import { show } from "../core/show.js";
import { reading } from "./ids.js";
import { SPECIAL_NAMES, type SpecialName } from "./options.js";
import { wellFormed } from "./text.js";
import type { AddedToken } from "./tokenizer-json.js";

const FLAGS = {
  /** It is found as a whole word alone. Default false. */
  single_word: flag(),
  /** It takes the white space before it. Default false. */
  lstrip: flag(),
  /** It takes the white space after it. Default false. */
  rstrip: flag(),
  /** It is looked for in the normalised text. Default: true unless it is special. */
  normalized: flag(),
  /** `skip_special_tokens` omits it. Default false. */
  special: flag(),
};

/** A token with how it is found in text: Python's AddedToken. */
export interface NewTokenOptions extends Readonly<Options<typeof FLAGS>> {
  readonly content: string;
}

/** A token to add: its text, or an object with it. */
export type NewToken = string | NewTokenOptions;

export const ADD_TOKENS = {
  /** They are special: `skip_special_tokens` omits them, and they are found before text is normalised. Default false. */
  special_tokens: flag(),
};
export interface AddTokensOptions extends Readonly<Options<typeof ADD_TOKENS>> {}

export const ADD_SPECIAL_TOKENS = {
  /** A list in place of the one before (default), or beside it. */
  replace_additional_special_tokens: flag(),
  /** The same under the name of transformers 5. */
  replace_extra_special_tokens: flag(),
};
export interface AddSpecialTokensOptions extends Readonly<Options<typeof ADD_SPECIAL_TOKENS>> {}

/** Special tokens by name, and a list of those without one. */
export type SpecialTokens = { readonly [Name in SpecialName]?: NewToken } & {
  readonly additional_special_tokens?: readonly NewToken[];
  /** The same under the name of transformers 5. */
  readonly extra_special_tokens?: readonly NewToken[];
};

/** Most tokens of one call. */
const MOST = 1 << 22;

type Wanted = Omit<AddedToken, "id">;

/** @throws OptionError for what is neither text nor an object with `content` */
function readToken(place: string, given: unknown, special: boolean): Wanted {
  return reading(place, "a token", given, () => {
    if (typeof given !== "string" && (typeof given !== "object" || given === null || Array.isArray(given))) {
      throw new OptionError(`${place}: a token must be text or an object with content, got ${show(given)}`);
    }
    const { content, ...rest } = typeof given === "string" ? { content: given } : (given as NewTokenOptions);
    if (typeof content !== "string" || content !== wellFormed(content)) {
      throw new OptionError(`${place}: the content of a token must be text, got ${show(content)}`);
    }
    const flags = readOptions(place, FLAGS, rest);
    const normalized = flags.normalized ?? !(special || flags.special);
    const { single_word = false, lstrip = false, rstrip = false } = flags;
    return { content, single_word, lstrip, rstrip, normalized, special: special || flags.special === true };
  });
}

/** @throws OptionError */
export function readNewTokens(place: string, given: unknown, special: boolean): Wanted[] {
  const list = reading(place, "tokens", given, () => listOf(given, (_): _ is unknown => true));
  if (list === undefined) return [readToken(place, given, special)];
  if (list.length > MOST) throw new OptionError(`${place}: more than ${MOST} tokens`);
  return list.map((one) => readToken(place, one, special));
}

/** What `add_special_tokens` was given. */
export interface NamedTokens {
  readonly named: ReadonlyMap<SpecialName, Wanted>;
  /** Undefined if no list was given. */
  readonly others: readonly Wanted[] | undefined;
}

/** @throws OptionError */
export function readSpecialTokens(place: string, given: unknown): NamedTokens {
  const entries = reading(place, "tokens", given, () => {
    if (typeof given === "object" && given !== null && !Array.isArray(given)) return Object.entries(given);
    throw new OptionError(`${place}: expected an object such as { pad_token: "<pad>" }, got ${show(given)}`, {
      hint: "add_tokens([...]) adds tokens without a name",
    });
  });
  const named = new Map<SpecialName, Wanted>();
  let others: Wanted[] | undefined;
  for (const [key, value] of entries) {
    if (value === undefined) continue;
    const name = SPECIAL_NAMES.find((one) => one === key);
    if (name) named.set(name, readToken(`${place}: ${key}`, value, true));
    else if (key === "additional_special_tokens" || key === "extra_special_tokens") {
      if (!Array.isArray(value)) throw new OptionError(`${place}: ${key} must be a list of tokens, got ${show(value)}`);
      others = [...(others ?? []), ...readNewTokens(`${place}: ${key}`, value, true)];
    } else {
      const known = [...SPECIAL_NAMES, "additional_special_tokens", "extra_special_tokens"];
      throw new OptionError(`${place}: ${show(key)} is not the name of a special token; known are ${known.join(", ")}`);
    }
  }
  return { named, others };
}

/** A vocabulary that tokens are added to. */
interface Vocabulary {
  readonly vocab_size: number;
  readonly added_tokens: readonly AddedToken[];
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
}

/**
 * The added tokens with new ones behind them, and how many Python counts as added: those that were no added tokens, or others.
 * A token of the vocabulary keeps its id; another one gets the next id.
 */
export function withNewTokens(vocabulary: Vocabulary, wanted: readonly Wanted[]): { all: AddedToken[]; count: number } {
  const all = new Map(vocabulary.added_tokens.map((token) => [token.content, token]));
  let next = vocabulary.vocab_size;
  for (const { id } of all.values()) next = Math.max(next, id + 1);
  let count = 0;
  for (const token of wanted) {
    const before = all.get(token.content);
    if (token.content === "" || (before && same(before, token))) continue;
    count++;
    let id = before?.id ?? vocabulary.token_to_id(token.content);
    if (id === undefined) {
      while (vocabulary.id_to_token(next) !== undefined) next++; // a vocabulary may have gaps
      id = next++;
    }
    all.set(token.content, { ...token, id });
  }
  return { all: [...all.values()], count };
}

function same(a: Wanted, b: Wanted): boolean {
  return (["single_word", "lstrip", "rstrip", "normalized", "special"] as const).every((key) => a[key] === b[key]);
}
