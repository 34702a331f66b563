// Filters of lists: order, groups, rows, and what they find of each item.

import type { Filter } from "./call.js";
import type { Budget } from "./limits.js";
import { refuse } from "./limits.js";
import { memberOf } from "./members.js";
import { compare } from "./operators.js";
import { equal } from "./text-of.js";
import { Group, identityOf, itemsOf, Tuple, type Value } from "./values.js";

/** What an item takes that is sorted, beside comparisons, or found again, in characters. */
export const HELD = 256;

/** What a path of attributes such as "function.name" or "items.0" leads to. @throws FormatError beyond what is undefined */
export function attribute(value: Value, path: Value, budget: Budget, usual?: Value): Value {
  let found = value;
  for (const part of typeof path === "string" ? path.split(".") : [path]) {
    budget.step();
    if (found === undefined) refuse(`an item has no attribute ${JSON.stringify(String(path))}`);
    const number = typeof part === "string" && /^\d{1,9}$/.test(part) ? Number(part) : part;
    found = memberOf(found, number, true, budget);
    if (found === undefined) found = usual;
  }
  return found;
}

const folded = (value: Value, folds: boolean): Value =>
  folds && typeof value === "string" ? value.toLowerCase() : value;

/** Values of items for summing and the like: the items themselves, or an attribute of each. */
export function keyed(path: Value, budget: Budget, folds: boolean, usual?: Value): (item: Value) => Value {
  return (item) => folded(path === undefined || path === null ? item : attribute(item, path, budget, usual), folds);
}

export function sorted(items: readonly Value[], by: (item: Value) => Value, reverse: boolean, budget: Budget): Value[] {
  budget.step(HELD * items.length); // a list that is in order is compared in one walk, but held and given like any other
  const keys = items.map((item) => [by(item), item] as const);
  keys.sort(([a], [b]) => (reverse ? compare(b, a, budget) : compare(a, b, budget)));
  return keys.map(([, item]) => item);
}

function rows(value: Value, size: number, fill: Value, budget: Budget): Value[] {
  if (size < 1) return refuse("batch: the number of items must be above 0");
  const items = itemsOf(value, budget);
  const made: Value[][] = [];
  for (let at = 0; at < items.length; at += size) made.push(items.slice(at, at + size));
  const last = made.at(-1);
  if (last && fill !== undefined && fill !== null) {
    budget.items(size);
    while (last.length < size) last.push(fill);
  }
  return made;
}

function columns(value: Value, count: number, fill: Value, budget: Budget): Value[] {
  if (count < 1) return refuse("slice: the number of slices must be above 0");
  const items = itemsOf(value, budget);
  budget.items(count);
  const [each, more] = [Math.floor(items.length / count), items.length % count];
  return Array.from({ length: count }, (_, n) => {
    const from = n * each + Math.min(n, more);
    const part = items.slice(from, from + each + (n < more ? 1 : 0));
    return fill !== undefined && fill !== null && n >= more ? [...part, fill] : part;
  });
}

function grouped(items: readonly Value[], path: Value, folds: boolean, usual: Value, budget: Budget): Value[] {
  const by = keyed(path, budget, folds, usual);
  const groups: { readonly key: Value; readonly items: Value[] }[] = [];
  for (const item of sorted(items, by, false, budget)) {
    const key = by(item);
    const last = groups.at(-1);
    if (last && equal(last.key, key, budget)) last.items.push(item);
    else groups.push({ key, items: [item] });
  }
  // A key is shown as its first item has it.
  const shown = keyed(path, budget, false, usual);
  return groups.map(({ items: own }) => new Group(shown(own[0]), own));
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

export const LIST_FILTERS: readonly (readonly [string, Filter])[] = [
  [
    "batch",
    (value, given, budget) => {
      const [size, fill] = [given.whole("linecount", 0), given.any("fill_with")];
      given.end();
      return rows(value, size, fill, budget);
    },
  ],
  [
    "slice",
    (value, given, budget) => {
      const [count, fill] = [given.whole("slices", 0), given.any("fill_with")];
      given.end();
      return columns(value, count, fill, budget);
    },
  ],
  [
    "groupby",
    (value, given, budget) => {
      const [path, usual, sensitive] = [
        given.any("attribute"),
        given.any("default"),
        given.flag("case_sensitive", false),
      ];
      given.end();
      return grouped(itemsOf(value, budget), path, !sensitive, usual ?? undefined, budget);
    },
  ],
  ["max", extreme(1)],
  ["min", extreme(-1)],
  [
    "random",
    (value, given, budget) => {
      given.end();
      const items = itemsOf(value, budget);
      return items[Math.floor(Math.random() * items.length)];
    },
  ],
  [
    "sort",
    (value, given, budget) => {
      const [reverse, sensitive] = [given.flag("reverse", false), given.flag("case_sensitive", false)];
      const path = given.any("attribute");
      given.end();
      // Several attributes are compared one after the other, in lists of which equal beginnings are not compared for order.
      const paths = typeof path === "string" ? path.split(",") : [path];
      const parts = paths.map((one) => keyed(one, budget, !sensitive));
      return sorted(itemsOf(value, budget), (item) => parts.map((part) => part(item)), reverse, budget);
    },
  ],
  [
    "unique",
    (value, given, budget) => {
      const sensitive = given.flag("case_sensitive", false);
      const by = keyed(given.any("attribute"), budget, !sensitive);
      given.end();
      const seen = new Set<string>();
      return itemsOf(value, budget).filter((item) => {
        const own = by(item);
        budget.step(HELD + (typeof own === "string" ? own.length : own instanceof Tuple ? HELD * own.items.length : 0));
        const key = identityOf(own);
        if (seen.has(key)) return false;
        seen.add(key);
        return true;
      });
    },
  ],
];
