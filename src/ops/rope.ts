// rope_table and rope: rotary position embedding (Su et al. 2021). The table is made once per forward and shared by all
// layers; `rope` rotates the first 2R dims of each head and copies the rest. Frequencies are the same for all tokens, or each
// text has its own.

import { ShapeError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { contiguous, copyInto } from "./copy.js";
import { Op } from "./op.js";
import { scale } from "./scale.js";

export const ropeTableOp = new Op({
  signature: "rope_table: positions[B,T]:i32 inv_freq[V,R]:f32 rows[B,T]:i32? ; scale:f32 -> table[B,T,2,R]:f32",
  check([positions, frequencies, rows]) {
    const [sets = 0] = frequencies!.shape;
    const [batch = 0] = positions!.shape;
    if (sets > 0 && (rows || sets === 1 || sets === batch)) return;
    throw new ShapeError(`rope_table: ${sets} sets of frequencies for ${batch} rows, and nothing says which is whose`);
  },
  reference({ positions, inv_freq, rows, table }, { scale }) {
    const [sets = 0, half = 0] = inv_freq!.shape;
    const steps = positions!.shape[1]!;
    for (let i = 0; i < positions!.data.length; i++) {
      const row = rows ? rows.data[i]! : sets === 1 ? 0 : Math.floor(i / steps);
      const own = Math.max(0, Math.min(sets - 1, row)) * half;
      for (let r = 0; r < half; r++) {
        // The angle is rounded to f32, as in the training of the published models.
        const angle = Math.fround(positions!.data[i]! * inv_freq!.data[own + r]!);
        table!.data[i * 2 * half + r] = Math.cos(angle) * scale!;
        table!.data[i * 2 * half + half + r] = Math.sin(angle) * scale!;
      }
    }
    return undefined;
  },
});

export const ropeOp = new Op({
  signature: "rope: x[B,T,H,D]:f32~ table[B,T,2,R]:f32 ; interleaved:i32 -> y[B,T,H,D]:f32",
  check([x, table]) {
    if (2 * table!.shape[3]! > x!.shape[3]!) {
      throw new ShapeError(`rope: ${table!.shape[3]} frequencies turn more dims than a head of ${x!.shape[3]} has`);
    }
  },
  reference({ x, table, y }, { interleaved }) {
    const [batch = 0, steps = 0, heads = 0, size = 0] = x!.shape;
    const half = table!.shape[3]!;
    for (let i = 0; i < batch * steps; i++) {
      for (let h = 0; h < heads; h++) {
        const at = (i * heads + h) * size;
        for (let d = 0; d < size; d++) y!.data[at + d] = x!.data[at + d]!;
        for (let r = 0; r < half; r++) {
          const cos = table!.data[i * 2 * half + r]!;
          const sin = table!.data[i * 2 * half + half + r]!;
          const first = at + (interleaved ? 2 * r : r);
          const second = at + (interleaved ? 2 * r + 1 : r + half);
          const a = x!.data[first]!;
          const b = x!.data[second]!;
          y!.data[first] = a * cos - b * sin;
          y!.data[second] = b * cos + a * sin;
        }
      }
    }
    return undefined;
  },
  gradient({ inputs: [, table], attributes, dy: [dy] }) {
    // The inverse rotation: the same table with the sine negated.
    const back = Tensor.empty(table!.device, table!.shape, "f32", "rope_table");
    copyInto(table!.narrow(2, 0, 1), back.narrow(2, 0, 1));
    copyInto(scale(contiguous(table!.narrow(2, 1, 1)), -1), back.narrow(2, 1, 1));
    return [ropeOp.run([dy, back], attributes), undefined];
  },
  keeps: () => ["table"],
});

/**
 * cos and sin of `positions[B,T] * inv_freq[R]`, both times `scale`: [B,T,2,R]. With `inv_freq[V,R]` a token takes the set that
 * `rows[B,T]` names, the nearest one if there is none of that number (unused lanes have row -1); without `rows`, that of its
 * row, or the only one.
 * @throws ShapeError
 */
export function ropeTable(positions: Tensor, inverseFrequencies: Tensor, scale = 1, rows?: Tensor): Tensor {
  return scope(() => {
    const sets = inverseFrequencies.shape.length === 1 ? inverseFrequencies.view(1, -1) : inverseFrequencies;
    return ropeTableOp.run([positions, sets, rows], [scale]);
  });
}

/** Rotates heads `x[B,T,H,D]` by a table; pairs are (r, r+R), or (2r, 2r+1) when interleaved. */
export function rope(x: Tensor, table: Tensor, interleaved = false): Tensor {
  return ropeOp.run([x, table], [interleaved ? 1 : 0]);
}
