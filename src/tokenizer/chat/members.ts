// Attributes, entries, methods and slices of a template's values.

import type { Budget } from "./limits.js";
import { refuse } from "./limits.js";
import { dictMethod, listMethod, textMethod } from "./methods.js";
import { Attributes, Callable, Dict, isList, keyOf, listOf, Namespace, Tuple, typeOf, type Value } from "./values.js";

function entry(of: Value, key: Value, budget: Budget): Value {
  if (of instanceof Attributes) return typeof key === "string" ? of.get(key) : undefined;
  if (of instanceof Namespace) return typeof key === "string" ? of.entries.get(key) : undefined;
  if (of instanceof Dict) return key === undefined ? undefined : of.entries.get(keyOf(key));
  if (typeof key !== "number") return undefined;
  if (typeof of === "string") {
    budget.step(of.length);
    return Array.from(of).at(key);
  }
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

function characters(text: string, budget: Budget): readonly string[] {
  budget.text(text.length);
  return Array.from(text);
}

/** Python's `of[from:to:by]`. */
export function sliced(of: Value, from: number | undefined, to: number | undefined, by: number, budget: Budget): Value {
  if (by === 0) refuse("the step of a slice must not be 0");
  if (typeof of !== "string" && listOf(of) === undefined) refuse(`${typeOf(of)} cannot be sliced`);
  const items = typeof of === "string" ? characters(of, budget) : listOf(of)!;
  const place = (at: number | undefined, usual: number, low: number, high: number) =>
    at === undefined ? usual : Math.min(Math.max(at < 0 ? at + items.length : at, low), high);
  const first = by > 0 ? place(from, 0, 0, items.length) : place(from, items.length - 1, -1, items.length - 1);
  const last = by > 0 ? place(to, items.length, 0, items.length) : place(to, -1, -1, items.length - 1);
  const kept: Value[] = [];
  for (let at = first; by > 0 ? at < last : at > last; at += by) kept.push(items[at]);
  budget.step(kept.length);
  return typeof of === "string" ? kept.join("") : isList(of) ? kept : new Tuple(kept);
}
