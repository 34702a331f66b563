// One step of an optimizer: states and parameters are written in place, in one pass. The caller computes what depends on the
// number of the step (bias corrections, schedules) on the host, in double precision. Rules as in bitsandbytes; weight decay comes
// before the update (its CUDA code has it behind).
//
//   adam      m = b1 m + r1 g;  v = b2 v + r2 g²;            u = m / (√v + eps), at most `limit`
//   ademamix  m, v as adam;     s = b3 s + r3 g;             u = (m + alpha s) / (√v + eps), at most `limit`
//   momentum  m = b1 m + g (g alone in the first step);      u = m
//   lion      u = sign(b1 m + r1 g);  m = b2 m + r2 g
//   rmsprop   v = b1 v + r1 g²;                              u = g / (√v + eps)
//   adagrad   v = v + g²;                                    u = g / (√v + eps)
//
//   p = p * shrink - lr * factor * u, with g + decay p for g where decay is not decoupled

import { OptionError, ShapeError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import { blockwiseDequantizeOp, blockwiseQuantizeOp } from "./blockwise.js";
import { type HostTensor, Op } from "./op.js";

const fround = Math.fround;

/** Codes of the `rule` attribute; native/kernels/optimizer.cpp uses the same numbers. */
export const RULE = { adam: 0, ademamix: 1, momentum: 2, lion: 3, rmsprop: 4, adagrad: 5 } as const;
export type Rule = keyof typeof RULE;

/** States of each rule. */
export const STATES: Readonly<Record<Rule, 1 | 2 | 3>> = {
  adam: 2,
  ademamix: 3,
  momentum: 1,
  lion: 1,
  rmsprop: 1,
  adagrad: 1,
};

/** The numbers of a step. Absent ones are not used by the rule. */
export interface StepNumbers {
  readonly lr: number;
  /** Factor of the parameter before the update: 1 - lr * weight_decay, where decay is decoupled. */
  readonly shrink?: number;
  /** What is added to the gradient, as a multiple of the parameter. */
  readonly decay?: number;
  readonly beta1?: number;
  readonly beta2?: number;
  readonly beta3?: number;
  readonly eps?: number;
  readonly alpha?: number;
  /**
   * Largest update of an element in `adam` and `ademamix`; 0 for none. Where v was rounded to zero and m was not, an update has no
   * bound otherwise.
   */
  readonly limit?: number;
  /** True in the first step of `momentum`. */
  readonly first?: boolean;
  /** Elements whose gradient is zero keep parameter and states. */
  readonly skip_zeros?: boolean;
}

const NUMBERS =
  "rule:i32 lr:f32 shrink:f32 decay:f32 b1:f32 r1:f32 b2:f32 r2:f32 b3:f32 r3:f32 eps:f32 alpha:f32 limit:f32 flags:i32";

/** Bits of `flags`. */
export const FLAG = { first: 1, skip_zeros: 2 } as const;

export function stepAttributes(rule: Rule, numbers: StepNumbers): number[] {
  const { lr, shrink = 1, decay = 0, beta1 = 0, beta2 = 0, beta3 = 0, eps = 0, alpha = 0 } = numbers;
  const { limit = 0, first = false, skip_zeros = false } = numbers;
  const flags = (first ? FLAG.first : 0) | (skip_zeros ? FLAG.skip_zeros : 0);
  return [
    RULE[rule],
    lr,
    shrink,
    decay,
    beta1,
    1 - beta1,
    beta2,
    1 - beta2,
    beta3,
    1 - beta3,
    eps,
    alpha,
    limit,
    flags,
  ];
}

type Attributes = Readonly<Record<string, number>>;

/** NaN stays. */
function limited(u: number, limit: number): number {
  if (limit === 0) return u;
  return u > limit ? limit : u < -limit ? -limit : u;
}

/** The states of an element after the step (written into `states`), and its update. */
function advance(g: number, states: [number, number, number], a: Attributes): number {
  const [m, v, w] = states;
  switch (a.rule) {
    case RULE.adam:
      states[0] = fround(a.b1! * m + a.r1! * g);
      states[1] = fround(a.b2! * v + a.r2! * g * g);
      return limited(states[0] / (Math.sqrt(states[1]) + a.eps!), a.limit!);
    case RULE.ademamix:
      states[0] = fround(a.b1! * m + a.r1! * g);
      states[1] = fround(a.b3! * v + a.r3! * g);
      states[2] = fround(a.b2! * w + a.r2! * g * g);
      return limited((states[0] + a.alpha! * states[1]) / (Math.sqrt(states[2]) + a.eps!), a.limit!);
    case RULE.momentum:
      states[0] = fround(a.flags! & FLAG.first ? g : a.b1! * m + g);
      return states[0];
    case RULE.lion: {
      const u = Math.sign(a.b1! * m + a.r1! * g);
      states[0] = fround(a.b2! * m + a.r2! * g);
      return u;
    }
    case RULE.rmsprop:
      states[0] = fround(a.b1! * m + a.r1! * g * g);
      return g / (Math.sqrt(states[0]) + a.eps!);
    default:
      states[0] = fround(m + g * g);
      return g / (Math.sqrt(states[0]) + a.eps!);
  }
}

interface Operands {
  readonly p?: HostTensor;
  readonly g?: HostTensor;
  readonly state1?: HostTensor;
  readonly state2?: HostTensor | undefined;
  readonly state3?: HostTensor | undefined;
}

/** Calls `take` with the update of each element that has one, and its states after the step. */
function* updates(
  { p, g, state1, state2, state3 }: Operands,
  a: Attributes,
): Iterable<readonly [i: number, u: number, states: readonly number[]]> {
  const states: [number, number, number] = [0, 0, 0];
  for (let i = 0; i < p!.data.length; i++) {
    const given = g!.data[i]!;
    if (a.flags! & FLAG.skip_zeros && given === 0) continue;
    states[0] = state1!.data[i]!;
    states[1] = state2?.data[i] ?? 0;
    states[2] = state3?.data[i] ?? 0;
    const u = advance(a.decay === 0 ? given : fround(given + a.decay! * p!.data[i]!), states, a);
    yield [i, u, states];
  }
}

/** @throws OptionError for an unknown rule, and unless there are as many states as it has */
function checkStates(op: string, inputs: readonly (Tensor | undefined)[], rule: number): void {
  const name = (Object.keys(RULE) as Rule[]).find((one) => RULE[one] === rule);
  if (!name) throw new OptionError(`${op}: there is no rule ${rule}`);
  const given = inputs.slice(2, 5).filter((state) => state !== undefined).length;
  if (given !== STATES[name]) throw new OptionError(`${op}: ${name} has ${STATES[name]} states, got ${given}`);
}

export const optimizerStepOp = new Op({
  signature: `optimizer_step: p[n]:f32! g[n]:f32 state1[n]:f32! state2[n]:f32?! state3[n]:f32?! factor[1]:f32? ; ${NUMBERS} ->`,
  check: (inputs, [rule]) => checkStates("optimizer_step", inputs, rule!),
  reference({ p, g, state1, state2, state3, factor }, a) {
    const lr = factor ? fround(a.lr! * factor.data[0]!) : a.lr!;
    const written = [state1, state2, state3];
    for (const [i, u, states] of updates({ p, g, state1, state2, state3 }, a)) {
      p!.data[i] = p!.data[i]! * a.shrink! - lr * u;
      for (const [s, state] of written.entries()) if (state) state.data[i] = states[s]!;
    }
    return undefined;
  },
});

/** Elements of a block of 8-bit states. */
export const STATE_BLOCK = 256;

export const optimizerStep8bitOp = new Op({
  signature: `optimizer_step_8bit: p[n]:f32! g[n]:f32 codes1[n]:u8! absmax1[B]:f32! codes2[n]:u8?! absmax2[B]:f32?! maps[S,256]:f32 ; ${NUMBERS} ->`,
  check([p, g, codes1, absmax1, codes2, absmax2, maps], [rule]) {
    checkStates("optimizer_step_8bit", [p, g, codes1, codes2], rule!);
    const blocks = Math.ceil(p!.size / STATE_BLOCK);
    const states = codes2 ? 2 : 1;
    if (absmax1!.size === blocks && (absmax2 !== undefined) === (states === 2) && maps!.shape[0] === states) return;
    throw new ShapeError(
      `optimizer_step_8bit: ${states} states of ${p!.size} elements have an absmax of ${blocks} and a map each`,
    );
  },
  reference({ p, g, codes1, absmax1, codes2, absmax2, maps }, a) {
    const count = p!.data.length;
    const coded = [
      { codes: codes1!, absmax: absmax1! },
      ...(codes2 && absmax2 ? [{ codes: codes2, absmax: absmax2 }] : []),
    ];
    const map = (s: number): HostTensor => ({
      shape: [256],
      dtype: "f32",
      data: maps!.data.slice(256 * s, 256 * (s + 1)),
    });
    const states = coded.map(({ codes, absmax }, s) => {
      const y: HostTensor = { shape: [count], dtype: "f32", data: new Float32Array(count) };
      blockwiseDequantizeOp.definition.reference({ codes, absmax, map: map(s), y }, { blocksize: STATE_BLOCK });
      return y;
    });
    const [state1, state2] = states;
    optimizerStepOp.definition.reference({ p: p!, g: g!, state1: state1!, ...(state2 && { state2 }) }, a);
    for (const [s, { codes, absmax }] of coded.entries()) {
      const operands = { x: states[s]!, map: map(s), codes, absmax };
      blockwiseQuantizeOp.definition.reference(operands, { blocksize: STATE_BLOCK });
    }
    return undefined;
  },
});

/** A state in codes u8[n], with an absmax for each block of 256 and a map. */
export interface CodedState {
  readonly codes: Tensor;
  readonly absmax: Tensor;
}

/** One step with one or two states in 8-bit codes, in place. @param maps f32[states, 256] */
export function optimizerStep8bit(
  rule: Rule,
  { p, g, states: [first, second] }: Pick<StepTensors, "p" | "g"> & { readonly states: readonly CodedState[] },
  maps: Tensor,
  numbers: StepNumbers,
): void {
  const operands = [p, g, first!.codes, first!.absmax, second?.codes, second?.absmax, maps];
  optimizerStep8bitOp.runAll(operands, stepAttributes(rule, numbers));
}

export const optimizerClipOp = new Op({
  signature: `optimizer_clip: p[n]:f32 g[n]:f32 state1[n]:f32 state2[n]:f32? state3[n]:f32? ; ${NUMBERS} most:f32 -> factor[1]:f32`,
  check: (inputs, [rule]) => checkStates("optimizer_clip", inputs, rule!),
  reference({ p, g, state1, state2, state3, factor }, a) {
    let parameters = 0;
    let update = 0;
    for (let i = 0; i < p!.data.length; i++) parameters += p!.data[i]! ** 2;
    for (const [, u] of updates({ p, g, state1, state2, state3 }, a)) update += u ** 2;
    const ratio = (a.most! * Math.sqrt(parameters)) / Math.sqrt(update);
    factor!.data[0] = update === 0 ? 1 : ratio < 1 || Number.isNaN(ratio) ? ratio : 1;
    return undefined;
  },
});

/** Tensors of one step, flat: parameter and gradient, f32[n], and the states of the rule. */
export interface StepTensors {
  readonly p: Tensor;
  readonly g: Tensor;
  readonly states: readonly Tensor[];
}

const operands = ({ p, g, states }: StepTensors): (Tensor | undefined)[] => [p, g, states[0], states[1], states[2]];

/**
 * One step, in place. With `max_unorm` above 0 the update is scaled down so that its norm is at most that times the norm of the
 * parameter.
 */
export function optimizerStep(rule: Rule, tensors: StepTensors, numbers: StepNumbers, max_unorm = 0): void {
  const attributes = stepAttributes(rule, numbers);
  if (max_unorm <= 0) return void optimizerStepOp.runAll([...operands(tensors), undefined], attributes);
  using factor = optimizerClipOp.run(operands(tensors), [...attributes, max_unorm]);
  optimizerStepOp.runAll([...operands(tensors), factor], attributes);
}
