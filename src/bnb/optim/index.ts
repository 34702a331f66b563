// The exports of `import ... from "octavo/bnb/optim"`: bitsandbytes' optimizers. Each kind has a class with f32 states ("32bit" says so
// in its name), and one with states in 8 bits for parameters of at least 4096 elements.

import { OptionError } from "../../core/errors.js";
import type { StepNumbers } from "../../ops/optimizer.js";
import { type GivenGroup, type GroupOptions, type Kind, Optimizer } from "./optimizer.js";
import {
  ADAGRAD,
  ADAM,
  ADEMAMIX,
  type AdagradOptions,
  type AdamOptions,
  type AdEMAMixOptions,
  LION,
  type LionOptions,
  MOMENTUM,
  type MomentumOptions,
  RMSPROP,
  type RMSpropOptions,
} from "./options.js";
import type { Trained } from "./parameter.js";

export type { Optimizer, OptimizerStateDict, ParamGroup } from "./optimizer.js";
export type {
  AdagradOptions,
  AdamOptions,
  AdEMAMixOptions,
  LionOptions,
  MomentumOptions,
  RMSpropOptions,
} from "./options.js";
export { Parameter, type Trainable, type Trained } from "./parameter.js";
export type { ParameterState } from "./states.js";

const COMMON: GroupOptions = {
  lr: 1e-3,
  weight_decay: 0,
  optim_bits: 32,
  min_8bit_size: 4096,
  max_unorm: 0,
  skip_zeros: false,
};

/** Parameters, or groups of them with options of their own. */
type Params<O> = Iterable<Trained> | Iterable<GivenGroup<O>>;

/** A class of optimizers. @throws OptionError */
type Class<O extends GroupOptions, Given> = new (params: Params<O>, options?: Given) => Optimizer<O>;

/** The classes of a kind: states of 32 bits unless asked for others, of 32 bits, and of 8 bits. */
function classesOf<O extends GroupOptions, Given>(
  kind: Kind<O>,
): {
  Free: Class<O, Given>;
  Wide: Class<O, Omit<Given, "optim_bits">>;
  Narrow: Class<O, Omit<Given, "optim_bits">>;
  Paged: Class<O, Omit<Given, "is_paged">>;
  PagedWide: Class<O, Omit<Given, "optim_bits" | "is_paged">>;
  PagedNarrow: Class<O, Omit<Given, "optim_bits" | "is_paged">>;
} {
  const paged = (one: Kind<O>): Kind<O> => ({ ...one, name: `Paged${one.name}`, paged: true });
  const fixed = (suffix: string, optim_bits: 8 | 32): Kind<O> => ({
    ...kind,
    name: kind.name + suffix,
    defaults: { ...kind.defaults, optim_bits },
    fixed: true,
  });
  const made = <Options>(one: Kind<O>): Class<O, Options> =>
    class extends Optimizer<O> {
      constructor(params: Params<O>, options?: Options) {
        super(one, params, options);
      }
    };
  const [wide, narrow] = [fixed("32bit", 32), fixed("8bit", 8)];
  return {
    ...{ Free: made(kind), Wide: made(wide), Narrow: made(narrow) },
    ...{ Paged: made(paged(kind)), PagedWide: made(paged(wide)), PagedNarrow: made(paged(narrow)) },
  };
}

interface AdamGroup extends GroupOptions {
  betas: readonly [number, number];
  eps: number;
}

const adam = (name: string, weight_decay: number, max_unorm = 0): Kind<AdamGroup> => ({
  name,
  rule: "adam",
  table: ADAM,
  defaults: { ...COMMON, betas: [0.9, 0.999], eps: 1e-8, weight_decay, max_unorm },
  numbers({ lr, betas: [beta1, beta2], eps, weight_decay: decay }, t): StepNumbers {
    const root = Math.sqrt(1 - beta2 ** t);
    const limit = longest(1 - beta1, beta1, beta2, t);
    return { lr: (lr * root) / (1 - beta1 ** t), shrink: 1 - lr * decay, beta1, beta2, eps: eps * root, limit };
  },
});

/**
 * What |m| / √v can be at most after `t` steps, by the inequality of Cauchy and Schwarz: m weighs the gradients with `rate` *
 * beta^i, v their squares with (1 - beta2) * beta2^i. An update beyond it comes from a v that was rounded to too little.
 */
function longest(rate: number, beta: number, beta2: number, t: number): number {
  const ratio = beta ** 2 / beta2;
  const sum = beta2 === 0 ? t : ratio === 1 ? t : (1 - ratio ** t) / (1 - ratio);
  return Math.min(rate * Math.sqrt(sum / (1 - beta2)), 1e30);
}

interface AdEMAMixGroup extends GroupOptions {
  betas: readonly [number, number, number];
  eps: number;
  alpha: number;
  t_alpha?: number | null;
  t_beta3?: number | null;
}

const ademamix: Kind<AdEMAMixGroup> = {
  name: "AdEMAMix",
  rule: "ademamix",
  table: ADEMAMIX,
  defaults: { ...COMMON, betas: [0.9, 0.999, 0.9999], eps: 1e-8, alpha: 5, weight_decay: 0.01 },
  numbers({ lr, betas: [beta1, beta2, last], eps, alpha, t_alpha, t_beta3, weight_decay }, t) {
    // Both schedules of the paper (Pagliardini et al. 2024): linear in alpha, and in the half-life of the slow average.
    const weight = t_alpha ? Math.min((t * alpha) / t_alpha, alpha) : alpha;
    let beta3 = last;
    if (t_beta3) {
      if (beta1 === 0 || last === 0) {
        throw new OptionError("AdEMAMix: t_beta3 needs first and third betas above 0", {
          details: { option: "betas" },
        });
      }
      const share = t / t_beta3;
      const [log1, log3] = [Math.log(beta1), Math.log(last)];
      beta3 = Math.min(Math.exp((log1 * log3) / ((1 - share) * log3 + share * log1)), last);
    }
    const correction = 1 - beta1 ** t;
    const root = Math.sqrt(1 - beta2 ** t);
    const slow = alpha * correction * longest(1 - (t_beta3 ? beta1 : last), last, beta2, t);
    return {
      lr: (lr * root) / correction,
      shrink: 1 - lr * weight_decay,
      beta1,
      beta2,
      beta3,
      eps: eps * root,
      alpha: weight * correction,
      limit: longest(1 - beta1, beta1, beta2, t) + slow,
    };
  },
};

interface MomentumGroup extends GroupOptions {
  momentum: number;
}

const momentum = (name: string, max_unorm: number): Kind<MomentumGroup> => ({
  name,
  rule: "momentum",
  table: MOMENTUM,
  defaults: { ...COMMON, max_unorm, lr: undefined, momentum: undefined } as unknown as MomentumGroup,
  needed: ["lr", "momentum"],
  numbers: ({ lr, momentum: beta1, weight_decay }, t) => ({ lr, decay: weight_decay, beta1, first: t === 1 }),
});

interface LionGroup extends GroupOptions {
  betas: readonly [number, number];
}

const lion: Kind<LionGroup> = {
  name: "Lion",
  rule: "lion",
  table: LION,
  defaults: { ...COMMON, lr: 1e-4, betas: [0.9, 0.99] },
  numbers: ({ lr, betas: [beta1, beta2], weight_decay }) => ({ lr, shrink: 1 - lr * weight_decay, beta1, beta2 }),
};

interface RMSpropGroup extends GroupOptions {
  alpha: number;
  eps: number;
}

const rmsprop: Kind<RMSpropGroup> = {
  name: "RMSprop",
  rule: "rmsprop",
  table: RMSPROP,
  defaults: { ...COMMON, lr: 1e-2, alpha: 0.99, eps: 1e-8 },
  numbers: ({ lr, alpha: beta1, eps, weight_decay }) => ({ lr, decay: weight_decay, beta1, eps }),
};

interface AdagradGroup extends GroupOptions {
  eps: number;
}

const adagrad: Kind<AdagradGroup> = {
  name: "Adagrad",
  rule: "adagrad",
  table: ADAGRAD,
  defaults: { ...COMMON, lr: 1e-2, eps: 1e-10 },
  numbers: ({ lr, eps, weight_decay }) => ({ lr, decay: weight_decay, eps }),
};

const ADAM_CLASSES = classesOf<AdamGroup, AdamOptions>(adam("Adam", 0));
const ADAMW_CLASSES = classesOf<AdamGroup, AdamOptions>(adam("AdamW", 0.01));
const LAMB_CLASSES = classesOf<AdamGroup, AdamOptions>(adam("LAMB", 0, 1));
const ADEMAMIX_CLASSES = classesOf<AdEMAMixGroup, AdEMAMixOptions>(ademamix);
const SGD_CLASSES = classesOf<MomentumGroup, MomentumOptions>(momentum("SGD", 0));
const LARS_CLASSES = classesOf<MomentumGroup, MomentumOptions>(momentum("LARS", 0.02));
const LION_CLASSES = classesOf<LionGroup, LionOptions>(lion);
const RMSPROP_CLASSES = classesOf<RMSpropGroup, RMSpropOptions>(rmsprop);
const ADAGRAD_CLASSES = classesOf<AdagradGroup, AdagradOptions>(adagrad);

/** Adam (Kingma and Ba 2015); weight decay is decoupled, as in bitsandbytes. */
export class Adam extends ADAM_CLASSES.Free {}
export class Adam32bit extends ADAM_CLASSES.Wide {}
export class Adam8bit extends ADAM_CLASSES.Narrow {}
/** Adam with a weight decay of 0.01 (Loshchilov and Hutter 2019). */
export class AdamW extends ADAMW_CLASSES.Free {}
export class AdamW32bit extends ADAMW_CLASSES.Wide {}
export class AdamW8bit extends ADAMW_CLASSES.Narrow {}
/** Adam whose states lie in the host's memory where its parameters are on a GPU, and come piece by piece for a step. */
export class PagedAdam extends ADAM_CLASSES.Paged {}
export class PagedAdam32bit extends ADAM_CLASSES.PagedWide {}
export class PagedAdam8bit extends ADAM_CLASSES.PagedNarrow {}
/** AdamW with such states. */
export class PagedAdamW extends ADAMW_CLASSES.Paged {}
export class PagedAdamW32bit extends ADAMW_CLASSES.PagedWide {}
export class PagedAdamW8bit extends ADAMW_CLASSES.PagedNarrow {}
/** Adam whose updates are at most as long as the parameter (max_unorm 1), as bitsandbytes has LAMB; in 8 bits too. */
export class LAMB extends LAMB_CLASSES.Free {}
export class LAMB32bit extends LAMB_CLASSES.Wide {}
export class LAMB8bit extends LAMB_CLASSES.Narrow {}
/** Adam with a second, slow average (Pagliardini et al. 2024). */
export class AdEMAMix extends ADEMAMIX_CLASSES.Free {}
export class AdEMAMix32bit extends ADEMAMIX_CLASSES.Wide {}
export class AdEMAMix8bit extends ADEMAMIX_CLASSES.Narrow {}
/** AdEMAMix whose states lie in the host's memory. */
export class PagedAdEMAMix extends ADEMAMIX_CLASSES.Paged {}
export class PagedAdEMAMix32bit extends ADEMAMIX_CLASSES.PagedWide {}
export class PagedAdEMAMix8bit extends ADEMAMIX_CLASSES.PagedNarrow {}
/** Gradient descent with momentum. `lr` and `momentum` are needed. */
export class SGD extends SGD_CLASSES.Free {}
export class SGD32bit extends SGD_CLASSES.Wide {}
export class SGD8bit extends SGD_CLASSES.Narrow {}
/** Momentum whose updates are at most 0.02 of the parameter's length. `lr` and `momentum` are needed. */
export class LARS extends LARS_CLASSES.Free {}
export class LARS32bit extends LARS_CLASSES.Wide {}
export class LARS8bit extends LARS_CLASSES.Narrow {}
/** The sign of an average (Chen et al. 2023). */
export class Lion extends LION_CLASSES.Free {}
export class Lion32bit extends LION_CLASSES.Wide {}
export class Lion8bit extends LION_CLASSES.Narrow {}
/** Lion whose states lie in the host's memory. */
export class PagedLion extends LION_CLASSES.Paged {}
export class PagedLion32bit extends LION_CLASSES.PagedWide {}
export class PagedLion8bit extends LION_CLASSES.PagedNarrow {}
export class RMSprop extends RMSPROP_CLASSES.Free {}
export class RMSprop32bit extends RMSPROP_CLASSES.Wide {}
export class RMSprop8bit extends RMSPROP_CLASSES.Narrow {}
/** Adagrad (Duchi et al. 2011). */
export class Adagrad extends ADAGRAD_CLASSES.Free {}
export class Adagrad32bit extends ADAGRAD_CLASSES.Wide {}
export class Adagrad8bit extends ADAGRAD_CLASSES.Narrow {}
