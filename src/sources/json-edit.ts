// Changes members of a JSON object in its text and leaves all other bytes as they are. A config.json that was parsed and written
// anew would lose what JavaScript does not keep: `1.0` would become `1`, which typed readers of Python refuse, and repeated
// keys, Infinity and the order of integer-like keys would be lost too.

/** A number that is written as Python writes a float: `6.0`, not `6`. Python checks the types of some fields. */
export class PythonFloat {
  readonly value: number;

  constructor(value: number) {
    this.value = value;
  }

  /** JavaScript's digits; exponents have at least two digits, and start at 1e-5 and 1e16. */
  toString(): string {
    const { value } = this;
    const text = String(value);
    const size = Math.abs(value);
    if (!text.includes("e") && (size === 0 || (size >= 1e-4 && size < 1e16))) {
      return text.includes(".") ? text : `${text}.0`;
    }
    const [mantissa = "", power = "0"] = value.toExponential().split("e");
    const sign = power.startsWith("-") ? "-" : "+";
    return `${mantissa}e${sign}${power.replace(/^[+-]/, "").padStart(2, "0")}`;
  }
}

/** A value as JSON, on one line if `indent` is empty; lists and objects otherwise as in Python's json with an indent. */
function valueJson(value: unknown, indent: string, before: string): string {
  if (value instanceof PythonFloat) return value.toString();
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const inner = before + indent;
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const items = Array.isArray(value)
    ? value.map((one) => valueJson(one, indent, inner))
    : Object.entries(value).map(([key, one]) => `${JSON.stringify(key)}: ${valueJson(one, indent, inner)}`);
  if (items.length === 0) return `${open}${close}`;
  if (!indent) return `${open}${items.join(", ")}${close}`;
  return `${open}\n${items.map((item) => inner + item).join(",\n")}\n${before}${close}`;
}

/** A member of the outermost object: where its key begins and its value ends. */
interface Member {
  readonly key: string;
  readonly start: number;
  readonly end: number;
}

/**
 * The text with members of its outermost object replaced, added at the end, or removed.
 * @param text a JSON object that a reader has accepted
 * @param changes new values by key, of JSON and PythonFloat; undefined removes the member
 */
export function editJson(text: string, changes: Readonly<Record<string, unknown>>): string {
  const open = text.indexOf("{");
  const members = membersOf(text, open + 1);
  const indent = /^[\t ]+/.exec(members[0] ? lineBefore(text, members[0].start) : "  ")?.[0] ?? "";
  const written = (key: string, value: unknown): string =>
    `${JSON.stringify(key)}: ${valueJson(value, indent, indent)}`;
  const kept: string[] = [];
  const done = new Set<string>();
  // Of repeated keys the last one counts: all of them are replaced.
  for (const { key, start, end } of members) {
    if (!Object.hasOwn(changes, key)) kept.push(text.slice(start, end));
    else if (changes[key] !== undefined && !done.has(key)) kept.push(written(key, changes[key]));
    done.add(key);
  }
  for (const [key, value] of Object.entries(changes)) {
    if (value !== undefined && !done.has(key)) kept.push(written(key, value));
  }
  const line = indent ? `\n${indent}` : "";
  const body = kept.map((one) => line + one).join(indent ? "," : ", ");
  return `${text.slice(0, open)}{${body}${indent && kept.length > 0 ? "\n" : ""}}${text.slice(text.lastIndexOf("}") + 1)}`;
}

/** What stands before a position in its line. */
function lineBefore(text: string, at: number): string {
  return text.slice(text.lastIndexOf("\n", at - 1) + 1, at);
}

function membersOf(text: string, from: number): Member[] {
  const members: Member[] = [];
  let at = from;
  for (;;) {
    at = skip(text, at, /[\s,]/);
    if (at >= text.length || text[at] === "}") return members;
    const start = at;
    at = stringEnd(text, at);
    const key = JSON.parse(text.slice(start, at)) as string;
    at = valueEnd(text, skip(text, at, /[\s:]/));
    members.push({ key, start, end: at });
  }
}

function skip(text: string, from: number, what: RegExp): number {
  let at = from;
  while (at < text.length && what.test(text[at]!)) at++;
  return at;
}

/** The end of the string that begins at a quote. */
function stringEnd(text: string, from: number): number {
  let at = from + 1;
  while (at < text.length && text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
  return at + 1;
}

/** The end of a value: of a list or an object where its brackets close, of anything else at the next comma or bracket. */
function valueEnd(text: string, from: number): number {
  let depth = 0;
  let at = from;
  while (at < text.length) {
    const char = text[at]!;
    if (char === '"') {
      at = stringEnd(text, at);
      if (depth === 0) return at;
      continue;
    }
    if (char === "{" || char === "[") depth++;
    else if (char === "}" || char === "]") {
      if (depth === 0) return from + text.slice(from, at).trimEnd().length;
      if (--depth === 0) return at + 1;
    } else if (char === "," && depth === 0) return from + text.slice(from, at).trimEnd().length;
    at++;
  }
  return at;
}
