// max_rows: the largest value of each column over the unmasked rows of a sequence (max pooling of sentence embeddings).

import type { Tensor } from "../core/tensor.js";
import { type HostTensor, Op } from "./op.js";

/** The row that holds the largest value of column k of sequence b, the first of equals; -1 if all rows are masked. */
function largestAt({ data, shape }: HostTensor, mask: HostTensor | undefined, b: number, k: number): number {
  const [, rows = 0, columns = 0] = shape;
  let best = -1;
  for (let t = 0; t < rows; t++) {
    if (mask && mask.data[b * rows + t] === 0) continue;
    const value = data[(b * rows + t) * columns + k]!;
    const most = best < 0 ? Number.NEGATIVE_INFINITY : data[(b * rows + best) * columns + k]!;
    if (best < 0 || value > most || (Number.isNaN(value) && !Number.isNaN(most))) best = t;
  }
  return best;
}

export const maxRowsOp = new Op({
  signature: "max_rows: x[B,T,K]:f32 mask[B,T]:u8? -> y[B,K]:f32",
  reference({ x, mask, y }) {
    const [, rows = 0, columns = 0] = x!.shape;
    for (let i = 0; i < y!.data.length; i++) {
      const [b, k] = [Math.floor(i / columns), i % columns];
      const at = largestAt(x!, mask, b, k);
      y!.data[i] = at < 0 ? 0 : x!.data[(b * rows + at) * columns + k]!;
    }
    return undefined;
  },
  gradient: ({ inputs: [x, mask], dy: [dy] }) => [maxRowsBackOp.run([x, mask, dy], []), undefined],
  keeps: () => ["x", "mask"],
});

/** The largest value of each column of `x[B,T,K]` over the rows that `mask` u8[B,T] does not hide: [B,K], 0 where it hides all. */
export function maxRows(x: Tensor, mask: Tensor | undefined): Tensor {
  return maxRowsOp.run([x, mask], []);
}

export const maxRowsBackOp = new Op({
  signature: "max_rows_back: x[B,T,K]:f32 mask[B,T]:u8? dy[B,K]:f32 -> dx[B,T,K]:f32",
  reference({ x, mask, dy, dx }) {
    const [, rows = 0, columns = 0] = x!.shape;
    dx!.data.fill(0);
    for (let i = 0; i < dy!.data.length; i++) {
      const [b, k] = [Math.floor(i / columns), i % columns];
      const at = largestAt(x!, mask, b, k);
      if (at >= 0) dx!.data[(b * rows + at) * columns + k] = dy!.data[i]!;
    }
    return undefined;
  },
});
