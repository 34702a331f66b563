// Methods of texts, lists and dictionaries that chat templates call, as Python has them. What would change a value is not among
// them: Python's sandbox forbids it, too.

import { isAllBlank, lines, strip, words } from "./blanks.js";
import { Call } from "./call.js";
import { formatOf } from "./formats.js";
import type { Budget } from "./limits.js";
import { refuse } from "./limits.js";
import { contains } from "./operators.js";
import { codePoints, countIn, partsOf, placeIn, replacedIn } from "./search.js";
import { equal } from "./text-of.js";
import { type Arguments, Dict, isList, itemsOf, listOf, Tuple, truth, typeOf, type Value, View } from "./values.js";

/** Python's `text.replace(old, new, count)`. */
export function replaced(text: string, old: string, content: string, count: number, budget: Budget): string {
  budget.step(text.length);
  if (old === "") {
    budget.items(text.length);
    const parts = ["", ...text, ""];
    const most = count < 0 ? parts.length - 1 : Math.min(count, parts.length - 1);
    budget.text(text.length + most * content.length);
    return parts.slice(0, most + 1).join(content) + parts.slice(most + 1).join("");
  }
  const { found, end } = countIn(text, old, count < 0 ? Number.POSITIVE_INFINITY : count, budget);
  budget.text(text.length + found * (content.length - old.length));
  return replacedIn(text.slice(0, end), old, content, budget) + text.slice(end);
}

function split(text: string, given: Call, fromRight: boolean, budget: Budget): Value[] {
  const separator = given.any("sep");
  const most = given.whole("maxsplit", -1);
  given.end();
  budget.text(text.length);
  if (separator === undefined || separator === null) {
    budget.walk(text.length);
    const found = words(text);
    budget.items(found.length);
    const all = found.map(({ word }) => word);
    if (most < 0 || found.length <= most) return all;
    if (!fromRight) return [...all.slice(0, most), strip(text.slice(found[most]!.index), undefined, false, true)];
    const { word, index } = found[found.length - most - 1]!;
    return [strip(text.slice(0, index + word.length), undefined, true, true), ...all.slice(found.length - most)];
  }
  if (typeof separator !== "string" || separator === "")
    return refuse("split: the separator must be text that is not empty");
  const parts = partsOf(text, separator, budget);
  budget.items(parts.length);
  if (most < 0 || parts.length <= most + 1) return parts;
  return fromRight
    ? [parts.slice(0, parts.length - most).join(separator), ...parts.slice(parts.length - most)]
    : [...parts.slice(0, most), parts.slice(most).join(separator)];
}

function starts(text: string, given: Call, end: boolean, budget: Budget): boolean {
  const what = given.any("prefix");
  const part = between(text, given, budget);
  given.end();
  const test = (one: Value) => {
    if (typeof one !== "string") return refuse(`${end ? "endswith" : "startswith"} needs text, got ${typeOf(one)}`);
    return part !== undefined && (end ? part.text.endsWith(one) : part.text.startsWith(one));
  };
  return what instanceof Tuple ? what.items.some(test) : test(what);
}

/** The part of a text that the arguments `start` and `end` name, in characters; undefined if it begins behind the text. */
function between(text: string, given: Call, budget: Budget): { text: string; from: number } | undefined {
  const [start, end] = [given.any("start"), given.any("end")];
  if ((start ?? null) === null && (end ?? null) === null) return { text, from: 0 };
  budget.walk(text.length);
  const all = Array.from(text);
  const place = (value: Value, usual: number): number => {
    if (value === undefined || value === null) return usual;
    const at =
      typeof value === "number" ? value : refuse(`a place in a text must be a whole number, got ${typeOf(value)}`);
    return Math.max(0, at < 0 ? at + all.length : at);
  };
  const from = place(start, 0);
  const to = Math.min(place(end, all.length), all.length);
  return from > all.length || from > to ? undefined : { text: all.slice(from, to).join(""), from };
}

function titled(text: string): string {
  return text.replace(/\p{L}+/gu, (word) => {
    const first = String.fromCodePoint(word.codePointAt(0)!);
    return titleCase(first) + word.slice(first.length).toLowerCase();
  });
}

/** Of what becomes several capitals only the first is one. */
function titleCase(char: string): string {
  const [first = "", ...rest] = char.toUpperCase();
  return first + rest.join("").toLowerCase();
}

export function capitalized(text: string): string {
  const first = text === "" ? "" : String.fromCodePoint(text.codePointAt(0)!);
  return titleCase(first) + text.slice(first.length).toLowerCase();
}

function swapped(text: string): string {
  return Array.from(text, (char) => (char === char.toLowerCase() ? char.toUpperCase() : char.toLowerCase())).join("");
}

/** Tabs as spaces up to the next multiple of a size in their line. */
function expanded(text: string, size: number): string {
  let column = 0;
  const made: string[] = [];
  for (const char of text) {
    if (char === "\t") {
      const width = size > 0 ? size - (column % size) : 0;
      made.push(" ".repeat(width));
      column += width;
    } else {
      made.push(char);
      column = char === "\n" || char === "\r" ? 0 : column + 1;
    }
  }
  return made.join("");
}

function padded(text: string, given: Call, place: "left" | "right" | "both", budget: Budget): string {
  const width = given.whole("width", 0);
  const fill = given.text("fillchar", " ");
  given.end();
  if (Array.from(fill).length !== 1) refuse("the fill character must be one character");
  const missing = Math.max(0, width - codePoints(text, budget));
  budget.text(text.length + missing * fill.length);
  const before = place === "left" ? missing : place === "both" ? (missing >> 1) + (missing & width & 1) : 0;
  return fill.repeat(before) + text + fill.repeat(missing - before);
}

/** Places as Python counts them: in code points. */
function find(text: string, given: Call, last: boolean, must: boolean, budget: Budget): number {
  const what = given.text("sub");
  const part = between(text, given, budget);
  given.end();
  const at = part === undefined ? -1 : placeIn(part.text, what, last, budget);
  if (at < 0) return must ? refuse("substring not found") : -1;
  return part!.from + codePoints(part!.text.slice(0, at), budget);
}

function all(text: string, pattern: RegExp): boolean {
  return text !== "" && pattern.test(text);
}

/** The call of a method of a text; undefined if there is none of that name. */
export function textMethod(text: string, name: string, budget: Budget): ((given: Arguments) => Value) | undefined {
  const method = TEXT.get(name);
  if (method === undefined) return undefined;
  return (given) => {
    budget.step(text.length);
    const call = new Call(name, given);
    const value = method(text, call, budget, given);
    if (typeof value === "string") budget.text(value.length);
    return value;
  };
}

type TextMethod = (text: string, given: Call, budget: Budget, all: Arguments) => Value;

/** @param walks it makes or asks something for each character */
function simple(change: (text: string) => Value, walks = false): TextMethod {
  return (text, given, budget) => {
    given.end();
    if (walks) budget.walk(text.length);
    return change(text);
  };
}

function stripper(left: boolean, right: boolean): TextMethod {
  return (text, given, budget) => {
    const characters = given.any("chars");
    given.end();
    if (characters !== undefined && characters !== null && typeof characters !== "string") {
      return refuse(`strip needs text, got ${typeOf(characters)}`);
    }
    const stripped = strip(text, characters ?? undefined, left, right);
    budget.walk(text.length - stripped.length + (characters?.length ?? 0));
    return stripped;
  };
}

function parted(last: boolean): TextMethod {
  return (text, given, budget) => {
    const separator = given.text("sep");
    given.end();
    const at = placeIn(text, separator, last, budget);
    if (at < 0) return new Tuple(last ? ["", "", text] : [text, "", ""]);
    return new Tuple([text.slice(0, at), separator, text.slice(at + separator.length)]);
  };
}

const TEXT: ReadonlyMap<string, TextMethod> = new Map<string, TextMethod>([
  ["upper", simple((text) => text.toUpperCase())],
  ["lower", simple((text) => text.toLowerCase())],
  ["casefold", simple((text) => text.toLowerCase().replaceAll("\u00df", "ss"))],
  ["title", simple(titled, true)],
  ["capitalize", simple(capitalized)],
  ["strip", stripper(true, true)],
  ["lstrip", stripper(true, false)],
  ["rstrip", stripper(false, true)],
  ["isalpha", simple((text) => all(text, /^\p{L}+$/u))],
  ["isdigit", simple((text) => all(text, /^[\p{Nd}\u00b2\u00b3\u00b9\u2070-\u2079\u2080-\u2089]+$/u))],
  ["isdecimal", simple((text) => all(text, /^\p{Nd}+$/u))],
  ["isnumeric", simple((text) => all(text, /^\p{N}+$/u))],
  ["isalnum", simple((text) => all(text, /^[\p{L}\p{N}]+$/u))],
  ["isspace", simple(isAllBlank, true)],
  ["isupper", simple((text) => text === text.toUpperCase() && text !== text.toLowerCase())],
  ["islower", simple((text) => text === text.toLowerCase() && text !== text.toUpperCase())],
  ["startswith", (text, given, budget) => starts(text, given, false, budget)],
  ["endswith", (text, given, budget) => starts(text, given, true, budget)],
  ["split", (text, given, budget) => split(text, given, false, budget)],
  ["rsplit", (text, given, budget) => split(text, given, true, budget)],
  [
    "splitlines",
    (text, given, budget) => {
      const keeps = given.any("keepends");
      given.end();
      budget.walk(text.length);
      return lines(text, truth(keeps));
    },
  ],
  ["swapcase", simple(swapped, true)],
  ["istitle", simple((text) => /[\p{Lu}\p{Ll}\p{Lt}]/u.test(text) && titled(text) === text, true)],
  ["isascii", simple((text) => /^[\0-\x7f]*$/.test(text))],
  ["isprintable", simple((text) => !/(?! )[\p{C}\p{Z}]/u.test(text))],
  ["isidentifier", simple((text) => /^[\p{L}\p{Nl}_][\p{L}\p{Nl}\p{Mn}\p{Mc}\p{Nd}\p{Pc}]*$/u.test(text))],
  [
    "expandtabs",
    (text, given, budget) => {
      const size = given.whole("tabsize", 8);
      given.end();
      budget.text(text.length + text.split("\t").length * Math.max(0, size));
      return expanded(text, size);
    },
  ],
  ["partition", parted(false)],
  ["rpartition", parted(true)],
  [
    "replace",
    (text, given, budget) => {
      const [old, content, count] = [given.text("old"), given.text("new"), given.whole("count", -1)];
      given.end();
      return replaced(text, old, content, count, budget);
    },
  ],
  [
    "removeprefix",
    (text, given) => {
      const prefix = given.text("prefix");
      given.end();
      return text.startsWith(prefix) ? text.slice(prefix.length) : text;
    },
  ],
  [
    "removesuffix",
    (text, given) => {
      const suffix = given.text("suffix");
      given.end();
      return suffix !== "" && text.endsWith(suffix) ? text.slice(0, text.length - suffix.length) : text;
    },
  ],
  [
    "join",
    (text, given, budget) => {
      const items = itemsOf(given.any("iterable"), budget);
      given.end();
      const parts = items.map((item) =>
        typeof item === "string" ? item : refuse(`join needs texts, got ${typeOf(item)}`),
      );
      budget.text(parts.reduce((sum, part) => sum + part.length + text.length, 0));
      return parts.join(text);
    },
  ],
  [
    "count",
    (text, given, budget) => {
      const what = given.text("sub");
      const part = between(text, given, budget);
      given.end();
      if (part === undefined) return 0;
      if (what === "") return codePoints(part.text, budget) + 1;
      return countIn(part.text, what, Number.POSITIVE_INFINITY, budget).found;
    },
  ],
  ["find", (text, given, budget) => find(text, given, false, false, budget)],
  ["rfind", (text, given, budget) => find(text, given, true, false, budget)],
  ["index", (text, given, budget) => find(text, given, false, true, budget)],
  ["rindex", (text, given, budget) => find(text, given, true, true, budget)],
  [
    "zfill",
    (text, given, budget) => {
      const width = given.whole("width", 0);
      given.end();
      const missing = Math.max(0, width - codePoints(text, budget));
      budget.text(text.length + missing);
      const sign = /^[+-]/.test(text) ? 1 : 0;
      return text.slice(0, sign) + "0".repeat(missing) + text.slice(sign);
    },
  ],
  ["ljust", (text, given, budget) => padded(text, given, "right", budget)],
  ["rjust", (text, given, budget) => padded(text, given, "left", budget)],
  ["center", (text, given, budget) => padded(text, given, "both", budget)],
  ["format", (text, _given, budget, given) => formatOf(text, given, budget)],
  [
    "format_map",
    (text, given, budget) => {
      const map = given.any("mapping");
      given.end();
      if (!(map instanceof Dict)) return refuse(`format_map needs a dictionary, got ${typeOf(map)}`);
      return formatOf(
        text,
        { args: [], named: new Map([...map.entries].map(([key, value]) => [String(key), value])) },
        budget,
      );
    },
  ],
]);

/** The call of a method of a dictionary; undefined if there is none of that name. */
export function dictMethod({ entries }: Dict, name: string, budget: Budget): ((given: Arguments) => Value) | undefined {
  const view = (items: Value[], given: Arguments): Value => {
    new Call(name, given).end();
    budget.items(items.length);
    return new View(`dict_${name}` as View["kind"], items);
  };
  switch (name) {
    case "get":
      return (given) => {
        const call = new Call(name, given);
        const [key, usual] = [call.any("key"), call.any("default")];
        call.end();
        const known = typeof key === "string" || typeof key === "number" || typeof key === "boolean" || key === null;
        const value = known ? entries.get(key) : undefined;
        return value === undefined ? (usual ?? null) : value;
      };
    case "items":
      return (given) =>
        view(
          [...entries].map((entry) => new Tuple(entry)),
          given,
        );
    case "keys":
      return (given) => view([...entries.keys()], given);
    case "values":
      return (given) => view([...entries.values()], given);
    case "copy":
      return (given) => {
        new Call(name, given).end();
        budget.items(entries.size);
        return new Dict(new Map(entries));
      };
    default:
      return undefined;
  }
}

/** The call of a method of a list; undefined if there is none of that name. */
export function listMethod(value: Value, name: string, budget: Budget): ((given: Arguments) => Value) | undefined {
  const items = listOf(value)!;
  switch (name) {
    case "index":
      return (given) => {
        const call = new Call(name, given);
        const what = call.any("value");
        call.end();
        const at = items.findIndex((item) => equal(item, what, budget));
        return at < 0 ? refuse("index: the value is not in the list") : at;
      };
    case "count":
      return (given) => {
        const call = new Call(name, given);
        const what = call.any("value");
        call.end();
        return contains(what, items, budget) ? items.filter((item) => equal(item, what, budget)).length : 0;
      };
    case "copy":
      return isList(value) ? () => items : undefined;
    default:
      return undefined;
  }
}
