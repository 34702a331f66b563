// Adafactor (Shazeer and Stern 2018) as transformers has it: of the squares of a matrix's gradients it keeps the means of rows and of columns
// alone. Its steps are ops; what depends on the number of the step alone is computed on the host.

import { type GivenGroup, type Kind, Optimizer, type Rates, type StateKeeper } from "../bnb/optim/optimizer.js";
import type { Trained } from "../bnb/optim/parameter.js";
import type { ParameterState, SavedState } from "../bnb/optim/states.js";
import { listOf } from "../core/checks.js";
import { entriesOf, OptionError, ShapeError } from "../core/errors.js";
import { flag, number, type Options, such, type Table } from "../core/options.js";
import { show } from "../core/show.js";
import { kept, scope, Tensor } from "../core/tensor.js";
import { activation } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { copyInto } from "../ops/copy.js";
import { filled } from "../ops/fill.js";
import { multiply } from "../ops/gated.js";
import { linear, linearBack } from "../ops/linear.js";
import { optimizerStep, type StepNumbers } from "../ops/optimizer.js";
import { scale } from "../ops/scale.js";
import { sumRows } from "../ops/sum-rows.js";
import { transfer } from "../ops/transfer.js";

const least0 = (value: unknown): value is number => typeof value === "number" && value >= 0 && value < 1e30;

const ADAFACTOR = {
  /** Size of a step; null (default) for one that depends on the number of the step (`relative_step`). */
  lr: such<number | null>((value) => value === null || least0(value), "a number of at least 0, or null"),
  /** What is added to squares of gradients, and the least size that a parameter counts as. Default [1e-30, 0.001]. */
  eps: such<readonly [number, number]>((value) => listOf(value, least0)?.length === 2, "two numbers of at least 0"),
  /** The root mean square of an update is at most this. Default 1. */
  clip_threshold: number((n) => n > 0 && n < 1e30, "a number above 0"),
  /** Means of squares of step t keep 1 - t to this power of what they were. Default -0.8. */
  decay_rate: number((n) => n <= 0 && n > -100, "a number of at most 0"),
  /** Share that the mean of the updates keeps; null (default) for none. */
  beta1: such<number | null>(
    (value) => value === null || (least0(value) && value < 1),
    "a number from 0 to below 1, or null",
  ),
  /** Default 0. */
  weight_decay: number(least0, "a number of at least 0"),
  /** Steps are multiplied by the root mean square of their parameter. Default true. */
  scale_parameter: flag(),
  /** The size of a step is the root of one over its number, at most 0.01. Default true. */
  relative_step: flag(),
  /** At most a millionth times the number of the step instead. Default false. */
  warmup_init: flag(),
} satisfies Table;

export interface AdafactorOptions extends Options<typeof ADAFACTOR> {}

/** The options of a group. `lr` is null where steps are relative. */
export interface AdafactorGroup extends Rates {
  eps: readonly [number, number];
  clip_threshold: number;
  decay_rate: number;
  beta1: number | null;
  scale_parameter: boolean;
  relative_step: boolean;
  warmup_init: boolean;
}

const refused = (option: string, message: string): OptionError =>
  new OptionError(`Adafactor: ${message}`, { details: { option } });

const KIND: Kind<AdafactorGroup> = {
  name: "Adafactor",
  table: ADAFACTOR,
  keeper: () => new Factored(),
  defaults: {
    ...{ lr: null as unknown as number, eps: [1e-30, 1e-3], clip_threshold: 1, decay_rate: -0.8, beta1: null },
    ...{ weight_decay: 0, scale_parameter: true, relative_step: true, warmup_init: false },
  },
  numbers({ lr: given, relative_step, warmup_init, decay_rate, weight_decay: decay }, t) {
    const lr = given as number | null;
    if (lr !== null && relative_step) {
      throw refused("relative_step", "lr cannot be used with relative_step: true, which is the default");
    }
    if (lr === null && !relative_step) throw refused("lr", "lr is needed where relative_step is false");
    if (warmup_init && !relative_step) throw refused("warmup_init", "warmup_init: true needs relative_step: true");
    const size = relative_step ? Math.min(warmup_init ? 1e-6 * t : 1e-2, 1 / Math.sqrt(t)) : lr!;
    return { lr: size, decay, beta2: 1 - t ** decay_rate };
  },
};

/** States of a parameter by the names that Python gives them. */
const NAMES = {
  factored: { state1: "exp_avg_sq_row", state2: "exp_avg_sq_col", state3: "exp_avg" },
  plain: { state1: "exp_avg_sq", state3: "exp_avg" },
} as const;

type Key = keyof (typeof NAMES)["factored"];

/** Rows and columns of a parameter with at least two dims, of which the leading ones count its matrices. */
function matricesOf({ shape }: Tensor): { readonly count: number; readonly rows: number; readonly columns: number } {
  const [rows = 0, columns = 0] = shape.slice(-2);
  return { count: shape.slice(0, -2).reduce((n, size) => n * size, 1), rows, columns };
}

class Factored implements StateKeeper<AdafactorGroup> {
  /** The states of a parameter: what they are called, and their shapes. */
  #parts(value: Tensor, { beta1 }: AdafactorGroup): { key: Key; name: string; shape: readonly number[] }[] {
    const { shape } = value;
    const factored = shape.length >= 2;
    const names = Object.entries(factored ? NAMES.factored : NAMES.plain) as [Key, string][];
    return names.flatMap(([key, name]): { key: Key; name: string; shape: readonly number[] }[] => {
      if (key === "state3") return beta1 === null ? [] : [{ key, name, shape }];
      const own = key === "state2" ? [...shape.slice(0, -2), ...shape.slice(-1)] : shape.slice(0, -1);
      return [{ key, name, shape: factored ? own : shape }];
    });
  }

  make(value: Tensor, group: AdafactorGroup): ParameterState {
    const tensors = kept(() =>
      Object.fromEntries(this.#parts(value, group).map(({ key, shape }) => [key, filled(value.device, shape, 0)])),
    );
    return { step: 0, ...tensors } as unknown as ParameterState;
  }

  step(state: ParameterState, p: Tensor, g: Tensor, numbers: StepNumbers, group: AdafactorGroup): void {
    scope(() => {
      const { eps, clip_threshold, beta1, scale_parameter } = group;
      const { lr, beta2: keeps = 0, decay = 0 } = numbers;
      const squares = add(multiply(g, g), filled(g.device, g.shape, eps[0]));
      const update = p.shape.length >= 2 ? factored(state, g, squares, keeps) : plain(state, g, squares, keeps);
      // At least as long as this, an update is what it is over its own length.
      const most = Math.sqrt(p.size) * clip_threshold;
      const limit = scale(inverseOf(atLeast(lengthOf(update), most)), most * lr);
      const size = scale_parameter ? atLeast(scale(lengthOf(p), 1 / Math.sqrt(p.size)), eps[1]) : undefined;
      let change = multiply(update, spread(size ? multiply(limit, size) : limit, update));
      if (beta1 !== null) {
        const mean = state.state3!;
        copyInto(add(scale(mean, beta1), scale(change, 1 - beta1)), mean);
        change = mean;
      }
      const less = decay === 0 ? p : decayed(p, size, decay * lr);
      copyInto(add(less, scale(change, -1)), p);
    });
    state.step++;
  }

  saved({ step, ...states }: ParameterState): Record<string, unknown> {
    const names: Readonly<Record<string, string>> = states.state2 ? NAMES.factored : NAMES.plain;
    const aliases = Object.entries(states).map(([key, tensor]) => [names[key], (tensor as Tensor).alias()]);
    return { step, ...Object.fromEntries(aliases) };
  }

  checked(place: string, held: unknown, value: Tensor, group: AdafactorGroup): SavedState {
    const entries = new Map(entriesOf(place, held));
    const step = entries.get("step");
    if (!Number.isSafeInteger(step) || (step as number) < 0) {
      throw new OptionError(`${place}: step must be a whole number, got ${show(step)}`);
    }
    const parts = this.#parts(value, group);
    // Python's own has the size of the parameter as well, which is computed anew here.
    const known = [...parts.map(({ name }) => name), "step", "RMS"];
    const odd = [...entries.keys()].find((key) => !known.includes(key));
    if (odd !== undefined) throw new OptionError(`${place}: entries are ${known.join(", ")}, got ${show(odd)}`);
    const tensors = parts.map(({ key, name, shape }) => {
      const tensor = entries.get(name);
      const fits = Tensor.is(tensor) && tensor.dtype === "f32" && tensor.contiguous;
      if (fits && tensor.shape.join() === shape.join()) return [key, tensor] as const;
      throw new ShapeError(`${place}: ${name} must be a Tensor f32[${shape.join(", ")}], got ${show(tensor)}`);
    });
    return { step: step as number, coded: false, tensors };
  }

  restored(
    saved: SavedState,
    value: Tensor,
    before: ParameterState | undefined,
    group: AdafactorGroup,
  ): ParameterState {
    const fits = before !== undefined && (before.state3 !== undefined) === (group.beta1 !== null);
    const state = fits ? before : this.make(value, group);
    for (const [key, from] of saved.tensors) copyInto(transfer(from, value.device), state[key]!);
    state.step = saved.step;
    if (before && !fits) this.free(before);
    return state;
  }

  free({ step: _, ...states }: ParameterState): void {
    for (const tensor of Object.values(states)) (tensor as Tensor).dispose();
  }

  dispose(): void {}
}

/** Takes squares into a mean, in place. */
function average(mean: Tensor, more: Tensor, keeps: number): void {
  copyInto(add(scale(mean, keeps), scale(more, 1 - keeps)), mean);
}

/** g over the root of the mean of its squares. */
function plain({ state1: mean }: ParameterState, g: Tensor, squares: Tensor, keeps: number): Tensor {
  average(mean, squares, keeps);
  return overRoot(g, mean);
}

/** The same by the means of rows and columns: their product, over the mean of all. */
function factored(state: ParameterState, g: Tensor, squares: Tensor, keeps: number): Tensor {
  const { count, rows, columns } = matricesOf(g);
  const update = Tensor.empty(g.device, [count, rows, columns], "f32", "update");
  const [rowMeans, columnMeans] = [state.state1.view(count, rows), state.state2!.view(count, columns)];
  for (let i = 0; i < count; i++) {
    scope(() => {
      const own = squares.view(count, rows, columns).select(0, i);
      const [row, column] = [rowMeans.select(0, i), columnMeans.select(0, i)];
      average(row, scale(linear(own, filled(g.device, [1, columns], 1)).view(rows), 1 / columns), keeps);
      average(column, scale(sumRows(own), 1 / rows), keeps);
      const all = scale(sumRows(row.view(rows, 1)), 1 / rows);
      const ones = (size: number): Tensor => filled(g.device, [size], 1);
      const byRow = multiply(overRoot(ones(rows), row), spread(overRoot(all, all), row));
      const both = linearBack(byRow.view(rows, 1), overRoot(ones(columns), column).view(1, columns));
      copyInto(multiply(both, g.view(count, rows, columns).select(0, i)), update.select(0, i));
    });
  }
  return update.view(...g.shape);
}

/** p less a share of it, times `size` if there is one. */
function decayed(p: Tensor, size: Tensor | undefined, share: number): Tensor {
  const less = scale(p, -share);
  return add(p, size ? multiply(less, spread(size, p)) : less);
}

/** A number, f32[1], for each element of another tensor. */
function spread(x: Tensor, like: Tensor): Tensor {
  return x.view(...like.shape.map(() => 1)).expand(...like.shape);
}

/** The root of the sum of squares, [1]. */
function lengthOf(x: Tensor): Tensor {
  const columns = x.shape.at(-1) ?? 1;
  const sums = sumRows(multiply(x, x).view(-1, columns));
  const sum = sumRows(sums.view(columns, 1));
  return overRoot(sum, sum, 1e-30);
}

/** max(x, least) of f32[1] */
function atLeast(x: Tensor, least: number): Tensor {
  const floor = filled(x.device, [1], least);
  return add(activation(add(x, scale(floor, -1)), "relu"), floor);
}

/** 1 / x of f32[1] above 0. */
function inverseOf(x: Tensor): Tensor {
  return overRoot(filled(x.device, [1], 1), multiply(x, x));
}

/** x / (√v + eps), element by element: what RMSprop steps by where v stays as it is. */
function overRoot(x: Tensor, v: Tensor, eps = 0): Tensor {
  const y = filled(x.device, [x.size], 0);
  const same = Tensor.empty(v.device, [v.size], "f32", "squares");
  copyInto(v.view(v.size), same);
  optimizerStep("rmsprop", { p: y, g: x.view(x.size), states: [same] }, { lr: -1, beta1: 1, eps });
  return y.view(...x.shape);
}

/** Adafactor with transformers' options and defaults; by `optim: "adafactor"` the Trainer makes one with a rate of its own. */
export class Adafactor extends Optimizer<AdafactorGroup> {
  /** @throws OptionError */
  constructor(params: Iterable<Trained> | Iterable<GivenGroup<AdafactorGroup>>, options?: AdafactorOptions) {
    super(KIND, params, options);
  }
}
