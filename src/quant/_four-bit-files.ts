// 4-bit weights as bitsandbytes stores them in checkpoints: the codes, the absmax of their blocks, and a JSON text with the
// quantization parameters. Names and shapes are those of its QuantState.

import { elementsOf, type StoredDType, type StoredTensor } from "../checkpoints/stored.js";
import { parseDType, torchName } from "../core/dtype.js";
import { CheckpointError, FormatError } from "../core/errors.js";
import { show } from "../core/show.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { FloatDType, StoredRows, WeightPart } from "../nn/weight.js";
import {
  BLOCK_SIZES,
  type BnbKind,
  FOUR_BIT,
  FOUR_BIT_TABLES,
  type FourBitOperands,
  NESTED_BLOCK,
} from "../ops/four-bit.js";
import { PythonFloat } from "../sources/json-edit.js";

const KINDS: readonly BnbKind[] = ["nf4", "fp4"];
const STATE = "quant_state.bitsandbytes__";

/** The tensors of the 4-bit matrix `name`, if a checkpoint with these tensor names holds one. */
export function fourBitNames(
  name: string,
  has: (name: string) => boolean,
): { names: Map<string, string>; notes: readonly string[]; kind: BnbKind; double_quant: boolean } | undefined {
  const kind = KINDS.find((one) => has(`${name}.${STATE}${one}`));
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
export interface FourBitState {
  readonly blocksize: number;
  readonly values: FloatDType;
  /** Per expert: the offset subtracted from its absmax before they were quantized. */
  readonly offsets: readonly number[];
}

/**
 * Reads the states of a matrix, or of the experts of a stack, and checks the shapes of all tensors.
 * @throws FormatError, CheckpointError
 */
export function readStates(pieces: readonly StoredRows[], wanted: Wanted): FourBitState {
  const { rows, experts } = wanted;
  if (pieces.length !== experts || pieces.some((piece, e) => piece.at !== e * rows || piece.rows !== rows)) {
    throw new CheckpointError(
      `${pieces[0]?.stored.tensors.get("weight")?.name}: a 4-bit matrix is restored from one tensor for each of ${experts} experts, not from ${pieces.length} parts`,
    );
  }
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

function readState(
  { stored: { tensors }, notes }: StoredRows,
  { kind, double_quant, rows, columns }: Wanted,
): { blocksize: number; values: FloatDType; offset: number; name: string } {
  const codes = tensors.get("weight")!;
  const { name, file } = tensors.get("quant_state")!;
  const refuse = (what: string, expected: unknown, got: unknown): never => {
    const text = `tensor ${name}: expected ${what} ${show(expected)}, got ${show(got)}`;
    throw new FormatError(text, { details: { file, key: name, expected: show(expected), got: show(got) } });
  };
  let json: Record<string, unknown> = {};
  try {
    const parsed: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(notes.get("quant_state")));
    if (typeof parsed === "object" && parsed !== null) json = parsed as Record<string, unknown>;
    else refuse("a JSON object", {}, parsed);
  } catch (error) {
    if (error instanceof FormatError) throw error;
    throw new FormatError(`tensor ${name}: its JSON cannot be read (${(error as Error).message})`, {
      details: { file, key: name },
    });
  }
  if (json.quant_type !== kind) refuse("quant_type", kind, json.quant_type);
  const blocksize =
    BLOCK_SIZES.find((size) => size === json.blocksize) ?? refuse("a blocksize", BLOCK_SIZES, json.blocksize);
  const values =
    (typeof json.dtype === "string" ? parseDType(json.dtype) : undefined) ?? refuse("a dtype", "float16", json.dtype);
  const shape = json.shape;
  const right = Array.isArray(shape) && elementsOf(shape as number[]) === rows * columns && shape.at(-1) === columns;
  if (!right) refuse("the shape", [rows, columns], shape);
  if (codes.bytes !== Math.ceil((rows * columns) / 2))
    refuse("bytes of codes", Math.ceil((rows * columns) / 2), codes.bytes);
  const blocks = Math.ceil((rows * columns) / blocksize);
  const sized = (role: string, dtype: string, count: number): void => {
    const tensor: StoredTensor | undefined = tensors.get(role);
    const got = tensor ? `${tensor.dtype} of ${elementsOf(tensor.shape)}` : "none";
    if (got !== `${dtype} of ${count}`) refuse(role, `${dtype} of ${count}`, got);
  };
  sized("absmax", double_quant ? "U8" : "F32", blocks);
  sized("quant_map", "F32", 16);
  const map = new Uint8Array(notes.get("quant_map")!);
  const table = FOUR_BIT_TABLES[FOUR_BIT[kind]]!;
  const known = new Float32Array(map.buffer).every((value, code) => value === table[code]);
  if (!known) refuse("the quant_map of", kind, [...new Float32Array(map.buffer)]);
  if (!double_quant) return { blocksize, values, offset: 0, name };
  sized("nested_absmax", "F32", Math.ceil(blocks / NESTED_BLOCK));
  sized("nested_quant_map", "F32", 256);
  if (json.nested_blocksize !== NESTED_BLOCK) refuse("nested_blocksize", NESTED_BLOCK, json.nested_blocksize);
  if (json.nested_dtype !== "float32") refuse("nested_dtype", "float32", json.nested_dtype);
  const offset = json.nested_offset;
  if (typeof offset !== "number") return refuse("a number as nested_offset", 0, offset);
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
