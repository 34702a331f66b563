// Literal replacements in text that comes in pieces, and the clean-up of spaces that is made of them.

import { TooLong } from "./text.js";

/** Takes the texts that a step makes, and counts their characters over all calls. */
export class Sink {
  texts: string[] = [];
  /** The most characters that the step may make. */
  most = Number.POSITIVE_INFINITY;
  #made = 0;

  /** Begins a call. */
  begin(most: number): void {
    this.texts = [];
    this.most = most;
  }

  /** @throws TooLong when there are more characters than may be */
  push(text: string): void {
    this.#made += text.length;
    if (this.#made > this.most) throw new TooLong();
    this.texts.push(text);
  }
}

/**
 * `text.replaceAll(find, content)` of a text that comes in pieces. What may be the beginning of a match waits; the pieces
 * together are the same however the text is cut. Linear, whatever is found (the automaton of Knuth, Morris and Pratt).
 */
export class StreamReplacer {
  readonly #find: string;
  readonly #content: string;
  readonly #borders: Int32Array; // for each beginning of `find`, the length of its longest border
  #matched = 0; // units of `find` that wait

  /** @param find the text to find; an empty one is found nowhere */
  constructor(find: string, content: string) {
    this.#find = find;
    this.#content = content;
    this.#borders = new Int32Array(find.length);
    for (let i = 1, k = 0; i < find.length; i++) {
      while (k > 0 && find[i] !== find[k]) k = this.#borders[k - 1]!;
      if (find[i] === find[k]) k++;
      this.#borders[i] = k;
    }
  }

  push(parts: readonly string[], out: Sink): void {
    const find = this.#find;
    const part = parts.join("");
    if (find === "" || (this.#matched === 0 && !part.includes(find[0]!))) {
      out.push(part);
      return;
    }
    let from = 0; // units of `part` that were neither given nor wait
    for (let at = 0; at < part.length; at++) {
      while (this.#matched > 0 && find[this.#matched] !== part[at]) {
        // The wait was longer than it need have been: its first units are ordinary text.
        const border = this.#borders[this.#matched - 1]!;
        give(find.slice(0, this.#matched - border), out);
        this.#matched = border;
        from = at;
      }
      if (find[this.#matched] !== part[at]) continue;
      if (this.#matched === 0) {
        give(part.slice(from, at), out);
        from = at;
      }
      this.#matched++;
      from = at + 1;
      if (this.#matched === find.length) {
        give(this.#content, out);
        this.#matched = 0;
      }
    }
    give(part.slice(from), out);
  }

  end(out: Sink): void {
    out.push(this.#find.slice(0, this.#matched));
    this.#matched = 0;
  }
}

function give(text: string, out: Sink): void {
  if (text !== "") out.push(text);
}

/** What `clean_up_tokenization_spaces` replaces, one after the other: spaces before English punctuation and contractions. */
const RULES: readonly (readonly [find: string, content: string])[] = [
  [" .", "."],
  [" ?", "?"],
  [" !", "!"],
  [" ,", ","],
  [" ' ", "'"],
  [" n't", "n't"],
  [" 'm", "'m"],
  [" 's", "'s"],
  [" 've", "'ve"],
  [" 're", "'re"],
];

/** `clean_up_tokenization_spaces`: removes spaces before English punctuation and contractions. */
export function cleanUp(text: string): string {
  if (!text.includes(" ")) return text;
  return RULES.reduce((result, [find, content]) => result.replaceAll(find, content), text);
}

/** `cleanUp` of a text that comes in pieces. */
export class StreamCleanUp {
  readonly #steps = RULES.map(([find, content]) => new StreamReplacer(find, content));

  /** Adds a piece of the text; gives what is final. `last`: also the rest, and the next piece begins another text. */
  push(text: string, last: boolean): string {
    let parts = [text];
    for (const step of this.#steps) {
      const out = new Sink();
      step.push(parts, out);
      if (last) step.end(out);
      parts = out.texts;
    }
    return parts.join("");
  }
}
