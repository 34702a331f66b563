// O4 as checkpoints of Octavo store it. Beside the codes of a matrix, packed as bitsandbytes packs its, two to a byte, lie `o4_scales`
// (i8, one for each block of 32), `o4_group_scales` (f32, one for each row whose blocks are whole, else for 256 blocks) and `o4_table`
// (f32, what the 16 codes mean).

import { elementsOf, type StoredTensor } from "../checkpoints/stored.js";
import { FormatError } from "../core/errors.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { MatrixShape, StoredRows, WeightPart } from "../nn/weight.js";
import { type FourBitOperands, o4Group } from "../ops/four-bit.js";
import { O4_BLOCK, O4_UNIT } from "../ops/o4.js";
import { checkPieces } from "./_four-bit-files.js";
import { blocksOf } from "./_four-bit-weight.js";

/** The tensors of the matrix `name`, by their roles, if a checkpoint with these tensor names holds one in O4. */
export function o4Names(
  name: string,
  has: (name: string) => boolean,
): { names: Map<string, string>; notes: readonly string[] } | undefined {
  if (!has(`${name}.o4_table`)) return undefined;
  const roles = ["o4_scales", "o4_group_scales", "o4_table"].filter((role) => has(`${name}.${role}`));
  const names = new Map([["weight", name], ...roles.map((role) => [role, `${name}.${role}`] as const)]);
  return { names, notes: ["o4_table"] };
}

/**
 * Checks the shapes of the tensors of a matrix, or of the matrices of a stack, and gives the table of all of them.
 * @throws FormatError, CheckpointError
 */
export function readTable(pieces: readonly StoredRows[], shape: MatrixShape, experts: number): Float32Array {
  checkPieces(pieces, shape[0], experts);
  const elements = shape[0] * shape[1];
  const { blocks, outer } = blocksOf(shape, O4_BLOCK, o4Group(shape[1], O4_BLOCK));
  const sizes = [
    ["o4_scales", "I8", blocks],
    ["o4_group_scales", "F32", outer],
    ["o4_table", "F32", 16],
  ] as const;
  const tables = pieces.map(({ stored: { tensors }, notes }) => {
    const codes = tensors.get("weight")!;
    const refuse = (name: string, what: string, expected: string | number, got: string | number): never => {
      const text = `tensor ${name}: expected ${what} ${expected}, got ${got}`;
      throw new FormatError(text, { details: { file: codes.file, key: name, expected, got } });
    };
    const bytes = Math.ceil(elements / 2);
    if (codes.bytes !== bytes) refuse(codes.name, "bytes of codes", bytes, codes.bytes);
    for (const [role, dtype, count] of sizes) {
      const tensor: StoredTensor | undefined = tensors.get(role);
      const got = tensor ? `${tensor.dtype} of ${elementsOf(tensor.shape)}` : "none";
      if (got !== `${dtype} of ${count}`) refuse(`${codes.name}.${role}`, role, `${dtype} of ${count}`, got);
    }
    const table = new Float32Array(new Uint8Array(notes.get("o4_table")!).buffer);
    const whole = table.every((value) => Math.abs(value) <= 1 && value === stepped(value));
    if (!whole || table.some((value, code) => code > 0 && value < table[code - 1]!)) {
      refuse(`${codes.name}.o4_table`, "16 ascending multiples of 1/127 from", "-1 to 1", table.join(", "));
    }
    return table;
  });
  const other = tables.findIndex((table) => table.some((value, code) => value !== tables[0]![code]));
  if (other < 0) return tables[0]!;
  const { name, file } = pieces[other]!.stored.tensors.get("o4_table")!;
  throw new FormatError(`tensor ${name}: the experts of one stack have different tables`, {
    details: { file, key: name },
  });
}

/** The multiple of one step that is nearest to a value. */
function stepped(value: number): number {
  return Math.fround(Math.round(value * 127) * O4_UNIT);
}

/** The tensors in which one matrix is stored; `operands` makes its operands in plain rows, inside a scope. */
export async function o4Parts(
  name: string,
  shape: MatrixShape,
  operands: () => FourBitOperands,
): Promise<WeightPart[]> {
  const read = async (pick: (from: FourBitOperands) => Tensor | undefined): Promise<Uint8Array> => {
    using tensor = scope(() => pick(operands())!.alias());
    return tensor.readBytes();
  };
  const { blocks, outer } = blocksOf(shape, O4_BLOCK, o4Group(shape[1], O4_BLOCK));
  return [
    {
      name,
      dtype: "U8",
      shape: [Math.ceil((shape[0] * shape[1]) / 2), 1],
      bytes: () => read(({ codes }) => codes),
    },
    { name: `${name}.o4_scales`, dtype: "I8", shape: [blocks], bytes: () => read(({ absmax }) => absmax) },
    { name: `${name}.o4_group_scales`, dtype: "F32", shape: [outer], bytes: () => read(({ nested }) => nested) },
    { name: `${name}.o4_table`, dtype: "F32", shape: [16], bytes: () => read(({ map }) => map) },
  ];
}
