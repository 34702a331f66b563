// Rows of a planned parameter, piece by piece: from the parts that hold them, in the common dtype of these.

import type { StoredTensor } from "../checkpoints/stored.js";
import type { Device } from "../core/device.js";
import { Tensor } from "../core/tensor.js";
import type { Matrix } from "../nn/module.js";
import type { FloatDType } from "../nn/weight.js";
import { copyInto } from "../ops/copy.js";
import type { Source } from "../sources/source.js";
import { type PlanItem, partBytes } from "./plan.js";
import { READ_BYTES, type RowReader, rowReader } from "./read.js";

/** The context of reading. */
export interface Context {
  readonly device: Device;
  readonly files: Source;
  /** Called after each piece with its bytes, and the tensor it came from. */
  readonly breathe: (bytes: number, from: StoredTensor) => Promise<void>;
}

/** Fills rows `at` to `at + rows.shape[0]` of a parameter from the parts that hold them. */
export async function readRows(
  { parts }: PlanItem,
  readers: readonly RowReader[],
  dtype: FloatDType,
  into: Tensor,
  at: number,
): Promise<void> {
  const end = at + into.shape[0]!;
  for (const [i, part] of parts.entries()) {
    const [begin, stop] = [Math.max(at, part.at), Math.min(end, part.at + part.rows)];
    if (begin >= stop) continue;
    const reader = readers[i]!;
    using rows = into.narrow(0, begin - at, stop - begin);
    if (reader.dtype === dtype) await reader.read(rows, begin - part.at);
    else {
      using own = Tensor.empty(into.device, rows.shape, reader.dtype, "rows");
      await reader.read(own, begin - part.at);
      copyInto(own, rows);
    }
    // Rows come in order: what it holds for them is no longer needed.
    if (stop === part.at + part.rows) reader[Symbol.dispose]();
  }
}

/** Readers of all parts, and their common dtype: that of the parts if it is the same, else f32. */
export function readersOf(
  { device, files }: Context,
  { parts, parameter }: PlanItem,
): { readers: RowReader[]; dtype: FloatDType } {
  const readers = parts.map((part) => rowReader(device, files, part, parameter.shape));
  const dtypes = new Set(readers.map(({ dtype }) => dtype));
  return { readers, dtype: dtypes.size === 1 ? readers[0]!.dtype : "f32" };
}

/** Chunks of a matrix's rows: at most `step` rows, all of one expert. */
export function rowSteps({ shape: [outputs], experts }: Matrix, step: number): Iterable<RowSpan> {
  return pieces(outputs, outputs / experts, step);
}

interface RowSpan {
  readonly at: number;
  readonly count: number;
}

/** Chunks of at most `step` rows of `rows`, none across a multiple of `each`. */
export function* pieces(rows: number, each: number, step: number): Iterable<RowSpan> {
  for (let begin = 0; begin < rows; begin += each) {
    for (let at = 0; at < each; at += step) yield { at: begin + at, count: Math.min(step, each - at) };
  }
}

/** Rows of `bytes` each that fit in a piece, in whole `granularity`. */
export function stepOf(bytes: number, granularity: number): number {
  return Math.max(1, Math.floor(READ_BYTES / (bytes || 1) / granularity)) * granularity;
}

/** What takes the rows of a matrix in order. */
export interface RowTaker {
  /** Rows per `put` are a multiple of this (the last ones, of the matrix or of an expert, may be short). */
  readonly granularity: number;
  put(rows: Tensor, at: number): void | Promise<void>;
}

/**
 * Reads a matrix of floats piece by piece.
 * @param begin makes what takes the rows, once it is known that they can be read
 * @throws FormatError; what `put` throws
 */
export async function readMatrix(context: Context, item: PlanItem, begin: () => RowTaker): Promise<void> {
  const { device, breathe } = context;
  const matrix = item.parameter as Matrix;
  const [outputs, inputs] = matrix.shape;
  const bytes = item.parts.reduce((sum, part) => sum + partBytes(part), 0);
  const rowBytes = bytes / (outputs || 1);
  const { readers, dtype } = readersOf(context, item);
  // A transposed tensor is read as a whole, and counted as a whole.
  const whole = item.parts.some(({ view, from }) => view === "transposed" || from.strides);
  try {
    const taker = begin();
    // Packed rows grow where they are decoded.
    const decoded = item.parts.some(({ from }) => from.packed) ? 4 * inputs : 0;
    for (const { at, count } of rowSteps(matrix, stepOf(Math.max(rowBytes, decoded), taker.granularity))) {
      {
        using piece = Tensor.empty(device, [count, inputs], dtype, "weight piece");
        await readRows(item, readers, dtype, piece, at);
        await taker.put(piece, at);
      }
      if (!whole) await breathe(count * rowBytes, partAt(item, at));
    }
  } finally {
    for (const reader of readers) reader[Symbol.dispose]();
  }
  if (whole) await breathe(bytes, item.parts[0]!.from);
}

/** The tensor that a row comes from. */
function partAt({ parts }: PlanItem, row: number): StoredTensor {
  return (parts.find(({ at, rows }) => row >= at && row < at + rows) ?? parts[0]!).from;
}
