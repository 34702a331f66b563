// Attention by the op, for callers who place queries and keys as they like: any alignment of the two, windows to both sides, more
// queries than keys. The op knows queries that are the last of the keys; others become so by keys that nobody sees.

import type { Device } from "../core/device.js";
import { Tensor } from "../core/tensor.js";
import { attention } from "../ops/attention.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { filled } from "../ops/fill.js";
import { multiply } from "../ops/gated.js";

/** Query t sees keys t + diagonal - left to t + diagonal + right; without a bound on a side, all of that side. */
export interface Band {
  readonly diagonal: number;
  readonly left?: number | undefined;
  readonly right?: number | undefined;
}

export interface FusedOptions {
  readonly scale: number;
  readonly softcap?: number | undefined;
  /** u8[B,S]: 0 hides a key. */
  readonly mask?: Tensor | undefined;
  /** f32[B,H,T,S], strides of zero allowed: added to the scores. Not with a band. */
  readonly bias?: Tensor | undefined;
  /** f32[H]: subtracts slope * distance from the scores, the distance from the key at t + diagonal. Only with a band. */
  readonly slopes?: Tensor | undefined;
  readonly band?: Band | undefined;
}

/** `x` with rows that lie together, as the op reads them. */
function inRows(x: Tensor): Tensor {
  const together = x.strides === null || x.strides.at(-1) === 1 || x.shape.at(-1)! <= 1;
  return together ? x : contiguous(x);
}

/**
 * softmax(q kᵀ * scale + ...) v for q[B,T,H,D], k[B,G,S,D], v[B,G,S,E], of any float dtype: f32[B,T,H,E]. Rows that see no key are
 * zeros. Never holds a T x S matrix.
 */
export function fused(q: Tensor, k: Tensor, v: Tensor, options: FusedOptions): Tensor {
  const [batch = 0, steps = 0, heads = 0] = q.shape;
  const keys = k.shape[2]!;
  const { scale, softcap, mask, bias, band, slopes } = options;
  const size = v.shape[3]!;
  const zeros = (): Tensor => filled(q.device, [batch, steps, heads, size], 0);
  if (batch * steps * heads * size === 0 || keys === 0) return zeros();
  const queries = inRows(q.dtype === "f32" ? q : contiguous(q, "f32"));
  const shared = { scale, ...(softcap ? { softcap } : {}) };
  if (!band || (band.left === undefined && band.right === undefined && !slopes)) {
    return attention(queries, inRows(k), inRows(v), { ...shared, causal: false, mask, bias });
  }
  // What one sees to the right is a causal order of queries that stand so much later: at most so that the first sees all.
  const right = Math.min(band.right ?? Number.POSITIVE_INFINITY, Math.max(0, keys - 1 - band.diagonal));
  const reach = band.diagonal + right;
  const used = Math.min(keys, steps + reach);
  if (used <= 0) return zeros();
  const room: Room = { front: Math.max(0, -reach), used, back: Math.max(0, steps + reach - keys) };
  const window = band.left === undefined ? 0 : band.left + right + 1;
  const total = room.front + used + room.back;
  const biased = slopes && (right === 0 ? { slopes } : { distances: bothWays(slopes, right, total) });
  return attention(queries, withRoom(k, room), withRoom(v, room), {
    ...shared,
    ...biased,
    causal: true,
    // A window that holds all keys is none.
    window: window >= total ? 0 : window,
    mask: hidden(q.device, batch, mask, room),
  });
}

/** Rows of zeros that nobody sees before and after the first `used` keys. */
interface Room {
  readonly front: number;
  readonly used: number;
  readonly back: number;
}

function withRoom(x: Tensor, { front, used, back }: Room): Tensor {
  const part = used === x.shape[2] ? x : x.narrow(2, 0, used);
  if (front + back === 0) return inRows(part);
  const wide = filled(x.device, x.shape.with(2, front + used + back), 0);
  copyInto(part, wide.narrow(2, front, used));
  return wide;
}

/** The key mask u8[B,S] of keys with room; undefined if no key is hidden. */
function hidden(
  device: Device,
  batch: number,
  mask: Tensor | undefined,
  { front, used, back }: Room,
): Tensor | undefined {
  const keys = front + used + back;
  if (front + back === 0) return mask && (used === mask.shape[1] ? mask : contiguous(mask.narrow(1, 0, used)));
  const row = new Uint8Array(keys).fill(1, front, front + used);
  const wide = Tensor.from(device, row, [1, keys]).expand(batch, keys);
  const own = contiguous(wide);
  if (mask) copyInto(mask.narrow(1, 0, used), own.narrow(1, front, used));
  return own;
}

/** f32[H,W]: -slope * |distance| for keys on both sides, where the op counts distances from `right` keys later. */
function bothWays(slopes: Tensor, right: number, farthest: number): Tensor {
  const [heads, width] = [slopes.size, 2 * farthest + 1];
  const away = Float32Array.from({ length: width }, (_, at) => -Math.abs(at - farthest + right));
  const row = Tensor.from(slopes.device, away, [1, width]);
  return multiply(slopes.view(heads, 1).expand(heads, width), row.expand(heads, width));
}
