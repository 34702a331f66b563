// Cases of optimizer steps.

import fc from "fast-check";
import {
  optimizerClipOp,
  optimizerStep8bitOp,
  optimizerStepOp,
  RULE,
  type Rule,
  STATES,
  type StepNumbers,
  stepAttributes,
} from "../../../src/ops/optimizer.js";
import { dynamicMap } from "../../../src/quant/_dynamic-map.js";
import { type Case, type Family, operand, UNIT } from "../../support/conformance.js";
import { bytes, normals } from "../../support/random.js";
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

const CODED = RULES.filter((rule) => STATES[rule] < 3);

function codedCase(rule: Rule, count: number, more: Partial<StepNumbers>, seed: number): Case {
  const [p, g] = tensorsOf(rule, count, seed);
  const blocks = Math.ceil(count / 256);
  const state = (s: number) => [
    operand([count], bytes(seed + s, count)),
    operand(
      [blocks],
      normals(seed + s + 5, blocks).map((v) => Math.abs(v) + 0.1),
    ),
  ];
  const maps = STATES[rule] === 2 ? [...dynamicMap(true), ...dynamicMap(false)] : [...dynamicMap(true)];
  // A lone state of squares has no negative codes.
  const squares = rule === "rmsprop" || rule === "adagrad";
  const first = state(0);
  if (squares) first[0] = operand([count], bytes(seed, count, 128));
  return {
    name: `${rule} ${count} ${JSON.stringify(more)} seed ${seed}`,
    inputs: [
      p,
      g,
      ...first,
      ...(STATES[rule] === 2 ? state(1) : [undefined, undefined]),
      operand([STATES[rule], 256], Float32Array.from(maps)),
    ],
    attrs: stepAttributes(rule, { ...NUMBERS, eps: 0.1, ...more }),
    // A code next to a midpoint may be its neighbour.
    bound: (want, name) => (name.startsWith("codes") ? 1 : (i) => FEW * (1 + Math.abs(want[i]!))),
  };
}

const coded: Family = {
  op: optimizerStep8bitOp,
  table: CODED.flatMap((rule, r) => [
    ...sparse.map((more, i) => codedCase(rule, 300 + i, more, 10 * r + i)),
    codedCase(rule, 0, {}, r),
    codedCase(rule, 1, {}, r),
    codedCase(rule, 9001, {}, 100 + r),
  ]),
  fuzz: fc
    .tuple(fc.constantFrom(...CODED), fc.integer({ min: 0, max: 600 }), fc.constantFrom(...sparse), seeds)
    .map((all) => codedCase(...all)),
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

export const OPTIMIZER: readonly Family[] = [step, coded, clip];
