// Filters of chat templates, as Jinja has them; `tojson` is transformers'.

import type { Budget } from "./limits.js";
import { refuse } from "./limits.js";
import { Call, capitalized, replaced, textMethod } from "./methods.js";
import { compare, formatted, operate } from "./operators.js";
import { test } from "./tests.js";
import { jsonOf, textOf } from "./text-of.js";
import {
  type Arguments,
  Dict,
  Float,
  itemsOf,
  type Key,
  keyOf,
  listOf,
  Namespace,
  numberOf,
  Tuple,
  truth,
  typeOf,
  type Value,
} from "./values.js";

type Filter = (value: Value, given: Call, budget: Budget, all: Arguments) => Value;

function text(value: Value, budget: Budget): string {
  const made = textOf(value, budget);
  budget.step(made.length);
  return made;
}

/** A method of texts as a filter. */
function method(name: string): Filter {
  return (value, _given, budget, all) => textMethod(text(value, budget), name, budget)!(all);
}

/** What a path of attributes such as "function.name" or "items.0" leads to. */
function attribute(value: Value, path: Value, budget: Budget): Value {
  let found = value;
  for (const part of typeof path === "string" ? path.split(".") : [path]) {
    budget.step();
    const number = typeof part === "number" ? part : /^\d{1,9}$/.test(String(part)) ? Number(part) : undefined;
    const items = listOf(found);
    if (found instanceof Dict || found instanceof Namespace) {
      found = (found.entries as Map<Key, Value>).get(part as Key);
    } else found = items !== undefined && number !== undefined ? items[number] : undefined;
  }
  return found;
}

/** Values of items for sorting, summing and the like: the items themselves, or an attribute of each. */
function keyed(path: Value, budget: Budget, folds: boolean): (item: Value) => Value {
  return (item) => {
    const value = path === undefined || path === null ? item : attribute(item, path, budget);
    return folds && typeof value === "string" ? value.toLowerCase() : value;
  };
}

function sorted(items: readonly Value[], by: (item: Value) => Value, reverse: boolean, budget: Budget): Value[] {
  const keys = items.map((item) => [by(item), item] as const);
  keys.sort(([a], [b]) => (reverse ? compare(b, a, budget) : compare(a, b, budget)));
  return keys.map(([, item]) => item);
}

function extreme(sign: 1 | -1): Filter {
  return (value, given, budget) => {
    const folds = !given.flag("case_sensitive", false);
    const by = keyed(given.any("attribute"), budget, folds);
    given.end();
    let best: Value;
    let first = true;
    for (const item of itemsOf(value, budget)) {
      if (first || compare(by(item), by(best), budget) * sign > 0) best = item;
      first = false;
    }
    return best;
  };
}

/** select, reject, selectattr, rejectattr. */
function selects(keeps: boolean, attributes: boolean): Filter {
  return (value, given, budget) => {
    const path = attributes ? given.any("attribute") : undefined;
    const name = given.any("test");
    const args = given.rest();
    if (name !== undefined && typeof name !== "string") return refuse("the name of a test must be text");
    return itemsOf(value, budget).filter((item) => {
      const subject = attributes ? attribute(item, path, budget) : item;
      return (name === undefined ? truth(subject) : test(name, subject, args, budget)) === keeps;
    });
  };
}

function escaped(value: string): string {
  return value
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll("'", "&#39;")
    .replaceAll('"', "&#34;");
}

function indented(value: string, given: Call, budget: Budget): string {
  const width = given.any("width") ?? 4;
  const [first, blank] = [given.flag("first", false), given.flag("blank", false)];
  given.end();
  if (typeof width !== "number" && typeof width !== "string") return refuse("indent: width must be a number or text");
  if (typeof width === "number") budget.text(Math.max(0, width));
  const margin = typeof width === "string" ? width : " ".repeat(Math.max(0, width));
  const lines = value.split("\n");
  budget.items(lines.length);
  budget.text(value.length + lines.length * margin.length);
  return lines.map((line, i) => ((first || i > 0) && (blank || line !== "") ? margin + line : line)).join("\n");
}

function json(value: Value, given: Call, budget: Budget): string {
  const ascii = given.flag("ensure_ascii", false);
  const [indent, separators] = [given.any("indent"), given.any("separators")];
  const sorts = given.flag("sort_keys", false);
  given.end();
  const pair = separators === undefined || separators === null ? undefined : listOf(separators);
  if (separators && (pair?.length !== 2 || pair.some((one) => typeof one !== "string"))) {
    return refuse("tojson: separators must be two texts");
  }
  if (indent !== undefined && indent !== null && typeof indent !== "number" && typeof indent !== "string") {
    return refuse("tojson: indent must be a whole number");
  }
  if (typeof indent === "number") budget.text(Math.max(0, indent));
  const margin =
    typeof indent === "number" ? " ".repeat(Math.max(0, indent)) : typeof indent === "string" ? indent : undefined;
  const [item, key] = (pair as [string, string] | undefined) ?? [margin === undefined ? ", " : ",", ": "];
  return jsonOf(value, { indent: margin, item, key, sorts, ascii }, budget);
}

function rounded(value: Value, given: Call): Value {
  const number = numberOf(value) ?? refuse(`round needs a number, got ${typeOf(value)}`);
  const [precision, way] = [given.whole("precision", 0), given.text("method", "common")];
  given.end();
  if (precision < 0 || precision > 15) return refuse("round: precision must be 0 to 15");
  const scaled = number * 10 ** precision;
  if (way === "ceil") return new Float(Math.ceil(scaled) / 10 ** precision);
  if (way === "floor") return new Float(Math.floor(scaled) / 10 ** precision);
  const half = Math.abs(scaled % 1) === 0.5;
  const whole = half ? 2 * Math.round(scaled / 2) : Math.round(scaled); // Python rounds halves to even
  return new Float(whole / 10 ** precision);
}

function whole(value: Value, usual: Value): Value {
  const number = numberOf(value);
  if (number !== undefined) return Number.isFinite(number) ? Math.trunc(number) : usual;
  const digits = typeof value === "string" ? /^\s*([+-]?\d{1,15})(?:\.\d*)?\s*$/.exec(value)?.[1] : undefined;
  return digits === undefined ? usual : Number(digits);
}

function float(value: Value, usual: Value): Value {
  const number = numberOf(value);
  if (number !== undefined) return new Float(number);
  const valid = typeof value === "string" && /^\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*$/.test(value);
  return valid ? new Float(Number(value)) : usual;
}

function mapped(value: Value, given: Call, budget: Budget, all: Arguments): Value {
  const items = itemsOf(value, budget);
  if (all.named.has("attribute")) {
    const [path, usual] = [all.named.get("attribute"), all.named.get("default")];
    return items.map((item) => attribute(item, path, budget) ?? usual);
  }
  const name = given.text("filter");
  const rest = { args: given.rest(), named: all.named };
  return items.map((item) => filter(name, item, rest, budget));
}

const FILTERS: ReadonlyMap<string, Filter> = new Map<string, Filter>([
  [
    "abs",
    (value) =>
      value instanceof Float
        ? new Float(Math.abs(value.value))
        : Math.abs(numberOf(value) ?? refuse("abs needs a number")),
  ],
  [
    "attr",
    (value, given, budget) => (value instanceof Dict ? undefined : attribute(value, given.text("name"), budget)),
  ],
  ["capitalize", (value, _given, budget) => capitalized(text(value, budget))],
  ["center", method("center")],
  [
    "default",
    (value, given) => {
      const [usual, boolean] = [given.any("default_value") ?? "", given.flag("boolean", false)];
      given.end();
      return value === undefined || (boolean && !truth(value)) ? usual : value;
    },
  ],
  [
    "dictsort",
    (value, given, budget) => {
      const [sensitive, by, reverse] = [
        given.flag("case_sensitive", false),
        given.text("by", "key"),
        given.flag("reverse", false),
      ];
      given.end();
      if (!(value instanceof Dict) || (by !== "key" && by !== "value"))
        return refuse("dictsort needs a dictionary, by key or value");
      const pairs = [...value.entries].map((entry): Value => new Tuple(entry));
      budget.items(pairs.length);
      return sorted(pairs, keyed(by === "key" ? 0 : 1, budget, !sensitive), reverse, budget);
    },
  ],
  ["escape", (value, _given, budget) => escaped(text(value, budget))],
  ["first", (value, _given, budget) => itemsOf(value, budget)[0]],
  ["float", (value, given) => float(value, given.any("default") ?? new Float(0))],
  ["format", (value, _given, budget, { args }) => formatted(text(value, budget), args, budget)],
  ["indent", (value, given, budget) => indented(text(value, budget), given, budget)],
  ["int", (value, given) => whole(value, given.any("default") ?? 0)],
  [
    "items",
    (value, _given, budget) => {
      if (value === undefined) return [];
      if (!(value instanceof Dict)) return refuse(`items needs a dictionary, got ${typeOf(value)}`);
      budget.items(value.entries.size);
      return [...value.entries].map((entry): Value => new Tuple(entry));
    },
  ],
  [
    "join",
    (value, given, budget) => {
      const separator = text(given.any("d") ?? "", budget);
      const by = keyed(given.any("attribute"), budget, false);
      given.end();
      const parts = itemsOf(value, budget).map((item) => textOf(by(item), budget));
      budget.text(parts.reduce((sum, part) => sum + part.length + separator.length, 0));
      return parts.join(separator);
    },
  ],
  ["last", (value, _given, budget) => itemsOf(value, budget).at(-1)],
  ["length", (value, _given, budget) => lengthOf(value, budget)],
  ["list", (value, _given, budget) => itemsOf(value, budget)],
  ["lower", method("lower")],
  ["map", mapped],
  ["max", extreme(1)],
  ["min", extreme(-1)],
  ["reject", selects(false, false)],
  ["rejectattr", selects(false, true)],
  [
    "replace",
    (value, given, budget) => {
      const [old, content] = [given.text("old"), given.text("new")];
      const count = given.any("count") ?? -1;
      given.end();
      return replaced(text(value, budget), old, content, typeof count === "number" ? count : -1, budget);
    },
  ],
  [
    "reverse",
    (value, _given, budget) => {
      const items = [...itemsOf(value, budget)].reverse();
      return typeof value === "string" ? items.join("") : items;
    },
  ],
  ["round", rounded],
  ["safe", (value, _given, budget) => text(value, budget)],
  ["select", selects(true, false)],
  ["selectattr", selects(true, true)],
  [
    "sort",
    (value, given, budget) => {
      const [reverse, sensitive] = [given.flag("reverse", false), given.flag("case_sensitive", false)];
      const by = keyed(given.any("attribute"), budget, !sensitive);
      given.end();
      return sorted(itemsOf(value, budget), by, reverse, budget);
    },
  ],
  ["string", (value, _given, budget) => text(value, budget)],
  [
    "sum",
    (value, given, budget) => {
      const by = keyed(given.any("attribute"), budget, false);
      const start = given.any("start") ?? 0;
      given.end();
      return itemsOf(value, budget).reduce((sum: Value, item) => operate("+", sum, by(item), budget), start);
    },
  ],
  [
    "title",
    (value, _given, budget) =>
      text(value, budget)
        .split(/([-\s({[<]+)/)
        .map(capitalized)
        .join(""),
  ],
  ["tojson", json],
  ["trim", method("strip")],
  [
    "unique",
    (value, given, budget) => {
      const sensitive = given.flag("case_sensitive", false);
      const by = keyed(given.any("attribute"), budget, !sensitive);
      given.end();
      const seen = new Set<Key>();
      return itemsOf(value, budget).filter((item) => {
        const key = keyOf(by(item) ?? null);
        if (seen.has(key)) return false;
        seen.add(key);
        return true;
      });
    },
  ],
  ["upper", method("upper")],
  ["wordcount", (value, _given, budget) => text(value, budget).match(/[\p{L}\p{N}_]+/gu)?.length ?? 0],
]);
const SHORT: Readonly<Record<string, string>> = { d: "default", e: "escape", count: "length" };

/** Applies a filter. @throws FormatError for one that is not known, and where it fails in Python */
export function filter(name: string, value: Value, given: Arguments, budget: Budget): Value {
  budget.step();
  const apply = FILTERS.get(SHORT[name] ?? name) ?? refuse(`there is no filter ${JSON.stringify(name)}`);
  return apply(value, new Call(name, given), budget, given);
}

function lengthOf(value: Value, budget: Budget): number {
  if (typeof value === "string") {
    budget.step(value.length);
    let count = 0;
    for (let at = 0; at < value.length; at++, count++) if (value.codePointAt(at)! > 0xffff) at++;
    return count;
  }
  if (value instanceof Dict) return value.entries.size;
  return value === undefined ? 0 : (listOf(value)?.length ?? refuse(`${typeOf(value)} has no length`));
}
