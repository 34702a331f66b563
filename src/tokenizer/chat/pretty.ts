// The filter `pprint`: values as Python's pprint lays them out in 80 columns, dictionaries in the order of their keys.

import { isBlank } from "../text.js";
import { lines } from "./blanks.js";
import type { Budget } from "./limits.js";
import { compare } from "./operators.js";
import { codePoints } from "./search.js";
import { repr } from "./text-of.js";
import { Dict, isList, type Key, Tuple, typeOf, type Value, View } from "./values.js";

const WIDTH = 80;

/** Keys that have no order among them stand by the names of their types. */
function inOrder(dict: Dict, budget: Budget): [Key, Value][] {
  const entries = [...dict.entries];
  budget.items(entries.length);
  const plain = (key: Key) => ["number", "bigint", "boolean"].includes(typeof key);
  return entries.sort(([a], [b]) => {
    if (typeof a === typeof b || (plain(a) && plain(b))) return a === null ? 0 : compare(a, b, budget);
    const [x, y] = [typeOf(a), typeOf(b)];
    return x < y ? -1 : x > y ? 1 : 0;
  });
}

/** repr() with dictionaries in order. */
function inLine(value: Value, budget: Budget): string {
  const inside = (items: readonly Value[]) => items.map((item) => inLine(item, budget)).join(", ");
  const made = (text: string): string => {
    budget.text(text.length);
    return text;
  };
  budget.enter();
  try {
    if (isList(value)) return made(`[${inside(value)}]`);
    if (value instanceof Dict) {
      const items = inOrder(value, budget).map(([key, item]) => `${repr(key, budget)}: ${inLine(item, budget)}`);
      return made(`{${items.join(", ")}}`);
    }
    if (value instanceof Tuple && !(value instanceof View)) {
      return made(`(${inside(value.items)}${value.items.length === 1 ? "," : ""})`);
    }
    return repr(value, budget);
  } finally {
    budget.leave();
  }
}

/** Words with the white space behind each. */
function parts(line: string): string[] {
  const found: string[] = [];
  for (let at = 0; at < line.length; ) {
    const from = at;
    while (at < line.length && !isBlank(line.charCodeAt(at))) at++;
    while (at < line.length && isBlank(line.charCodeAt(at))) at++;
    found.push(line.slice(from, at));
  }
  return found;
}

class Printer {
  readonly #budget: Budget;

  constructor(budget: Budget) {
    this.#budget = budget;
  }

  /** @param room columns that must stay free behind the value */
  format(value: Value, indent: number, room: number, level: number): string {
    const budget = this.#budget;
    const line = inLine(value, budget);
    if (codePoints(line, budget) <= WIDTH - indent - room) return line;
    budget.enter();
    try {
      if (typeof value === "string") return value === "" ? line : this.#text(value, indent, room, level + 1);
      if (value instanceof Dict) return `{${this.#entries(value, indent, room + 1, level + 1)}}`;
      if (isList(value)) return `[${this.#items(value, indent, room + 1, level + 1)}]`;
      if (value instanceof Tuple && !(value instanceof View)) {
        const end = value.items.length === 1 ? ",)" : ")";
        return `(${this.#items(value.items, indent, room + end.length, level + 1)}${end}`;
      }
      return line;
    } finally {
      budget.leave();
    }
  }

  #joined(made: readonly string[], indent: number): string {
    const between = `,\n${" ".repeat(indent)}`;
    this.#budget.text(made.reduce((sum, part) => sum + part.length + between.length, 0));
    return made.join(between);
  }

  #items(items: readonly Value[], indent: number, room: number, level: number): string {
    const last = items.length - 1;
    const made = items.map((item, i) => this.format(item, indent + 1, i === last ? room : 1, level));
    return this.#joined(made, indent + 1);
  }

  #entries(dict: Dict, indent: number, room: number, level: number): string {
    const entries = inOrder(dict, this.#budget);
    const made = entries.map(([key, item], i) => {
      const name = repr(key, this.#budget);
      const at = indent + 1 + codePoints(name, this.#budget) + 2;
      return `${name}: ${this.format(item, at, i === entries.length - 1 ? room : 1, level)}`;
    });
    return this.#joined(made, indent + 1);
  }

  /** A text in several literals, a line each; within a list or dictionary without parentheses. */
  #text(value: string, indent: number, room: number, level: number): string {
    const budget = this.#budget;
    const alone = level === 1;
    const [margin, after] = alone ? [indent + 1, room + 1] : [indent, room];
    const width = WIDTH - margin;
    const size = (text: string) => codePoints(repr(text, budget), budget);
    const all = lines(value, true);
    const made: string[] = [];
    for (const [i, line] of all.entries()) {
      const end = i === all.length - 1;
      if (size(line) <= (end ? width - after : width)) {
        made.push(repr(line, budget));
        continue;
      }
      let current = "";
      const pieces = parts(line);
      for (const [j, piece] of pieces.entries()) {
        const most = end && j === pieces.length - 1 ? width - after : width;
        if (size(current + piece) > most) {
          if (current !== "") made.push(repr(current, budget));
          current = piece;
        } else current += piece;
      }
      if (current !== "") made.push(repr(current, budget));
    }
    if (made.length === 1) return made[0]!;
    const between = `\n${" ".repeat(margin)}`;
    budget.text(made.reduce((sum, part) => sum + part.length + between.length, 2));
    return alone ? `(${made.join(between)})` : made.join(between);
  }
}

/** Python's pprint.pformat(). @throws FormatError for functions, and for more text than a template may make */
export function pretty(value: Value, budget: Budget): string {
  return new Printer(budget).format(value, 0, 0, 0);
}
