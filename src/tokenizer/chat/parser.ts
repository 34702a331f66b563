// The syntax tree of a template: Jinja's grammar, with the blocks of transformers (`generation`, `break`, `continue`). Not here: the
// words (lexer.ts), what the nodes do (interpreter.ts). A library's parser stood here (@huggingface/jinja 0.5): of 900 templates with Jinja's
// own results it gives other text for 6 and refuses 187, and white space and `generation` had to be written into the source before it.

import { Expressions, identifier, make } from "./expressions.js";
import { refuse } from "./limits.js";
import type * as syntax from "./syntax.js";

type Node = syntax.Node;

/** Reads a template: its text and blocks. */
export class Parser extends Expressions {
  /** @throws FormatError for what is no template, or nested too deeply */
  program(): syntax.Block {
    const body = this.#body([]);
    return { type: "Program", body };
  }

  /** Nodes up to a block of one of these names, which is not read. */
  #body(ends: readonly string[]): Node[] {
    return this.deeper(() => {
      const nodes: Node[] = [];
      for (;;) {
        const { kind, value } = this.now;
        if (kind === "eof") {
          if (ends.length > 0) this.wrong(ends.join(" or "));
          return nodes;
        }
        this.next();
        if (kind === "text") nodes.push({ type: "StringLiteral", value } as syntax.Literal<string>);
        else if (kind === "print") {
          nodes.push(this.tuple());
          this.expect("printed");
        } else {
          if (this.is("name") && ends.includes(this.now.value)) return nodes;
          nodes.push(...this.#statement());
          this.expect("end");
        }
      }
    });
  }

  /** The nodes of a block that ends by itself; its last word is read, its end is not. */
  #block(end: string): Node[] {
    this.expect("end");
    const body = this.#body([end]);
    this.next();
    return body;
  }

  #statement(): Node[] {
    const name = this.expect("name").value;
    switch (name) {
      case "if":
        return [this.#if()];
      case "for":
        return [this.#for()];
      case "set":
        return [this.#set()];
      case "macro": {
        const own = identifier(this.expect("name").value);
        const args = this.signature();
        return [make<syntax.Macro>({ type: "Macro", name: own, args, body: this.#block("endmacro") })];
      }
      case "call": {
        const callerArgs = this.is("operator", "(") ? this.signature() : null;
        const call = this.expression();
        if (call.type !== "CallExpression") this.wrong("a call");
        const body = this.#block("endcall");
        return [make<syntax.CallBlock>({ type: "CallStatement", call: call as syntax.Call, callerArgs, body })];
      }
      case "filter": {
        const filters = this.filters(true);
        return [make<syntax.Filtering>({ type: "FilterStatement", filters, body: this.#block("endfilter") })];
      }
      case "with":
        return [this.#with()];
      case "generation":
        return [make<syntax.Block>({ type: "Generation", body: this.#block("endgeneration") })];
      case "print":
        return [this.tuple()];
      case "break":
        return [{ type: "Break" }];
      case "continue":
        return [{ type: "Continue" }];
      default:
        return refuse(`it cannot be read: there is no block ${JSON.stringify(name)}`);
    }
  }

  #if(): syntax.If {
    const test = this.tuple({ conditional: false });
    this.expect("end");
    const body = this.#body(["elif", "else", "endif"]);
    const end = this.next().value;
    if (end === "elif") return { type: "If", test, body, alternate: [this.deeper(() => this.#if())] };
    return { type: "If", test, body, alternate: end === "else" ? this.#block("endif") : [] };
  }

  #for(): syntax.For {
    const loopvar = this.#target("in");
    this.expect("name", "in");
    const iterable = this.tuple({ conditional: false, end: "recursive" });
    const condition = this.skip("name", "if") ? this.expression() : null;
    const recursive = this.skip("name", "recursive");
    this.expect("end");
    const body = this.#body(["endfor", "else"]);
    const defaultBlock = this.next().value === "else" ? this.#block("endfor") : [];
    return { type: "For", loopvar, iterable, condition, recursive, body, defaultBlock };
  }

  #set(): syntax.SetNode {
    let assignee = this.#target();
    if (assignee.type === "Identifier" && this.skip("operator", ".")) {
      const property = identifier(this.expect("name").value);
      assignee = make<syntax.Member>({ type: "MemberExpression", object: assignee, property, computed: false });
    }
    if (this.skip("operator", "=")) return { type: "Set", assignee, value: this.tuple(), filters: [], body: [] };
    const filters = this.filters(false);
    return { type: "Set", assignee, value: null, filters, body: this.#block("endset") };
  }

  #with(): syntax.With {
    const targets: Node[] = [];
    const values: Node[] = [];
    while (!this.is("end")) {
      if (targets.length > 0) this.expect("operator", ",");
      targets.push(identifier(this.expect("name").value));
      this.expect("operator", "=");
      values.push(this.expression());
    }
    return { type: "With", targets, values, body: this.#block("endwith") };
  }

  /** A name, or several that are bound together. */
  #target(end?: string): Node {
    const one = (): Node => {
      if (!this.skip("operator", "(")) return identifier(this.expect("name").value);
      const inner = this.#target();
      this.expect("operator", ")");
      return inner;
    };
    const first = one();
    if (!this.is("operator", ",")) return first;
    const all = [first];
    while (this.skip("operator", ",")) {
      if ((end !== undefined && this.is("name", end)) || this.is("operator", "=")) break;
      all.push(one());
    }
    return { type: "TupleLiteral", value: all } as syntax.Literal<Node[]>;
  }

  signature(): (syntax.Identifier | syntax.Keyword)[] {
    const args: (syntax.Identifier | syntax.Keyword)[] = [];
    this.expect("operator", "(");
    while (!this.skip("operator", ")")) {
      if (args.length > 0) this.expect("operator", ",");
      const key = identifier(this.expect("name").value);
      if (this.skip("operator", "=")) args.push({ type: "KeywordArgumentExpression", key, value: this.expression() });
      else if (args.at(-1)?.type === "KeywordArgumentExpression") this.wrong("a default");
      else args.push(key);
    }
    return args;
  }
}
