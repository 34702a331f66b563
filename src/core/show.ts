// Values in messages. A caller may pass anything: a getter that throws, a gigabyte of text, a proxy.

/** Limits of a message: characters of a text, entries of a list or object, and levels. */
const TEXT = 80;
const ENTRIES = 8;
const LEVELS = 2;
/** Characters in total. */
const ALL = 160;

/**
 * A value for a message: as JSON if it can be, else its kind. Never throws, calls no `toJSON`, `toString` or getter of the
 * value, and returns at most 160 characters.
 */
export function show(value: unknown): string {
  try {
    return cut(printable(shown(value, LEVELS)), ALL);
  } catch {
    return "an object that cannot be read"; // a proxy, for instance
  }
}

/** The kind of a value, where the value itself is a secret. */
export function kindOf(value: unknown): string {
  return value === null ? "null" : typeof value;
}

/** A list for a message: the first entries, texts as they are but cut, and how many there are if that is more. */
export function listed(entries: readonly unknown[], most: number = ENTRIES): string {
  const some = Array.from({ length: Math.min(entries.length, most) }, (_, i) => {
    const entry = entries[i];
    return typeof entry === "string" ? cut(onLine(cut(entry, TEXT)), TEXT) : show(entry);
  });
  return entries.length > most ? `${some.join(", ")}, ... (${entries.length} in all)` : some.join(", ");
}

/** A shape for a message, such as "[2, 3]". */
export function shapeText(shape: readonly unknown[]): string {
  try {
    return `[${listed(shape)}]`;
  } catch {
    return "that cannot be read"; // a proxy, for instance
  }
}

/** Characters that a terminal or an editor obeys instead of showing them: controls, line separators, directions of writing. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const OBEYED = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

const escaped = (char: string): string => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`;

/** A text whose names from files cannot move a cursor or turn the line around: such characters are escaped, line ends stay. */
export function printable(text: string): string {
  return text.replace(OBEYED, escaped);
}

/** The same for a name, which may not begin a line of its own. */
function onLine(text: string): string {
  return printable(text).replaceAll("\n", "\\n");
}

/** Most characters of a message and of a warning: names in files and values of callers have any length. */
export const LONGEST_MESSAGE = 600;

/** A message or a warning that may repeat what a file holds: printable, without passwords, and not longer than anyone reads. */
export function sentence(text: string, most: number = LONGEST_MESSAGE): string {
  return cut(printable(withoutUser(cut(text, most))), most);
}

/** The user and password of addresses, also of those that were taken for paths (`/home/me/http:/user:password@host`). */
const USER = /\b([a-z][a-z0-9+.-]{0,20}:\/{1,2})[^\s/"'<>]{1,400}@/gi;

/** A text whose addresses have no user names and passwords. */
export function withoutUser(text: string): string {
  return text.includes("@") ? text.replace(USER, "$1...@") : text;
}

/** A text of at most `most` characters. */
export function cut(text: string, most: number): string {
  return text.length <= most ? text : `${text.slice(0, most - 3)}...`;
}

/** "5.87 MB": three digits, decimal units as on disks. */
export function bytes(count: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return unit === 0 ? `${count} B` : `${value.toPrecision(3)} ${units[unit]}`;
}

/** Rows in columns of minimal width; the columns in `right` are aligned to the right. */
export function table(rows: readonly (readonly string[])[], right: readonly number[] = [], indent = ""): string {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, c) => {
      widths[c] = Math.max(widths[c] ?? 0, cell.length);
    });
  }
  return rows
    .map((row) => {
      const cells = row.map((cell, c) => (right.includes(c) ? cell.padStart(widths[c]!) : cell.padEnd(widths[c]!)));
      return `${indent}${cells.join("  ")}`.trimEnd();
    })
    .map((line) => `${line}\n`)
    .join("");
}

function shown(value: unknown, levels: number): string {
  switch (typeof value) {
    case "string":
      return JSON.stringify(value.length <= TEXT ? value : `${value.slice(0, TEXT)}...`);
    case "bigint":
      return BigInt.asIntN(64, value) === value ? `${value}n` : "a bigint of more than 64 bits";
    case "symbol":
      return "a symbol";
    case "function":
      return "a function";
    case "object":
      return value === null ? "null" : objectShown(value, levels);
    default:
      return Object.is(value, -0) ? "-0" : String(value);
  }
}

function objectShown(value: object, levels: number): string {
  if (Array.isArray(value)) {
    if (levels === 0) return value.length === 0 ? "[]" : "[...]";
    const parts = Array.from({ length: Math.min(value.length, ENTRIES) }, (_, i) => entry(value, String(i), levels));
    return `[${[...parts, ...(value.length > ENTRIES ? ["..."] : [])].join(",")}]`;
  }
  const prototype = Object.getPrototypeOf(value) as object | null;
  if (prototype !== null && prototype !== Object.prototype) return `an object of class ${className(prototype)}`;
  const keys: string[] = [];
  for (const key in value) {
    keys.push(key);
    if (keys.length > ENTRIES) break;
  }
  if (levels === 0) return keys.length === 0 ? "{}" : "{...}";
  const parts = keys
    .slice(0, ENTRIES)
    .map((key) => `${key.length <= TEXT ? JSON.stringify(key) : '"..."'}:${entry(value, key, levels)}`);
  return `{${[...parts, ...(keys.length > ENTRIES ? ["..."] : [])].join(",")}}`;
}

function entry(of: object, key: string, levels: number): string {
  const property = Object.getOwnPropertyDescriptor(of, key);
  if (property === undefined) return "undefined";
  return "value" in property ? shown(property.value, levels - 1) : "a getter";
}

function className(prototype: object): string {
  const made: unknown = Object.getOwnPropertyDescriptor(prototype, "constructor")?.value;
  const name: unknown = typeof made === "function" ? Object.getOwnPropertyDescriptor(made, "name")?.value : undefined;
  return typeof name === "string" && /^[\w$]{1,60}$/.test(name) ? name : "no name";
}
