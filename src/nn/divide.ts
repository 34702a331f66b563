// A matrix cut by rows, for weights whose parts lie on several devices, and put together again. Rows keep their codes, and so
// their bits.

import type { Device } from "../core/device.js";
import { scope, Tensor } from "../core/tensor.js";
import { copyInto } from "../ops/copy.js";
import { pack, unpack } from "../ops/pack.js";
import { transfer } from "../ops/transfer.js";

/** Rows `at` to `at + rows` of a matrix, and the device that they go to. */
export interface RowPiece {
  readonly at: number;
  readonly rows: number;
  readonly to: Device;
}

/**
 * Records the pieces of a weight: `make` records one of them from `codes`, its matrix in plain rows.
 * @throws OutOfMemoryError; nothing is left behind then
 */
export function dividedBy<W extends Disposable>(
  matrix: Tensor,
  pieces: readonly RowPiece[],
  make: (codes: Tensor, piece: RowPiece) => W,
): W[] {
  const made: W[] = [];
  try {
    scope(() => {
      const codes = unpack(matrix);
      for (const piece of pieces) scope(() => void made.push(make(codes, piece)));
    });
  } catch (error) {
    for (const weight of made) weight[Symbol.dispose]();
    throw error;
  }
  return made;
}

/** Records some rows of a matrix in plain rows, as a matrix in the layout that `make` chooses on their device. */
export function rowsOn(
  codes: Tensor,
  { at, rows, to }: RowPiece,
  make: (shape: readonly [number, number]) => Tensor,
): Tensor {
  const target = make([rows, codes.shape[1]!]);
  scope(() => pack(transfer(codes.narrow(0, at, rows), to), target));
  return target;
}

/** Records elements `at` to `at + count` of a vector on a device. */
export function elementsOn(vector: Tensor, at: number, count: number, to: Device): Tensor {
  const part = Tensor.empty(to, [count], vector.dtype, "part");
  scope(() => copyInto(transfer(vector.narrow(0, at, count), to), part));
  return part;
}

/** Records matrices one below the other as `whole`. */
export function joinMatrices(parts: readonly Tensor[], whole: Tensor): Tensor {
  let at = 0;
  for (const part of parts) {
    scope(() => pack(transfer(unpack(part), whole.device), whole, at));
    at += part.shape[0]!;
  }
  return whole;
}

/** Records vectors one behind the other, on a device. */
export function joinVectors(parts: readonly Tensor[], to: Device): Tensor {
  const whole = Tensor.empty(to, [parts.reduce((sum, part) => sum + part.size, 0)], parts[0]!.dtype, "joined");
  let at = 0;
  for (const part of parts) {
    scope(() => copyInto(transfer(part, to), whole.narrow(0, at, part.size)));
    at += part.size;
  }
  return whole;
}
