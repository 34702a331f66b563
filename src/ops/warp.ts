// warp: what is left of a row's scores where more drops tokens than sample knows, or where scores change after that and before the draw.

import type { Tensor } from "../core/tensor.js";
import { Op } from "./op.js";
import { keptOf } from "./sample.js";

/** Tokens with their weights, by id. */
type Kept = [id: number, weight: number][];

const sharesOf = (kept: Kept): number[] => {
  const total = kept.reduce((sum, [, weight]) => sum + weight, 0);
  return kept.map(([, weight]) => weight / total);
};

const entropyOf = (shares: readonly number[]): number =>
  -shares.reduce((sum, share) => sum + (share > 0 ? share * Math.log(share) : 0), 0);

function typical(kept: Kept, mass: number): Kept {
  const shares = sharesOf(kept);
  const entropy = entropyOf(shares);
  const far = shares.map((share) => Math.abs(-Math.log(share) - entropy));
  const order = [...kept.keys()].sort((a, b) => (far[a] === far[b] ? a - b : far[a]! - far[b]!));
  let sum = 0;
  const last = order.find((i) => {
    sum += shares[i]!;
    return sum >= mass;
  });
  const most = far[last ?? order.at(-1)!]!;
  return kept.filter((_, i) => far[i]! <= most);
}

/** Drops what is less likely than `leastOf` says, but not the likeliest: of equal ones that of the highest id. */
function cutOff(scores: Float32Array, kept: Kept, leastOf: (shares: readonly number[]) => number): Kept {
  const shares = sharesOf(kept);
  const least = leastOf(shares);
  const best = kept.reduce((one, [id], i) => (scores[id]! >= scores[kept[one]![0]]! ? i : one), 0);
  return kept.filter((_, i) => shares[i]! >= least || i === best);
}

export const warpOp = new Op({
  signature: "warp: logits[R,V]:f32 params[R,7]:f32 -> y[R,V]:f32",
  reference({ logits, params, y }) {
    const [rows = 0, vocabulary = 0] = logits!.shape;
    for (let r = 0; r < rows; r++) {
      const own = params!.data.subarray(7 * r, 7 * r + 7);
      const [temperature = 0, , , , typical_p = 1, epsilon = 0, eta = 0] = own;
      const row = logits!.data.subarray(r * vocabulary, (r + 1) * vocabulary);
      const to = y!.data.subarray(r * vocabulary, (r + 1) * vocabulary);
      to.set(row);
      if (temperature <= 0) continue;
      const scores = Float32Array.from(row, (s) => s / temperature);
      if (scores.some(Number.isNaN)) return "logits hold NaN";
      let kept: Kept = keptOf(scores, own);
      if (kept.length === 0) continue;
      if (typical_p < 1) kept = typical(kept, typical_p);
      if (epsilon > 0) kept = cutOff(scores, kept, () => epsilon);
      if (eta > 0) {
        kept = cutOff(scores, kept, (shares) => Math.min(eta, Math.sqrt(eta) * Math.exp(-entropyOf(shares))));
      }
      to.fill(Number.NEGATIVE_INFINITY);
      for (const [id] of kept) to[id] = scores[id]!;
    }
    return undefined;
  },
});

/**
 * Scores as they are drawn from, f32[R,V]: over the temperature, -Infinity for dropped tokens. `params[r]` holds temperature, top_k (0
 * keeps all), top_p (1), min_p (0), typical_p (1: Meister et al. 2023), epsilon_cutoff and eta_cutoff (0: Hewitt et al. 2022), applied
 * in this order, each to what is left by those before it. A row whose temperature is 0 or less stays as it is.
 */
export function warp(logits: Tensor, params: Tensor): Tensor {
  return warpOp.run([logits, params], []);
}
