// How an optimizer keeps the states of a parameter, and steps it. Those of large parameters are 8-bit codes by blocks of 256 (Dettmers et
// al. 2022), which a kernel decodes, steps and encodes block by block. Steps that need more (three states, the norm of the update) decode
// the states of one parameter, compute in f32 and encode them again. The arithmetic is in ops/optimizer.ts and ops/blockwise.ts.

import { openReference } from "../../backends/reference/index.js";
import { Device } from "../../core/device.js";
import { entriesOf, OptionError, ShapeError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import { kept, scope, Tensor } from "../../core/tensor.js";
import { blockwiseDequantize, blockwiseQuantize } from "../../ops/blockwise.js";
import { copyInto } from "../../ops/copy.js";
import { filled } from "../../ops/fill.js";
import { OPS } from "../../ops/index.js";
import {
  optimizerStep,
  optimizerStep8bit,
  type Rule,
  STATE_BLOCK,
  STATES,
  type StepNumbers,
} from "../../ops/optimizer.js";
import { transfer } from "../../ops/transfer.js";
import { dynamicMap } from "../../quant/_dynamic-map.js";

/** bitsandbytes keeps the states of a parameter under this key, where sharded training does not look. */
const WRAPPED = "__bnb_optimizer_quant_state__";

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

/** Which state is a sum of squares: beside a signed state it has the unsigned map. */
const SQUARES: Readonly<Record<Rule, number>> = {
  adam: 1,
  ademamix: 2,
  momentum: -1,
  lion: -1,
  rmsprop: 0,
  adagrad: 0,
};

/** Elements whose states are on a device at a time, if they are paged. */
const PAGE = 2 ** 22;

type Slot = 1 | 2 | 3;

/** One tensor of a state: what it is called, and how many elements it has. */
interface Part {
  readonly key: Exclude<keyof ParameterState, "step">;
  readonly dtype: "u8" | "f32";
  readonly size: number;
}

/** Saved states of a parameter, checked. */
export interface SavedState {
  readonly step: number;
  readonly coded: boolean;
  readonly tensors: readonly (readonly [Part["key"], Tensor])[];
}

/** Which states are kept in codes. */
interface Coding {
  readonly optim_bits: number;
  readonly min_8bit_size: number;
}

/** What a step reads of the options. */
interface Stepping {
  readonly max_unorm: number;
  readonly skip_zeros?: boolean;
}

/** True if the states of a parameter are kept in 8-bit codes. */
function inCodes({ optim_bits, min_8bit_size }: Coding, { size }: Tensor): boolean {
  return optim_bits === 8 && size >= min_8bit_size;
}

/** True for states in 8-bit codes. */
function isCoded(state: ParameterState): boolean {
  return state.absmax1 !== undefined;
}

/** The states of a rule. */
export class States {
  readonly #rule: Rule;
  readonly #slots: readonly Slot[];
  readonly #mapsOf = new Map<Device, Tensor>();
  readonly #paged: boolean;
  /** Where states of parameters on a GPU are, if they are paged. */
  #host: Device | undefined;

  readonly #most: number;

  /**
   * @param paged states of parameters on a GPU are in the host's memory
   * @param most elements whose states are on a device at a time then, a multiple of a block
   */
  constructor(rule: Rule, paged = false, most = PAGE) {
    this.#rule = rule;
    this.#most = most;
    this.#paged = paged;
    this.#slots = ([1, 2, 3] as const).slice(0, STATES[rule]);
  }

  /** The tensors of a parameter's states. */
  #parts(size: number, coded: boolean): Part[] {
    return this.#slots.flatMap((slot): Part[] =>
      coded
        ? [
            { key: `state${slot}`, dtype: "u8", size },
            { key: `absmax${slot}`, dtype: "f32", size: Math.ceil(size / STATE_BLOCK) },
          ]
        : [{ key: `state${slot}`, dtype: "f32", size }],
    );
  }

  /** Where the states of a parameter are: those on a CPU are in the host's memory in any case. */
  #home(device: Device): Device {
    if (!this.#paged || !device.name.startsWith("webgpu")) return device;
    this.#host ??= new Device(openReference(OPS, Number.MAX_SAFE_INTEGER));
    return this.#host;
  }

  make(value: Tensor, group: Coding): ParameterState {
    return this.#make(value, inCodes(group, value));
  }

  #make({ device: of, size }: Tensor, coded: boolean): ParameterState {
    const device = this.#home(of);
    const tensors = kept(() =>
      Object.fromEntries(
        this.#parts(size, coded).map(({ key, dtype, size }) => [
          key,
          dtype === "u8"
            ? Tensor.from(device, new Uint8Array(size), [size], dtype, `optimizer ${key}`)
            : filled(device, [size], 0),
        ]),
      ),
    );
    return { step: 0, ...tensors } as unknown as ParameterState;
  }

  step(state: ParameterState, p: Tensor, g: Tensor, numbers: StepNumbers, group: Stepping): void {
    const { skip_zeros = false, max_unorm } = group;
    scope(() => this.#step(state, p.view(p.size), g.view(g.size), { ...numbers, skip_zeros }, max_unorm));
    state.step++;
  }

  #step(state: ParameterState, p: Tensor, g: Tensor, numbers: StepNumbers, max_unorm: number): void {
    if (state.state1.device === p.device) this.#stepHere(state, p, g, numbers, max_unorm);
    else {
      // The norm of an update is that of the whole.
      const most = max_unorm === 0 ? this.#most : p.size;
      for (let at = 0; at < p.size; at += most) {
        const size = Math.min(most, p.size - at);
        scope(() => {
          const here = this.#page(state, at, size).map(([key, held]) => [key, held, transfer(held, p.device)] as const);
          const own = Object.fromEntries(here.map(([key, , fetched]) => [key, fetched])) as unknown as ParameterState;
          this.#stepHere(own, p.narrow(0, at, size), g.narrow(0, at, size), numbers, max_unorm);
          for (const [, held, fetched] of here) copyInto(transfer(fetched, held.device), held);
        });
      }
    }
  }

  /** The tensors of the states of some elements, whose first one begins a block. */
  #page(state: ParameterState, at: number, size: number): (readonly [Part["key"], Tensor])[] {
    return this.#parts(size, isCoded(state)).map(({ key, size: count }) => {
      const first = key.startsWith("absmax") ? at / STATE_BLOCK : at;
      return [key, state[key]!.narrow(0, first, count)];
    });
  }

  #stepHere(state: ParameterState, p: Tensor, g: Tensor, numbers: StepNumbers, max_unorm: number): void {
    const coded = isCoded(state);
    // States in f32 need no limit: theirs holds by itself. Codes may be off by a half.
    const step = { ...numbers, limit: coded ? 2 * (numbers.limit ?? 0) : 0 };
    if (coded && this.#slots.length <= 2 && max_unorm === 0) {
      const states = this.#slots.map((slot) => ({ codes: state[`state${slot}`]!, absmax: state[`absmax${slot}`]! }));
      optimizerStep8bit(this.#rule, { p, g, states }, this.#maps(p.device), step);
    } else {
      scope(() => {
        const states = this.#slots.map((slot) => this.#decoded(state, slot));
        optimizerStep(this.#rule, { p, g, states }, step, max_unorm);
        for (const slot of this.#slots) this.#encode(state, slot, states[slot - 1]!);
      });
    }
  }

  /** The maps of all states, f32[states, 256]: a lone state is signed. */
  #maps(device: Device): Tensor {
    const known = this.#mapsOf.get(device);
    if (known) return known;
    const count = this.#slots.length;
    const values = new Float32Array(256 * count);
    for (let s = 0; s < count; s++) values.set(dynamicMap(SQUARES[this.#rule] !== s || count === 1), 256 * s);
    const maps = Tensor.from(device, values, [count, 256], "f32", "optimizer maps").keep();
    this.#mapsOf.set(device, maps);
    return maps;
  }

  /** The map of one state. Call it in a scope. */
  #mapOf(slot: Slot, device: Device): Tensor {
    return this.#maps(device).select(0, slot - 1);
  }

  #decoded(state: ParameterState, slot: Slot): Tensor {
    const codes = state[`state${slot}`]!;
    const absmax = state[`absmax${slot}`];
    return absmax ? blockwiseDequantize(codes, absmax, this.#mapOf(slot, codes.device), STATE_BLOCK) : codes;
  }

  #encode(state: ParameterState, slot: Slot, values: Tensor): void {
    const codes = state[`state${slot}`]!;
    const absmax = state[`absmax${slot}`];
    if (!absmax || codes.size === 0) return;
    const made = blockwiseQuantize(values, this.#mapOf(slot, codes.device), STATE_BLOCK);
    copyInto(made.codes, codes);
    copyInto(made.absmax, absmax);
  }

  saved({ step, ...tensors }: ParameterState): Record<string, unknown> {
    const aliases = Object.entries(tensors).map(([key, tensor]) => [key, (tensor as Tensor).alias()]);
    return { step, [WRAPPED]: Object.fromEntries(aliases) };
  }

  checked(place: string, held: unknown, value: Tensor, group: Coding): SavedState {
    const { size } = value;
    const coded = inCodes(group, value);
    const outer = new Map(entriesOf(place, held));
    const inner = new Map([...outer, ...entriesOf(place, outer.get(WRAPPED))]);
    const step = inner.get("step");
    if (!Number.isSafeInteger(step) || (step as number) < 0) {
      throw new OptionError(`${place}: step must be a whole number, got ${show(step)}`);
    }
    const wanted = this.#parts(size, coded);
    const keys: string[] = wanted.map(({ key }) => key);
    const odd = [...inner.keys()].find((key) => ![...keys, "step", WRAPPED].includes(key));
    if (odd !== undefined) throw new OptionError(`${place}: entries are ${keys.join(", ")}, got ${show(odd)}`);
    const tensors = wanted.map(({ key, dtype, size }) => {
      const tensor = inner.get(key);
      if (Tensor.is(tensor) && tensor.dtype === dtype && tensor.size === size && tensor.contiguous) {
        return [key, tensor] as const;
      }
      throw new ShapeError(`${place}: ${key} must be a Tensor ${dtype} of ${size} elements, got ${show(tensor)}`);
    });
    return { step: step as number, coded, tensors };
  }

  /** `before` is freed if it is of the other form. */
  restored({ step, coded, tensors }: SavedState, value: Tensor, before: ParameterState | undefined): ParameterState {
    const fits = before && isCoded(before) === coded;
    const state = fits ? before : this.#make(value, coded);
    scope(() => {
      for (const [key, from] of tensors) {
        const to = state[key]!;
        copyInto((from.device === to.device ? from : transfer(from, to.device)).view(to.size), to);
      }
    });
    state.step = step;
    if (before && !fits) this.free(before);
    return state;
  }

  free({ step: _, ...tensors }: ParameterState): void {
    for (const tensor of Object.values(tensors)) (tensor as Tensor).dispose();
  }

  /** Frees what is kept on devices for all parameters. */
  dispose(): void {
    for (const maps of this.#mapsOf.values()) maps.dispose();
    this.#mapsOf.clear();
  }
}
