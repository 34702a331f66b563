// An optimizer: parameters in groups, each with options of its own, and steps in place. How states are kept is in states.ts.

import { listOf } from "../../core/checks.js";
import { isFloat } from "../../core/dtype.js";
import { entriesOf, OptionError, ShapeError } from "../../core/errors.js";
import { omit, readOptions, type Table } from "../../core/options.js";
import { shapeText, show } from "../../core/show.js";
import { scope, Tensor } from "../../core/tensor.js";
import { contiguous, copyInto } from "../../ops/copy.js";
import type { Rule, StepNumbers } from "../../ops/optimizer.js";
import { pack, unpack } from "../../ops/pack.js";
import { tapes, taping } from "../../ops/tape.js";
import { gradientsOf, gradOf, listFrom, type Trainable, type Trained, tensorOf } from "./parameter.js";
import { type ParameterState, type SavedState, States } from "./states.js";

/** What all optimizers have among their options. */
export interface Rates {
  lr: number;
  weight_decay: number;
}

/** What those of bitsandbytes read of their options; each has more. */
export interface GroupOptions extends Rates {
  optim_bits: number;
  min_8bit_size: number;
  max_unorm: number;
  skip_zeros: boolean;
}

/** How the states of an optimizer are kept, and a parameter is stepped. */
export interface StateKeeper<O> {
  /** States of no step yet. @throws OutOfMemoryError */
  make(value: Tensor, group: O): ParameterState;
  /** One step of a parameter, in place. @param p f32, contiguous @param g its gradient, the same */
  step(state: ParameterState, p: Tensor, g: Tensor, numbers: StepNumbers, group: O): void;
  /** In the library's layout; the tensors are new handles on the same memory. */
  saved(state: ParameterState): Record<string, unknown>;
  /** Checks saved states. @param place for messages @throws OptionError, ShapeError */
  checked(place: string, held: unknown, value: Tensor, group: O): SavedState;
  /** Takes saved states over, wherever they are. @param before the parameter's states */
  restored(saved: SavedState, value: Tensor, before: ParameterState | undefined, group: O): ParameterState;
  /** Frees the states of one parameter. */
  free(state: ParameterState): void;
  dispose(): void;
}

/** Parameters and the options of their steps, which may be changed between steps. */
export type ParamGroup<O> = O & { readonly params: readonly Trained[] };

/** A group as a caller gives it: options that it leaves out are the optimizer's. */
export type GivenGroup<O> = Partial<O> & { readonly params: Iterable<Trained> };

/** What `state_dict` gives: states by the number of the parameter. */
export interface OptimizerStateDict {
  readonly state: Readonly<Record<number, Readonly<Record<string, unknown>>>>;
  readonly param_groups: readonly Readonly<Record<string, unknown>>[];
}

/** What a kind of optimizer is. */
export interface Kind<O> {
  readonly name: string;
  /** What a step does to an element. */
  readonly rule?: Rule;
  /** How states are kept, if not as those of bitsandbytes. */
  readonly keeper?: () => StateKeeper<O>;
  readonly table: Table;
  readonly defaults: O;
  /** True if `optim_bits` cannot be chosen. */
  readonly fixed?: boolean;
  /** True for states in the host's memory, which then cannot be chosen. */
  readonly paged?: boolean;
  /** Options without a default. */
  readonly needed?: readonly string[];
  /** The numbers of step `t`, from 1. @throws OptionError if options do not fit together */
  numbers(options: O, t: number): StepNumbers;
}

export abstract class Optimizer<O extends Rates = GroupOptions> {
  readonly param_groups: ParamGroup<O>[] = [];
  /** By parameter; empty until its first step. */
  readonly state: Map<Trained, ParameterState> = new Map();
  readonly #kind: Kind<O>;
  readonly #defaults: O;
  readonly #states: StateKeeper<O>;

  /** @throws OptionError */
  protected constructor(kind: Kind<O>, params: Iterable<Trained> | Iterable<GivenGroup<O>>, options: unknown) {
    this.#kind = kind;
    const { is_paged = false, ...given } = this.#read(options) as Partial<O> & { readonly is_paged?: boolean };
    this.#states =
      kind.keeper?.() ?? (new States(kind.rule!, kind.paged ?? is_paged) as StateKeeper<unknown> as StateKeeper<O>);
    this.#defaults = { ...kind.defaults, ...given };
    const list = listOf(listFrom(params), (one): one is unknown => one !== undefined);
    if (!list || list.length === 0) {
      throw new OptionError(
        `${kind.name}: params must be a list of Tensors, Parameters or groups, got ${show(params)}`,
      );
    }
    const grouped = list.filter((one) => !tensorOf(one));
    if (grouped.length === 0) this.#add({ ...this.#defaults, params: list as Trained[] });
    else for (const group of list) this.add_param_group(group as GivenGroup<O>);
  }

  /** The options that a caller gave. */
  #read(options: unknown): Partial<O> {
    const { name, table, fixed, paged } = this.#kind;
    const left = [...(fixed ? ["optim_bits"] : []), ...(paged ? ["is_paged"] : [])];
    return readOptions(name, omit(table, left), options) as Partial<O>;
  }

  /** Adds parameters with options of their own; the others are those of the constructor. @throws OptionError */
  add_param_group(group: GivenGroup<O>): void {
    const { name } = this.#kind;
    const entries = new Map(entriesOf(name, group));
    const params = listOf(listFrom(entries.get("params")), (one): one is Trained => tensorOf(one) !== undefined);
    entries.delete("params");
    if (!params)
      throw new OptionError(`${name}: a group has params, a list of Tensors or Parameters, got ${show(group)}`);
    if (entries.has("is_paged")) {
      throw new OptionError(`${name}: is_paged is for all groups`, { details: { option: "is_paged" } });
    }
    this.#add({ ...this.#defaults, ...this.#read(Object.fromEntries(entries)), params });
  }

  #add(group: ParamGroup<O>): void {
    const { name, needed = [] } = this.#kind;
    for (const option of needed) {
      if (group[option as keyof O] === undefined)
        throw new OptionError(`${name}: ${option} is needed`, { details: { option } });
    }
    this.#kind.numbers(group, 1);
    const known = new Set(this.param_groups.flatMap(({ params }) => params));
    for (const param of group.params) {
      const value = tensorOf(param)!;
      if (!isFloat(value.dtype)) {
        throw new OptionError(`${name}: a parameter is a float tensor, got ${shapeText(value.shape)} ${value.dtype}`);
      }
      if (known.has(param)) throw new OptionError(`${name}: a parameter ${shapeText(value.shape)} is given twice`);
      known.add(param);
    }
    this.param_groups.push(group);
  }

  /**
   * Changes every parameter that has a gradient, in place. Nothing waits. Options and gradients are checked
   * before anything changes.
   * @param gradients those of all parameters in order (undefined for none), instead of the parameters' own `grad`
   * @throws OptionError, ShapeError, OutOfMemoryError; GradientError if a recorded gradient still needs the old values
   */
  step(gradients?: readonly (Tensor | null | undefined)[]): void {
    const { name } = this.#kind;
    const params = this.param_groups.flatMap((group) => group.params.map((param) => ({ group, param })));
    const given = gradients === undefined ? undefined : gradientsOf(gradients, params.length);
    if (gradients !== undefined && !given) {
      throw new OptionError(`${name}: step takes a list of ${params.length} gradients, got ${show(gradients)}`);
    }
    const work = params.flatMap(({ group, param }, i) => {
      const gradient = given ? given[i] : gradOf(param);
      if (gradient === undefined || gradient === null) return [];
      this.#check(param, gradient);
      const t = (this.state.get(param)?.step ?? 0) + 1;
      return [{ group, param, gradient, numbers: this.#kind.numbers(group, t) }];
    });
    // Steps are no part of what gradients are recorded for; what a recording still needs they must not overwrite.
    for (const { param } of work) tapes.open?.checkWrite(`${name}.step`, "params", tensorOf(param)!);
    taping(undefined, () => {
      // Memory for all states first: it may not suffice.
      const states = work.map(({ group, param }) => this.#stateOf(group, param));
      work.forEach(({ group, param, gradient, numbers }, i) => {
        const value = tensorOf(param)!;
        scope(() => {
          const p = contiguous(unpack(value), "f32");
          const g = contiguous(gradient, "f32");
          this.#states.step(states[i]!, p, g, numbers, group);
          if (value.panels) pack(contiguous(p, value.dtype), value);
          else if (p !== value) copyInto(p, value);
        });
      });
    });
  }

  #check(param: Trained, gradient: unknown): asserts gradient is Tensor {
    const { name } = this.#kind;
    const value = tensorOf(param);
    if (!value) throw new OptionError(`${name}: a parameter has no tensor any more`);
    if (!Tensor.is(gradient) || !isFloat(gradient.dtype) || gradient.panels) {
      throw new OptionError(`${name}: a gradient is a float Tensor, got ${show(gradient)}`);
    }
    if (gradient.shape.join() !== value.shape.join()) {
      throw new ShapeError(
        `${name}: a gradient ${shapeText(gradient.shape)} is not that of a parameter ${shapeText(value.shape)}`,
      );
    }
  }

  #stateOf(group: ParamGroup<O>, param: Trained): ParameterState {
    const known = this.state.get(param);
    if (known) return known;
    const value = tensorOf(param)!;
    const state = this.#states.make(value, group);
    this.state.set(param, state);
    return state;
  }

  /** Forgets the gradients of all parameters, and frees them. */
  zero_grad(): void {
    for (const { params } of this.param_groups) {
      for (const param of params) {
        const gradient = gradOf(param);
        if (Tensor.is(gradient)) gradient.dispose();
        if (gradient !== undefined) (param as Trainable).grad = undefined;
      }
    }
  }

  /**
   * States and options, in bitsandbytes' layout. The tensors are new handles on the optimizer's own memory, which the next step
   * overwrites; they are the caller's to dispose.
   */
  state_dict(): OptimizerStateDict {
    let next = 0;
    const state: Record<number, Record<string, unknown>> = {};
    const param_groups = this.param_groups.map(({ params, ...options }) => {
      const numbers = params.map((param) => {
        const held = this.state.get(param);
        if (held) state[next] = this.#states.saved(held);
        return next++;
      });
      return { ...options, params: numbers };
    });
    return { state, param_groups };
  }

  /**
   * Takes over what `state_dict` gave, for the same parameters in the same order: states are copied, wherever they are.
   * Nothing is changed if it is refused.
   * @throws OptionError, ShapeError
   */
  load_state_dict(dict: OptimizerStateDict): void {
    const { name, table, fixed } = this.#kind;
    const fields = new Map(entriesOf(`${name}: load_state_dict`, dict, ["state", "param_groups"]));
    const groups = listOf(fields.get("param_groups"), (one): one is object => typeof one === "object" && one !== null);
    if (groups?.length !== this.param_groups.length) {
      throw new OptionError(
        `${name}: load_state_dict wants ${this.param_groups.length} groups, got ${show(fields.get("param_groups"))}`,
      );
    }
    const found = new Map(entriesOf(`${name}: state`, fields.get("state")));
    const changes: (() => void)[] = [];
    let next = 0;
    this.param_groups.forEach((own, g) => {
      const { params, ...options }: Record<string, unknown> = Object.fromEntries(
        entriesOf(`${name}: group ${g}`, groups[g]),
      );
      if (listOf(params, (one): one is number => typeof one === "number")?.length !== own.params.length) {
        throw new OptionError(`${name}: group ${g} has ${own.params.length} parameters, got ${show(params)}`);
      }
      const read = readOptions(name, table, options) as Partial<O>;
      const [bits, said] = [own, read].map((one) => (one as Partial<GroupOptions>).optim_bits);
      if (fixed && said !== undefined && said !== bits) {
        throw new OptionError(`${name}: optim_bits is ${bits}, and the state says ${said}`, {
          details: { option: "optim_bits" },
        });
      }
      changes.push(() => Object.assign(own, read));
      const merged = { ...own, ...read };
      this.#kind.numbers(merged, 1);
      for (const param of own.params) {
        const held = found.get(String(next++));
        if (held === undefined) continue;
        const value = tensorOf(param)!;
        const saved = this.#states.checked(`${name}: state ${next - 1}`, held, value, merged);
        changes.push(() => this.state.set(param, this.#states.restored(saved, value, this.state.get(param), merged)));
      }
    });
    for (const key of found.keys()) {
      if (Number(key) < next) continue;
      throw new OptionError(`${name}: load_state_dict has states of a parameter ${show(key)}, and there are ${next}`);
    }
    for (const change of changes) change();
  }

  /** Frees all states; the parameters stay. */
  dispose(): void {
    for (const state of this.state.values()) this.#states.free(state);
    this.state.clear();
    this.#states.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
