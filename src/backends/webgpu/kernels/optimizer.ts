// optimizer_step and optimizer_clip: one invocation per element, one shader per rule. The rules are in ops/optimizer.ts.

import {
  FLAG,
  optimizerClipOp,
  optimizerStep8bitOp,
  optimizerStepOp,
  RULE,
  type Rule,
  STATE_BLOCK,
  STATES,
} from "../../../ops/optimizer.js";
import { groupsFor, type Kernel, type Part } from "../kernel.js";
import type { Operand } from "../schedule/call.js";
import { firstDim } from "../schedule/split.js";
import { type BindingSpec, family, reads, WORKGROUP, writes } from "../shader.js";
import { EXACT_DIVIDE, fold, range, SIZE_OF } from "../wgsl.js";
import { scratchFor } from "./blockwise.js";

const RULES = Object.keys(RULE) as Rule[];
const FLOATS = ["lr", "shrink", "decay", "b1", "r1", "b2", "r2", "b3", "r3", "eps", "alpha", "limit"] as const;
const NUMBERS = [...FLOATS.map((name) => `${name}:f32`), "flags"];

/** The states `s0`, `s1`, `s2` of an element after a step with gradient `g`, and its update `u`. */
const UPDATES: Readonly<Record<Rule, string>> = {
  adam: `s0 = P.b1 * s0 + P.r1 * g;
  s1 = P.b2 * s1 + P.r2 * g * g;
  u = limited(s0 / (sqrt(s1) + P.eps));`,
  ademamix: `s0 = P.b1 * s0 + P.r1 * g;
  s1 = P.b3 * s1 + P.r3 * g;
  s2 = P.b2 * s2 + P.r2 * g * g;
  u = limited((s0 + P.alpha * s1) / (sqrt(s2) + P.eps));`,
  momentum: `if ((P.flags & ${FLAG.first}u) != 0u) { s0 = g; } else { s0 = P.b1 * s0 + g; }
  u = s0;`,
  lion: `u = sign(P.b1 * s0 + P.r1 * g);
  s0 = P.b2 * s0 + P.r2 * g;`,
  rmsprop: `s0 = P.b1 * s0 + P.r1 * g * g;
  u = g / (sqrt(s0) + P.eps);`,
  adagrad: `s0 = s0 + g * g;
  u = g / (sqrt(s0) + P.eps);`,
};

const LIMITED = `
fn limited(u: f32) -> f32 {
  if (P.limit == 0.0) { return u; }
  if (u > P.limit) { return P.limit; }
  if (u < -P.limit) { return -P.limit; }
  return u;
}`;

/** Reads element `i` and computes its update; elements that are skipped go on behind it with `u` of zero. */
const updating = (rule: Rule, skipped: string): string => `var g = grad[P.g + i];
  if ((P.flags & ${FLAG.skip_zeros}u) != 0u && g == 0.0) { ${skipped} }
  if (P.decay != 0.0) { g += P.decay * p[P.p + i]; }
  ${range(STATES[rule])
    .map((s) => `var s${s} = state${s}[P.state${s} + i];`)
    .join("\n  ")}
  var u = 0.0;
  ${UPDATES[rule]}`;

const stateParams = (rule: Rule): string[] => range(STATES[rule]).map((s) => `state${s}`);

const stepShader = family("optimizer_step", ({ rule, scaled }: { rule: Rule; scaled: boolean }) => ({
  bindings: [
    writes("p"),
    reads("grad", "array<f32>"),
    ...stateParams(rule).map((name): BindingSpec => writes(name)),
    ...(scaled ? [reads("factor", "array<f32>")] : []),
  ],
  params: ["count", ...NUMBERS, "p", "g", ...stateParams(rule), "factor"],
  declarations: [LIMITED],
  body: `if (gid >= P.count) { return; }
  let i = gid;
  ${updating(rule, "return;")}
  let lr = P.lr${scaled ? " * factor[P.factor]" : ""};
  p[P.p + i] = p[P.p + i] * P.shrink - lr * u;
  ${stateParams(rule)
    .map((name, s) => `${name}[P.${name} + i] = s${s};`)
    .join("\n  ")}`,
}));

function numbersOf(operands: readonly (Operand | undefined)[], attributes: readonly number[]): Record<string, number> {
  const [p, g, ...states] = operands;
  const places = Object.fromEntries(states.slice(0, 3).map((state, s) => [`state${s}`, state?.offset ?? 0]));
  const values = Object.fromEntries(FLOATS.map((name, i) => [name, attributes[i + 1]!]));
  return { count: p!.count, ...values, flags: attributes[13]!, p: p!.offset, g: g!.offset, ...places };
}

const bound = (operands: readonly (Operand | undefined)[]): Operand[] => operands.filter((one) => one !== undefined);

export const optimizerStep: Kernel = {
  op: optimizerStepOp,
  record({ operands, attributes }, recorder) {
    const rule = RULES[attributes[0]!]!;
    const factor = operands[5];
    const { count } = operands[0]!;
    const numbers = { ...numbersOf(operands, attributes), factor: factor?.offset ?? 0 };
    const shader = stepShader({ rule, scaled: factor !== undefined });
    recorder.dispatch(shader, bound(operands), numbers, groupsFor(count, WORKGROUP));
    return undefined;
  },
  axes: ({ operands: [p, g, a, b, c] }) => firstDim({ 0: p, 1: g, 2: a, 3: b, 4: c }),
  shaders: () => RULES.flatMap((rule) => [true, false].map((scaled) => stepShader({ rule, scaled }))),
};

/** Rules with few enough states for the bindings of a default device. */
const CODED = RULES.filter((rule) => STATES[rule] <= 2);

/** One workgroup per block, four elements (a word of codes) per invocation. */
const codedShader = family("optimizer_step_8bit", ({ rule }: { rule: Rule }) => {
  const slots = range(STATES[rule]);
  return {
    bindings: [
      writes("p"),
      reads("grad", "array<f32>"),
      ...slots.flatMap((s) => [writes(`codes${s}`, "array<u32>"), writes(`absmax${s}`)]),
      reads("maps", "array<f32>"),
    ],
    params: ["count", ...NUMBERS, "p", "g", ...slots.flatMap((s) => [`codes${s}`, `absmax${s}`]), "maps"],
    declarations: [
      LIMITED,
      EXACT_DIVIDE,
      SIZE_OF,
      fold("largest", "u32", WORKGROUP, (a, b) => `max(${a}, ${b})`),
      `fn nearest(map: u32, x: f32, size: u32, inverse: f32) -> u32 {
  if (size > ENDLESS || size_of(x) >= ENDLESS) { return 0u; }
  let value = clamp(x * inverse, -1.0, 1.0);
  var first = 0u;
  var last = 255u;
  while (first < last) {
    let i = (first + last) / 2u;
    if (value > (maps[map + i] + maps[map + i + 1u]) * 0.5) { first = i + 1u; } else { last = i; }
  }
  return first;
}`,
    ],
    body: `let begin = group * ${STATE_BLOCK}u + 4u * lid;
  let word = begin / 4u;
  ${slots
    .map(
      (s) => `var old${s} = 0u;
  var kept${s} = array<f32, 4>(0.0, 0.0, 0.0, 0.0);
  let scale${s} = absmax${s}[P.absmax${s} + group];
  var size${s} = 0u;
  if (begin < P.count) { old${s} = codes${s}[P.codes${s} / 4u + word]; }`,
    )
    .join("\n  ")}
  for (var j = 0u; j < 4u; j++) {
    let i = begin + j;
    if (i >= P.count) { break; }
    ${slots.map((s) => `var s${s} = maps[P.maps + ${256 * s}u + ((old${s} >> (8u * j)) & 0xffu)] * scale${s};`).join("\n    ")}
    var g = grad[P.g + i];
    if ((P.flags & ${FLAG.skip_zeros}u) == 0u || g != 0.0) {
      if (P.decay != 0.0) { g += P.decay * p[P.p + i]; }
      var u = 0.0;
      ${UPDATES[rule]}
      p[P.p + i] = p[P.p + i] * P.shrink - P.lr * u;
    }
    ${slots.map((s) => `kept${s}[j] = s${s};\n    size${s} = max(size${s}, size_of(s${s}));`).join("\n    ")}
  }
  ${slots
    .map(
      (s) => `size${s} = largest(size${s}, lid);
  if (lid == 0u) { absmax${s}[P.absmax${s} + group] = bitcast<f32>(size${s}); }
  if (begin < P.count) {
    var inverse = 0.0;
    if (size${s} >= 0x00800000u && size${s} < ENDLESS) { inverse = exact_divide(1.0, bitcast<f32>(size${s})); }
    var made = 0u;
    for (var j = 0u; j < 4u; j++) { made |= nearest(P.maps + ${256 * s}u, kept${s}[j], size${s}, inverse) << (8u * j); }
    codes${s}[P.codes${s} / 4u + word] = made;
  }`,
    )
    .join("\n  ")}`,
  };
});

export const optimizerStep8bit: Kernel = {
  op: optimizerStep8bitOp,
  record({ operands, attributes }, recorder) {
    const rule = RULES[attributes[0]!]!;
    const [p, g, codes0, absmax0, codes1, absmax1, maps] = operands;
    if (codes0!.offset % 4 !== 0 || (codes1?.offset ?? 0) % 4 !== 0)
      return "codes of states must begin at a whole word";
    const places = {
      codes0: codes0!.offset,
      absmax0: absmax0!.offset,
      codes1: codes1?.offset ?? 0,
      absmax1: absmax1?.offset ?? 0,
      maps: maps!.offset,
    };
    const numbers = { ...numbersOf([p, g], attributes), ...places };
    recorder.dispatch(codedShader({ rule }), bound(operands), numbers, Math.ceil(p!.count / STATE_BLOCK));
    return undefined;
  },
  axes({ operands: [p, g, codes0, absmax0, codes1, absmax1] }) {
    const { count } = p!;
    const range = (begin: number, blocks: number): [number, number] => {
      const at = begin * STATE_BLOCK;
      return [at, Math.min(blocks * STATE_BLOCK, count - at)];
    };
    const parts: Record<number, Part> = {
      0: { operand: p!, dim: 0, range },
      1: { operand: g!, dim: 0, range },
      2: { operand: codes0!, dim: 0, range },
      3: { operand: absmax0!, dim: 0 },
    };
    if (codes1) parts[4] = { operand: codes1, dim: 0, range };
    if (absmax1) parts[5] = { operand: absmax1, dim: 0 };
    return [{ size: Math.ceil(count / STATE_BLOCK), parts }];
  },
  shaders: () => CODED.map((rule) => codedShader({ rule })),
};

/** Elements of a partial sum. */
const PIECE = 4096;
const SUM = fold("total", "vec2<f32>", WORKGROUP, (a, b) => `${a} + ${b}`);

const partsShader = family("optimizer_clip", ({ rule }: { step: "parts"; rule: Rule }) => ({
  bindings: [
    reads("p", "array<f32>"),
    reads("grad", "array<f32>"),
    ...stateParams(rule).map((name) => reads(name, "array<f32>")),
    writes("sums", "array<vec2<f32>>"),
  ],
  params: ["count", ...NUMBERS, "p", "g", ...stateParams(rule)],
  declarations: [SUM, LIMITED],
  body: `var squares = vec2<f32>(0.0, 0.0);
  let end = min((group + 1u) * ${PIECE}u, P.count);
  for (var i = group * ${PIECE}u + lid; i < end; i += ${WORKGROUP}u) {
    squares.x += p[P.p + i] * p[P.p + i];
    ${updating(rule, "continue;")}
    squares.y += u * u;
  }
  squares = total(squares, lid);
  if (lid == 0u) { sums[group] = squares; }`,
}));

const factorShader = family("optimizer_clip", (_: { step: "factor" }) => ({
  bindings: [reads("sums", "array<vec2<f32>>"), writes("factor")],
  params: ["count", "factor", "most:f32"],
  declarations: [SUM],
  body: `var squares = vec2<f32>(0.0, 0.0);
  for (var i = lid; i < P.count; i += ${WORKGROUP}u) { squares += sums[i]; }
  squares = total(squares, lid);
  if (lid != 0u) { return; }
  let ratio = P.most * sqrt(squares.x) / sqrt(squares.y);
  factor[P.factor] = ratio;
  if (squares.y == 0.0 || ratio >= 1.0) { factor[P.factor] = 1.0; }`,
}));

export const optimizerClip: Kernel = {
  op: optimizerClipOp,
  record({ operands, attributes }, recorder) {
    const rule = RULES[attributes[0]!]!;
    const factor = operands[5]!;
    const numbers = numbersOf(operands.slice(0, 5), attributes);
    const pieces = Math.max(1, Math.ceil(operands[0]!.count / PIECE));
    const sums = scratchFor(recorder, "sums", 2 * pieces);
    recorder.dispatch(partsShader({ step: "parts", rule }), [...bound(operands.slice(0, 5)), sums], numbers, pieces);
    const last = { count: pieces, factor: factor.offset, most: attributes[14]! };
    recorder.dispatch(factorShader({ step: "factor" }), [sums, factor], last, 1);
    return undefined;
  },
  shaders: () => [...RULES.map((rule) => partsShader({ step: "parts", rule })), factorShader({ step: "factor" })],
};
