// The norms of DoRA, from ops that every backend has.

import { scope, Tensor } from "../core/tensor.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { filled, fillInto } from "../ops/fill.js";
import { multiply } from "../ops/gated.js";
import { linear } from "../ops/linear.js";
import { rmsNorm } from "../ops/rms-norm.js";
import { scale } from "../ops/scale.js";

/** Far below any norm, and its square is still a normal f32. */
const SMALL = 2 ** -50;

/** The norm of each row of f32[N,K]: [N]. */
export function rowNorms(rows: Tensor): Tensor {
  return scope(() => {
    const { device } = rows;
    const [N = 0, K = 0] = rows.shape;
    // A row times its direction is its norm.
    const directions = rmsNorm(rows, filled(device, [K], 1), SMALL ** 2);
    return linear(multiply(rows, directions), filled(device, [1, K], 1 / Math.sqrt(K))).view(N);
  });
}

/** 1 / x of f32[N], and 0 for 0. */
export function inverses(x: Tensor): Tensor {
  return scope(() => {
    const { device } = x;
    const [N = 0] = x.shape;
    // rms_norm of (x, small) ends with small √2 / |x| where small is small beside x.
    const pairs = Tensor.empty(device, [N, 2], "f32", "norms");
    copyInto(x.view(N, 1), pairs.narrow(1, 0, 1));
    fillInto(pairs.narrow(1, 1, 1), SMALL);
    const scaled = rmsNorm(pairs, filled(device, [2], 1), 0);
    const sizes = scale(contiguous(scaled.narrow(1, 1, 1)), 1 / (SMALL * Math.SQRT2));
    const signs = rmsNorm(x.view(N, 1), filled(device, [1], 1), SMALL ** 2);
    return multiply(sizes, signs).view(N);
  });
}

/** Each row of x[N,K] times a number of f[N]. */
export function overRows(x: Tensor, f: Tensor): Tensor {
  return scope(() => multiply(x, f.view(-1, 1).expand(...x.shape)));
}

/** Each column of x[..,N] times a number of f[N]. */
export function overColumns(x: Tensor, f: Tensor): Tensor {
  return scope(() => {
    const ones = x.shape.slice(0, -1).map(() => 1);
    return multiply(x, f.view(...ones, f.size).expand(...x.shape));
  });
}
