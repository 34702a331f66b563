// Python's literals, as templates print lists: `['a', "b's", 3]`. Numbers, texts, lists, tuples, dictionaries, True, False and None.

/** The value of a literal; undefined for what is none. */
export function literalOf(text: string): unknown {
  const reader = new LiteralReader(text);
  try {
    return reader.whole();
  } catch (cause) {
    if (cause instanceof SyntaxError || cause instanceof RangeError) return undefined;
    throw cause;
  }
}

const NAMES: ReadonlyMap<string, unknown> = new Map<string, unknown>([
  ["True", true],
  ["False", false],
  ["None", null],
]);
const ESCAPES: Readonly<Record<string, string>> = {
  n: "\n",
  t: "\t",
  r: "\r",
  "\\": "\\",
  "'": "'",
  '"': '"',
  "\n": "",
};

class LiteralReader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  whole(): unknown {
    const value = this.#value();
    this.#blanks();
    if (this.#at < this.#text.length) throw new SyntaxError("more follows");
    return value;
  }

  #blanks(): void {
    while (/\s/.test(this.#text[this.#at] ?? "")) this.#at++;
  }

  #takes(mark: string): boolean {
    this.#blanks();
    if (this.#text[this.#at] !== mark) return false;
    this.#at++;
    return true;
  }

  #value(): unknown {
    if (this.#takes("[")) return this.#list("]");
    if (this.#takes("(")) return this.#list(")");
    if (this.#takes("{")) return this.#dictionary();
    for (const quote of ["'", '"']) if (this.#takes(quote)) return this.#string(quote);
    const word = /^[+-]?[\w.]+(?:[eE][+-]?\d+)?/.exec(this.#text.slice(this.#at))?.[0] ?? "";
    this.#at += word.length;
    if (NAMES.has(word)) return NAMES.get(word);
    const number = Number(word);
    if (word === "" || !Number.isFinite(number)) throw new SyntaxError(`no literal: ${word}`);
    return number;
  }

  #list(end: string): unknown[] {
    const values: unknown[] = [];
    while (!this.#takes(end)) {
      values.push(this.#value());
      if (!this.#takes(",") && !this.#ends(end)) throw new SyntaxError("a comma is missing");
    }
    return values;
  }

  #dictionary(): Record<string, unknown> {
    const entries: [string, unknown][] = [];
    while (!this.#takes("}")) {
      const key = String(this.#value());
      if (!this.#takes(":")) throw new SyntaxError("a colon is missing");
      entries.push([key, this.#value()]);
      if (!this.#takes(",") && !this.#ends("}")) throw new SyntaxError("a comma is missing");
    }
    return Object.fromEntries(entries);
  }

  #ends(end: string): boolean {
    this.#blanks();
    return this.#text[this.#at] === end;
  }

  #string(quote: string): string {
    let made = "";
    for (;;) {
      const unit = this.#text[this.#at++];
      if (unit === undefined) throw new SyntaxError("a text does not end");
      if (unit === quote) return made;
      made += unit === "\\" ? this.#escape() : unit;
    }
  }

  #escape(): string {
    const kind = this.#text[this.#at++] ?? "";
    const digits = { x: 2, u: 4, U: 8 }[kind];
    if (digits === undefined) return ESCAPES[kind] ?? `\\${kind}`;
    const code = Number.parseInt(this.#text.slice(this.#at, this.#at + digits), 16);
    this.#at += digits;
    return String.fromCodePoint(code);
  }
}
