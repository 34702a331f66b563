// Texts that know from where in the original each of their characters comes, for offsets of tokens. The rules are those of Python's
// `tokenizers`: a character that replaces another has its range, one that is put in has the range of the character before it, one
// that is removed leaves no trace. Not here: Unicode's normal forms (normal-forms.ts), offsets of tokens (placement.ts).

/** From a place up to another, in UTF-16 units. */
export type Range = readonly [start: number, end: number];

/** A part of a text that may have been changed. Parts share the ranges of the whole. */
export class Aligned {
  readonly text: string;
  readonly #starts: Int32Array;
  readonly #ends: Int32Array;
  readonly #from: number; // where the text's first unit stands in the arrays
  readonly #origin: number; // where it began when it was cut out: the place of what is put in before all else

  /** @param starts for each unit where the character that it comes from starts, and `ends` where that ends */
  constructor(text: string, starts: Int32Array, ends: Int32Array, from: number, origin: number) {
    this.text = text;
    this.#starts = starts;
    this.#ends = ends;
    this.#from = from;
    this.#origin = origin;
  }

  /** A text that nothing has changed. */
  static of(text: string): Aligned {
    const [starts, ends] = [new Int32Array(text.length), new Int32Array(text.length)];
    for (let at = 0; at < text.length; ) {
      const next = at + sizeAt(text, at);
      starts.fill(at, at, next);
      ends.fill(next, at, next);
      at = next;
    }
    return new Aligned(text, starts, ends, 0, 0);
  }

  /** A part as a text of its own. */
  slice(start: number, end: number): Aligned {
    return this.#part(start, end, end > start ? this.#starts[this.#from + start]! : this.#origin);
  }

  /** The same text without its ends. */
  trimmed(start: number, end: number): Aligned {
    return this.#part(start, end, this.#origin);
  }

  #part(start: number, end: number, origin: number): Aligned {
    return new Aligned(this.text.slice(start, end), this.#starts, this.#ends, this.#from + start, origin);
  }

  /** Where a part of the text comes from; a place before the first unit stands for the origin. */
  range(start: number, end: number): Range {
    if (end <= 0) return [this.#origin, this.#origin];
    return [this.#starts[this.#from + start]!, this.#ends[this.#from + end - 1]!];
  }

  /** The same characters, each written as another of the same length. */
  written(text: string): Aligned {
    return new Aligned(text, this.#starts, this.#ends, this.#from, this.#origin);
  }

  /** Every match of a pattern replaced; what takes its place comes from the match's last character. */
  replaced(pattern: RegExp, to: (found: string) => string): Aligned {
    const made = new Writer(this);
    let done = 0;
    for (const { 0: found, index } of this.text.matchAll(pattern)) {
      made.keep(done, index);
      done = index + found.length;
      made.put(to(found), done - 1);
    }
    made.keep(done, this.text.length);
    return made.end(this.#origin);
  }

  /** With a text in front, which comes from the first character. */
  prepended(text: string): Aligned {
    const made = new Writer(this);
    made.put(text, 0);
    made.keep(0, this.text.length);
    return made.end(this.#origin);
  }

  /**
   * Characters one after the other, each with its change: above 0 it is put in, else it takes the place of the next character, and
   * so many more after that are removed.
   */
  changed({ chars, changes }: Changes): Aligned {
    const { text } = this;
    const made = new Writer(this);
    let at = 0;
    for (let i = 0; i < chars.length; i++) {
      const change = changes[i]!;
      made.put(chars[i]!, change > 0 ? at - 1 : Math.min(at, text.length - 1));
      for (let left = 1 - change; left > 0 && at < text.length; left--) at += sizeAt(text, at);
    }
    return made.end(this.#origin);
  }
}

/** A text as characters with their changes; see `Aligned.changed`. */
export interface Changes {
  readonly chars: string[];
  readonly changes: number[];
}

/** Units of the character at a place of a well-formed text. */
export function sizeAt(text: string, at: number): 1 | 2 {
  return (text.charCodeAt(at) & 0xfc00) === 0xd800 ? 2 : 1;
}

/** Writes a text of parts of another one. */
class Writer {
  readonly #given: Aligned;
  readonly #texts: string[] = [];
  #starts = new Int32Array(256);
  #ends = new Int32Array(256);
  #size = 0;

  constructor(given: Aligned) {
    this.#given = given;
  }

  /** A part as it was. */
  keep(from: number, to: number): void {
    if (to <= from) return;
    this.#texts.push(this.#given.text.slice(from, to));
    this.#grow(to - from);
    for (let at = from; at < to; at++) this.#push(at);
  }

  /** New text that comes from where the unit at a place does; -1 for before all of them. */
  put(text: string, at: number): void {
    this.#texts.push(text);
    this.#grow(text.length);
    for (let i = 0; i < text.length; i++) this.#push(at);
  }

  #push(at: number): void {
    const [start, end] = this.#given.range(at, at + 1);
    this.#starts[this.#size] = start;
    this.#ends[this.#size++] = end;
  }

  #grow(more: number): void {
    const size = this.#size + more;
    if (size <= this.#starts.length) return;
    for (const name of ["starts", "ends"] as const) {
      const larger = new Int32Array(2 * size);
      larger.set(name === "starts" ? this.#starts : this.#ends);
      if (name === "starts") this.#starts = larger;
      else this.#ends = larger;
    }
  }

  end(origin: number): Aligned {
    return new Aligned(this.#texts.join(""), this.#starts, this.#ends, 0, origin);
  }
}

/** What pre-tokenizers do with texts, so that one code cuts plain texts and aligned ones. */
export interface Form<T> {
  readonly text: (of: T) => string;
  readonly slice: (of: T, start: number, end: number) => T;
  readonly prepend: (of: T, text: string) => T;
  /** Every space replaced. */
  readonly mark: (of: T, mark: string) => T;
  /** Every character replaced by what a function makes of it; `text` is the result. */
  readonly spread: (of: T, text: string, each: (char: string) => string) => T;
}

export const PLAIN: Form<string> = {
  text: (of) => of,
  slice: (of, start, end) => of.slice(start, end),
  prepend: (of, text) => text + of,
  mark: (of, mark) => of.replaceAll(" ", () => mark),
  spread: (_, text) => text,
};

export const ALIGNED: Form<Aligned> = {
  text: (of) => of.text,
  slice: (of, start, end) => of.slice(start, end),
  prepend: (of, text) => of.prepended(text),
  mark: (of, mark) => (of.text.includes(" ") ? of.replaced(/ /g, () => mark) : of),
  spread: (of, text, each) => (text.length === of.text.length ? of.written(text) : of.replaced(/./gsu, each)),
};
