// Pooling: one vector for each row of hidden states.

import type { Tensor } from "../core/tensor.js";
import { attention } from "./attention.js";
import { embedding } from "./embedding.js";
import { filled } from "./fill.js";
import { maxRows } from "./max-rows.js";
import { rmsNorm } from "./rms-norm.js";

export type Pooling = "mean" | "max";

/** Widest heads that the mean is computed in. */
const WIDEST = 128;

/**
 * The mean or the largest value of each column of `x[B,T,K]` over the rows that `mask` u8[B,T] does not hide: [B,K]. A sequence
 * without any gives zeros.
 */
export function pool(x: Tensor, mask: Tensor | undefined, kind: Pooling): Tensor {
  if (kind === "max") return maxRows(x, mask);
  const [batch = 0, steps = 0, width = 0] = x.shape;
  // Attention whose scores are all equal is the mean of the values, without the masked ones.
  let size = Math.min(width, WIDEST);
  while (width % size !== 0) size--;
  const heads = x.view(batch, steps, width / size, size).permute(0, 2, 1, 3); // [B,G,T,D]
  const query = heads.narrow(2, 0, 1).permute(0, 2, 1, 3); // [B,1,G,D]; any query will do
  return attention(query, heads, heads, { scale: 0, mask, causal: false }).view(batch, width);
}

/** The rows of `x[B,T,K]` that `at` i32[B] numbers among all B * T: [B,K]. */
export function rowsAt(x: Tensor, at: Tensor): Tensor {
  return embedding(x.view(-1, x.shape.at(-1)!), at);
}

/** Keeps a vector of zeros from being divided by zero; too small to change any other. */
const TINY = 1e-30;

/** `x / |x|` over the last dim. */
export function unitLength(x: Tensor): Tensor {
  const width = x.shape.at(-1)!;
  return rmsNorm(x, filled(x.device, [width], width ** -0.5), TINY);
}
