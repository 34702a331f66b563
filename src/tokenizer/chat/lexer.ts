// Cuts a template into text and the words of its expressions, as Jinja's lexer does: what a dash strips, which newlines and margins
// blocks on lines of their own leave, strings and numbers. Every character is looked at a few times at most. Not here: what the words
// mean together (parser.ts).

import { isBlank } from "../text.js";
import { strip } from "./blanks.js";
import { refuse } from "./limits.js";

export type TokenKind =
  | "text"
  | "begin"
  | "end"
  | "print"
  | "printed"
  | "name"
  | "string"
  | "integer"
  | "float"
  | "operator"
  | "eof";

export interface Token {
  readonly kind: TokenKind;
  /** The text, the name, the operator, or a string's value. */
  readonly value: string;
}

/** Blocks on lines of their own leave no line (`lstrip_blocks` and `trim_blocks`). */
interface Blocks {
  readonly alone: boolean;
}

const OPEN = /\{[{%#]/g;
const RAW = /\{%[-+]?\s*raw\s*(-?)%\}/y;
const ENDRAW = /\{%([-+]?)\s*endraw\s*([-+]?)%\}/g;
const WORDS = {
  space: /\s+/y,
  float: /(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?e[+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)/iy,
  integer: /0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|[1-9](?:_?\d)*|0(?:_?0)*/iy,
  name: /[\p{L}\p{Nl}_][\p{L}\p{N}\p{Mn}\p{Mc}\p{Pc}]*/uy,
  operator: /\/\/|\*\*|==|!=|>=|<=|[-+/*%~[\](){}><=.:|,;]/y,
};
const CLOSES: Readonly<Record<string, string>> = { ")": "(", "]": "[", "}": "{" };

function at(pattern: RegExp, source: string, from: number): RegExpExecArray | null {
  pattern.lastIndex = from;
  return pattern.exec(source);
}

/** Where white space ends. */
function past(source: string, from: number): number {
  let end = from;
  while (end < source.length && isBlank(source.charCodeAt(end))) end++;
  return end;
}

/** Where a string of quotes ends. @throws FormatError for one that does not */
function endOfString(source: string, from: number): number {
  const quote = source[from];
  for (let end = from + 1; end < source.length; end++) {
    if (source[end] === "\\") end++;
    else if (source[end] === quote) return end + 1;
  }
  return refuse("it cannot be read: a string has no end");
}

const ESCAPES: Readonly<Record<string, string>> = {
  ...{ n: "\n", t: "\t", r: "\r", a: "\x07", b: "\b", f: "\f", v: "\v", "\\": "\\", "'": "'", '"': '"', "\n": "" },
};

/** Python's escapes. @throws FormatError for those of Unicode that are not whole */
function unescaped(text: string): string {
  return text.replace(
    /\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([0-7]{1,3})|([\s\S]))/g,
    (found, x?: string, u?: string, long?: string, octal?: string, other?: string) => {
      const hex = x ?? u ?? long;
      if (hex !== undefined || octal !== undefined) {
        const code = hex === undefined ? Number.parseInt(octal!, 8) : Number.parseInt(hex, 16);
        return code > 0x10ffff ? refuse("it cannot be read: an escape is no character") : String.fromCodePoint(code);
      }
      if (/[xuUN]/.test(other!)) return refuse(`it cannot be read: the escape ${found} is not whole`);
      return ESCAPES[other!] ?? found;
    },
  );
}

export class Lexer {
  readonly #source: string;
  readonly #alone: boolean;
  readonly #tokens: Token[] = [];
  #at = 0;
  /** Whether what comes begins a line. */
  #begins = true;

  constructor(source: string, { alone }: Blocks) {
    this.#source = source.replace(/\r\n?/g, "\n");
    this.#alone = alone;
  }

  /** @throws FormatError for strings, comments and blocks without an end, and for characters that mean nothing */
  all(): Token[] {
    const source = this.#source;
    while (this.#at < source.length) {
      const found = at(OPEN, source, this.#at);
      if (found === null) {
        this.#text(source.slice(this.#at));
        break;
      }
      const kind = found[0];
      const sign = source[found.index + 2] ?? "";
      this.#before(this.#at, found.index, sign, kind !== "{{");
      const raw = kind === "{%" ? at(RAW, source, found.index) : null;
      if (raw) this.#raw(found.index + raw[0].length, raw[1] === "-");
      else if (kind === "{#") this.#comment(found.index + 2);
      else {
        this.#at = found.index + (sign === "-" || sign === "+" ? 3 : 2);
        this.#words(kind === "{{");
      }
    }
    this.#tokens.push({ kind: "eof", value: "" });
    return this.#tokens;
  }

  #text(value: string): void {
    if (value !== "") this.#tokens.push({ kind: "text", value });
  }

  /** The text before a tag: a dash strips it, and a block on a line of its own takes its margin. */
  #before(from: number, to: number, sign: string, block: boolean): void {
    let text = this.#source.slice(from, to);
    if (sign === "-") text = strip(text, undefined, false, true);
    else if (sign !== "+" && block && this.#alone) {
      const line = text.lastIndexOf("\n") + 1;
      if ((line > 0 || this.#begins) && line < text.length && past(text, line) === text.length)
        text = text.slice(0, line);
    }
    this.#text(text);
  }

  /** Goes on behind a tag. @param sign before its end */
  #after(end: number, sign: string, block: boolean): void {
    const source = this.#source;
    this.#at = end;
    if (sign === "-") this.#at = past(source, end);
    else if (block && sign !== "+" && this.#alone && source[end] === "\n") this.#at = end + 1;
    this.#begins = source[this.#at - 1] === "\n";
  }

  #comment(from: number): void {
    const end = this.#source.indexOf("#}", from);
    if (end < 0) refuse("it cannot be read: a comment has no end");
    this.#after(end + 2, end > from ? this.#source[end - 1]! : "", true);
  }

  #raw(from: number, strips: boolean): void {
    const begin = strips ? past(this.#source, from) : from;
    const end = at(ENDRAW, this.#source, begin) ?? refuse("it cannot be read: a raw block has no end");
    this.#begins = this.#source[begin - 1] === "\n";
    this.#before(begin, end.index, end[1]!, true);
    this.#after(end.index + end[0].length, end[2]!, true);
  }

  /** The words of a tag, up to its end. */
  #words(print: boolean): void {
    const source = this.#source;
    const close = print ? "}}" : "%}";
    const open: string[] = [];
    this.#tokens.push({ kind: print ? "print" : "begin", value: "" });
    for (;;) {
      const from = this.#at;
      if (open.length === 0) {
        const sign = source[from] === "-" || (source[from] === "+" && !print) ? source[from]! : "";
        if (source.startsWith(close, from + sign.length)) {
          this.#tokens.push({ kind: print ? "printed" : "end", value: "" });
          this.#after(from + sign.length + 2, sign, !print);
          return;
        }
      }
      if (from >= source.length) refuse("it cannot be read: it ends too early");
      this.#word(from, open);
    }
  }

  #word(from: number, open: string[]): void {
    const source = this.#source;
    const add = (kind: TokenKind, value: string, end: number): void => {
      this.#tokens.push({ kind, value });
      this.#at = end;
    };
    const space = past(source, from);
    if (space > from) {
      this.#at = space;
      return;
    }
    const char = source[from]!;
    if (char === "'" || char === '"') {
      const end = endOfString(source, from);
      add("string", unescaped(source.slice(from + 1, end - 1)), end);
      return;
    }
    for (const kind of ["float", "integer", "name", "operator"] as const) {
      if (kind === "float" && source[from - 1] === ".") continue;
      const word = at(WORDS[kind], source, from)?.[0];
      if (word === undefined) continue;
      if (kind === "operator") this.#balance(word, open);
      add(kind, kind === "float" || kind === "integer" ? word.replaceAll("_", "") : word, from + word.length);
      return;
    }
    refuse(
      `it cannot be read: unexpected character ${JSON.stringify(String.fromCodePoint(source.codePointAt(from)!))}`,
    );
  }

  #balance(operator: string, open: string[]): void {
    if ("([{".includes(operator)) open.push(operator);
    const opener = CLOSES[operator];
    if (opener !== undefined && open.pop() !== opener)
      refuse(`it cannot be read: unexpected ${JSON.stringify(operator)}`);
  }
}
