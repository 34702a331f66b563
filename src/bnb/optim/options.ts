// The options of the optimizers, a table for each kind. Those of Python that would do nothing are only accepted at the value at which
// they do nothing.

import { choice, flag, number, type Options, option, such, type Table, whole } from "../../core/options.js";
import * as z from "../../core/schema.js";
import { numbersOf } from "../functional-checks.js";

const atLeastZero = (n: number): boolean => n >= 0 && n < Number.POSITIVE_INFINITY;
const least0 = () => number(atLeastZero, "a number of at least 0");
const steps = () =>
  such<number | null>((n) => n === null || (Number.isSafeInteger(n) && (n as number) > 0), "a number of steps");
const share = () => number((n) => n >= 0 && n < 1, "a number from 0 to below 1");

function betas<T extends readonly number[]>(count: number) {
  const check = (value: unknown): boolean => {
    const numbers = numbersOf(value);
    return numbers?.length === count && numbers.every((beta) => beta >= 0 && beta < 1);
  };
  return such<T>(check, `${count} numbers from 0 to below 1`);
}

/** An option that only has the value at which it does nothing. */
function only<T extends number | boolean>(value: T, hint: string) {
  return option<T>(z.literal(value) as unknown as z.Schema<T>, String(value), { hint });
}

/** Of all optimizers. */
const COMMON = {
  /** Size of a step. */
  lr: least0(),
  weight_decay: least0(),
  /** Bits of a state: 8 for parameters of at least `min_8bit_size` elements. */
  optim_bits: choice([32, 8]),
  /** Elements from which a parameter has states in 8 bits. */
  min_8bit_size: whole(0),
  /** States are always quantized in blocks. */
  block_wise: only(true, "states in 8 bits are always quantized in blocks"),
  percentile_clipping: only(100, "gradients are not clipped by percentiles; 100 is off"),
  /** The norm of an update is at most this times that of the parameter; 0 for no limit. */
  max_unorm: least0(),
  /** Elements with a gradient of zero keep parameter and states. */
  skip_zeros: flag(),
  /** States of parameters on a GPU lie in the host's memory, and come piece by piece for their step. Default false; of Paged classes true. */
  is_paged: flag(),
} satisfies Table;

const EPS = { eps: least0() } satisfies Table;

export const ADAM = {
  ...COMMON,
  ...EPS,
  betas: betas<readonly [number, number]>(2),
  amsgrad: only(false, "there is no amsgrad"),
} satisfies Table;

export const ADEMAMIX = {
  ...COMMON,
  ...EPS,
  betas: betas<readonly [number, number, number]>(3),
  /** Weight of the slow average. */
  alpha: least0(),
  /** Steps over which `alpha` grows. */
  t_alpha: steps(),
  /** Steps over which the third beta grows from the first, which is then above 0. */
  t_beta3: steps(),
} satisfies Table;

export const MOMENTUM = {
  ...COMMON,
  momentum: number((n) => n > 0 && n < 1, "a number above 0 and below 1"),
  dampening: only(0, "there is no dampening"),
  nesterov: only(false, "there is no Nesterov momentum"),
} satisfies Table;

export const LION = { ...COMMON, betas: betas<readonly [number, number]>(2) } satisfies Table;

export const RMSPROP = {
  ...COMMON,
  ...EPS,
  alpha: share(),
  momentum: only(0, "there is no momentum"),
  centered: only(false, "there is no centered form"),
} satisfies Table;

export const ADAGRAD = {
  ...COMMON,
  ...EPS,
  lr_decay: only(0, "the step does not shrink by itself; set param_groups[i].lr"),
  initial_accumulator_value: only(0, "sums begin at zero"),
} satisfies Table;

export interface AdamOptions extends Options<typeof ADAM> {}
export interface AdEMAMixOptions extends Options<typeof ADEMAMIX> {}
export interface MomentumOptions extends Options<typeof MOMENTUM> {}
export interface LionOptions extends Options<typeof LION> {}
export interface RMSpropOptions extends Options<typeof RMSPROP> {}
export interface AdagradOptions extends Options<typeof ADAGRAD> {}
