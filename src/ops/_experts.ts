// What the products with chosen matrices share, forward and back: rows one by one, each with its expert's part of the operands.

import { ShapeError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import type { HostTensor } from "./op.js";

/** @throws ShapeError unless a token has one row of x, or one for each of its experts */
export function checkRows(x: Tensor, experts: Tensor): void {
  const [, rows = 0] = x.shape;
  const each = experts.shape[1]!;
  if (rows !== 1 && rows !== each) {
    throw new ShapeError(`a token of ${each} experts has 1 or ${each} rows of x, not ${rows}`);
  }
}

/** @throws ShapeError unless every expert starts on a byte */
export function checkStacked(codes: Tensor): void {
  const [, outputs = 0, columns = 0] = codes.shape;
  if ((outputs * columns) % 2 === 0) return;
  throw new ShapeError(`experts of 4-bit codes need an even number of elements, not ${outputs} x ${columns}`);
}

/** Elements `at` to `at + shape` of an operand, as an operand of its own. */
export function part(whole: HostTensor, at: number, shape: readonly number[]): HostTensor {
  const count = shape.reduce((n, size) => n * size, 1);
  const [begin, end] = whole.dtype === "u4" ? [at / 2, (at + count) / 2] : [at, at + count];
  return { shape, dtype: whole.dtype, data: whole.data.subarray(begin, end) };
}

/** Slice `index` of the first dim of an operand. */
export function slice(whole: HostTensor | undefined, index: number): HostTensor | undefined {
  if (!whole) return undefined;
  const shape = whole.shape.slice(1);
  return part(whole, index * shape.reduce((n, size) => n * size, 1), shape);
}

/** The statistics of 4-bit codes that are one expert's, by their names. */
export function statisticsOf(
  { absmax, nested, map, offset }: Readonly<Record<string, HostTensor | undefined>>,
  expert: number,
): Record<string, HostTensor> {
  const own = { absmax: slice(absmax, expert)! };
  if (!nested) return own;
  return {
    ...own,
    nested: slice(nested, expert)!,
    map: map!,
    ...(offset ? { offset: part(offset, expert, [1]) } : {}),
  };
}

/**
 * Runs `product` for every row of y[M,A,N], with its row of x[M,X,K] (X: 1 or A) and the number of its expert. Returns the first problem,
 * such as an expert that is not one of `count`.
 */
export function eachRow(
  x: HostTensor,
  experts: HostTensor,
  y: HostTensor,
  count: number,
  product: (x: HostTensor, y: HostTensor, expert: number) => string | undefined,
): string | undefined {
  const [tokens = 0, shared = 1, inputs = 0] = x.shape;
  const each = experts.shape[1]!;
  const outputs = y.shape[2]!;
  for (let row = 0; row < tokens * each; row++) {
    const expert = experts.data[row]!;
    if (expert < 0 || expert >= count) return `expert ${expert} is not one of ${count}`;
    const from = shared === 1 ? Math.floor(row / each) : row;
    const problem = product(part(x, from * inputs, [1, inputs]), part(y, row * outputs, [1, outputs]), expert);
    if (problem) return problem;
  }
  return undefined;
}
