// Templates over the fields of a document, as lm-evaluation-harness renders them: the text stays as it is written, and a name that
// the document does not have is an error (Jinja's StrictUndefined).

import { FormatError, OptionError } from "../../core/errors.js";
import { listed, show } from "../../core/show.js";
import { globals } from "./functions.js";
import { Interpreter } from "./interpreter.js";
import { Budget } from "./limits.js";
import { readTemplate } from "./read.js";
import type { Block } from "./syntax.js";
import { textOf } from "./text-of.js";
import { Reader } from "./values.js";

/** A template that was read, and the names that it takes from the document. */
interface Program {
  readonly block: Block;
  readonly names: ReadonlySet<string>;
}

const read = new Map<string, Program>();
const MOST_READ = 256;

type Fields = Readonly<Record<string, unknown>>;

/** Where a node holds names that are no variables. */
function isNameOnly(node: Fields, key: string): boolean {
  if (key === "type") return true;
  switch (node.type) {
    case "MemberExpression":
      return key === "property" && node.computed !== true;
    case "KeywordArgumentExpression":
      return key === "key";
    case "TestExpression": {
      const { value } = node.test as Fields;
      // "x is defined" asks for what need not be there.
      return key === "test" || (key === "operand" && (value === "defined" || value === "undefined"));
    }
    case "Macro":
      return key === "name" || key === "args";
    default:
      return false;
  }
}

/** Adds the variables that a part of a template reads, and those that it sets. */
function collect(value: unknown, used: Set<string>, set: Set<string>): void {
  if (Array.isArray(value)) {
    for (const entry of value as unknown[]) collect(entry, used, set);
    return;
  }
  if (value instanceof Map) {
    for (const entry of value as Map<unknown, unknown>) collect(entry, used, set);
    return;
  }
  if (typeof value !== "object" || value === null) return;
  const node = value as Fields;
  if (node.type === "Identifier") {
    used.add(String(node.value));
    return;
  }
  const bound = (target: unknown): void => collect(target, set, set);
  if (node.type === "Set") bound(node.assignee);
  if (node.type === "For") bound(node.loopvar);
  if (node.type === "Macro") for (const part of [node.name, node.args]) bound(part);
  for (const [key, part] of Object.entries(node)) {
    if (isNameOnly(node, key)) continue;
    const filter = (node.type === "FilterExpression" || node.type === "FilterStatement") && key === "filter";
    // A filter's name is none, but its arguments are expressions.
    collect(filter ? ((part as Fields).args ?? []) : part, used, set);
  }
}

function programOf(source: string): Program {
  const known = read.get(source);
  if (known) return known;
  const block = readTemplate(source, false);
  const [used, set] = [new Set<string>(), new Set(["loop", "caller", "varargs", "kwargs"])];
  collect(block.body, used, set);
  const program = { block, names: new Set([...used].filter((name) => !set.has(name))) };
  if (read.size === MOST_READ) read.delete(read.keys().next().value!);
  read.set(source, program);
  return program;
}

/** @throws OptionError for what a template's part refuses, with its place */
function told<T>(place: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    if (!(cause instanceof FormatError) && !(cause instanceof RangeError)) throw cause;
    const reason = cause.message.replace(/^chat template: /, "");
    throw new OptionError(`${place}: ${reason}`, { cause });
  }
}

/**
 * A value as Python prints it.
 * @param place what the value is, for messages
 * @throws OptionError for what JSON has not, and for what is nested too deeply or too long
 */
export function printed(place: string, value: unknown): string {
  if (typeof value === "string") return value;
  const reader = new Reader(place);
  return told(place, () => textOf(reader.read("value", value), new Budget(reader.count)));
}

/**
 * The text of a template over a document.
 * @param place what the template is, for messages
 * @throws OptionError for a name that the document does not have, for what cannot be read, and where the template fails
 */
export function renderFields(place: string, source: string, document: Fields): string {
  if (!source.includes("{")) return source;
  const reader = new Reader(place);
  return told(place, () => {
    const { block, names } = programOf(source);
    const known = globals(new Budget(0), () => new Date());
    for (const name of names) {
      if (Object.hasOwn(document, name) || known.has(name)) continue;
      throw new OptionError(`${place}: the document has no ${show(name)}`, {
        hint: `its fields: ${listed(Object.keys(document))}`,
      });
    }
    const fields = Object.entries(document).filter(([name]) => names.has(name));
    const values = fields.map(([name, value]) => [name, reader.read(name, value)] as const);
    const budget = new Budget(reader.count);
    return new Interpreter(budget, new Map([...globals(budget, () => new Date()), ...values]), "").run(block);
  });
}
