// Finds added and special tokens in text, as in Python's `tokenizers`. Linear in the text, whatever tokens there are.

import { isSpace } from "./text.js";
import type { AddedToken } from "./tokenizer-json.js";
import { Trie } from "./trie.js";

/** A part of a text: plain, or a token in its place. */
export interface Section {
  readonly start: number;
  readonly end: number;
  readonly token: AddedToken | undefined;
}

const ENDS_IN_WORD = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200C\u200D]$/u;
const STARTS_WITH_WORD = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200C\u200D]/u;

/**
 * Cuts tokens out of text: leftmost, then longest. The automaton of Aho and Corasick reads the text backwards with the tokens
 * written backwards, so that at every place it knows the longest token that begins there.
 */
export class AddedTokenCutter {
  readonly #tokens: readonly AddedToken[];
  readonly #lengths: readonly number[];
  readonly #trie: Trie;
  readonly #fails: Int32Array;
  readonly #longest: Int32Array; // for each node, the longest token that ends with what leads to it, or -1

  /**
   * @param tokens what is looked for, and the token that is put in its place; of two equal contents the later counts
   * @throws FormatError when the tokens have too many characters
   */
  constructor(tokens: readonly (readonly [content: string, token: AddedToken])[], file: string) {
    this.#tokens = tokens.map(([, token]) => token);
    this.#lengths = tokens.map(([content]) => content.length);
    const trie = new Trie(
      tokens.map(([content]) => content),
      true,
      file,
    );
    this.#trie = trie;
    const fails = new Int32Array(trie.size);
    const longest = Int32Array.from(trie.words);
    // Nodes are numbered by levels, so shorter beginnings come first.
    for (let node = 1; node < trie.size; node++) {
      const parent = trie.parents[node]!;
      if (parent !== 0) {
        let fail = fails[parent]!;
        let next = trie.child(fail, trie.units[node]!);
        while (next === 0 && fail !== 0) {
          fail = fails[fail]!;
          next = trie.child(fail, trie.units[node]!);
        }
        fails[node] = next;
        if (longest[node] === -1) longest[node] = longest[next]!;
      }
    }
    this.#fails = fails;
    this.#longest = longest;
  }

  /** @param skipSpecial special tokens count as text; as in Python they are found all the same, and hide tokens within them */
  cut(text: string, skipSpecial: boolean): Section[] {
    const begins = this.#begins(text);
    const sections: Section[] = [];
    const give = (start: number, end: number, token?: AddedToken) => {
      if (end > start) sections.push({ start, end, token });
    };
    let done = 0; // end of the last section
    let free = 0; // end of the last match
    let [blankFrom, blankTo] = [0, 0]; // white space that was walked over last
    for (let i = begins.length - 2; i >= 0; i -= 2) {
      const at = begins[i]!;
      if (at < free) continue;
      const token = this.#tokens[begins[i + 1]!]!;
      const stop = at + this.#lengths[begins[i + 1]!]!;
      free = stop;
      if (skipSpecial && token.special) continue;
      if (token.single_word && inWord(text, at, stop)) continue;
      let start = at;
      let end = stop;
      if (token.lstrip) while (start > done && isSpace(text.charCodeAt(start - 1))) start--;
      if (token.rstrip) {
        if (end >= blankFrom && end < blankTo) end = blankTo;
        while (end < text.length && isSpace(text.charCodeAt(end))) end++;
        [blankFrom, blankTo] = [stop, end];
      }
      give(done, start);
      give(start, end, token);
      done = end;
    }
    give(done, text.length);
    return sections;
  }

  /** Places where tokens begin, from the last to the first, each followed by the index of the longest one there. */
  #begins(text: string): number[] {
    const found: number[] = [];
    const trie = this.#trie;
    if (trie.size === 1) return found;
    let node = 0;
    for (let at = text.length - 1; at >= 0; at--) {
      const unit = text.charCodeAt(at);
      let next = trie.child(node, unit);
      while (next === 0 && node !== 0) {
        node = this.#fails[node]!;
        next = trie.child(node, unit);
      }
      node = next;
      const token = this.#longest[node]!;
      if (token >= 0) found.push(at, token);
    }
    return found;
  }
}

function inWord(text: string, start: number, stop: number): boolean {
  return (
    ENDS_IN_WORD.test(text.slice(Math.max(0, start - 2), start)) || STARTS_WITH_WORD.test(text.slice(stop, stop + 2))
  );
}
