// Cases of optimizer steps.

import fc from "fast-check";
import {
  optimizerClipOp,
  optimizerStepOp,
  RULE,
  type Rule,
  STATES,
  type StepNumbers,
  stepAttributes,
} from "../../../src/ops/optimizer.js";
import { type Case, type Family, operand, UNIT } from "../../support/conformance.js";
import { normals } from "../../support/random.js";
import { seeds, sumUnits } from "./_tools.js";

const RULES = Object.keys(RULE) as Rule[];

const NUMBERS: StepNumbers = {
  lr: 0.01,
  shrink: 0.999,
  beta1: 0.9,
  beta2: 0.99,
  beta3: 0.999,
  eps: 1e-3,
  alpha: 5,
};

/** States as a step would leave them: second moments are not negative. */
function statesOf(rule: Rule, count: number, seed: number): Float32Array[] {
  const squares = rule === "rmsprop" || rule === "adagrad" ? 0 : rule === "adam" ? 1 : 2;
  return Array.from({ length: STATES[rule] }, (_, s) =>
    normals(seed + s, count).map((v) => (s === squares ? v * v + 0.01 : v)),
  );
}

function tensorsOf(rule: Rule, count: number, seed: number): (Case["inputs"][number] | undefined)[] {
  const grads = normals(seed + 8, count).map((v, i) => (i % 7 === 3 ? 0 : v));
  const states = statesOf(rule, count, seed).map((state) => operand([count], state));
  return [operand([count], normals(seed + 9, count)), operand([count], grads), states[0], states[1], states[2]];
}

const FEW = 64 * UNIT;

function stepCase(
  rule: Rule,
  count: number,
  more: Partial<StepNumbers>,
  factor: number | undefined,
  seed: number,
): Case {
  return {
    name: `${rule} ${count} ${JSON.stringify(more)} factor ${factor} seed ${seed}`,
    inputs: [...tensorsOf(rule, count, seed), factor === undefined ? undefined : operand([1], Float32Array.of(factor))],
    attrs: stepAttributes(rule, { ...NUMBERS, ...more }),
    // Sums of two or three products of numbers up to 10 or so; quotients by roots of at least 0.1, times lr.
    bound: (want) => (i) => FEW * (1 + Math.abs(want[i]!)),
  };
}

const sparse: Partial<StepNumbers>[] = [
  {},
  { decay: 0.1, shrink: 1 },
  { first: true },
  { skip_zeros: true },
  { limit: 1.5 },
];

const step: Family = {
  op: optimizerStepOp,
  table: RULES.flatMap((rule, r) => [
    ...sparse.map((more, i) => stepCase(rule, 100 + i, more, i % 2 ? 0.5 : undefined, 10 * r + i)),
    stepCase(rule, 0, {}, undefined, r),
    stepCase(rule, 9001, {}, 0.25, 100 + r),
  ]),
  fuzz: fc
    .tuple(
      fc.constantFrom(...RULES),
      fc.integer({ min: 0, max: 200 }),
      fc.constantFrom(...sparse),
      fc.constantFrom(undefined, 0.5),
      seeds,
    )
    .map((all) => stepCase(...all)),
};

function clipCase(rule: Rule, count: number, more: Partial<StepNumbers>, most: number, seed: number): Case {
  return {
    name: `${rule} ${count} ${JSON.stringify(more)} most ${most} seed ${seed}`,
    inputs: tensorsOf(rule, count, seed),
    attrs: [...stepAttributes(rule, { ...NUMBERS, ...more }), most],
    bound: (want) => (sumUnits(count) + FEW) * Math.abs(want[0]!),
  };
}

const clip: Family = {
  op: optimizerClipOp,
  table: RULES.flatMap((rule, r) => [
    ...sparse.map((more, i) => clipCase(rule, 100 + i, more, 0.02, 10 * r + i)),
    clipCase(rule, 0, {}, 1, r),
    clipCase(rule, 9001, {}, r % 2 === 0 ? 0.1 : 100, 100 + r),
  ]),
  fuzz: fc
    .tuple(
      fc.constantFrom(...RULES),
      fc.integer({ min: 0, max: 200 }),
      fc.constantFrom(...sparse),
      fc.constantFrom(0.02, 1, 50),
      seeds,
    )
    .map((all) => clipCase(...all)),
};

export const OPTIMIZER: readonly Family[] = [step, clip];
