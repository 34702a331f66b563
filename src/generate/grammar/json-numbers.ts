// Numbers of JSON between bounds, as expressions. They are written as decimals of at most 15 digits, which a double keeps apart; where
// there are no bounds also with an exponent.

import { charSet } from "./chars.js";
import { type Edge, type Expr, either, literal, maybe, NOTHING, repeat, seq } from "./expr.js";

const digit = (from: number, to: number): Expr => ({ set: charSet([[0x30 + from, 0x30 + to]]) });
const DIGIT = digit(0, 9);
const INTEGER = either(literal("0"), seq(digit(1, 9), repeat(DIGIT, 0, 14)));
/** Digits of a number in all. */
const DIGITS = 15;

export interface Bounds {
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly exclusiveMaximum?: number;
}

interface Bound {
  /** At least 0. */
  readonly value: number;
  readonly open: boolean;
}

/** Numbers of JSON without bounds: a double holds each, and none is infinite. */
export const NUMBER: Expr = seq(
  maybe(literal("-")),
  INTEGER,
  maybe(seq(literal("."), repeat(DIGIT, 1, DIGITS))),
  maybe(
    seq(
      {
        set: charSet([
          [0x45, 0x45],
          [0x65, 0x65],
        ]),
      },
      maybe({
        set: charSet([
          [0x2b, 0x2b],
          [0x2d, 0x2d],
        ]),
      }),
      repeat(DIGIT, 1, 2),
    ),
  ),
);

export const WHOLE: Expr = either(literal("0"), seq(maybe(literal("-")), digit(1, 9), repeat(DIGIT, 0, 14)));

/** The higher of two lower bounds. */
function lower({ minimum, exclusiveMinimum }: Bounds): Bound | undefined {
  if (exclusiveMinimum !== undefined && !(minimum !== undefined && minimum > exclusiveMinimum)) {
    return { value: exclusiveMinimum, open: true };
  }
  return minimum === undefined ? undefined : { value: minimum, open: false };
}

function upper({ maximum, exclusiveMaximum }: Bounds): Bound | undefined {
  if (exclusiveMaximum !== undefined && !(maximum !== undefined && maximum < exclusiveMaximum)) {
    return { value: exclusiveMaximum, open: true };
  }
  return maximum === undefined ? undefined : { value: maximum, open: false };
}

/** Numbers between bounds, with fractions unless `whole`. */
export function numberExpr(bounds: Bounds, whole: boolean): Expr {
  const [low, high] = [lower(bounds), upper(bounds)];
  if (!low && !high) return whole ? WHOLE : NUMBER;
  const turned = (bound: Bound | undefined): Bound | undefined => bound && { ...bound, value: -bound.value };
  const positive = !high || high.value > 0 || (high.value === 0 && !high.open);
  const negative = !low || low.value < 0;
  const zero: Bound = { value: 0, open: true };
  const above = !low || low.value < 0 ? { value: 0, open: false } : low;
  const below = !high || high.value >= 0 ? zero : turned(high)!;
  return either(
    ...(positive ? [magnitude(above, high, whole)] : []),
    ...(negative ? [seq(literal("-"), magnitude(below, turned(low), whole))] : []),
  );
}

/** A number of at least 0 as its digits before and after the point. */
function decimal(value: number): { readonly before: string; readonly after: string } {
  const [mantissa, exponent = "0"] = String(value).split("e");
  const [first, rest = ""] = mantissa!.split(".");
  const shift = Number(exponent);
  const digits = first! + rest;
  const point = first!.length + shift;
  const before = point <= 0 ? "0" : digits.slice(0, point).padEnd(point, "0");
  const after = point < 0 ? "0".repeat(-point) + digits : digits.slice(point);
  return { before: before.replace(/^0+(?=\d)/, ""), after: after.replace(/0+$/, "") };
}

/** Decimals from `low` to `high`, both at least 0: for each number of digits before the point those in between. */
function magnitude(low: Bound, high: Bound | undefined, whole: boolean): Expr {
  const [from, to] = [decimal(low.value), high && decimal(high.value)];
  const options: Expr[] = [];
  // Numbers with more digits than the lower bound, and with fewer than the upper one.
  const free = Math.min(DIGITS, (to?.before.length ?? DIGITS + 1) - 1);
  const joined = whole || !to ? free : 0;
  if (joined > from.before.length) {
    const fraction = whole ? [] : [maybe(seq(literal("."), repeat(DIGIT, 1, DIGITS)))];
    options.push(seq(digit(1, 9), repeat(DIGIT, from.before.length, joined - 1), ...fraction));
  }
  for (let digits = 1; digits <= DIGITS; digits++) {
    if (digits > from.before.length && digits <= joined) continue;
    if (digits < from.before.length || (to && digits > to.before.length)) continue;
    const places = whole ? 0 : DIGITS - digits;
    const lowest = from.before.length === digits ? from.before + from.after : undefined;
    const highest = to?.before.length === digits ? to.before + to.after : undefined;
    options.push(decimals(digits, places, lowest, low.open, highest, high?.open ?? false));
  }
  return options.length === 0 ? NOTHING : either(...options);
}

/**
 * Decimals of `digits` digits before the point and at most `places` after it, compared with the digits of two bounds. A state is the
 * number of digits read, and whether they are still those of the bounds.
 */
function decimals(
  digits: number,
  places: number,
  low: string | undefined,
  lowOpen: boolean,
  high: string | undefined,
  highOpen: boolean,
): Expr {
  const edges: Edge[] = [];
  const ends = new Set<number>();
  const numbers = new Map<string, number>([[`0 ${low !== undefined} ${high !== undefined}`, 0]]);
  const todo: [at: number, low: boolean, high: boolean][] = [[0, low !== undefined, high !== undefined]];
  const rest = (bound: string, at: number): boolean => /[1-9]/.test(bound.slice(at));
  for (let next = todo.pop(); next; next = todo.pop()) {
    const [at, onLow, onHigh] = next;
    const from = numbers.get(`${at} ${onLow} ${onHigh}`)!;
    const aboveLow = !onLow || (!rest(low!, at) && !lowOpen);
    const belowHigh = !onHigh || rest(high!, at) || !highOpen;
    // Digits end before the point never, and a point needs a digit behind it.
    if (at >= digits && aboveLow && belowHigh) ends.add(from);
    if (at >= digits + places) continue;
    const least = onLow ? Number(low![at] ?? 0) : 0;
    const most = onHigh ? Number(high![at] ?? 0) : 9;
    for (let n = Math.max(least, at === 0 && digits > 1 ? 1 : 0); n <= most; n++) {
      const to: [number, boolean, boolean] = [at + 1, onLow && n === least, onHigh && n === most];
      const key = to.join(" ");
      if (!numbers.has(key)) {
        numbers.set(key, numbers.size);
        todo.push(to);
      }
      const first = n;
      if (!to[1] && !to[2]) while (n < most - (onHigh ? 1 : 0)) n++; // all digits between the bounds lead to one state
      const by = at === digits ? seq(literal("."), digit(first, n)) : digit(first, n);
      edges.push({ from, to: numbers.get(key)!, by });
    }
  }
  return { graph: { states: numbers.size, edges, ends } };
}

/** Whole numbers that can be divided by `by`: the remainder of the digits so far is the state. */
export function multiples(by: number): Expr {
  const edges: Edge[] = [];
  for (let rest = 0; rest < by; rest++) {
    for (let n = 0; n <= 9; n++) edges.push({ from: rest, to: (rest * 10 + n) % by, by: digit(n, n) });
  }
  return seq(maybe(literal("-")), { graph: { states: by, edges, ends: new Set([0]) } });
}
