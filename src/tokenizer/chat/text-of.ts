// The text of a template's values: Python's str(), repr() and json.dumps().

import type { Budget } from "./limits.js";
import { refuse } from "./limits.js";
import {
  Callable,
  Dict,
  exactOf,
  Float,
  isList,
  type Key,
  keyOf,
  listOf,
  Tuple,
  typeOf,
  type Value,
  View,
} from "./values.js";

/** Python's repr() of a float. */
function floatText(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (Object.is(value, -0)) return "-0.0";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e16 || size < 1e-4)) {
    return value.toExponential().replace(/e([+-])(\d)$/, "e$10$2");
  }
  const text = size >= 1e21 ? value.toExponential() : String(value);
  return /[.e]/.test(text) ? text : `${text}.0`;
}

/** A whole number without an exponent. */
function intText(value: number | bigint): string {
  return typeof value === "number" && !Number.isSafeInteger(value) ? BigInt(value).toString() : String(value);
}

/**
 * A number with so many decimals, 0 to 99, as Python has it: of two that are equally near, the one whose last digit is even.
 * toFixed() is exact, too, but takes the larger one.
 */
export function fixedText(value: number, decimals: number): string {
  if (!Number.isFinite(value)) return floatText(value);
  const size = Math.abs(value);
  const sign = value < 0 || Object.is(value, -0) ? "-" : "";
  if (size >= 1e21) return `${sign}${BigInt(size)}${decimals > 0 ? `.${"0".repeat(decimals)}` : ""}`;
  const rounded = size.toFixed(decimals);
  const exact = size.toFixed(100);
  const cut = exact.indexOf(".") + 1 + decimals;
  const tie = /^50*$/.test(exact.slice(cut)) && Number(rounded.at(-1)) % 2 === 1;
  return sign + (tie ? exact.slice(0, decimals === 0 ? cut - 1 : cut) : rounded);
}

/** What an escaped character takes, in characters. */
const ESCAPED = 256;
/** All but the space. */
const UNPRINTABLE = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu;

/** Python's repr() of a text. */
function quoted(text: string, budget: Budget): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escaped = text
    .replaceAll("\\", "\\\\")
    .replaceAll(quote, `\\${quote}`)
    .replaceAll("\n", "\\n")
    .replaceAll("\r", "\\r")
    .replaceAll("\t", "\\t")
    .replace(UNPRINTABLE, (char) => {
      budget.step(ESCAPED);
      const code = char.codePointAt(0)!;
      const [letter, digits] = code < 0x100 ? ["x", 2] : code < 0x10000 ? ["u", 4] : ["U", 8];
      return `\\${letter}${code.toString(16).padStart(digits as number, "0")}`;
    });
  return quote + escaped + quote;
}

/** What a list or a dictionary takes beside its items, in characters. */
const NESTED = 64;

/** Python's repr(): a value within a list or dictionary. */
export function repr(value: Value, budget: Budget): string {
  if (typeof value === "string") {
    budget.text(value.length);
    budget.step(7 * value.length); // each character is looked at several times
    return quoted(value, budget);
  }
  if (value === undefined) return "Undefined";
  return textOf(value, budget);
}

/** What a value prints as. @throws FormatError for functions, and for more text than a template may make */
export function textOf(value: Value, budget: Budget): string {
  budget.step();
  if (value === undefined) return "";
  if (value === null) return "None";
  if (typeof value === "string") return value;
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "number" || typeof value === "bigint") {
    if (typeof value === "bigint") budget.step(16 * value.toString(16).length);
    return intText(value);
  }
  if (value instanceof Float) return floatText(value.value);
  const inside = (parts: string[], open: string, close: string) => {
    budget.step(NESTED * (1 + parts.length));
    budget.text(parts.reduce((sum, part) => sum + part.length + 2, 2));
    return open + parts.join(", ") + close;
  };
  budget.enter();
  try {
    if (isList(value))
      return inside(
        value.map((item) => repr(item, budget)),
        "[",
        "]",
      );
    if (value instanceof View) {
      if (value.range !== undefined) {
        const [from, to, step] = value.range;
        return `range(${from}, ${to}${step === 1 ? "" : `, ${step}`})`;
      }
      return inside(
        value.items.map((item) => repr(item, budget)),
        `${value.kind}([`,
        "])",
      );
    }
    if (value instanceof Tuple) {
      return inside(
        value.items.map((item) => repr(item, budget)),
        "(",
        value.items.length === 1 ? ",)" : ")",
      );
    }
    if (value instanceof Dict) {
      return inside(
        [...value.entries].map(([key, item]) => `${repr(key, budget)}: ${repr(item, budget)}`),
        "{",
        "}",
      );
    }
  } finally {
    budget.leave();
  }
  return refuse(`${value instanceof Callable ? `the function ${value.name}` : typeOf(value)} has no text`);
}

export interface JsonSettings {
  readonly indent: string | undefined;
  readonly item: string;
  readonly key: string;
  readonly sorts: boolean;
  readonly ascii: boolean;
}

/** Characters that become JSON at once: each may become six, and no more are made than a text may have. */
const PIECE = 65_536;

function jsonString(text: string, { ascii }: JsonSettings, budget: Budget): string {
  const parts: string[] = [];
  let made = 0;
  for (let from = 0; from < text.length; ) {
    let to = Math.min(from + PIECE, text.length);
    if (to < text.length && (text.charCodeAt(to) & 0xfc00) === 0xdc00) to--;
    const json = JSON.stringify(text.slice(from, to)).slice(1, -1);
    const part = ascii
      ? json.replace(/[\x7f-\uffff]/g, (unit) => {
          budget.step();
          return unit === "\x7f" ? unit : `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
        })
      : json;
    budget.output(made, part.length);
    budget.walk(part.length - (to - from)); // what is escaped takes longer
    made += part.length;
    parts.push(part);
    from = to;
  }
  return `"${parts.join("")}"`;
}

function keyText(key: Key, budget: Budget): string {
  if (typeof key === "string") return key;
  if (key === null) return "null";
  return typeof key === "boolean" ? String(key) : textOf(key, budget);
}

/** json.dumps() with the settings of the filter `tojson`. @throws FormatError for what JSON has not */
export function jsonOf(value: Value, settings: JsonSettings, budget: Budget, level = 0): string {
  budget.step();
  if (value === null) return "null";
  if (typeof value === "boolean") return String(value);
  if (typeof value === "string") {
    return jsonString(value, settings, budget);
  }
  if (typeof value === "number" || typeof value === "bigint") return textOf(value, budget);
  if (value instanceof Float) {
    const text = floatText(value.value);
    return text === "nan" ? "NaN" : text.replace("inf", "Infinity");
  }
  const items = value instanceof View ? undefined : listOf(value);
  const entries = value instanceof Dict ? [...value.entries] : undefined;
  if (items === undefined && entries === undefined) return refuse(`${typeOf(value)} cannot be written as JSON`);
  const [open, close] = items === undefined ? ["{", "}"] : ["[", "]"];
  if (settings.sorts) entries?.sort(([a], [b]) => (String(a) < String(b) ? -1 : 1));
  budget.enter();
  budget.step(NESTED * (1 + (items ?? entries!).length));
  const parts =
    items?.map((item) => jsonOf(item, settings, budget, level + 1)) ??
    entries!.map(([key, item]) => {
      const name = jsonString(keyText(keyOf(key), budget), settings, budget);
      return name + settings.key + jsonOf(item, settings, budget, level + 1);
    });
  budget.leave();
  if (parts.length === 0) return open + close;
  const { indent, item } = settings;
  if (indent !== undefined) budget.text(indent.length * (level + 1));
  const line = (depth: number) => (indent === undefined ? "" : `\n${indent.repeat(depth)}`);
  const between = item + line(level + 1);
  budget.text(parts.reduce((sum, part) => sum + part.length + between.length, 2 + 2 * between.length));
  return open + line(level + 1) + parts.join(between) + line(level) + close;
}

/** True where Python's == is. */
export function equal(a: Value, b: Value, budget: Budget): boolean {
  if (a === b) return true;
  const text = typeof a === "string" && typeof b === "string";
  budget.step(text ? Math.min(a.length, b.length) : 0);
  if (text) return false;
  const [x, y] = [exactOf(a), exactOf(b)];
  if (typeof x === typeof y && x !== undefined) return x === y;
  // A whole number that is too large for a number may be that of a float.
  if (x !== undefined && y !== undefined) return x >= y && x <= y;
  if (x !== undefined || y !== undefined) return false;
  budget.enter();
  try {
    const [list, other] = [listOf(a), listOf(b)];
    if (list !== undefined && other !== undefined) {
      if (isList(a) !== isList(b) || a instanceof View !== b instanceof View || list.length !== other.length)
        return false;
      return list.every((item, i) => equal(item, other[i], budget));
    }
    if (a instanceof Dict && b instanceof Dict) {
      if (a.entries.size !== b.entries.size) return false;
      for (const [key, item] of a.entries) {
        if (!b.entries.has(key) || !equal(item, b.entries.get(key), budget)) return false;
      }
      return true;
    }
    return false;
  } finally {
    budget.leave();
  }
}
