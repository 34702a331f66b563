// Attributes, entries, methods and slices of a template's values.

import type { Budget } from "./limits.js";
import { MOST_ITEMS, refuse } from "./limits.js";
import { dictMethod, listMethod, textMethod } from "./methods.js";
import {
  Attributes,
  Callable,
  Dict,
  Float,
  Group,
  isKey,
  isList,
  listOf,
  Namespace,
  Tuple,
  typeOf,
  type Value,
  View,
} from "./values.js";

function entry(of: Value, key: Value, budget: Budget): Value {
  if (of instanceof Attributes) return typeof key === "string" ? of.get(key) : undefined;
  if (of instanceof Namespace) return typeof key === "string" ? of.entries.get(key) : undefined;
  if (of instanceof Dict) return isKey(key) ? of.entries.get(key instanceof Float ? key.value : key) : undefined;
  if (of instanceof View && of.kind !== "range") return undefined;
  if (of instanceof Group && key === "grouper") return of.items[0];
  if (of instanceof Group && key === "list") return of.items[1];
  if (of instanceof Callable && of.parameters !== undefined) {
    return key === "name" ? of.name : key === "arguments" ? new Tuple(of.parameters) : undefined;
  }
  if (typeof key !== "number") return undefined;
  if (typeof of === "string") return sliced(of, key, key === -1 ? undefined : key + 1, 1, budget) || undefined;
  return listOf(of)?.at(key);
}

function method(of: Value, name: string, budget: Budget): Value {
  const run =
    typeof of === "string"
      ? textMethod(of, name, budget)
      : of instanceof Dict
        ? dictMethod(of, name, budget)
        : listOf(of) !== undefined
          ? listMethod(of, name, budget)
          : undefined;
  return run === undefined ? undefined : new Callable(name, run);
}

/** `a.b` looks for a method first, and `a["b"]` for an entry, as in Jinja. */
export function memberOf(of: Value, key: Value, computed: boolean, budget: Budget): Value {
  const found = () => entry(of, key, budget);
  const called = () => (typeof key === "string" ? method(of, key, budget) : undefined);
  const [first, second] = computed ? [found, called] : [called, found];
  const value = first();
  return value === undefined ? second() : value; // None is a value
}

/** A text whose places are those of its characters: itself, or a list of them where some are two units. */
function characters(text: string, budget: Budget): string | readonly string[] {
  budget.step(text.length);
  if (!/[\ud800-\udfff]/.test(text)) return text;
  budget.items(Math.min(text.length, MOST_ITEMS));
  return Array.from(text);
}

/** Python's `of[from:to:by]`. */
export function sliced(of: Value, from: number | undefined, to: number | undefined, by: number, budget: Budget): Value {
  const fixed = of instanceof View && of.kind !== "range";
  if (typeof of !== "string" && (listOf(of) === undefined || fixed)) refuse(`${typeOf(of)} cannot be sliced`);
  if (by === 0) refuse("the step of a slice must not be 0");
  const items = typeof of === "string" ? characters(of, budget) : listOf(of)!;
  const place = (at: number | undefined, usual: number, low: number, high: number) =>
    at === undefined ? usual : Math.min(Math.max(at < 0 ? at + items.length : at, low), high);
  const first = by > 0 ? place(from, 0, 0, items.length) : place(from, items.length - 1, -1, items.length - 1);
  const last = by > 0 ? place(to, items.length, 0, items.length) : place(to, -1, -1, items.length - 1);
  const count = Math.max(0, Math.ceil((last - first) / by));
  if (by === 1 && typeof items === "string") return items.slice(first, first + count);
  budget.step((by === 1 ? 16 : 64) * count);
  const kept: Value[] = by === 1 ? (items.slice(first, first + count) as Value[]) : [];
  for (let at = first; kept.length < count; at += by) kept.push(items[at]);
  if (of instanceof View) {
    const [begin, , step] = of.range!;
    return new View("range", kept, [begin + first * step, begin + last * step, step * by]);
  }
  return typeof of === "string" ? kept.join("") : isList(of) ? kept : new Tuple(kept);
}
