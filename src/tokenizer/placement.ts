// Where the tokens of one text come from: offsets as Python's fast tokenizers give them, but in UTF-16 units, and words. Not here: how
// characters are followed (aligned.ts), tokens that are put around texts (rows.ts).

import type { Range } from "./aligned.js";
import type { Components } from "./components.js";
import { isSpace, sizeAt } from "./text.js";

/** What a post-processor does to offsets: white space at the ends of a token is not part of it. */
interface Trim {
  /** The pre-tokenizer puts a space in front of the text, so that one space there stays. */
  readonly prefix: boolean;
  /** A special token stands before the text already, so that no token of the text is the first. */
  readonly behind: boolean;
}

/** The post-processor's part in offsets. */
export function trimsOf(components: Components | null): readonly Trim[] {
  const trims: Trim[] = [];
  let behind = false;
  for (const { type, trim_offsets, add_prefix_space } of components ?? []) {
    if (trim_offsets === true) trims.push({ prefix: add_prefix_space === true, behind });
    behind ||= type === "RobertaProcessing" || type === "BertProcessing";
  }
  return trims;
}

export class Placement {
  /** Ids without special tokens around them. */
  readonly ids: number[] = [];
  /** For each token the number of its word: of the piece that the model saw, or of the added token. */
  readonly words: number[] = [];
  readonly #text: string;
  readonly #trims: readonly Trim[];
  readonly #tokenOf: (id: number) => string | undefined;
  readonly #ranges: Range[] = [];
  readonly #written = new Map<number, string>(); // tokens that stand for more than their own text
  #words = 0;

  constructor(text: string, trims: readonly Trim[], tokenOf: (id: number) => string | undefined) {
    this.#text = text;
    this.#trims = trims;
    this.#tokenOf = tokenOf;
  }

  /** Adds the tokens of a word; `written`: what each is in the text, if that is not the token itself. */
  add(
    ids: readonly number[],
    rangeOf: (index: number) => Range,
    written?: (index: number) => string | undefined,
  ): void {
    ids.forEach((id, i) => {
      const text = written?.(i);
      if (text !== undefined) this.#written.set(this.ids.length, text);
      this.ids.push(id);
      this.words.push(this.#words);
      this.#ranges.push(rangeOf(i));
    });
    this.#words++;
  }

  /**
   * Offsets of the tokens from one up to another, which are all that is left of the text.
   * @param framed whether special tokens are put around them
   */
  offsets(from: number, to: number, framed: boolean): Range[] {
    const ranges = this.#ranges.slice(from, to);
    for (const { prefix, behind } of this.#trims) {
      for (let i = 0; i < ranges.length; i++) {
        const token = this.#written.get(from + i) ?? this.#tokenOf(this.ids[from + i]!) ?? "";
        ranges[i] = this.#trimmed(token, ranges[i]!, prefix, i === 0 && !(behind && framed));
      }
    }
    return ranges;
  }

  #trimmed(token: string, range: Range, prefix: boolean, first: boolean): Range {
    const [leading, trailing] = [blanks(token, 0, 1), blanks(token, token.length - 1, -1)];
    if (leading + trailing === 0) return range;
    const text = this.#text;
    let [start, end] = range;
    if (!(leading === 1 && prefix && (first || start === 0))) {
      for (let left = leading; left > 0 && start < end; left--) start += sizeAt(text, start);
    }
    let back = end;
    for (let left = trailing; left > 0; left--) {
      if (back === 0) return [start, end]; // the text is shorter than what would go
      back -= back > 1 ? sizeAt(text, back - 2) : 1;
    }
    end = Math.max(back, start);
    return [start, end];
  }
}

/** How many spaces a token has from one of its ends on; byte-level vocabularies write them in their own way. */
function blanks(token: string, at: number, step: 1 | -1): number {
  let count = 0;
  for (let i = at; i >= 0 && i < token.length; i += step, count++) {
    const unit = token.charCodeAt(i);
    if (unit !== 0x120 && !isSpace(unit)) break;
  }
  return count;
}
