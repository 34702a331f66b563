// 4-bit weights as bitsandbytes stores them in checkpoints: the codes, the absmax of their blocks, and a JSON text with the
// quantization parameters. Names and shapes are those of its QuantState.

import { elementsOf, type StoredDType, type StoredTensor } from "../checkpoints/stored.js";
import { isList } from "../core/checks.js";
import { parseDType, torchName } from "../core/dtype.js";
import { CheckpointError, FormatError } from "../core/errors.js";
import { wholeList } from "../core/shape.js";
import { show } from "../core/show.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { FloatDType, StoredRows, WeightPart } from "../nn/weight.js";
import {
  BLOCK_SIZES,
  BNB_KINDS,
  type BnbKind,
  FOUR_BIT,
  FOUR_BIT_TABLES,
  type FourBitOperands,
  NESTED_BLOCK,
} from "../ops/four-bit.js";
import { PythonFloat } from "../sources/json-edit.js";

/** Begins the name of a state's JSON text; the kind ends it. */
export const STATE = "quant_state.bitsandbytes__";

/** The tensors of the 4-bit matrix `name`, if a checkpoint with these tensor names holds one. */
export function fourBitNames(
  name: string,
  has: (name: string) => boolean,
): { names: Map<string, string>; notes: readonly string[]; kind: BnbKind; double_quant: boolean } | undefined {
  const kind = BNB_KINDS.find((one) => has(`${name}.${STATE}${one}`));
  if (kind === undefined) return undefined;
  const double_quant = has(`${name}.nested_absmax`);
  const roles = ["absmax", "quant_map", ...(double_quant ? ["nested_absmax", "nested_quant_map"] : [])];
  const names = new Map([
    ["weight", name],
    ["quant_state", `${name}.${STATE}${kind}`],
    ...roles.filter((role) => has(`${name}.${role}`)).map((role) => [role, `${name}.${role}`] as const),
  ]);
  return { names, notes: ["quant_state", "quant_map"], kind, double_quant };
}

interface Wanted {
  readonly kind: BnbKind;
  readonly double_quant: boolean;
  readonly rows: number;
  readonly columns: number;
  readonly experts: number;
}

/** The parameters that the states of all pieces share. */
interface FourBitState {
  readonly blocksize: number;
  readonly values: FloatDType;
  /** Per expert: the offset subtracted from its absmax before they were quantized. */
  readonly offsets: readonly number[];
}

/** @throws CheckpointError unless the pieces are the whole matrices of `rows` rows */
export function checkPieces(pieces: readonly StoredRows[], rows: number, experts: number): void {
  if (pieces.length === experts && pieces.every((piece, e) => piece.at === e * rows && piece.rows === rows)) return;
  throw new CheckpointError(
    `${pieces[0]?.stored.tensors.get("weight")?.name}: a 4-bit matrix is restored from one tensor for each of ${experts} experts, not from ${pieces.length} parts`,
  );
}

/**
 * Reads the states of a matrix, or of the experts of a stack, and checks the shapes of all tensors.
 * @throws FormatError, CheckpointError
 */
export function readStates(pieces: readonly StoredRows[], wanted: Wanted): FourBitState {
  checkPieces(pieces, wanted.rows, wanted.experts);
  const states = pieces.map((piece) => readState(piece, wanted));
  const [first] = states;
  for (const { blocksize, values, name } of states) {
    if (blocksize === first!.blocksize && values === first!.values) continue;
    throw new FormatError(`tensor ${name}: the experts of one stack are quantized in different ways`, {
      details: { key: name, expected: first!.blocksize, got: blocksize },
    });
  }
  return { blocksize: first!.blocksize, values: first!.values, offsets: states.map(({ offset }) => offset) };
}

/** Throws the error of whoever reads a state. */
type Refuse = (what: string, expected: unknown, got: unknown) => never;

/** What stands in the state of a 4-bit weight, checked. */
interface StateFields {
  readonly kind: BnbKind;
  readonly blocksize: (typeof BLOCK_SIZES)[number];
  readonly values: FloatDType;
  readonly shape: readonly number[];
  /** What was subtracted from the absmax before they were quantized; undefined where they are not. */
  readonly offset: number | undefined;
  /** The tensors beside the codes. */
  readonly sizes: readonly (readonly [role: string, dtype: "f32" | "u8", count: number])[];
}

/** The JSON text of a state. @param broken throws for a text that is none */
export function parseState(bytes: Uint8Array | undefined, refuse: Refuse, broken: (why: string) => never): object {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    return broken((error as Error).message);
  }
  return typeof json === "object" && json !== null && !Array.isArray(json) ? json : refuse("a JSON object", {}, json);
}

/** @param nested whether the absmax are quantized themselves */
export function readFields(json: object, nested: boolean, refuse: Refuse): StateFields {
  const fields = json as Readonly<Record<string, unknown>>;
  const { quant_type, dtype, nested_offset: offset } = fields;
  const kind = BNB_KINDS.find((one) => one === quant_type) ?? refuse("quant_type", BNB_KINDS, quant_type);
  const blocksize =
    BLOCK_SIZES.find((size) => size === fields.blocksize) ?? refuse("a blocksize", BLOCK_SIZES, fields.blocksize);
  const values = (typeof dtype === "string" ? parseDType(dtype) : undefined) ?? refuse("a dtype", "float16", dtype);
  const shape =
    (isList(fields.shape) ? wholeList(fields.shape) : undefined) ?? refuse("a shape", [4, 64], fields.shape);
  const blocks = Math.ceil(elementsOf(shape) / blocksize);
  const common = { kind, blocksize, values, shape };
  const map = ["quant_map", "f32", 16] as const;
  if (!nested) return { ...common, offset: undefined, sizes: [["absmax", "f32", blocks], map] };
  if (fields.nested_blocksize !== NESTED_BLOCK) refuse("nested_blocksize", NESTED_BLOCK, fields.nested_blocksize);
  if (fields.nested_dtype !== "float32") refuse("nested_dtype", "float32", fields.nested_dtype);
  if (typeof offset !== "number") return refuse("a number as nested_offset", 0, offset);
  const outer = ["nested_absmax", "f32", Math.ceil(blocks / NESTED_BLOCK)] as const;
  return { ...common, offset, sizes: [["absmax", "u8", blocks], map, outer, ["nested_quant_map", "f32", 256]] };
}

/** Checks that a state's table is that of its kind. */
export function checkTable(kind: BnbKind, values: Float32Array, refuse: Refuse): void {
  const table = FOUR_BIT_TABLES[FOUR_BIT[kind]]!;
  if (!values.every((value, code) => value === table[code])) refuse("the quant_map of", kind, [...values]);
}

function readState(
  { stored: { tensors }, notes }: StoredRows,
  { kind, double_quant, rows, columns }: Wanted,
): { blocksize: number; values: FloatDType; offset: number; name: string } {
  const codes = tensors.get("weight")!;
  const { name, file } = tensors.get("quant_state")!;
  const refuse: Refuse = (what, expected, got) => {
    const text = `tensor ${name}: expected ${what} ${show(expected)}, got ${show(got)}`;
    throw new FormatError(text, { details: { file, key: name, expected: show(expected), got: show(got) } });
  };
  const json = parseState(notes.get("quant_state"), refuse, (why) => {
    throw new FormatError(`tensor ${name}: its JSON cannot be read (${why})`, { details: { file, key: name } });
  });
  const { blocksize, values, shape, offset = 0, sizes, ...said } = readFields(json, double_quant, refuse);
  if (said.kind !== kind) refuse("quant_type", kind, said.kind);
  if (elementsOf(shape) !== rows * columns || shape.at(-1) !== columns) refuse("the shape", [rows, columns], shape);
  if (codes.bytes !== Math.ceil((rows * columns) / 2))
    refuse("bytes of codes", Math.ceil((rows * columns) / 2), codes.bytes);
  for (const [role, dtype, count] of sizes) {
    const tensor: StoredTensor | undefined = tensors.get(role);
    const got = tensor ? `${tensor.dtype} of ${elementsOf(tensor.shape)}` : "none";
    const expected = `${dtype.toUpperCase()} of ${count}`;
    if (got !== expected) refuse(role, expected, got);
  }
  checkTable(kind, new Float32Array(new Uint8Array(notes.get("quant_map")!).buffer), refuse);
  return { blocksize, values, offset, name };
}

/** The parameters of a part of a 4-bit weight. */
interface Description {
  readonly kind: BnbKind;
  readonly blocksize: number;
  readonly values: FloatDType;
  readonly shape: readonly [rows: number, columns: number];
}

/** The JSON text that bitsandbytes stores beside 4-bit codes. @param offset that of double quantization */
export function stateBytes(
  { kind, blocksize, values, shape }: Omit<Description, "shape"> & { readonly shape: readonly number[] },
  offset: number | undefined,
): Uint8Array {
  const nested =
    offset === undefined
      ? ""
      : `, "nested_blocksize": ${NESTED_BLOCK}, "nested_dtype": "float32", "nested_offset": ${new PythonFloat(offset)}`;
  return new TextEncoder().encode(
    `{"quant_type": "${kind}", "blocksize": ${blocksize}, "dtype": "${torchName(values)}", "shape": [${shape.join(", ")}]${nested}}`,
  );
}

/** The tensors in which bitsandbytes stores one matrix; `operands` makes its operands in plain rows, inside a scope. */
export async function fourBitParts(
  name: string,
  { kind, blocksize, values, shape }: Description,
  operands: () => FourBitOperands,
): Promise<WeightPart[]> {
  const read = async (pick: (from: FourBitOperands) => Tensor | undefined): Promise<Uint8Array> => {
    using tensor = scope(() => pick(operands())!.alias());
    return tensor.readBytes();
  };
  const elements = shape[0] * shape[1];
  const blocks = Math.ceil(elements / blocksize);
  const twice = scope(() => {
    const { offset } = operands();
    return { offset: offset?.alias() };
  });
  const offset = await twice.offset?.readFloats();
  twice.offset?.dispose();
  const state = stateBytes({ kind, blocksize, values, shape }, offset?.[0]);
  const table = new Uint8Array(FOUR_BIT_TABLES[FOUR_BIT[kind]]!.slice().buffer);
  const part = (suffix: string, dtype: StoredDType, size: number, bytes: () => Promise<Uint8Array>): WeightPart => ({
    name: name + suffix,
    dtype,
    shape: [size],
    bytes,
  });
  return [
    { name, dtype: "U8", shape: [Math.ceil(elements / 2), 1], bytes: () => read(({ codes }) => codes) },
    part(".absmax", offset ? "U8" : "F32", blocks, () => read(({ absmax }) => absmax)),
    part(".quant_map", "F32", 16, async () => table),
    ...(offset
      ? [
          part(".nested_absmax", "F32", Math.ceil(blocks / NESTED_BLOCK), () => read((from) => from.nested)),
          part(".nested_quant_map", "F32", 256, () => read(({ map }) => map)),
        ]
      : []),
    part(`.${STATE}${kind}`, "U8", state.length, async () => state),
  ];
}
