// An optimizer: parameters in groups, states for each, steps in place. States of large parameters are kept in 8-bit codes by blocks of
// 256 (Dettmers et al. 2022), which a kernel decodes, steps and encodes block by block. Steps that need more (three states, the norm of
// the update) decode the states of one parameter, compute in f32 and encode them again. The arithmetic is in ops/optimizer.ts and
// ops/blockwise.ts.

import { listOf } from "../../core/checks.js";
import type { Device } from "../../core/device.js";
import { isFloat } from "../../core/dtype.js";
import { entriesOf, OptionError, ShapeError } from "../../core/errors.js";
import { omit, readOptions, type Table } from "../../core/options.js";
import { shapeText, show } from "../../core/show.js";
import { kept, scope, Tensor } from "../../core/tensor.js";
import { blockwiseDequantize, blockwiseQuantize } from "../../ops/blockwise.js";
import { contiguous, copyInto } from "../../ops/copy.js";
import { filled } from "../../ops/fill.js";
import {
  optimizerStep,
  optimizerStep8bit,
  type Rule,
  STATE_BLOCK,
  STATES,
  type StepNumbers,
} from "../../ops/optimizer.js";
import { tapes, taping } from "../../ops/tape.js";
import { transfer } from "../../ops/transfer.js";
import { dynamicMap } from "../../quant/_dynamic-map.js";
import { gradientsOf, gradOf, listFrom, type Trainable, type Trained, tensorOf } from "./parameter.js";

/** bitsandbytes keeps the states of a parameter under this key, where sharded training does not look. */
const WRAPPED = "__bnb_optimizer_quant_state__";

/** What all optimizers read of their options; each has more. */
export interface GroupOptions {
  lr: number;
  weight_decay: number;
  optim_bits: number;
  min_8bit_size: number;
  max_unorm: number;
  skip_zeros: boolean;
}

/** Parameters and the options of their steps, which may be changed between steps. */
export type ParamGroup<O> = O & { readonly params: readonly Trained[] };

/** A group as a caller gives it: options that it leaves out are the optimizer's. */
export type GivenGroup<O> = Partial<O> & { readonly params: readonly Trained[] };

/** The states of a parameter, flat: f32[n], or u8[n] codes with f32 absmax for each block of 256. */
export interface ParameterState {
  /** Steps that it has taken. */
  step: number;
  readonly state1: Tensor;
  readonly state2?: Tensor;
  readonly state3?: Tensor;
  readonly absmax1?: Tensor;
  readonly absmax2?: Tensor;
  readonly absmax3?: Tensor;
}

/** What `state_dict` gives: states by the number of the parameter. */
export interface OptimizerStateDict {
  readonly state: Readonly<Record<number, Readonly<Record<string, unknown>>>>;
  readonly param_groups: readonly Readonly<Record<string, unknown>>[];
}

/** What a kind of optimizer is. */
export interface Kind<O> {
  readonly name: string;
  readonly rule: Rule;
  readonly table: Table;
  readonly defaults: O;
  /** True if `optim_bits` cannot be chosen. */
  readonly fixed?: boolean;
  /** Options without a default. */
  readonly needed?: readonly string[];
  /** The numbers of step `t`, from 1. @throws OptionError if options do not fit together */
  numbers(options: O, t: number): StepNumbers;
}

/** Which state is a sum of squares: beside a signed state it has the unsigned map. */
const SQUARES: Readonly<Record<Rule, number>> = {
  adam: 1,
  ademamix: 2,
  momentum: -1,
  lion: -1,
  rmsprop: 0,
  adagrad: 0,
};

type Slot = 1 | 2 | 3;

export abstract class Optimizer<O extends GroupOptions = GroupOptions> {
  readonly param_groups: ParamGroup<O>[] = [];
  /** By parameter; empty until its first step. */
  readonly state: Map<Trained, ParameterState> = new Map();
  readonly #kind: Kind<O>;
  readonly #defaults: O;
  readonly #mapsOf = new Map<Device, Tensor>();

  /** @throws OptionError */
  protected constructor(kind: Kind<O>, params: Iterable<Trained> | readonly GivenGroup<O>[], options: unknown) {
    this.#kind = kind;
    this.#defaults = { ...kind.defaults, ...this.#read(options) };
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
    const { name, table, fixed } = this.#kind;
    return readOptions(name, fixed ? omit(table, ["optim_bits"]) : table, options) as Partial<O>;
  }

  /** Adds parameters with options of their own; the others are those of the constructor. @throws OptionError */
  add_param_group(group: GivenGroup<O>): void {
    const { name } = this.#kind;
    const entries = new Map(entriesOf(name, group));
    const params = listOf(entries.get("params"), (one): one is Trained => tensorOf(one) !== undefined);
    entries.delete("params");
    if (!params)
      throw new OptionError(`${name}: a group has params, a list of Tensors or Parameters, got ${show(group)}`);
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
      if (!isFloat(value.dtype) || value.panels) {
        throw new OptionError(
          `${name}: a parameter is a float tensor in rows, got ${shapeText(value.shape)} ${value.dtype}`,
        );
      }
      if (known.has(param)) throw new OptionError(`${name}: a parameter ${shapeText(value.shape)} is given twice`);
      known.add(param);
    }
    this.param_groups.push(group);
  }

  /**
   * Changes every parameter that has a gradient, in place. Nothing waits.
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
      return [{ group, param, gradient }];
    });
    // Steps are no part of what gradients are recorded for; what a recording still needs they must not overwrite.
    for (const { param } of work) tapes.open?.checkWrite(`${name}.step`, "params", tensorOf(param)!);
    taping(undefined, () => {
      for (const { group, param, gradient } of work) this.#step(group, param, gradient);
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

  #step(group: ParamGroup<O>, param: Trained, gradient: Tensor): void {
    const { rule, numbers } = this.#kind;
    const value = tensorOf(param)!;
    const state = this.#stateOf(group, param, value);
    const { skip_zeros, max_unorm } = group;
    const exact = numbers(group, state.step + 1);
    const slots = this.#slots;
    const fused = state.absmax1 !== undefined && slots.length <= 2 && max_unorm === 0;
    // States in f32 need no limit: theirs holds by itself. Codes may be off by a half.
    const step = { ...exact, skip_zeros, limit: state.absmax1 ? 2 * (exact.limit ?? 0) : 0 };
    scope(() => {
      const p = contiguous(value, "f32");
      const tensors = { p: p.view(p.size), g: contiguous(gradient, "f32").view(p.size) };
      if (fused) {
        const states = slots.map((slot) => ({ codes: state[`state${slot}`]!, absmax: state[`absmax${slot}`]! }));
        optimizerStep8bit(rule, { ...tensors, states }, this.#maps(value), step);
      } else {
        const states = slots.map((slot) => this.#decoded(state, slot));
        optimizerStep(rule, { ...tensors, states }, step, max_unorm);
        for (const slot of slots) this.#encode(state, slot, states[slot - 1]!);
      }
      if (p !== value) copyInto(p, value);
    });
    state.step++;
  }

  get #slots(): Slot[] {
    return ([1, 2, 3] as const).slice(0, STATES[this.#kind.rule]);
  }

  #isSquare(slot: Slot): boolean {
    return SQUARES[this.#kind.rule] === slot - 1;
  }

  /** The maps of all states on the parameter's device, f32[states, 256]: a lone state is signed. */
  #maps({ device }: Tensor): Tensor {
    const known = this.#mapsOf.get(device);
    if (known) return known;
    const slots = this.#slots;
    const values = new Float32Array(256 * slots.length);
    for (const slot of slots) values.set(dynamicMap(!this.#isSquare(slot) || slots.length === 1), 256 * (slot - 1));
    const maps = Tensor.from(device, values, [slots.length, 256], "f32", "optimizer maps").keep();
    this.#mapsOf.set(device, maps);
    return maps;
  }

  /** The map of one state. Call it in a scope. */
  #mapOf(slot: Slot, near: Tensor): Tensor {
    return this.#maps(near).select(0, slot - 1);
  }

  #decoded(state: ParameterState, slot: Slot): Tensor {
    const codes = state[`state${slot}`]!;
    const absmax = state[`absmax${slot}`];
    return absmax ? blockwiseDequantize(codes, absmax, this.#mapOf(slot, codes), STATE_BLOCK) : codes;
  }

  #encode(state: ParameterState, slot: Slot, values: Tensor): void {
    const codes = state[`state${slot}`]!;
    const absmax = state[`absmax${slot}`];
    if (!absmax || codes.size === 0) return;
    const made = blockwiseQuantize(values, this.#mapOf(slot, codes), STATE_BLOCK);
    copyInto(made.codes, codes);
    copyInto(made.absmax, absmax);
  }

  #stateOf({ optim_bits, min_8bit_size }: ParamGroup<O>, param: Trained, value: Tensor): ParameterState {
    const known = this.state.get(param);
    if (known) return known;
    const { device, size } = value;
    const coded = optim_bits === 8 && size >= min_8bit_size;
    const tensors = kept(() =>
      Object.fromEntries(
        this.#slots.flatMap((slot) =>
          coded
            ? [
                [`state${slot}`, Tensor.from(device, new Uint8Array(size), [size], "u8", `optimizer state ${slot}`)],
                [`absmax${slot}`, filled(device, [Math.ceil(size / STATE_BLOCK)], 0)],
              ]
            : [[`state${slot}`, filled(device, [size], 0)]],
        ),
      ),
    );
    const state = { step: 0, ...tensors } as unknown as ParameterState;
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
        if (held) {
          const { step, ...tensors } = held;
          const aliases = Object.entries(tensors).map(([name, tensor]) => [name, (tensor as Tensor).alias()]);
          state[next] = { step, [WRAPPED]: Object.fromEntries(aliases) };
        }
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
      if (fixed && (read.optim_bits ?? own.optim_bits) !== own.optim_bits) {
        throw new OptionError(`${name}: optim_bits is ${own.optim_bits}, and the state says ${read.optim_bits}`, {
          details: { option: "optim_bits" },
        });
      }
      changes.push(() => Object.assign(own, read));
      const merged = { ...own, ...read };
      this.#kind.numbers(merged, 1);
      for (const param of own.params) {
        const held = found.get(String(next++));
        if (held !== undefined) changes.push(this.#loading(merged, param, held, next - 1));
      }
    });
    for (const key of found.keys()) {
      if (Number(key) < next) continue;
      throw new OptionError(`${name}: load_state_dict has states of a parameter ${show(key)}, and there are ${next}`);
    }
    for (const change of changes) change();
  }

  /** Checks the states of a parameter; what it returns takes them over. */
  #loading(group: ParamGroup<O>, param: Trained, held: unknown, index: number): () => void {
    const { name } = this.#kind;
    const place = `${name}: state ${index}`;
    const outer = new Map(entriesOf(place, held));
    const inner = new Map([...outer, ...entriesOf(place, outer.get(WRAPPED))]);
    const step = inner.get("step");
    if (!Number.isSafeInteger(step) || (step as number) < 0) {
      throw new OptionError(`${place}: step must be a whole number, got ${show(step)}`);
    }
    const value = tensorOf(param)!;
    const coded = group.optim_bits === 8 && value.size >= group.min_8bit_size;
    const wanted = this.#slots.flatMap((slot): [string, "u8" | "f32", number][] =>
      coded
        ? [
            [`state${slot}`, "u8", value.size],
            [`absmax${slot}`, "f32", Math.ceil(value.size / STATE_BLOCK)],
          ]
        : [[`state${slot}`, "f32", value.size]],
    );
    const known = [...wanted.map(([key]) => key), "step", WRAPPED];
    const odd = [...inner.keys()].find((key) => !known.includes(key));
    if (odd !== undefined) {
      throw new OptionError(`${place}: entries are ${wanted.map(([key]) => key).join(", ")}, got ${show(odd)}`);
    }
    for (const [key, dtype, size] of wanted) {
      const tensor = inner.get(key);
      if (Tensor.is(tensor) && tensor.dtype === dtype && tensor.size === size && tensor.contiguous) continue;
      throw new ShapeError(`${place}: ${key} must be a Tensor ${dtype} of ${size} elements, got ${show(tensor)}`);
    }
    return () => {
      // A state of the other form cannot hold it.
      const before = this.state.get(param);
      if (before && (before.absmax1 !== undefined) !== coded) {
        this.state.delete(param);
        disposeState(before);
      }
      const state = this.#stateOf(group, param, value);
      scope(() => {
        for (const [key] of wanted) {
          const from = inner.get(key) as Tensor;
          const to = state[key as "state1"];
          copyInto((from.device === to.device ? from : transfer(from, to.device)).view(to.size), to);
        }
      });
      state.step = step as number;
    };
  }

  /** Frees all states; the parameters stay. */
  dispose(): void {
    for (const state of this.state.values()) disposeState(state);
    this.state.clear();
    for (const maps of this.#mapsOf.values()) maps.dispose();
    this.#mapsOf.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function disposeState({ step: _, ...tensors }: ParameterState): void {
  for (const tensor of Object.values(tensors)) (tensor as Tensor).dispose();
}
