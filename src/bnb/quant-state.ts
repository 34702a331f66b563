// QuantState: what belongs to codes beside the codes themselves. It owns its tensors; a scope that returns it leaves them alive.

import { HELD, isList } from "../core/checks.js";
import type { Device } from "../core/device.js";
import { parseDType, torchName } from "../core/dtype.js";
import { FormatError, OptionError, ShapeError } from "../core/errors.js";
import { checkedLater, choice, flag, readOptions, type Table, whole } from "../core/options.js";
import { wholeList } from "../core/shape.js";
import { show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import type { FloatDType } from "../nn/weight.js";
import { BNB_KINDS, type BnbKind, NESTED_BLOCK } from "../ops/four-bit.js";
import { transfer } from "../ops/transfer.js";
import { checkTable, parseState, readFields, STATE, stateBytes } from "../quant/_four-bit-files.js";
import { checkedTensor, floatDType, tensorOption } from "./functional-checks.js";

const FIELDS = {
  absmax: tensorOption(),
  shape: checkedLater<readonly number[]>(),
  code: tensorOption(),
  blocksize: whole(1),
  quant_type: choice(BNB_KINDS),
  dtype: floatDType(),
  offset: tensorOption(),
  state2: checkedLater<QuantState>(),
} satisfies Table;

/** The fields of a QuantState. */
export interface QuantStateFields {
  /** The largest magnitude of each block: f32, or u8 codes if it is quantized itself. */
  readonly absmax: Tensor;
  /** Of the tensor that was quantized. */
  readonly shape: readonly number[];
  /** The value of each code: f32[16] or f32[256]. */
  readonly code: Tensor;
  readonly blocksize: number;
  /** "nf4" or "fp4"; absent for 8-bit codes. */
  readonly quant_type?: BnbKind | undefined;
  /** Of the tensor that was quantized, and of what comes back. */
  readonly dtype?: string | undefined;
  /** f32[1]: the mean of the absmax, if it is quantized itself. */
  readonly offset?: Tensor | undefined;
  /** Of the absmax, if it is quantized itself. */
  readonly state2?: QuantState | undefined;
}

export class QuantState {
  readonly absmax: Tensor;
  readonly shape: readonly number[];
  readonly code: Tensor;
  readonly blocksize: number;
  readonly quant_type: BnbKind | undefined;
  readonly dtype: FloatDType;
  readonly offset: Tensor | undefined;
  readonly state2: QuantState | undefined;
  readonly [HELD]: readonly Tensor[];
  readonly #own = true;

  /** True for a state itself, which a proxy of one is not. */
  static is(value: unknown): value is QuantState {
    return typeof value === "object" && value !== null && #own in value && value.#own;
  }

  /** @throws OptionError, DTypeError, ShapeError */
  constructor(fields: QuantStateFields) {
    const given = readOptions("QuantState", FIELDS, fields);
    const shape = isList(given.shape) ? wholeList(given.shape) : undefined;
    if (!shape) throw new OptionError(`QuantState: shape must be a list of sizes, got ${show(given.shape)}`);
    if (given.state2 !== undefined && !QuantState.is(given.state2)) {
      throw new OptionError(`QuantState: state2 must be a QuantState, got ${show(given.state2)}`);
    }
    this.absmax = checkedTensor("QuantState", "absmax", given.absmax, ["f32", "u8"]);
    this.code = checkedTensor("QuantState", "code", given.code, ["f32"]);
    if (given.blocksize === undefined) throw new OptionError("QuantState: blocksize is missing");
    this.blocksize = given.blocksize;
    this.shape = shape;
    this.quant_type = given.quant_type;
    this.dtype = parseDType(given.dtype ?? "f32")!;
    this.offset = given.offset;
    this.state2 = given.state2;
    if ((this.absmax.dtype === "u8") !== (this.state2 !== undefined && this.offset !== undefined)) {
      throw new OptionError("QuantState: an absmax in u8 codes comes with offset and state2, and no other does");
    }
    this[HELD] = [this.absmax, this.code, ...(this.offset ? [this.offset] : []), ...(this.state2?.[HELD] ?? [])];
  }

  /** True if the absmax is quantized itself. */
  get nested(): boolean {
    return this.state2 !== undefined;
  }

  get device(): Device {
    return this.absmax.device;
  }

  /** Takes its tensors out of the open scope: they live until `dispose`. */
  keep(): this {
    for (const tensor of this[HELD]) tensor.keep();
    return this;
  }

  /** The same state on another device. @throws as `transfer` */
  to(device: Device): QuantState {
    const { shape, blocksize, quant_type, dtype, state2 } = this;
    const moved = (tensor: Tensor): Tensor => transfer(tensor, device);
    return new QuantState({
      absmax: moved(this.absmax),
      code: moved(this.code),
      shape,
      blocksize,
      dtype,
      ...(quant_type && { quant_type }),
      ...(this.offset && { offset: moved(this.offset) }),
      ...(state2 && { state2: state2.to(device) }),
    });
  }

  /**
   * The tensors under which a checkpoint stores a 4-bit state: "absmax", "quant_map", and with a quantized absmax "nested_absmax" and
   * "nested_quant_map"; `packed` adds the JSON text of the others as u8 "quant_state.bitsandbytes__nf4", else they are in the
   * record by their names. The tensors are the caller's to dispose.
   * @throws OptionError for a state of 8-bit codes, which no checkpoint holds
   */
  async as_dict(
    options: { readonly packed?: boolean } = {},
  ): Promise<Record<string, Tensor | string | number | number[]>> {
    const { packed = false } = readOptions("as_dict", { packed: flag() }, options);
    const { quant_type: kind, blocksize, dtype, shape, state2 } = this;
    if (!kind) throw new OptionError("as_dict: only states of 4-bit codes are stored, and this one has 8-bit codes");
    const offset = (await this.offset?.readFloats())?.[0];
    const tensors: Record<string, Tensor> = {
      absmax: this.absmax.alias(),
      quant_map: this.code.alias(),
      ...(state2 && { nested_absmax: state2.absmax.alias(), nested_quant_map: state2.code.alias() }),
    };
    if (packed) {
      const bytes = stateBytes({ kind, blocksize, values: dtype, shape }, offset);
      tensors[STATE + kind] = Tensor.from(this.device, bytes, [bytes.length], "u8", "quant_state");
      return tensors;
    }
    return {
      quant_type: kind,
      blocksize,
      dtype: torchName(dtype),
      shape: [...shape],
      ...(state2 && { nested_blocksize: state2.blocksize, nested_dtype: "float32", nested_offset: offset! }),
      ...tensors,
    };
  }

  /**
   * The state that a checkpoint stores under the names of `as_dict`, with any prefix before them. Its tensors are new handles on the
   * given ones.
   * @throws FormatError for missing, unknown or contradicting entries
   */
  static async from_dict(entries: Readonly<Record<string, unknown>>): Promise<QuantState> {
    return fromDict(entries);
  }

  dispose(): void {
    for (const tensor of this[HELD]) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** One line: what the codes are, and of which tensor. */
  toString(): string {
    const { quant_type, blocksize, shape, dtype, nested } = this;
    return `QuantState(${quant_type ?? "8-bit"}, blocksize ${blocksize}, of [${shape.join(", ")}] ${dtype}${nested ? ", nested" : ""})`;
  }

  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.toString();
  }
}

const TENSORS = ["absmax", "quant_map", "nested_absmax", "nested_quant_map"];
const NUMBERS = ["quant_type", "blocksize", "dtype", "shape", "nested_blocksize", "nested_dtype", "nested_offset"];
/** What is left of a JSON text's name behind its last point. */
const PACKED = STATE.slice(STATE.lastIndexOf(".") + 1);

const refuse = (what: string, expected: unknown, got: unknown): never => {
  throw new FormatError(`from_dict: expected ${what} ${show(expected)}, got ${show(got)}`, {
    details: { expected: show(expected), got: show(got) },
  });
};

async function fromDict(entries: Readonly<Record<string, unknown>>): Promise<QuantState> {
  const found = new Map<string, unknown>();
  let packed: { readonly kind: string; readonly json: object } | undefined;
  for (const [key, value] of pairsOf(entries)) {
    const name = key.slice(key.lastIndexOf(".") + 1);
    if (name.startsWith(PACKED)) {
      if (packed) refuse("one", "quant_state", key);
      if (!Tensor.is(value) || value.dtype !== "u8") return refuse(key, "a Tensor of u8", value);
      const json = parseState(await value.readBytes(), refuse, (why) => {
        throw new FormatError(`from_dict: the JSON of ${key} cannot be read (${why})`);
      });
      packed = { kind: name.slice(PACKED.length), json };
    } else if (TENSORS.includes(name) || NUMBERS.includes(name)) found.set(name, value);
    else refuse("names among", [...TENSORS, `${STATE}nf4`], key);
  }
  const json = packed?.json ?? Object.fromEntries(found);
  const nested = (json as Readonly<Record<string, unknown>>).nested_offset !== undefined;
  const { kind, blocksize, values: dtype, shape, offset, sizes } = readFields(json, nested, refuse);
  if (packed && packed.kind !== kind) refuse("quant_type", packed.kind, kind);
  const tensors = new Map<string, Tensor>();
  for (const [role, type, count] of sizes) {
    const value = found.get(role);
    const right = Tensor.is(value) && value.dtype === type && value.size === count && value.contiguous;
    tensors.set(role, right ? value : refuse(role, `a Tensor ${type} of ${count} elements`, value));
  }
  const code = tensors.get("quant_map")!;
  checkTable(kind, await code.readFloats(), refuse);
  const absmax = tensors.get("absmax")!;
  const common = { shape, blocksize, quant_type: kind, dtype };
  if (offset === undefined) return new QuantState({ ...common, absmax: absmax.alias(), code: code.alias() });
  return scope(() => {
    const state2 = new QuantState({
      absmax: tensors.get("nested_absmax")!.alias(),
      code: tensors.get("nested_quant_map")!.alias(),
      shape: [absmax.size],
      blocksize: NESTED_BLOCK,
    });
    const mean = Tensor.from(absmax.device, Float32Array.of(offset), [1], "f32", "offset");
    return new QuantState({ ...common, absmax: absmax.alias(), code: code.alias(), offset: mean, state2 });
  });
}

/** @throws FormatError for what is no record, or cannot be read */
function pairsOf(entries: unknown): [string, unknown][] {
  try {
    if (typeof entries === "object" && entries !== null && !isList(entries) && !Tensor.is(entries)) {
      return entries instanceof Map
        ? [...entries].map(([key, value]) => [String(key), value])
        : Object.entries(entries);
    }
  } catch {
    // Refused below: a proxy, or a getter.
  }
  return refuse("a record of", "tensors by name", entries);
}

/** @throws OptionError for what is no state, ShapeError unless it fits `codes` codes */
export function checkedState(place: string, state: unknown): QuantState {
  if (!QuantState.is(state)) throw new OptionError(`${place}: quant_state must be a QuantState, got ${show(state)}`);
  return state;
}

/** @throws ShapeError unless there are as many codes as the state's shape has elements */
export function checkCodes(place: string, count: number, state: QuantState): void {
  const size = state.shape.reduce((n, one) => n * one, 1);
  if (count === size) return;
  throw new ShapeError(`${place}: the state is that of [${state.shape.join(", ")}], but there are codes of ${count}`);
}
