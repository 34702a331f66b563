// Learning rate schedules with transformers' names, arguments and values: each gives the factor of the rate after k updates. Update
// k + 1 is made with factor k, so with a warm-up the first update changes nothing.

import { isFunction, listOf } from "../core/checks.js";
import { entriesOf, OptionError, suggestion } from "../core/errors.js";
import { choice, number, type Options, readOptions, such, type Table, whole } from "../core/options.js";
import { show } from "../core/show.js";

/** What a schedule changes: the rates of an optimizer. */
export interface HasRates {
  readonly param_groups: readonly { lr: number }[];
}

/** The factor of the learning rate after so many updates. */
export type Factor = (updates: number) => number;

/** The names of schedules, in transformers' spelling. */
export const SCHEDULER_TYPES = [
  "linear",
  "cosine",
  "cosine_with_restarts",
  "polynomial",
  "constant",
  "constant_with_warmup",
  "inverse_sqrt",
  "reduce_lr_on_plateau",
  "cosine_with_min_lr",
  "cosine_warmup_with_min_lr",
  "warmup_stable_decay",
] as const;
export type SchedulerType = (typeof SCHEDULER_TYPES)[number];

const finite = (n: number): boolean => Number.isFinite(n);
const real = () => number(finite, "a number");
const least0 = () => number((n) => n >= 0 && finite(n), "a number of at least 0");
const share = () => number((n) => n >= 0 && n <= 1, "a number from 0 to 1");
const SHAPES = ["linear", "cosine", "1-sqrt"] as const;

/** Options of a cosine that ends above 0. */
const MIN_LR = { num_cycles: real(), min_lr: least0(), min_lr_rate: least0() };

/** What each schedule takes beside its steps: `lr_scheduler_kwargs` of TrainingArguments. */
const SPECIFIC = {
  linear: {},
  constant: {},
  constant_with_warmup: {},
  cosine: { num_cycles: real() },
  cosine_with_restarts: { num_cycles: least0() },
  polynomial: { lr_end: least0(), power: real() },
  inverse_sqrt: { timescale: number((n) => n > 0 && finite(n), "a number above 0") },
  cosine_with_min_lr: MIN_LR,
  cosine_warmup_with_min_lr: { ...MIN_LR, warmup_lr_rate: least0() },
  warmup_stable_decay: {
    num_decay_steps: whole(0),
    num_stable_steps: whole(0),
    warmup_type: choice(SHAPES),
    decay_type: choice(SHAPES),
    min_lr_ratio: share(),
    num_cycles: real(),
  },
  reduce_lr_on_plateau: {
    mode: choice(["min", "max"]),
    factor: number((n) => n > 0 && n < 1, "a number above 0, below 1"),
    patience: whole(0),
    threshold: least0(),
    threshold_mode: choice(["rel", "abs"]),
    cooldown: whole(0),
    min_lr: least0(),
    eps: least0(),
  },
} satisfies Record<SchedulerType, Table>;

/** The options of a schedule, checked. @throws OptionError */
export function schedulerKwargs(name: SchedulerType, given: unknown): Readonly<Record<string, unknown>> {
  return readOptions(name, SPECIFIC[name], given, "lr_scheduler_kwargs.");
}

const GET_SCHEDULER = {
  /** Updates over which the rate grows from 0. */
  num_warmup_steps: whole(0),
  /** All updates. */
  num_training_steps: whole(0),
  /** What this schedule takes beside them. */
  scheduler_specific_kwargs: such<Readonly<Record<string, unknown>>>(
    (value) => typeof value === "object" && value !== null,
    "an object of options of this schedule",
  ),
} satisfies Table;

export interface SchedulerOptions extends Options<typeof GET_SCHEDULER> {}

/** The rate of a schedule, which `step` moves on after each update. */
export interface LRScheduler {
  /** Sets the next update's rates. @param metric of an evaluation, for reduce_lr_on_plateau alone */
  step(metric?: number): void;
  /** The rates of the next update, one for each group. */
  get_last_lr(): number[];
  state_dict(): Record<string, unknown>;
  /** @throws OptionError for anything but what `state_dict` gave */
  load_state_dict(state: Readonly<Record<string, unknown>>): void;
}

/** The groups of an optimizer. @throws OptionError */
function groupsOf(call: string, optimizer: unknown): readonly { lr: number }[] {
  try {
    const { param_groups } = optimizer as HasRates;
    const groups = listOf(
      param_groups,
      (one): one is { lr: number } => typeof (one as HasRates)?.param_groups !== "number",
    );
    if (groups && groups.length > 0 && groups.every(({ lr }) => typeof lr === "number")) return param_groups;
  } catch {
    // nothing with members, or with members that cannot be read
  }
  throw new OptionError(`${call}: expected an optimizer, got ${show(optimizer)}`, {
    hint: "its param_groups have rates: new AdamW(params, { lr })",
  });
}

function numbersOf(call: string, value: unknown, count: number): number[] {
  const numbers = listOf(value, (one): one is number => typeof one === "number");
  if (numbers?.length === count) return numbers;
  throw new OptionError(`${call}: expected ${count} numbers, got ${show(value)}`);
}

/** torch's LambdaLR: the first rate of each group, times a factor. */
export class LambdaLR implements LRScheduler {
  readonly #groups: readonly { lr: number }[];
  readonly #factor: Factor;
  #base: number[];
  #updates = 0;

  /** @throws OptionError */
  constructor(optimizer: HasRates, factor: Factor) {
    this.#groups = groupsOf("LambdaLR", optimizer);
    if (!isFunction(factor)) throw new OptionError(`LambdaLR: expected a function of the updates, got ${show(factor)}`);
    this.#factor = factor;
    this.#base = this.#groups.map(({ lr }) => lr);
    this.#apply();
  }

  #apply(): void {
    const factor = this.#factor(this.#updates);
    if (typeof factor !== "number") throw new OptionError(`LambdaLR: the factor must be a number, got ${show(factor)}`);
    this.#groups.forEach((group, i) => void (group.lr = this.#base[i]! * factor));
  }

  step(): void {
    this.#updates++;
    this.#apply();
  }

  get_last_lr(): number[] {
    return this.#groups.map(({ lr }) => lr);
  }

  state_dict(): Record<string, unknown> {
    return { base_lrs: [...this.#base], last_epoch: this.#updates, _last_lr: this.get_last_lr() };
  }

  load_state_dict(state: Readonly<Record<string, unknown>>): void {
    const fields = new Map(entriesOf("load_state_dict", state));
    const base = numbersOf("load_state_dict: base_lrs", fields.get("base_lrs"), this.#groups.length);
    const [updates] = numbersOf("load_state_dict: last_epoch", [fields.get("last_epoch")], 1);
    this.#base = base;
    this.#updates = updates!;
    this.#apply();
  }
}

/** torch's ReduceLROnPlateau: the rates shrink when a metric has stopped getting better. */
export class ReduceLROnPlateau implements LRScheduler {
  readonly #groups: readonly { lr: number }[];
  readonly #options: Required<Options<(typeof SPECIFIC)["reduce_lr_on_plateau"]>>;
  #best: number;
  #bad = 0;
  #cooling = 0;
  #updates = 0;

  /** @throws OptionError */
  constructor(optimizer: HasRates, options: Options<(typeof SPECIFIC)["reduce_lr_on_plateau"]> = {}) {
    this.#groups = groupsOf("ReduceLROnPlateau", optimizer);
    const given = readOptions("ReduceLROnPlateau", SPECIFIC.reduce_lr_on_plateau, options);
    const defaults = { mode: "min", factor: 0.1, patience: 10, threshold: 1e-4, threshold_mode: "rel" } as const;
    this.#options = { ...defaults, cooldown: 0, min_lr: 0, eps: 1e-8, ...given };
    this.#best = this.#options.mode === "min" ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY;
  }

  #better(metric: number): boolean {
    const { mode, threshold, threshold_mode } = this.#options;
    if (threshold_mode === "rel") {
      return mode === "min" ? metric < this.#best * (1 - threshold) : metric > this.#best * (threshold + 1);
    }
    return mode === "min" ? metric < this.#best - threshold : metric > this.#best + threshold;
  }

  /** @throws OptionError without a number */
  step(metric?: number): void {
    if (typeof metric !== "number")
      throw new OptionError(`step: expected the metric of an evaluation, got ${show(metric)}`);
    const { patience, cooldown, factor, min_lr, eps } = this.#options;
    this.#updates++;
    if (this.#better(metric)) {
      this.#best = metric;
      this.#bad = 0;
    } else this.#bad++;
    if (this.#cooling > 0) {
      this.#cooling--;
      this.#bad = 0;
    }
    if (this.#bad <= patience) return;
    for (const group of this.#groups) {
      const lr = Math.max(group.lr * factor, min_lr);
      if (group.lr - lr > eps) group.lr = lr;
    }
    this.#cooling = cooldown;
    this.#bad = 0;
  }

  get_last_lr(): number[] {
    return this.#groups.map(({ lr }) => lr);
  }

  state_dict(): Record<string, unknown> {
    const best = Number.isFinite(this.#best) ? this.#best : null; // JSON has no infinities
    return {
      ...{ best, num_bad_epochs: this.#bad, cooldown_counter: this.#cooling, last_epoch: this.#updates },
      _last_lr: this.get_last_lr(),
    };
  }

  load_state_dict(state: Readonly<Record<string, unknown>>): void {
    const fields = new Map(entriesOf("load_state_dict", state));
    const names = ["num_bad_epochs", "cooldown_counter", "last_epoch"];
    const [bad, cooling, updates] = numbersOf(
      "load_state_dict",
      names.map((name) => fields.get(name)),
      3,
    );
    const rates = numbersOf("load_state_dict: _last_lr", fields.get("_last_lr"), this.#groups.length);
    const best = fields.get("best");
    if (typeof best === "number") this.#best = best;
    this.#bad = bad!;
    this.#cooling = cooling!;
    this.#updates = updates!;
    this.#groups.forEach((group, i) => void (group.lr = rates[i]!));
  }
}

/** Grows from 0 to 1 over `warmup` updates, and then follows `after`. */
const warmed =
  (warmup: number, after: Factor): Factor =>
  (k) =>
    k < warmup ? k / Math.max(1, warmup) : after(k);

const cosine = (cycles: number, progress: number): number => 0.5 * (1 + Math.cos(Math.PI * cycles * 2 * progress));

/** The least factor of a cosine that ends above 0. @throws OptionError unless exactly one of both is given */
function leastRate(
  name: string,
  lr: number,
  { min_lr, min_lr_rate }: { min_lr?: number; min_lr_rate?: number },
): number {
  if ((min_lr === undefined) === (min_lr_rate === undefined)) {
    throw new OptionError(`${name}: exactly one of min_lr and min_lr_rate is needed`, {
      details: { option: "min_lr" },
    });
  }
  return min_lr_rate ?? min_lr! / lr;
}

/** Between 0 and 1, as far as the shape is along. */
function grown(shape: (typeof SHAPES)[number], progress: number): number {
  if (shape === "linear") return progress;
  return shape === "cosine" ? 0.5 * (1 - Math.cos(Math.PI * progress)) : 1 - Math.sqrt(1 - progress);
}

function factorOf(
  name: Exclude<SchedulerType, "reduce_lr_on_plateau">,
  lr: number,
  { num_warmup_steps, num_training_steps, scheduler_specific_kwargs: specific = {} }: SchedulerOptions,
): Factor {
  const needed = (option: "num_warmup_steps" | "num_training_steps", value: number | undefined): number => {
    if (value !== undefined) return value;
    throw new OptionError(`get_scheduler: ${name} needs ${option}`, { details: { option } });
  };
  const read = <T extends Table>(table: T): Options<T> => readOptions(`get_scheduler: ${name}`, table, specific);
  if (name === "constant") {
    read(SPECIFIC.constant);
    return () => 1;
  }
  const W = needed("num_warmup_steps", num_warmup_steps);
  if (name === "constant_with_warmup") {
    read(SPECIFIC.constant_with_warmup);
    return (k) => (k < W ? k / Math.max(1, W) : 1);
  }
  if (name === "inverse_sqrt") {
    const { timescale = W || 10_000 } = read(SPECIFIC.inverse_sqrt);
    return warmed(W, (k) => 1 / Math.sqrt((k + timescale - W) / timescale));
  }
  if (name === "warmup_stable_decay") return stable(W, num_training_steps, read(SPECIFIC.warmup_stable_decay));
  const T = needed("num_training_steps", num_training_steps);
  const progress = (k: number): number => (k - W) / Math.max(1, T - W);
  switch (name) {
    case "linear":
      read(SPECIFIC.linear);
      return warmed(W, (k) => Math.max(0, (T - k) / Math.max(1, T - W)));
    case "cosine": {
      const { num_cycles = 0.5 } = read(SPECIFIC.cosine);
      return warmed(W, (k) => Math.max(0, cosine(num_cycles, progress(k))));
    }
    case "cosine_with_restarts": {
      const { num_cycles = 1 } = read(SPECIFIC.cosine_with_restarts);
      return warmed(W, (k) => {
        const p = progress(k);
        return p >= 1 ? 0 : Math.max(0, 0.5 * (1 + Math.cos(Math.PI * ((num_cycles * p) % 1))));
      });
    }
    case "polynomial": {
      const { lr_end = 1e-7, power = 1 } = read(SPECIFIC.polynomial);
      if (!(lr > lr_end)) {
        throw new OptionError(`get_scheduler: lr_end (${lr_end}) must be smaller than the learning rate (${lr})`, {
          details: { option: "lr_end" },
        });
      }
      return warmed(W, (k) => {
        if (k > T) return lr_end / lr;
        return ((lr - lr_end) * (1 - (k - W) / (T - W)) ** power + lr_end) / lr;
      });
    }
    case "cosine_with_min_lr": {
      const { num_cycles = 0.5, ...ends } = read(SPECIFIC.cosine_with_min_lr);
      const least = leastRate(name, lr, ends);
      return warmed(W, (k) => Math.max(0, cosine(num_cycles, progress(k)) * (1 - least) + least));
    }
    case "cosine_warmup_with_min_lr": {
      const { num_cycles = 0.5, warmup_lr_rate: first, ...ends } = read(SPECIFIC.cosine_warmup_with_min_lr);
      const least = leastRate(name, lr, ends);
      return (k) => {
        if (k < W && first === undefined) return (k + 1) / Math.max(1, W);
        if (k < W) return first! + ((1 - first!) * k) / Math.max(1, W - 1);
        const p = (k - W + 1) / Math.max(1, T - W);
        return Math.max(0, cosine(num_cycles, p) * (1 - least) + least);
      };
    }
  }
}

/** Warm-up, a plateau and a decay (Hu et al. 2024, MiniCPM). */
function stable(W: number, T: number | undefined, options: Options<(typeof SPECIFIC)["warmup_stable_decay"]>): Factor {
  const { num_decay_steps: D, warmup_type = "linear", decay_type = "cosine", min_lr_ratio: r = 0 } = options;
  const { num_cycles = 0.5, num_stable_steps } = options;
  if (D === undefined || (num_stable_steps === undefined && T === undefined)) {
    const option = D === undefined ? "num_decay_steps" : "num_stable_steps";
    throw new OptionError(`get_scheduler: warmup_stable_decay needs ${option}`, { details: { option } });
  }
  const S = num_stable_steps ?? T! - W - D;
  const above = (factor: number): number => Math.max(0, factor * (1 - r) + r);
  return (k) => {
    if (k < W) return above(grown(warmup_type, k / Math.max(1, W)));
    if (k < W + S) return 1;
    if (k >= W + S + D) return r;
    const p = (k - W - S) / Math.max(1, D);
    if (decay_type === "cosine") return above(cosine(num_cycles, p));
    return above(decay_type === "linear" ? 1 - p : 1 - Math.sqrt(p));
  };
}

/**
 * A schedule by its name, over the rates that the optimizer has now.
 * @throws OptionError for an unknown name, and for what the schedule needs or does not take
 */
export function get_scheduler(name: SchedulerType, optimizer: HasRates, options: SchedulerOptions = {}): LRScheduler {
  if (!(SCHEDULER_TYPES as readonly unknown[]).includes(name)) {
    const near = typeof name === "string" ? suggestion(name, SCHEDULER_TYPES) : undefined;
    throw new OptionError(
      `get_scheduler: there is no schedule ${show(name)}${near ? `; did you mean "${near}"?` : ""}`,
      {
        hint: `there are ${SCHEDULER_TYPES.join(", ")}`,
      },
    );
  }
  const given = readOptions("get_scheduler", GET_SCHEDULER, options);
  const [group] = groupsOf("get_scheduler", optimizer);
  if (name === "reduce_lr_on_plateau") {
    return new ReduceLROnPlateau(optimizer, given.scheduler_specific_kwargs ?? {});
  }
  return new LambdaLR(optimizer, factorOf(name, group!.lr, given));
}
