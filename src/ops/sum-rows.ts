// sum_rows: the sum over all dims but the last, for gradients of biases and norm weights.

import type { Tensor } from "../core/tensor.js";
import { contiguous } from "./copy.js";
import { Op, rowsOf } from "./op.js";

export const sumRowsOp = new Op({
  signature: "sum_rows: x[..,K]:f32 -> y[K]:f32",
  reference({ x, y }) {
    const columns = y!.data.length;
    for (let k = 0; k < columns; k++) {
      let sum = 0;
      for (let m = 0; m < rowsOf(x!.shape); m++) sum += x!.data[m * columns + k]!;
      y!.data[k] = sum;
    }
    return undefined;
  },
  gradient({ inputs: [x], dy: [dy] }) {
    const columns = dy!.shape[0]!;
    const rows = dy!.view(1, columns).expand(rowsOf(x!.shape), columns);
    return [contiguous(rows).view(...x!.shape)];
  },
  keeps: () => [],
});

/** Sum of the rows of `x[..,K]`: [K]. */
export function sumRows(x: Tensor): Tensor {
  return sumRowsOp.run([x], []);
}
