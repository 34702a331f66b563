// Tests of chat templates (`x is defined`), as Jinja has them.

import type { Budget } from "./limits.js";
import { refuse } from "./limits.js";
import { compare, contains } from "./operators.js";
import { equal, textOf } from "./text-of.js";
import { Attributes, Callable, Dict, Float, listOf, numberOf, typeOf, type Value, View, wholeOf } from "./values.js";

type Test = (value: Value, other: Value, budget: Budget) => boolean;

function ordered(holds: (order: number) => boolean): Test {
  return (value, other, budget) => holds(compare(value, other, budget));
}

function rest(value: Value, by: Value): number {
  const [exact, divisor] = [wholeOf(value), wholeOf(by)];
  if (exact !== undefined && divisor !== undefined && divisor !== 0n) {
    const left = exact % divisor;
    return Number(left !== 0n && left < 0n !== divisor < 0n ? left + divisor : left);
  }
  const [number, other] = [value, by].map(
    (one) => numberOf(one) ?? refuse(`the test needs a number, got ${typeOf(one)}`),
  );
  if (other === 0) return refuse("division by zero");
  const left = number! % other!;
  return left !== 0 && left < 0 !== other! < 0 ? left + other! : left;
}

const isSequence = (value: Value): boolean =>
  typeof value === "string" || value instanceof Dict || listOf(value) !== undefined || value === undefined;

const TESTS: ReadonlyMap<string, Test> = new Map<string, Test>([
  ["boolean", (value) => typeof value === "boolean"],
  [
    "callable",
    (value) =>
      value === undefined || value instanceof Callable || (value instanceof Attributes && value.call !== undefined),
  ],
  ["defined", (value) => value !== undefined],
  ["undefined", (value) => value === undefined],
  ["divisibleby", (value, other) => rest(value, other) === 0],
  ["even", (value) => rest(value, 2) === 0],
  ["odd", (value) => rest(value, 2) === 1],
  ["escaped", () => false],
  ["test", (value) => typeof value === "string" && TESTS.has(OTHER_NAMES[value] ?? value)],
  ["false", (value) => value === false],
  ["true", (value) => value === true],
  ["float", (value) => value instanceof Float],
  ["integer", (value) => typeof value === "number" || typeof value === "bigint"],
  ["number", (value) => numberOf(value) !== undefined],
  ["none", (value) => value === null],
  ["string", (value) => typeof value === "string"],
  ["mapping", (value) => value instanceof Dict],
  ["sequence", (value) => isSequence(value) && !(value instanceof View && value.kind !== "range")],
  ["iterable", isSequence],
  ["lower", (value, _other, budget) => isCase(textOf(value, budget), "toLowerCase")],
  ["upper", (value, _other, budget) => isCase(textOf(value, budget), "toUpperCase")],
  ["in", contains],
  ["eq", equal],
  ["ne", (value, other, budget) => !equal(value, other, budget)],
  ["lt", ordered((order) => order < 0)],
  ["le", ordered((order) => order <= 0)],
  ["gt", ordered((order) => order > 0)],
  ["ge", ordered((order) => order >= 0)],
  ["sameas", (value, other) => value === other],
]);
const OTHER_NAMES: Readonly<Record<string, string>> = {
  equalto: "eq",
  "==": "eq",
  "!=": "ne",
  "<": "lt",
  lessthan: "lt",
  "<=": "le",
  ">": "gt",
  greaterthan: "gt",
  ">=": "ge",
};

/** str.islower() and str.isupper(): all letters, and at least one. */
function isCase(value: string, change: "toLowerCase" | "toUpperCase"): boolean {
  const other = change === "toLowerCase" ? value.toUpperCase() : value.toLowerCase();
  return value === value[change]() && value !== other;
}

/** What a test says. @throws FormatError for one that is not known */
export function test(name: string, value: Value, args: readonly Value[], budget: Budget): boolean {
  budget.step();
  const run = TESTS.get(OTHER_NAMES[name] ?? name) ?? refuse(`there is no test ${JSON.stringify(name)}`);
  return run(value, args[0], budget);
}
