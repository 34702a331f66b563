// Grammars in GBNF, the notation of llama.cpp: `root ::= "yes" | "no"`. Its rules are read as expressions; `root` is the whole text.

import { OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import { ANY, type CharSet, charSet, inverted } from "./chars.js";
import { type Expr, type Grammar, repeat } from "./expr.js";
import { MOST_REPEATS } from "./regex.js";

const OPTION = "grammar";
const LONGEST = 500_000;
const DEEPEST = 200;
const NAME = /[A-Za-z0-9_-]+/y;
const ESCAPES: Readonly<Record<string, string>> = {
  n: "\n",
  r: "\r",
  t: "\t",
  "\\": "\\",
  '"': '"',
  "[": "[",
  "]": "]",
};

class Reader {
  readonly #source: string;
  #at = 0;
  #depth = 0;
  readonly #names = new Map<string, number>();
  readonly #bodies: (Expr | undefined)[] = [];

  constructor(source: string) {
    this.#source = source;
  }

  refuse(what: string): never {
    const line = this.#source.slice(0, this.#at).split("\n").length;
    throw new OptionError(`${OPTION}: line ${line}: ${what}`, { details: { option: OPTION, line } });
  }

  read(): Grammar {
    if (this.#source.length > LONGEST) this.refuse(`more than ${LONGEST} characters`);
    this.#rule("root");
    for (this.#blanks(true); this.#at < this.#source.length; this.#blanks(true)) {
      const name = this.#name();
      if (name === undefined)
        this.refuse(`expected a rule's name, got ${show(this.#source.slice(this.#at, this.#at + 10))}`);
      this.#blanks(false);
      if (!this.#takes("::=")) this.refuse(`expected ::= after ${name}`);
      const rule = this.#rule(name);
      if (this.#bodies[rule]) this.refuse(`the rule ${name} is there twice`);
      this.#blanks(true);
      this.#bodies[rule] = this.#options(false);
      const next = this.#source[this.#at];
      if (next !== undefined && next !== "\n" && next !== "\r") this.refuse(`${show(next)} is not expected here`);
    }
    const rules = [...this.#names].map(([name, rule]) => {
      const body = this.#bodies[rule];
      if (!body) {
        throw new OptionError(`${OPTION}: there is no rule ${name}`, { details: { option: OPTION, rule: name } });
      }
      return { name, body };
    });
    return { rules };
  }

  #rule(name: string): number {
    const known = this.#names.get(name);
    if (known !== undefined) return known;
    this.#names.set(name, this.#names.size);
    return this.#names.size - 1;
  }

  #takes(text: string): boolean {
    if (!this.#source.startsWith(text, this.#at)) return false;
    this.#at += text.length;
    return true;
  }

  #name(): string | undefined {
    NAME.lastIndex = this.#at;
    const found = NAME.exec(this.#source)?.[0];
    this.#at += found?.length ?? 0;
    return found;
  }

  /** Spaces and comments, and line ends too if the rule goes on behind them. */
  #blanks(lines: boolean): void {
    const blanks = lines ? /(?:[ \t\r\n]|#[^\n]*)*/y : /[ \t]*(?:#[^\n]*)?/y;
    blanks.lastIndex = this.#at;
    this.#at += blanks.exec(this.#source)![0].length;
  }

  #options(inside: boolean): Expr {
    if (++this.#depth > DEEPEST) this.refuse(`more than ${DEEPEST} groups inside each other`);
    const oneOf = [this.#sequence(inside)];
    while (this.#takes("|")) {
      this.#blanks(true);
      oneOf.push(this.#sequence(inside));
    }
    this.#depth--;
    return oneOf.length === 1 ? oneOf[0]! : { oneOf };
  }

  #sequence(inside: boolean): Expr {
    const all: Expr[] = [];
    for (;;) {
      const one = this.#one();
      if (!one) return { all };
      this.#blanks(inside);
      all.push(this.#repeated(one, inside));
    }
  }

  #repeated(one: Expr, inside: boolean): Expr {
    let expr = one;
    for (;;) {
      if (this.#takes("*")) expr = repeat(expr, 0);
      else if (this.#takes("+")) expr = repeat(expr, 1);
      else if (this.#takes("?")) expr = repeat(expr, 0, 1);
      else if (this.#source[this.#at] === "{") expr = this.#counted(expr);
      else return expr;
      this.#blanks(inside);
    }
  }

  #counted(one: Expr): Expr {
    const counts = /\{\s*(\d+)?\s*(?:(,)\s*(\d+)?\s*)?\}/y;
    counts.lastIndex = this.#at;
    const found = counts.exec(this.#source);
    if (!found || (found[1] === undefined && found[3] === undefined)) this.refuse("expected {m}, {m,}, {,n} or {m,n}");
    this.#at = counts.lastIndex;
    const min = Number(found[1] ?? 0);
    const max = found[2] === undefined ? min : found[3] === undefined ? Number.POSITIVE_INFINITY : Number(found[3]);
    if (min > max) this.refuse(`{${min},${max}} allows nothing`);
    if (Math.max(min, max === Number.POSITIVE_INFINITY ? 0 : max) > MOST_REPEATS) {
      this.refuse(`a part is repeated more than ${MOST_REPEATS} times`);
    }
    return repeat(one, min, max);
  }

  #one(): Expr | undefined {
    const char = this.#source[this.#at];
    if (char === '"') return this.#text();
    if (char === "[") return { set: this.#class() };
    if (char === ".") {
      this.#at++;
      return { set: ANY };
    }
    if (char === "<" || char === "!")
      this.refuse("tokens by their numbers or names are not supported: write their text");
    if (char === "(") {
      this.#at++;
      this.#blanks(true);
      const body = this.#options(true);
      if (!this.#takes(")")) this.refuse("a group does not end");
      return body;
    }
    const before = this.#at;
    const name = this.#name();
    if (name === undefined) return undefined;
    // At the begin of a line it is the next rule.
    const at = this.#at;
    this.#blanks(false);
    if (this.#source.startsWith("::=", this.#at)) {
      this.#at = before;
      return undefined;
    }
    this.#at = at;
    return { rule: this.#rule(name) };
  }

  #text(): Expr {
    this.#at++;
    const all: Expr[] = [];
    while (!this.#takes('"')) {
      const code = this.#char();
      all.push({ set: charSet([[code, code]]) });
    }
    return { all };
  }

  #class(): CharSet {
    this.#at++;
    const negated = this.#takes("^");
    const ranges: [number, number][] = [];
    while (!this.#takes("]")) {
      const first = this.#char();
      if (this.#source[this.#at] === "-" && this.#source[this.#at + 1] !== "]") {
        this.#at++;
        const last = this.#char();
        if (first > last) this.refuse("a range of characters ends before it begins");
        ranges.push([first, last]);
      } else ranges.push([first, first]);
    }
    const set = charSet(ranges);
    return negated ? inverted(set) : set;
  }

  #char(): number {
    const code = this.#source.codePointAt(this.#at);
    if (code === undefined || code === 0x0a) this.refuse("a text or a set of characters does not end");
    const char = String.fromCodePoint(code);
    this.#at += char.length;
    if (char !== "\\") return code;
    const letter = this.#source[this.#at++] ?? "";
    const known = ESCAPES[letter];
    if (known !== undefined) return known.charCodeAt(0);
    const digits = { x: 2, u: 4, U: 8 }[letter];
    const number = digits === undefined ? "" : this.#source.slice(this.#at, this.#at + digits);
    if (digits === undefined || number.length !== digits || !/^[0-9a-fA-F]+$/.test(number)) {
      this.refuse(`\\${letter} is no escape`);
    }
    this.#at += digits;
    const value = Number.parseInt(number, 16);
    if (value > 0x10ffff) this.refuse(`\\U${number} is no character`);
    return value;
  }
}

/** @throws OptionError for what is no grammar */
export function gbnfGrammar(source: string): Grammar {
  return new Reader(source).read();
}
