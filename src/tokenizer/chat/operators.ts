// Operators of chat templates, as Python computes them.

import { formatted } from "./formats.js";
import type { Budget } from "./limits.js";
import { refuse } from "./limits.js";
import { placeIn } from "./search.js";
import { equal, textOf } from "./text-of.js";
import {
  Dict,
  exactOf,
  Float,
  isList,
  keyOf,
  listOf,
  numberOf,
  Tuple,
  typeOf,
  type Value,
  wholeNumber,
  wholeOf,
} from "./values.js";

/** What an operation on whole numbers beyond 2^53 takes at most, in characters. */
const DIGITS = 4_300;
/** Bits of a power that are more than Python writes digits of. */
const MOST_BITS = 14_300n;

function unsupported(operator: string, a: Value, b: Value): never {
  return refuse(`${operator} is not possible between ${typeOf(a)} and ${typeOf(b)}`);
}

/** The order of two values: negative, 0 or positive. @throws FormatError for values without an order */
export function compare(a: Value, b: Value, budget: Budget): number {
  budget.step(typeof a === "string" ? 2 * a.length : 0);
  const [x, y] = [exactOf(a), exactOf(b)];
  if (x !== undefined && y !== undefined) return x < y ? -1 : x > y ? 1 : 0;
  if (typeof a === "string" && typeof b === "string") {
    return compareText(a, b);
  }
  const [list, other] = [listOf(a), listOf(b)];
  if (list === undefined || other === undefined || isList(a) !== isList(b)) return unsupported("<", a, b);
  budget.enter();
  const differs = list.findIndex((item, i) => i >= other.length || !equal(item, other[i], budget));
  const order =
    differs < 0 || differs >= other.length
      ? list.length - other.length
      : compare(list[differs], other[differs], budget);
  budget.leave();
  return order;
}

/** Code points have another order than UTF-16 units. */
function compareText(a: string, b: string): number {
  let at = 0;
  while (at < a.length && at < b.length && a.charCodeAt(at) === b.charCodeAt(at)) at++;
  if (at === a.length || at === b.length) return a.length - b.length;
  const surrogate = (unit: number) => unit >= 0xd800 && unit < 0xe000;
  const [x, y] = [a.charCodeAt(at), b.charCodeAt(at)];
  if (surrogate(x) !== surrogate(y)) return surrogate(x) ? 1 : -1;
  return x - y;
}

/** True if `b` holds `a`. @throws FormatError where nothing can be held */
export function contains(a: Value, b: Value, budget: Budget): boolean {
  if (typeof b === "string") {
    return typeof a === "string" ? placeIn(b, a, false, budget) >= 0 : unsupported("in", a, b);
  }
  if (b instanceof Dict) return a !== undefined && b.entries.has(a instanceof Float ? a.value : keyOf(a));
  if (b === undefined) return false;
  const items = listOf(b) ?? unsupported("in", a, b);
  return items.some((item) => equal(a, item, budget));
}

function repeated(a: Value, count: number, budget: Budget): Value {
  const times = Math.max(0, count);
  if (typeof a === "string") {
    budget.text(a.length * times);
    return a.repeat(times);
  }
  const items = listOf(a)!;
  // Rounds count as well: those of an empty list make nothing, and take time.
  budget.items(Math.max(items.length, 1) * times);
  const all = Array.from({ length: times }, () => items).flat();
  return isList(a) ? all : new Tuple(all);
}

function plus(a: Value, b: Value, budget: Budget): Value {
  if (typeof a === "string" && typeof b === "string") return joined(a, b, budget);
  const [list, other] = [listOf(a), listOf(b)];
  if (list === undefined || other === undefined || isList(a) !== isList(b)) return unsupported("+", a, b);
  budget.items(list.length + other.length);
  return isList(a) ? [...list, ...other] : new Tuple([...list, ...other]);
}

/** Two texts in one. Engines keep the two parts, so that only the shorter one counts. */
export function joined(a: string, b: string, budget: Budget): string {
  const [shorter, longer] = a.length < b.length ? [a.length, b.length] : [b.length, a.length];
  budget.output(longer, shorter);
  if (longer > 2 ** 20) budget.step(longer);
  return a + b;
}

function arithmetic(operator: string, a: Value, b: Value, x: number, y: number): Value {
  const float = a instanceof Float || b instanceof Float;
  const number = (value: number): Value => {
    return float ? new Float(value) : value + 0;
  };
  const [whole, other] = float ? [undefined, undefined] : [wholeOf(a), wholeOf(b)];
  if (whole !== undefined && other !== undefined) {
    const exact = [whole, other].every((one) => BigInt.asIntN(26, one) === one) && operator !== "**";
    const made = exact ? undefined : wholeArithmetic(operator, whole, other);
    if (made !== undefined) return made;
  }
  switch (operator) {
    case "+":
      return number(x + y);
    case "-":
      return number(x - y);
    case "*":
      return number(x * y);
    case "**":
      if (x === 0 && y < 0) return refuse("0 cannot be raised to a negative power");
      return y < 0 ? new Float(x ** y) : number(x ** y);
    default: {
      if (y === 0) return refuse("division by zero");
      if (operator === "/") return new Float(x / y);
      // As in Python: the rest has the divisor's sign, and is exact.
      const rest = x % y;
      const signed = rest !== 0 && rest < 0 !== y < 0 ? rest + y : rest;
      // A zero of floats has a sign, too.
      if (operator === "%") return number(float && signed === 0 ? (y < 0 || Object.is(y, -0) ? -0 : 0) : signed);
      const quotient = (x - signed) / y;
      const whole = Math.floor(quotient);
      const near = quotient - whole > 0.5 ? whole + 1 : whole;
      return number(float && near === 0 ? (x / y < 0 || Object.is(x / y, -0) ? -0 : 0) : near);
    }
  }
}

/** Bits of a quotient that decide how it is rounded to a float, and more. */
const QUOTIENT_BITS = 66;

/** The float that is nearest to a quotient of whole numbers. @throws FormatError where there is none */
function quotient(a: bigint, b: bigint): number {
  const bits = (value: bigint): number => value.toString(2).replace("-", "").length;
  const shift = BigInt(Math.max(0, QUOTIENT_BITS - bits(a) + bits(b)));
  const scaled = a << shift;
  // What is left makes the last bit 1, which is enough to say on which side of a tie it lies.
  const exact = scaled / b;
  const signed = scaled % b === 0n ? exact : a < 0n !== b < 0n ? -(-exact | 1n) : exact | 1n;
  const near = Number(signed);
  if (!Number.isFinite(near)) return refuse("/ makes too large a float");
  // In two steps: a power of two below the smallest float is 0.
  const half = Number(shift >> 1n);
  return near * 2 ** -half * 2 ** -(Number(shift) - half);
}

/** What whole numbers make, exactly; undefined where it is no whole number. */
function wholeArithmetic(operator: string, a: bigint, b: bigint): Value {
  switch (operator) {
    case "+":
      return wholeNumber(a + b);
    case "-":
      return wholeNumber(a - b);
    case "*":
      return wholeNumber(a * b);
    case "**": {
      if (b < 0n) return undefined;
      const size = a < 0n ? -a : a;
      // Refused before it is made.
      if (size > 1n && b * BigInt(size.toString(2).length - 1) > MOST_BITS)
        return refuse("** makes too large a number");
      return wholeNumber(size > 1n ? a ** b : a ** (b > 1n ? 2n - (b % 2n) : b));
    }
    default: {
      if (b === 0n) return undefined;
      if (operator === "/") return new Float(quotient(a, b));
      // As in Python: the rest has the divisor's sign.
      const rest = a % b;
      const signed = rest !== 0n && rest < 0n !== b < 0n ? rest + b : rest;
      return wholeNumber(operator === "%" ? signed : (a - signed) / b);
    }
  }
}

/** The result of an operator other than `and` and `or`. @throws FormatError where Python raises an error */
export function operate(operator: string, a: Value, b: Value, budget: Budget): Value {
  switch (operator) {
    case "==":
      return equal(a, b, budget);
    case "!=":
      return !equal(a, b, budget);
    case "in":
      return contains(a, b, budget);
    case "not in":
      return !contains(a, b, budget);
    case "~":
      return joined(textOf(a, budget), textOf(b, budget), budget);
    case "<":
      return compare(a, b, budget) < 0;
    case "<=":
      return compare(a, b, budget) <= 0;
    case ">":
      return compare(a, b, budget) > 0;
    case ">=":
      return compare(a, b, budget) >= 0;
  }
  if (typeof a === "bigint" || typeof b === "bigint") {
    budget.step(DIGITS);
    // Before they are made floats, which they may be too large for.
    const [whole, other] = [wholeOf(a), wholeOf(b)];
    const made = whole === undefined || other === undefined ? undefined : wholeArithmetic(operator, whole, other);
    if (made !== undefined) return made;
  }
  const [x, y] = [numberOf(a), numberOf(b)];
  if (x !== undefined && y !== undefined) return arithmetic(operator, a, b, x, y);
  if (operator === "+") return plus(a, b, budget);
  if (operator === "*") {
    const sequence = (value: Value) => typeof value === "string" || listOf(value) !== undefined;
    const times = (value: Value) => typeof value === "number" || typeof value === "boolean";
    if (sequence(a) && times(b)) return repeated(a, Number(b), budget);
    if (sequence(b) && times(a)) return repeated(b, Number(a), budget);
  }
  if (operator === "%" && typeof a === "string") return formatted(a, b, budget);
  return unsupported(operator, a, b);
}
