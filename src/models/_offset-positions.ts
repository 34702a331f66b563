// Learned positions that begin at 2 (OPT, BART): the rows before the first are left over from fairseq's special tokens.

import { scope, Tensor } from "../core/tensor.js";
import { Embedding } from "../nn/module.js";
import { advance } from "../ops/advance.js";
import { copyInto } from "../ops/copy.js";

const OFFSET = 2;

/** A table of `count` positions. */
export class OffsetPositions extends Embedding {
  constructor(count: number, width: number) {
    super(count + OFFSET, width);
  }

  /** Rows of positions i32[B,T] that count from 0. */
  override forward(positions: Tensor): Tensor {
    return scope(() => {
      const entries = Tensor.empty(positions.device, positions.shape, "i32", "positions");
      copyInto(positions, entries);
      advance(entries, OFFSET);
      return super.forward(entries);
    });
  }
}
