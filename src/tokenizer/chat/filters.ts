// Filters of chat templates, as Jinja has them; `tojson` is transformers'.

import { Call, type Filter } from "./call.js";
import { DECIMALS, formatted } from "./formats.js";
import { LAYOUT_FILTERS } from "./layout-filters.js";
import type { Budget } from "./limits.js";
import { refuse } from "./limits.js";
import { attribute, keyed, LIST_FILTERS, sorted } from "./list-filters.js";
import { capitalized, replaced, textMethod } from "./methods.js";
import { operate } from "./operators.js";
import { codePoints } from "./search.js";
import { test } from "./tests.js";
import { plain, TEXT_FILTERS, text } from "./text-filters.js";
import { fixedText, jsonOf, textOf } from "./text-of.js";
import {
  type Arguments,
  Dict,
  Float,
  itemsOf,
  listOf,
  numberOf,
  Tuple,
  truth,
  typeOf,
  type Value,
  wholeNumber,
} from "./values.js";

/** A method of texts as a filter. */
function method(name: string): Filter {
  return (value, _given, budget, all) => textMethod(text(value, budget), name, budget)!(all);
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

function rounded(value: Value, given: Call, budget: Budget): Value {
  budget.step(DECIMALS);
  const number = numberOf(value) ?? refuse(`round needs a number, got ${typeOf(value)}`);
  const [precision, way] = [given.whole("precision", 0), given.text("method", "common")];
  given.end();
  if (precision < -15 || precision > 15) return refuse("round: precision must be -15 to 15");
  const scale = 10 ** precision;
  if (way === "ceil") return new Float(Math.ceil(number * scale) / scale);
  if (way === "floor") return new Float(Math.floor(number * scale) / scale);
  if (way !== "common") return refuse("round: method must be common, ceil or floor");
  if (typeof value === "bigint" && precision >= 0) return value;
  if (precision < 0) {
    const tens = 10 ** -precision;
    const near = Number(fixedText(number / tens, 0)) * tens;
    return value instanceof Float ? new Float(near) : near + 0;
  }
  return value instanceof Float ? new Float(Number(fixedText(number, precision))) : number;
}

/** Python's float() of a number or text; undefined where it fails. */
function floatIn(value: Value): number | undefined {
  if (typeof value !== "string") return numberOf(value);
  const text = value
    .trim()
    .replace(/(?<=\d)_(?=\d)/g, "")
    .toLowerCase();
  if (/^[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?$/.test(text)) return Number(text);
  const [, sign, name] = /^([+-]?)(inf|infinity|nan)$/.exec(text) ?? [];
  if (name === undefined) return undefined;
  return name === "nan" ? Number.NaN : Number(`${sign}Infinity`);
}

/** Digits of a text that become a number at most. */
const MOST_DIGITS = 4_300;
const DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz";
const PREFIXES: Readonly<Record<number, string>> = { 2: "0b", 8: "0o", 16: "0x" };

/** Python's int() of a text; undefined where it fails. */
function intIn(given: string, base: number): number | bigint | undefined {
  const text = given
    .trim()
    .replace(/(?<=\w)_(?=\w)/g, "")
    .toLowerCase();
  const [, sign, rest] = /^([+-]?)(.+)$/s.exec(text) ?? [];
  const prefix = PREFIXES[base];
  const digits = prefix !== undefined && rest?.startsWith(prefix) ? rest.slice(2) : (rest ?? "");
  if (digits === "") return undefined;
  if (digits.length > MOST_DIGITS) return refuse(`int: a whole number has more than ${MOST_DIGITS} digits`);
  let value = 0n;
  for (const digit of digits) {
    const one = DIGITS.indexOf(digit);
    if (one < 0 || one >= base) return undefined;
    value = value * BigInt(base) + BigInt(one);
  }
  return wholeNumber(sign === "-" ? -value : value);
}

/** The filter `int`: a text that is no whole number is read as a float. */
function whole(value: Value, given: Call): Value {
  const [usual, base] = [given.any("default"), given.whole("base", 10)];
  given.end();
  if (base < 2 || base > 36) return refuse("int: base must be 2 to 36");
  const exact = typeof value === "bigint" ? value : typeof value === "string" ? intIn(value, base) : undefined;
  if (exact !== undefined) return exact;
  const number = floatIn(value);
  if (number === undefined || !Number.isFinite(number)) return usual === undefined ? 0 : usual;
  return wholeNumber(BigInt(Math.trunc(number)));
}

function mapped(value: Value, given: Call, budget: Budget, all: Arguments): Value {
  const items = itemsOf(value, budget);
  if (all.named.has("attribute")) {
    const [path, usual] = [all.named.get("attribute"), all.named.get("default")];
    return items.map((item) => attribute(item, path, budget, usual ?? undefined));
  }
  const name = given.text("filter");
  const rest = { args: given.rest(), named: all.named };
  return items.map((item) => filter(name, item, rest, budget));
}

const FILTERS: ReadonlyMap<string, Filter> = new Map<string, Filter>([
  ...LIST_FILTERS,
  ...TEXT_FILTERS,
  ...LAYOUT_FILTERS,
  [
    "abs",
    plain((value) =>
      typeof value === "bigint"
        ? wholeNumber(value < 0n ? -value : value)
        : value instanceof Float
          ? new Float(Math.abs(value.value))
          : Math.abs(numberOf(value) ?? refuse("abs needs a number")),
    ),
  ],
  [
    "attr",
    (value, given, budget) => {
      const name = given.text("name");
      given.end();
      return value instanceof Dict || value === undefined ? undefined : attribute(value, name, budget);
    },
  ],
  ["capitalize", plain((value, budget) => capitalized(text(value, budget)))],
  ["center", method("center")],
  [
    "default",
    (value, given) => {
      const [usual, boolean] = [given.any("default_value"), given.flag("boolean", false)];
      given.end();
      if (value !== undefined && !(boolean && !truth(value))) return value;
      return usual === undefined ? "" : usual;
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
  ["first", plain((value, budget) => itemsOf(value, budget)[0])],
  [
    "float",
    (value, given) => {
      const usual = given.any("default");
      given.end();
      const number = floatIn(value);
      if (number !== undefined) return new Float(number);
      return usual === undefined ? new Float(0) : usual;
    },
  ],
  [
    "format",
    (value, _given, budget, { args, named }) => {
      if (args.length > 0 && named.size > 0) return refuse("format takes values by place or by name");
      const right = named.size > 0 ? new Dict(new Map(named)) : new Tuple(args);
      return formatted(text(value, budget), right, budget);
    },
  ],
  ["int", whole],
  [
    "items",
    plain((value, budget) => {
      if (value === undefined) return [];
      if (!(value instanceof Dict)) return refuse(`items needs a dictionary, got ${typeOf(value)}`);
      budget.items(value.entries.size);
      return [...value.entries].map((entry): Value => new Tuple(entry));
    }),
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
  ["last", plain((value, budget) => itemsOf(value, budget).at(-1))],
  ["length", plain(lengthOf)],
  ["list", plain(itemsOf)],
  ["lower", method("lower")],
  ["map", mapped],
  ["reject", selects(false, false)],
  ["rejectattr", selects(false, true)],
  [
    "replace",
    (value, given, budget) => {
      const [old, content] = [text(given.any("old"), budget), text(given.any("new"), budget)];
      const count = given.any("count") ?? -1;
      given.end();
      return replaced(text(value, budget), old, content, typeof count === "number" ? count : -1, budget);
    },
  ],
  [
    "reverse",
    plain((value, budget) => {
      const items = [...itemsOf(value, budget)].reverse();
      return typeof value === "string" ? items.join("") : items;
    }),
  ],
  ["round", rounded],
  ["select", selects(true, false)],
  ["selectattr", selects(true, true)],
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
    plain((value, budget) =>
      text(value, budget)
        .split(/([-\s({[<]+)/)
        .map(([first = "", ...rest]) => first.toUpperCase() + rest.join("").toLowerCase())
        .join(""),
    ),
  ],
  ["tojson", json],
  ["trim", method("strip")],
  ["upper", method("upper")],
]);
const SHORT: Readonly<Record<string, string>> = { d: "default", e: "escape", count: "length" };

/** Filters that make or ask something for each character. */
const WALKS: ReadonlySet<string> = new Set([
  "e",
  "escape",
  "float",
  "indent",
  "int",
  "pprint",
  "title",
  "urlize",
  "wordcount",
  "wordwrap",
]);

/** Applies a filter. @throws FormatError for one that is not known, and where it fails in Python */
export function filter(name: string, value: Value, given: Arguments, budget: Budget): Value {
  if (typeof value !== "string") budget.step();
  else if (WALKS.has(name)) budget.walk(value.length);
  else budget.step(value.length);
  const apply = FILTERS.get(SHORT[name] ?? name) ?? refuse(`there is no filter ${JSON.stringify(name)}`);
  return apply(value, new Call(name, given), budget, given);
}

function lengthOf(value: Value, budget: Budget): number {
  if (typeof value === "string") return codePoints(value, budget);
  if (value instanceof Dict) return value.entries.size;
  return value === undefined ? 0 : (listOf(value)?.length ?? refuse(`${typeOf(value)} has no length`));
}
