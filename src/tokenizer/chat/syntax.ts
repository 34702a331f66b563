// The syntax tree of a chat template: `@huggingface/jinja` reads the text, and this checks what could make it slow. Not here: what
// the nodes do (interpreter.ts). That library's own interpreter has no limits and computes as JavaScript does, not as Python.

import { parse, tokenize } from "@huggingface/jinja";
import { refuse } from "./limits.js";

/** A node as the library makes it; each has the fields that its type says. */
export interface Node {
  readonly type: string;
}
export interface Block extends Node {
  readonly body: readonly Node[];
}
export interface Literal<T> extends Node {
  readonly value: T;
}
export type Identifier = Literal<string>;
export interface Keyword extends Node {
  readonly key: Identifier;
  readonly value: Node;
}
export interface Call extends Node {
  readonly callee: Node;
  readonly args: readonly Node[];
}
export interface If extends Block {
  readonly test: Node;
  readonly alternate: readonly Node[];
}
export interface For extends Block {
  readonly loopvar: Node;
  readonly iterable: Node;
  readonly defaultBlock: readonly Node[];
}
export interface SetNode extends Block {
  readonly assignee: Node;
  readonly value: Node | null;
}
export interface Macro extends Block {
  readonly name: Identifier;
  readonly args: readonly (Identifier | Keyword)[];
}
export interface CallBlock extends Block {
  readonly call: Call;
  readonly callerArgs: readonly (Identifier | Keyword)[] | null;
}
export interface Filtered extends Block {
  readonly operand: Node;
  readonly filter: Node;
}
export interface Operation extends Node {
  readonly operator: { readonly value: string };
  readonly left: Node;
  readonly right: Node;
  readonly argument: Node;
}
export interface Member extends Node {
  readonly object: Node;
  readonly property: Node;
  readonly computed: boolean;
}
export interface Slice extends Node {
  readonly start: Node | undefined;
  readonly stop: Node | undefined;
  readonly step: Node | undefined;
}
export interface Test extends Node {
  readonly operand: Node;
  readonly negate: boolean;
  readonly test: Identifier;
}
export interface Choice extends Node {
  readonly condition: Node;
  readonly trueExpr: Node;
  readonly falseExpr: Node;
}
export interface Select extends Node {
  readonly lhs: Node;
  readonly test: Node;
}

/** Characters of a template. Published ones have up to some 20,000. */
const LONGEST_SOURCE = 1024 * 1024;
/** The library looks at each run of white space from each of its places. */
const MOST_BLANK_STEPS = 20_000_000;

/** The name of the function that marks what the assistant says; no template can write it. */
export const GENERATION = "generation block";
const WRITTEN = "__generation__";

/** Jinja's `lstrip_blocks` and `trim_blocks`: blocks on lines of their own leave none. `{%+` forbids the first, `+%}` the second. */
function withoutBlockLines(source: string): string {
  return source
    .replace(/^[ \t]+(?=\{[%#](?!\+))/gm, "")
    .replace(/(?<!\+)([%#]\})\n/g, "$1")
    .replace(/\{([%#])\+/g, "{$1")
    .replace(/\+([%#])\}/g, "$1}");
}

/** Calls of `{% generation %}` blocks, which the library would drop. */
function withGenerations(source: string): string {
  return source
    .replace(/\{%([-+]?)[ \t\r\n]{0,100}generation[ \t\r\n]{0,100}([-+]?)%\}/g, `{%$1 call ${WRITTEN}() $2%}`)
    .replace(/\{%([-+]?)[ \t\r\n]{0,100}endgeneration[ \t\r\n]{0,100}([-+]?)%\}/g, "{%$1 endcall $2%}");
}

/** The function's name where a template calls it, or the name itself. */
export function nameOf({ value }: Identifier): string {
  return value === WRITTEN ? GENERATION : value;
}

function checkBlanks(source: string): void {
  let [run, steps] = [0, 0];
  for (let at = 0; at < source.length; at++) {
    const unit = source.charCodeAt(at);
    run = unit <= 0x20 || (unit > 0x7f && /\s/.test(source[at]!)) ? run + 1 : 0;
    steps += run;
    if (steps > MOST_BLANK_STEPS) refuse("it has too long runs of white space");
  }
}

/**
 * Reads a template.
 * @param chat blocks on lines of their own leave none, and the newline at the end goes first; false: the text stays as it is
 * @throws FormatError for what is no template, longer than a million characters, or nested too deeply
 */
export function readTemplate(source: string, chat = true): Block {
  if (source.length > LONGEST_SOURCE) {
    refuse(`it has ${source.length} characters, at most ${LONGEST_SOURCE} are read`);
  }
  checkBlanks(source);
  try {
    // The newline at the end goes first, as in Jinja.
    const text = chat && source.endsWith("\n") ? source.slice(0, -1) : source;
    const prepared = chat ? withGenerations(withoutBlockLines(text)) : text;
    return parse(tokenize(prepared.endsWith("\n") ? `${prepared}\n` : prepared)) as unknown as Block;
  } catch (cause) {
    const reason =
      cause instanceof RangeError
        ? "it is nested too deeply"
        : cause instanceof TypeError
          ? "it ends too early" // the library reads on where there is nothing
          : String((cause as Error).message);
    return refuse(`it cannot be read: ${reason.slice(0, 200)}`, cause);
  }
}
