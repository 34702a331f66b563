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
import { BLOCK_SIZES, type BnbKind, FOUR_BIT, FOUR_BIT_TABLES, NESTED_BLOCK } from "../ops/four-bit.js";
import { transfer } from "../ops/transfer.js";
import { stateBytes } from "../quant/_four-bit-files.js";
import { checkedTensor, floatDType, tensorOption } from "./functional-checks.js";

/** The 4-bit types that bitsandbytes has. */
export const KINDS = ["nf4", "fp4"] as const satisfies readonly BnbKind[];

const FIELDS = {
  absmax: tensorOption(),
  shape: checkedLater<readonly number[]>(),
  code: tensorOption(),
  blocksize: whole(1),
  quant_type: choice(KINDS),
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
      tensors[`quant_state.bitsandbytes__${kind}`] = Tensor.from(
        this.device,
        bytes,
        [bytes.length],
        "u8",
        "quant_state",
      );
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

const PACKED = "bitsandbytes__";
const TENSORS = ["absmax", "quant_map", "nested_absmax", "nested_quant_map"];
const NUMBERS = ["quant_type", "blocksize", "dtype", "shape", "nested_blocksize", "nested_dtype", "nested_offset"];

const refuse = (what: string, got: unknown): FormatError =>
  new FormatError(`from_dict: ${what}, got ${show(got)}`, { details: { got: show(got) } });

async function fromDict(entries: Readonly<Record<string, unknown>>): Promise<QuantState> {
  const found = new Map<string, unknown>();
  let json: unknown;
  for (const [key, value] of pairsOf(entries)) {
    const name = key.slice(key.lastIndexOf(".") + 1);
    if (name.startsWith(PACKED)) {
      if (json !== undefined) throw refuse("there must be one quant_state", key);
      if (!Tensor.is(value) || value.dtype !== "u8") throw refuse(`${key} must be a Tensor of u8`, value);
      json = parsed(key, await value.readBytes());
      if ((json as Record<string, unknown>).quant_type !== name.slice(PACKED.length)) {
        throw refuse(`the quant_type of ${key} must be its own`, (json as Record<string, unknown>).quant_type);
      }
    } else if (TENSORS.includes(name) || NUMBERS.includes(name)) found.set(name, value);
    else throw refuse(`entries are ${[...TENSORS, `quant_state.${PACKED}nf4`].join(", ")}`, key);
  }
  const fields = (json ?? Object.fromEntries(found)) as Record<string, unknown>;
  const kind = KINDS.find((one) => one === fields.quant_type);
  if (!kind) throw refuse('quant_type must be "nf4" or "fp4"', fields.quant_type);
  const blocksize = BLOCK_SIZES.find((size) => size === fields.blocksize);
  if (!blocksize) throw refuse(`blocksize must be one of ${BLOCK_SIZES.join(", ")}`, fields.blocksize);
  const dtype = typeof fields.dtype === "string" ? parseDType(fields.dtype) : undefined;
  if (!dtype) throw refuse("dtype must be a float dtype", fields.dtype);
  const shape = isList(fields.shape) ? wholeList(fields.shape as number[]) : undefined;
  if (!shape) throw refuse("shape must be a list of sizes", fields.shape);
  const nested = fields.nested_offset !== undefined;
  const blocks = Math.ceil(shape.reduce((n, size) => n * size, 1) / blocksize);
  const tensor = (name: string, type: "f32" | "u8", size: number): Tensor => {
    const value = found.get(name);
    if (Tensor.is(value) && value.dtype === type && value.size === size && value.contiguous) return value;
    throw refuse(`${name} must be a Tensor ${type} of ${size} elements`, value);
  };
  const code = tensor("quant_map", "f32", 16);
  const table = await code.readFloats();
  if (!FOUR_BIT_TABLES[FOUR_BIT[kind]]!.every((value, i) => value === table[i])) {
    throw refuse(`quant_map must be the values of ${kind}`, [...table]);
  }
  const absmax = tensor("absmax", nested ? "u8" : "f32", blocks);
  const common = { shape, blocksize, quant_type: kind, dtype };
  if (!nested) return new QuantState({ ...common, absmax: absmax.alias(), code: code.alias() });
  if (fields.nested_blocksize !== NESTED_BLOCK) {
    throw refuse(`nested_blocksize must be ${NESTED_BLOCK}`, fields.nested_blocksize);
  }
  if (typeof fields.nested_offset !== "number") throw refuse("nested_offset must be a number", fields.nested_offset);
  const outer = tensor("nested_absmax", "f32", Math.ceil(blocks / NESTED_BLOCK));
  const map = tensor("nested_quant_map", "f32", 256);
  const offset = fields.nested_offset;
  return scope(() => {
    const state2 = new QuantState({
      absmax: outer.alias(),
      code: map.alias(),
      shape: [blocks],
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
  throw refuse("a record of tensors by name is wanted", entries);
}

function parsed(key: string, bytes: Uint8Array): object {
  try {
    const json: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    if (typeof json === "object" && json !== null && !Array.isArray(json)) return json;
  } catch (cause) {
    throw new FormatError(`from_dict: the JSON of ${key} cannot be read (${(cause as Error).message})`, { cause });
  }
  throw new FormatError(`from_dict: ${key} does not hold a JSON object`);
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
