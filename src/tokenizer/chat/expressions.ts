// Expressions of templates, in Jinja's grammar. Not here: blocks (parser.ts).

import type { Token, TokenKind } from "./lexer.js";
import { refuse } from "./limits.js";
import type * as syntax from "./syntax.js";
import { wholeNumber } from "./values.js";

type Node = syntax.Node;

/** Levels of blocks and expressions in each other that are read. */
const LEVELS = 200;
const COMPARES: ReadonlySet<string> = new Set(["==", "!=", "<", "<=", ">", ">="]);
const CONSTANTS: ReadonlyMap<string, boolean | null> = new Map<string, boolean | null>([
  ...(["true", "True"] as const).map((name) => [name, true] as const),
  ...(["false", "False"] as const).map((name) => [name, false] as const),
  ...(["none", "None"] as const).map((name) => [name, null] as const),
]);

/** A whole number as it is written, exactly. */
function wholeLiteral(text: string): number | bigint {
  if (text.length <= 15) return Number(text);
  // The longest that a template may write: as many digits as Python reads.
  return text.length > 4_300 ? refuse("a whole number has too many digits") : wholeNumber(BigInt(text));
}

export const make = <N extends Node>(node: N): N => node;
export const identifier = (value: string): syntax.Identifier => ({ type: "Identifier", value });
const binary = (operator: string, left: Node, right: Node): Node =>
  make({ type: "BinaryExpression", operator: { value: operator }, left, right } as unknown as syntax.Operation);

/** Reads the words of expressions; a parser of blocks goes on where it stands. */
export class Expressions {
  readonly #tokens: readonly Token[];
  #at = 0;
  #level = 0;

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  protected get now(): Token {
    return this.#tokens[this.#at]!;
  }

  protected next(): Token {
    return this.#tokens[this.#at++]!;
  }

  protected is(kind: TokenKind, value?: string): boolean {
    const { kind: own, value: text } = this.now;
    return own === kind && (value === undefined || text === value);
  }

  protected skip(kind: TokenKind, value?: string): boolean {
    const found = this.is(kind, value);
    if (found) this.#at++;
    return found;
  }

  protected expect(kind: TokenKind, value?: string): Token {
    return this.is(kind, value) ? this.next() : this.wrong(value ?? kind);
  }

  protected wrong(wanted: string): never {
    const { kind, value } = this.now;
    const got = kind === "eof" ? "its end" : JSON.stringify(value === "" ? kind : value);
    return refuse(`it cannot be read: expected ${wanted}, got ${got}`);
  }

  deeper<T>(work: () => T): T {
    if (++this.#level > LEVELS) refuse("it cannot be read: it is nested too deeply");
    const made = work();
    this.#level--;
    return made;
  }

  /** An expression, or several with commas between them. */
  protected tuple({ conditional = true, end = "", closed = false } = {}): Node {
    const ends = (): boolean =>
      this.is("printed") || this.is("end") || this.is("operator", ")") || (end !== "" && this.is("name", end));
    const all: Node[] = [];
    let several = false;
    for (;;) {
      if (all.length > 0) this.expect("operator", ",");
      if (ends()) break;
      all.push(conditional ? this.expression() : this.#or());
      if (!this.is("operator", ",")) break;
      several = true;
    }
    if (!several && all.length > 0) return all[0]!;
    if (!several && !closed) this.wrong("an expression");
    return { type: "TupleLiteral", value: all } as syntax.Literal<Node[]>;
  }

  protected expression(): Node {
    return this.deeper(() => {
      let value = this.#or();
      while (this.skip("name", "if")) {
        const condition = this.#or();
        const falseExpr = this.skip("name", "else") ? this.expression() : null;
        value = make<syntax.Choice>({ type: "Ternary", condition, trueExpr: value, falseExpr });
      }
      return value;
    });
  }

  #or(): Node {
    let left = this.#and();
    while (this.skip("name", "or")) left = binary("or", left, this.#and());
    return left;
  }

  #and(): Node {
    let left = this.#not();
    while (this.skip("name", "and")) left = binary("and", left, this.#not());
    return left;
  }

  #not(): Node {
    if (!this.skip("name", "not")) return this.#compare();
    const argument = this.deeper(() => this.#not());
    return { type: "UnaryExpression", operator: { value: "not" }, argument } as unknown as Node;
  }

  #compare(): Node {
    const first = this.#sum();
    const rest: { readonly operator: string; readonly value: Node }[] = [];
    for (;;) {
      const { kind, value } = this.now;
      const negated = kind === "name" && value === "not" && this.#tokens[this.#at + 1]?.value === "in";
      if (kind === "operator" && COMPARES.has(value)) {
        this.#at++;
        rest.push({ operator: value, value: this.#sum() });
      } else if (negated || (kind === "name" && value === "in")) {
        this.#at += negated ? 2 : 1;
        rest.push({ operator: negated ? "not in" : "in", value: this.#sum() });
      } else break;
    }
    if (rest.length === 0) return first;
    if (rest.length === 1) return binary(rest[0]!.operator, first, rest[0]!.value);
    return make<syntax.Comparison>({ type: "Comparison", first, rest });
  }

  #chain(operators: readonly string[], operand: () => Node): Node {
    let left = operand();
    while (this.now.kind === "operator" && operators.includes(this.now.value)) {
      left = binary(this.next().value, left, operand());
    }
    return left;
  }

  #sum(): Node {
    const power = (): Node => this.#chain(["**"], () => this.#unary(true));
    const product = (): Node => this.#chain(["*", "/", "//", "%"], power);
    return this.#chain(["+", "-"], () => this.#chain(["~"], product));
  }

  /** A sign binds more than a filter behind it. */
  #unary(filtered: boolean): Node {
    const sign = this.is("operator", "-") || this.is("operator", "+") ? this.next().value : undefined;
    let node: Node;
    if (sign === undefined) node = this.#postfix(this.#primary());
    else {
      const argument = this.deeper(() => this.#unary(false));
      node = this.#postfix({ type: "UnaryExpression", operator: { value: sign }, argument } as unknown as Node);
    }
    return filtered ? this.#filtered(node) : node;
  }

  #primary(): Node {
    const { kind, value } = this.next();
    switch (kind) {
      case "name":
        if (CONSTANTS.has(value))
          return { type: "Constant", value: CONSTANTS.get(value)! } as syntax.Literal<boolean | null>;
        return identifier(value);
      case "string": {
        let text = value;
        while (this.is("string")) text += this.next().value;
        return { type: "StringLiteral", value: text } as syntax.Literal<string>;
      }
      case "integer":
        return { type: "IntegerLiteral", value: wholeLiteral(value) } as syntax.Literal<number | bigint>;
      case "float":
        return { type: "FloatLiteral", value: Number(value) } as syntax.Literal<number>;
      case "operator":
        if (value === "(") {
          const inner = this.deeper(() => this.tuple({ closed: true }));
          this.expect("operator", ")");
          return inner;
        }
        if (value === "[") return { type: "ArrayLiteral", value: this.#listed("]", () => this.expression()) } as Node;
        if (value === "{") {
          const pairs = this.#listed("}", () => {
            const key = this.expression();
            this.expect("operator", ":");
            return [key, this.expression()] as const;
          });
          return { type: "ObjectLiteral", value: new Map(pairs) } as Node;
        }
    }
    this.#at--;
    return this.wrong("an expression");
  }

  #listed<T>(close: string, read: () => T): T[] {
    const all: T[] = [];
    while (!this.skip("operator", close)) {
      if (all.length > 0) {
        this.expect("operator", ",");
        if (this.skip("operator", close)) break;
      }
      all.push(read());
    }
    return all;
  }

  /** Attributes, items and calls behind a value. */
  #postfix(of: Node): Node {
    let node = of;
    for (;;) {
      if (this.skip("operator", ".")) node = this.#attribute(node);
      else if (this.skip("operator", "[")) {
        const all = this.#listed("]", () => this.#subscript());
        if (all.length === 0) this.wrong("an item");
        const property = all.length === 1 ? all[0]! : ({ type: "TupleLiteral", value: all } as Node);
        node = make<syntax.Member>({ type: "MemberExpression", object: node, property, computed: true });
      } else if (this.is("operator", "(")) node = this.#call(node);
      else return node;
    }
  }

  #attribute(object: Node): Node {
    const { kind, value } = this.now;
    if (kind !== "name" && kind !== "integer") this.wrong("a name");
    this.#at++;
    if (kind === "name")
      return make<syntax.Member>({ type: "MemberExpression", object, property: identifier(value), computed: false });
    const property = { type: "IntegerLiteral", value: Number(value) } as syntax.Literal<number>;
    return make<syntax.Member>({ type: "MemberExpression", object, property, computed: true });
  }

  #subscript(): Node {
    const part = (): Node | undefined =>
      this.is("operator", ":") || this.is("operator", "]") || this.is("operator", ",") ? undefined : this.expression();
    const start = part();
    if (!this.skip("operator", ":")) return start ?? this.wrong("an item");
    const stop = part();
    const step = this.skip("operator", ":") ? part() : undefined;
    return make<syntax.Slice>({ type: "SliceExpression", start, stop, step });
  }

  #call(callee: Node): syntax.Call {
    return { type: "CallExpression", callee, args: this.#arguments() };
  }

  #arguments(): Node[] {
    this.expect("operator", "(");
    let named = false;
    return this.deeper(() =>
      this.#listed(")", (): Node => {
        const spread = this.skip("operator", "**")
          ? "KeywordSpreadExpression"
          : this.skip("operator", "*")
            ? "SpreadExpression"
            : "";
        if (spread !== "") return { type: spread, argument: this.expression() } as unknown as Node;
        const next = this.#tokens[this.#at + 1];
        if (this.is("name") && next?.kind === "operator" && next.value === "=") {
          const key = identifier(this.next().value);
          this.#at++;
          named = true;
          return make<syntax.Keyword>({ type: "KeywordArgumentExpression", key, value: this.expression() });
        }
        return named ? this.wrong("an argument with a name") : this.expression();
      }),
    );
  }

  #dotted(): syntax.Identifier {
    let name = this.expect("name").value;
    while (this.skip("operator", ".")) name += `.${this.expect("name").value}`;
    return identifier(name);
  }

  /** Names of filters with their arguments; the first one without a bar before it where `inline` says so. */
  protected filters(inline: boolean): Node[] {
    const all: Node[] = [];
    for (let first = inline; first || this.skip("operator", "|"); first = false) {
      const name = this.#dotted();
      all.push(this.is("operator", "(") ? this.#call(name) : name);
    }
    return all;
  }

  #filtered(of: Node): Node {
    let node = of;
    for (;;) {
      if (this.is("operator", "|")) {
        for (const filter of this.filters(false)) {
          node = { type: "FilterExpression", operand: node, filter } as unknown as Node;
        }
      } else if (this.skip("name", "is")) node = this.#test(node);
      else if (this.is("operator", "(")) node = this.#call(node);
      else return node;
    }
  }

  #test(operand: Node): Node {
    const negate = this.skip("name", "not");
    const test = this.#dotted();
    const { kind, value } = this.now;
    const word = kind === "name" && !["else", "or", "and"].includes(value);
    if (word && value === "is") this.wrong("one test");
    let args: Node[] = [];
    if (this.is("operator", "(")) args = this.#arguments();
    else if (
      word ||
      kind === "string" ||
      kind === "integer" ||
      kind === "float" ||
      (kind === "operator" && /^[[{]$/.test(value))
    ) {
      args = [this.#postfix(this.#primary())];
    }
    return make<syntax.Test>({ type: "TestExpression", operand, negate, test, args });
  }
}
