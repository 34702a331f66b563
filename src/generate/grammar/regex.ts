// Regular expressions in JavaScript's syntax with the flag u, as expressions. What describes no set of texts by itself (references
// back, looking around, word boundaries) is refused.

import { OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import { ANY, type CharSet, charSet, charsOf, inverted, LAST } from "./chars.js";
import { EMPTY, type Expr, repeat } from "./expr.js";

const DIGITS = charSet([[0x30, 0x39]]);
const WORDS = charSet([...DIGITS, [0x41, 0x5a], [0x5f, 0x5f], [0x61, 0x7a]]);
const SPACES = charSet([...charsOf("\t\n\v\f\r \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff"), [0x2000, 0x200a]]);
const CLASSES: Readonly<Record<string, CharSet>> = {
  ...{ d: DIGITS, w: WORDS, s: SPACES },
  ...{ D: inverted(DIGITS), W: inverted(WORDS), S: inverted(SPACES) },
};
const DOT = inverted(charsOf("\n\r\u2028\u2029"));
const CONTROLS: Readonly<Record<string, string>> = { t: "\t", n: "\n", v: "\v", f: "\f", r: "\r", 0: "\0" };

/** Most characters of a pattern, repetitions of one part, and groups inside each other. */
const LONGEST = 20_000;
export const MOST_REPEATS = 10_000;
const DEEPEST = 200;

/** Sets of \p{...}, each found by asking the engine about every character. */
const properties = new Map<string, CharSet>();

function propertySet(source: string): CharSet {
  const known = properties.get(source);
  if (known) return known;
  const pattern = new RegExp(source, "u");
  const ranges: [number, number][] = [];
  for (let code = 0; code <= LAST; code++) {
    if (code === 0xd800) code = 0xe000;
    if (!pattern.test(String.fromCodePoint(code))) continue;
    const before = ranges.at(-1);
    if (before && before[1] === code - 1) before[1] = code;
    else ranges.push([code, code]);
  }
  const set = charSet(ranges);
  if (properties.size >= 64) properties.clear();
  properties.set(source, set);
  return set;
}

class Reader {
  readonly #source: string;
  readonly #option: string;
  /** Without ^ and $ the pattern may stand anywhere in the text. */
  readonly #searches: boolean;
  #at = 0;
  #depth = 0;

  constructor(source: string, option: string, searches: boolean) {
    this.#source = source;
    this.#option = option;
    this.#searches = searches;
  }

  refuse(what: string): never {
    throw new OptionError(`${this.#option}: ${show(this.#source)}: ${what}`, {
      details: { option: this.#option, position: this.#at },
    });
  }

  read(): Expr {
    const source = this.#source;
    if (source.length > LONGEST) this.refuse(`more than ${LONGEST} characters`);
    try {
      new RegExp(source, "u");
    } catch (error) {
      this.refuse((error as Error).message);
    }
    const oneOf: Expr[] = [];
    do oneOf.push(this.#whole());
    while (this.#takes("|"));
    if (this.#at < source.length) this.refuse(`a \`${source[this.#at]}\` without its begin`);
    return { oneOf };
  }

  #takes(text: string): boolean {
    if (!this.#source.startsWith(text, this.#at)) return false;
    this.#at += text.length;
    return true;
  }

  /** An option of the whole pattern: it may say that it begins or ends the text. */
  #whole(): Expr {
    const begins = this.#takes("^");
    const body = this.#sequence();
    const ends = this.#takes("$");
    if (ends && this.#at < this.#source.length && this.#source[this.#at] !== "|") {
      this.refuse("$ can only be at the end");
    }
    if (!this.#searches) return body;
    const rest = repeat({ set: ANY }, 0);
    return { all: [begins ? EMPTY : rest, body, ends ? EMPTY : rest] };
  }

  #options(): Expr {
    if (++this.#depth > DEEPEST) this.refuse(`more than ${DEEPEST} groups inside each other`);
    const oneOf = [this.#sequence()];
    while (this.#takes("|")) oneOf.push(this.#sequence());
    this.#depth--;
    return oneOf.length === 1 ? oneOf[0]! : { oneOf };
  }

  #sequence(): Expr {
    const all: Expr[] = [];
    while (this.#at < this.#source.length && !"|)".includes(this.#source[this.#at]!)) {
      if (this.#source[this.#at] === "$" && this.#depth === 0) break;
      all.push(this.#repeated());
    }
    return all.length === 1 ? all[0]! : { all };
  }

  #repeated(): Expr {
    const one = this.#one();
    const counts = /([*+?]|\{(\d+)(,(\d*))?\})\??/y;
    counts.lastIndex = this.#at;
    const found = counts.exec(this.#source);
    if (!found) return one;
    this.#at = counts.lastIndex;
    const [, sign, least, comma, most] = found;
    if (sign === "*") return repeat(one, 0);
    if (sign === "+") return repeat(one, 1);
    if (sign === "?") return repeat(one, 0, 1);
    const min = Number(least);
    const max = comma === undefined ? min : most ? Number(most) : Number.POSITIVE_INFINITY;
    if (Math.max(min, max === Number.POSITIVE_INFINITY ? 0 : max) > MOST_REPEATS) {
      this.refuse(`a part is repeated more than ${MOST_REPEATS} times`);
    }
    return repeat(one, min, max);
  }

  #one(): Expr {
    const char = this.#char();
    if (char === "^" || char === "$") this.refuse(`${char} can only be at the ${char === "^" ? "begin" : "end"}`);
    if (char === ".") return { set: DOT };
    if (char === "[") return { set: this.#class() };
    if (char === "(") return this.#group();
    return { set: setOf(char === "\\" ? this.#escape(false) : char.codePointAt(0)!) };
  }

  #char(): string {
    const char = String.fromCodePoint(this.#source.codePointAt(this.#at)!);
    this.#at += char.length;
    return char;
  }

  #group(): Expr {
    if (this.#takes("?") && !this.#takes(":")) {
      const named = /<[^=!>][^>]*>/y;
      named.lastIndex = this.#at;
      if (!named.test(this.#source)) this.refuse("looking ahead or back, and flags of a group, are not supported");
      this.#at = named.lastIndex;
    }
    const body = this.#options();
    this.#takes(")");
    return body;
  }

  #class(): CharSet {
    const negated = this.#takes("^");
    const ranges: CharSet[] = [];
    while (!this.#takes("]")) {
      const first = this.#member();
      if (typeof first === "number" && this.#source[this.#at] === "-" && this.#source[this.#at + 1] !== "]") {
        this.#at++;
        ranges.push([[first, this.#member() as number]]); // sets at the ends of ranges are syntax errors
      } else ranges.push(setOf(first));
    }
    const set = charSet(ranges.flat());
    return negated ? inverted(set) : set;
  }

  #member(): CharSet | number {
    const char = this.#char();
    return char === "\\" ? this.#escape(true) : char.codePointAt(0)!;
  }

  /** A code point, or the characters of a class. */
  #escape(inClass: boolean): CharSet | number {
    const char = this.#char();
    const own = CLASSES[char];
    if (own) return own;
    if (char === "p" || char === "P") {
      const end = this.#source.indexOf("}", this.#at) + 1;
      const source = `\\${char}${this.#source.slice(this.#at, end)}`;
      this.#at = end;
      return propertySet(source);
    }
    if (char in CONTROLS) return CONTROLS[char]!.charCodeAt(0);
    if (char === "c") return this.#char().charCodeAt(0) % 32;
    if (char === "x") return this.#code(2);
    if (char === "u") return this.#unicode();
    if (inClass && char === "b") return 0x08;
    if (!inClass && (char === "b" || char === "B")) this.refuse(`\\${char}, a word boundary, is not supported`);
    if (!inClass && (char === "k" || /[1-9]/.test(char))) this.refuse("references back are not supported");
    return char.codePointAt(0)!;
  }

  #code(digits: number): number {
    const code = Number.parseInt(this.#source.slice(this.#at, this.#at + digits), 16);
    this.#at += digits;
    return code;
  }

  #unicode(): number {
    if (this.#takes("{")) {
      const code = this.#code(this.#source.indexOf("}", this.#at) - this.#at);
      this.#at++;
      return code;
    }
    const pair = /(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})/iy;
    pair.lastIndex = this.#at;
    const found = pair.exec(this.#source);
    if (!found) return this.#code(4);
    this.#at = pair.lastIndex;
    return String.fromCharCode(...found.slice(1).map((code) => Number.parseInt(code, 16))).codePointAt(0)!;
  }
}

const setOf = (of: CharSet | number): CharSet => (typeof of === "number" ? charSet([[of, of]]) : of);

/**
 * The texts that a regular expression matches as a whole.
 * @param option the call's option, for errors
 * @throws OptionError for what is no regular expression, and for what no automaton can do
 */
export function regexExpr(source: string, option: string): Expr {
  return new Reader(source, option, false).read();
}

/** The texts in which a regular expression finds something, as JSON Schema's `pattern` means it. @throws as `regexExpr` */
export function searchExpr(source: string, option: string): Expr {
  return new Reader(source, option, true).read();
}
