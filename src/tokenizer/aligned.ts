// Texts that know from where in the original each of their characters comes, for offsets of tokens. The rules are those of Python's
// `tokenizers`: a character that replaces another has its range, one that is put in has the range of the character before it, one
// that is removed leaves no trace. Not here: Unicode's normal forms (normal-forms.ts), offsets of tokens (placement.ts).

import { sizeAt } from "./text.js";

/** From a place up to another, in UTF-16 units. */
export type Range = readonly [start: number, end: number];

/** A part of a text that may have been changed. Parts share the ranges of the whole. */
export class Aligned {
  readonly text: string;
  readonly #starts: Int32Array;
  readonly #ends: Int32Array;
  readonly #from: number; // where the text's first unit stands in the arrays
  readonly #front: number; // units in front that have the range of the first one
  readonly #origin: number; // where it began when it was cut out: the place of what is put in before all else

  /** @param starts for each unit where the character that it comes from starts, and `ends` where that ends */
  constructor(text: string, starts: Int32Array, ends: Int32Array, from: number, front: number, origin: number) {
    this.text = text;
    this.#starts = starts;
    this.#ends = ends;
    this.#from = from;
    this.#front = front;
    this.#origin = origin;
  }

  /** A text that nothing has changed. */
  static of(text: string): Aligned {
    const [starts, ends] = [new Int32Array(text.length), new Int32Array(text.length)];
    for (let at = 0; at < text.length; ) {
      const next = at + sizeAt(text, at);
      for (let unit = at; unit < next; unit++) {
        starts[unit] = at;
        ends[unit] = next;
      }
      at = next;
    }
    return new Aligned(text, starts, ends, 0, 0, 0);
  }

  /** A part as a text of its own. */
  slice(start: number, end: number): Aligned {
    return this.#part(start, end, end > start ? this.start(start) : this.#origin);
  }

  /** The same text without its ends. */
  trimmed(start: number, end: number): Aligned {
    return this.#part(start, end, this.#origin);
  }

  #part(start: number, end: number, origin: number): Aligned {
    const front = Math.max(0, this.#front - start);
    return new Aligned(this.text.slice(start, end), this.#starts, this.#ends, this.#place(start), front, origin);
  }

  /** Where a unit's range stands in the arrays. */
  #place(at: number): number {
    return this.#from + Math.max(0, at - this.#front);
  }

  /** Where the character starts that a unit comes from, and where it ends; a place before the first unit stands for the origin. */
  start(at: number): number {
    return at < 0 ? this.#origin : this.#starts[this.#place(at)]!;
  }
  end(at: number): number {
    return at < 0 ? this.#origin : this.#ends[this.#place(at)]!;
  }

  /** Where a part of the text comes from. */
  range(start: number, end: number): Range {
    return [this.start(start), this.end(end - 1)];
  }

  /** The same characters, each written as another of the same length. */
  written(text: string): Aligned {
    return new Aligned(text, this.#starts, this.#ends, this.#from, this.#front, this.#origin);
  }

  /** With a text in front, which comes from the first character. */
  prepended(text: string): Aligned {
    const front = this.#front + text.length;
    return new Aligned(text + this.text, this.#starts, this.#ends, this.#from, front, this.#origin);
  }

  /** Every character replaced; `text` is the result, and `size` says how much of it a character becomes. */
  spread(text: string, size: (whole: string, at: number) => number): Aligned {
    if (text.length === this.text.length) return this.written(text);
    const made = new Writer(this, text.length);
    for (let at = 0; at < this.text.length; at += sizeAt(this.text, at)) made.repeat(at, size(this.text, at));
    return made.done(text, this.#origin);
  }

  /** Every match of a pattern replaced; what takes its place comes from the match's last character. */
  replaced(pattern: RegExp, to: (found: string) => string): Aligned {
    const { text } = this;
    const parts: string[] = [];
    const made = new Writer(this, text.length + 8);
    let done = 0;
    for (const { 0: found, index } of text.matchAll(pattern)) {
      const content = to(found);
      parts.push(text.slice(done, index), content);
      made.keep(done, index);
      done = index + found.length;
      made.repeat(done - 1, content.length);
    }
    if (done === 0 && parts.length === 0) return this;
    made.keep(done, text.length);
    return made.done(parts.join("") + text.slice(done), this.#origin);
  }

  /** Begins to replace the text from its start on. */
  changing(): Changing {
    return new Changing(this);
  }
}

/**
 * Replaces a text by characters with their changes: above 0 a character is put in, else it takes the place of the next one, and so
 * many more after that are removed. Characters are counted, not compared.
 */
export class Changing {
  readonly #given: Aligned;
  readonly #made: Writer;
  readonly #parts: string[] = [];
  #at = 0; // place in the text that was
  #size = 0; // units of the last character, which a removal may still change
  #change = 0;

  constructor(given: Aligned) {
    this.#given = given;
    this.#made = new Writer(given, given.text.length + 8);
  }

  /** A character. */
  push(char: string, change: number): void {
    this.#settle();
    this.#parts.push(char);
    this.#size = char.length;
    this.#change = change;
  }

  /** Characters that take the places of as many; most are the same ones. */
  keep(part: string): void {
    const last = part.length - (part.length > 1 && sizeAt(part, part.length - 2) === 2 ? 2 : 1);
    this.#settle();
    if (this.#given.text.startsWith(part, this.#at)) {
      this.#parts.push(part.slice(0, last));
      this.#made.keep(this.#at, this.#at + last);
      this.#at += last;
    } else for (const char of part.slice(0, last)) this.push(char, 0);
    this.push(part.slice(last), 0);
  }

  /** Removes characters behind the last one. */
  remove(count: number): void {
    this.#change -= count;
  }

  #settle(): void {
    if (this.#size === 0) return;
    const { text } = this.#given;
    this.#made.repeat(this.#change > 0 ? this.#at - 1 : Math.min(this.#at, text.length - 1), this.#size);
    for (let left = 1 - this.#change; left > 0 && this.#at < text.length; left--) this.#at += sizeAt(text, this.#at);
    this.#size = 0;
  }

  done(): Aligned {
    this.#settle();
    return this.#made.done(this.#parts.join(""), this.#given.start(-1));
  }
}

/** Writes the ranges of a text that is made of another one. */
class Writer {
  readonly #given: Aligned;
  #starts: Int32Array;
  #ends: Int32Array;
  #size = 0;

  /** @param room how long the text may become before room must be made */
  constructor(given: Aligned, room: number) {
    this.#given = given;
    this.#starts = new Int32Array(room);
    this.#ends = new Int32Array(room);
  }

  /** Units as they were. */
  keep(from: number, to: number): void {
    this.#grow(to - from);
    for (let at = from; at < to; at++) this.#push(this.#given.start(at), this.#given.end(at));
  }

  /** Units that come from where the unit at a place does; -1 for before all of them. */
  repeat(at: number, count: number): void {
    this.#grow(count);
    const [start, end] = [this.#given.start(at), this.#given.end(at)];
    for (let i = 0; i < count; i++) this.#push(start, end);
  }

  #push(start: number, end: number): void {
    this.#starts[this.#size] = start;
    this.#ends[this.#size++] = end;
  }

  #grow(more: number): void {
    const size = this.#size + more;
    if (size <= this.#starts.length) return;
    this.#starts = larger(this.#starts, 2 * size);
    this.#ends = larger(this.#ends, 2 * size);
  }

  done(text: string, origin: number): Aligned {
    return new Aligned(text, this.#starts, this.#ends, 0, 0, origin);
  }
}

function larger(list: Int32Array, size: number): Int32Array {
  const made = new Int32Array(size);
  made.set(list);
  return made;
}

/** What pre-tokenizers do with texts, so that one code cuts plain texts and aligned ones. */
export interface Form<T> {
  readonly text: (of: T) => string;
  readonly slice: (of: T, start: number, end: number) => T;
  readonly prepend: (of: T, text: string) => T;
  /** Every space replaced. */
  readonly mark: (of: T, mark: string) => T;
  /** Every character replaced; `text` is the result, and `size` says how much of it a character becomes. */
  readonly spread: (of: T, text: string, size: (whole: string, at: number) => number) => T;
}

export const PLAIN: Form<string> = {
  text: (of) => of,
  slice: (of, start, end) => of.slice(start, end),
  prepend: (of, text) => text + of,
  mark: (of, mark) => (of.includes(" ") ? of.replaceAll(" ", () => mark) : of),
  spread: (_, text) => text,
};

export const ALIGNED: Form<Aligned> = {
  text: (of) => of.text,
  slice: (of, start, end) => of.slice(start, end),
  prepend: (of, text) => of.prepended(text),
  mark: (of, mark) => (mark.length === 1 ? of.written(PLAIN.mark(of.text, mark)) : of.replaced(/ /g, () => mark)),
  spread: (of, text, size) => of.spread(text, size),
};
