// Filters of texts that Jinja has beside Python's methods: what is too long, addresses, sizes, HTML.

import { wellFormed } from "../text.js";
import { lines } from "./blanks.js";
import type { Call, Filter } from "./call.js";
import type { Budget } from "./limits.js";
import { refuse } from "./limits.js";
import { fixedText, textOf } from "./text-of.js";
import { Dict, itemsOf, listOf, numberOf, truth, type Value } from "./values.js";

export function text(value: Value, budget: Budget): string {
  const made = textOf(value, budget);
  budget.step(made.length);
  return made;
}

export function escaped(value: string): string {
  return value
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll("'", "&#39;")
    .replaceAll('"', "&#34;");
}

function indented(value: string, given: Call, budget: Budget): string {
  const width = given.any("width") ?? 4;
  const [first, blank] = [truth(given.any("first")), truth(given.any("blank"))];
  given.end();
  if (typeof width !== "number" && typeof width !== "string") return refuse("indent: width must be a number or text");
  if (typeof width === "number") budget.text(Math.max(0, width));
  const margin = typeof width === "string" ? width : " ".repeat(Math.max(0, width));
  const all = lines(`${value}\n`);
  budget.items(all.length);
  budget.text(value.length + (all.length + 1) * margin.length);
  return all.map((line, i) => ((i === 0 ? first : blank || line !== "") ? margin + line : line)).join("\n");
}

/** The first characters of what is too long, up to a space unless words may be cut. */
function truncated(value: string, given: Call, budget: Budget): string {
  const [length, kills] = [given.whole("length", 255), truth(given.any("killwords"))];
  const [end, leeway] = [given.text("end", "..."), given.whole("leeway", 5)];
  given.end();
  budget.walk(value.length);
  const all = Array.from(value);
  const room = length - Array.from(end).length;
  if (room < 0 || leeway < 0) return refuse("truncate: the length must be that of the end at least");
  if (all.length <= length + leeway) return value;
  const head = all.slice(0, room).join("");
  const space = head.lastIndexOf(" ");
  return (kills || space < 0 ? head : head.slice(0, space)) + end;
}

/** Python's quote(): bytes that are no letters, digits or one of these become codes. */
function quoted(value: Value, budget: Budget, inQuery: boolean): string {
  const own = wellFormed(text(value, budget));
  budget.text(9 * own.length);
  const made = encodeURIComponent(own).replace(
    /[!'()*]/g,
    (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return inQuery ? made.replaceAll("%20", "+") : made.replaceAll("%2F", "/");
}

function query(value: Value, budget: Budget): string {
  const pairs = value instanceof Dict ? [...value.entries] : typeof value === "string" ? undefined : listOf(value);
  if (pairs === undefined) return quoted(value, budget, false);
  budget.items(pairs.length);
  const parts = pairs.map((pair) => {
    const items = itemsOf(pair as Value, budget);
    if (items.length !== 2) return refuse("urlencode needs pairs of names and values");
    return `${quoted(items[0], budget, true)}=${quoted(items[1], budget, true)}`;
  });
  return parts.join("&");
}

const SIZES = ["k", "M", "G", "T", "P", "E", "Z", "Y"];

function size(value: Value, given: Call): string {
  const binary = truth(given.any("binary"));
  given.end();
  const bytes = typeof value === "string" && value.trim() !== "" ? Number(value) : numberOf(value);
  if (bytes === undefined || Number.isNaN(bytes)) return refuse("filesizeformat needs a number");
  if (bytes === 1) return "1 Byte";
  const base = binary ? 1024 : 1000;
  if (bytes < base) return `${Math.trunc(bytes)} Bytes`;
  const found = SIZES.findIndex((_, i) => bytes < base ** (i + 2));
  const i = found < 0 ? SIZES.length - 1 : found;
  const letter = binary ? SIZES[i]!.toUpperCase() : SIZES[i]!;
  return `${fixedText((base * bytes) / base ** (i + 2), 1)} ${letter}${binary ? "i" : ""}B`;
}

const ENTITIES: Readonly<Record<string, string>> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\xa0" };

/** A text without tags and comments, in one line. @throws FormatError for names of characters that are not known here */
function stripped(value: string, budget: Budget): string {
  budget.walk(value.length);
  const without = (source: string, open: string, close: string): string => {
    const parts: string[] = [];
    let at = 0;
    for (;;) {
      const from = source.indexOf(open, at);
      const to = from < 0 ? -1 : source.indexOf(close, from);
      if (to < 0) return parts.join("") + source.slice(at);
      parts.push(source.slice(at, from));
      at = to + close.length;
    }
  };
  const plain = without(without(value, "<!--", "-->"), "<", ">");
  const words = plain.split(/\s+/).filter((word) => word !== "");
  return words
    .join(" ")
    .replace(
      /&(?:#(\d{1,7})|#[xX]([\da-fA-F]{1,6})|([A-Za-z]{1,31}));/g,
      (found, decimal?: string, hex?: string, name?: string) => {
        if (name !== undefined) return ENTITIES[name] ?? refuse(`striptags: ${found} is not known`);
        const code = decimal === undefined ? Number.parseInt(hex!, 16) : Number(decimal);
        return code > 0 && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff) ? String.fromCodePoint(code) : "\uFFFD";
      },
    );
}

function attributes(value: Value, given: Call, budget: Budget): string {
  const spaced = given.flag("autospace", true);
  given.end();
  if (!(value instanceof Dict)) return refuse("xmlattr needs a dictionary");
  const parts: string[] = [];
  for (const [key, item] of value.entries) {
    if (item === undefined || item === null) continue;
    if (/[\s/>=]/.test(String(key))) return refuse(`xmlattr: ${JSON.stringify(String(key))} is no name`);
    parts.push(`${escaped(text(key, budget))}="${escaped(text(item, budget))}"`);
  }
  return (spaced && parts.length > 0 ? " " : "") + parts.join(" ");
}

/** A filter without arguments. */
export function plain(change: (value: Value, budget: Budget) => Value): Filter {
  return (value, given, budget) => {
    given.end();
    return change(value, budget);
  };
}

export const TEXT_FILTERS: readonly (readonly [string, Filter])[] = [
  ["escape", plain((value, budget) => escaped(text(value, budget)))],
  ["forceescape", plain((value, budget) => escaped(text(value, budget)))],
  ["filesizeformat", (value, given) => size(value, given)],
  ["indent", (value, given, budget) => indented(text(value, budget), given, budget)],
  ["safe", plain(text)],
  ["string", plain(text)],
  ["striptags", plain((value, budget) => stripped(text(value, budget), budget))],
  ["truncate", (value, given, budget) => truncated(text(value, budget), given, budget)],
  ["urlencode", plain(query)],
  ["wordcount", plain((value, budget) => text(value, budget).match(/[\p{L}\p{N}_]+/gu)?.length ?? 0)],
  ["xmlattr", attributes],
];
