// Criteria that end texts, with the names and rules of transformers' generation/stopping_criteria.py.

import { listOf } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import { idsOf, numberOf, readRows, wholeOf } from "./processors/host/base.js";

/** Says of each row whether its text ends. */
export abstract class StoppingCriteria {
  abstract done(ids: readonly number[]): boolean;

  /** @param input_ids the tokens of each row so far @throws OptionError */
  call(input_ids: readonly (readonly number[])[]): boolean[] {
    return readRows(input_ids).map((row) => this.done(row));
  }
}

/** A text is as long as it may be, its prompt included. */
export class MaxLengthCriteria extends StoppingCriteria {
  readonly max_length: number;

  constructor(max_length: number) {
    super();
    this.max_length = wholeOf("max_length", max_length, 1);
  }

  done(ids: readonly number[]): boolean {
    return ids.length >= this.max_length;
  }
}

/** So many seconds have passed since it was made. */
export class MaxTimeCriteria extends StoppingCriteria {
  readonly max_time: number;
  readonly initial_timestamp: number;

  /** @param max_time seconds */
  constructor(max_time: number) {
    super();
    const fits = (n: number): boolean => n > 0 && n < Number.POSITIVE_INFINITY;
    this.max_time = numberOf("max_time", max_time, fits, "a number of seconds above 0");
    this.initial_timestamp = performance.now();
  }

  done(): boolean {
    return performance.now() - this.initial_timestamp > 1000 * this.max_time;
  }
}

/** The last token ends texts. */
export class EosTokenCriteria extends StoppingCriteria {
  readonly eos_token_id: readonly number[];

  constructor(eos_token_id: number | readonly number[]) {
    super();
    this.eos_token_id = idsOf("eos_token_id", eos_token_id);
  }

  done(ids: readonly number[]): boolean {
    return ids.length > 0 && this.eos_token_id.includes(ids.at(-1)!);
  }
}

/** What `StopStringCriteria` asks of a tokenizer. */
export interface StopStringTokenizer {
  batch_decode(rows: readonly (readonly number[])[]): string[];
}

/** Text before a token, so that it is decoded as in the middle of a text: spaces that tokens begin with are kept. */
const BEFORE = "abcdef";

/**
 * The text ends with one of the strings, but for what follows it in the last token alone: " stopping" in one token stops "stop".
 * The text is not cut.
 */
export class StopStringCriteria extends StoppingCriteria {
  readonly stop_strings: readonly string[];
  readonly #textOf: (ids: readonly number[]) => string[];
  readonly #longest: number;

  constructor(tokenizer: StopStringTokenizer, stop_strings: string | readonly string[]) {
    super();
    const isText = (text: unknown): text is string => typeof text === "string" && text !== "";
    const strings = typeof stop_strings === "string" ? listOf([stop_strings], isText) : listOf(stop_strings, isText);
    if (!strings || strings.length === 0) {
      throw new OptionError(`stop_strings must be texts, got ${show(stop_strings)}`);
    }
    this.stop_strings = strings;
    this.#longest = Math.max(...strings.map(({ length }) => length));
    this.#textOf = textsOf(tokenizer);
  }

  done(ids: readonly number[]): boolean {
    // Tokens may be empty: enough of them are looked at for the longest string to lie before the last one.
    let text = "";
    let at = ids.length;
    const texts: string[] = [];
    while (at > 0 && text.length < this.#longest + (texts[0]?.length ?? 0)) {
      const [own = ""] = this.#textOf([ids[--at]!]);
      texts.push(own);
      text = own + text;
    }
    const last = texts[0]?.length ?? 0;
    return this.stop_strings.some((stop) => {
      const found = text.lastIndexOf(stop);
      // It ends in the last token, wherever it begins.
      return found >= 0 && found + stop.length > text.length - last;
    });
  }
}

/** Gives the texts of tokens as they are inside a text; each is asked for once. @throws OptionError */
function textsOf(tokenizer: StopStringTokenizer): (ids: readonly number[]) => string[] {
  const decode = (ids: readonly number[]): string => tokenizer.batch_decode([ids])[0] ?? "";
  let before: readonly number[] = [];
  let skipped = 0;
  try {
    if (typeof tokenizer.batch_decode !== "function") throw new TypeError("no batch_decode");
    if (typeof tokenizer === "function") {
      const encode = tokenizer as unknown as (text: string, options: object) => { input_ids: readonly number[] };
      before = encode(BEFORE, { add_special_tokens: false }).input_ids;
      skipped = decode(before).length;
    }
  } catch (cause) {
    throw new OptionError(`stop_strings need a tokenizer, got ${show(tokenizer)}`, { cause });
  }
  const known = new Map<number, string>();
  return (ids) =>
    ids.map((id) => {
      const text = known.get(id) ?? decode([...before, id]).slice(skipped);
      known.set(id, text);
      return text;
    });
}
