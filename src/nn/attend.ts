// Attention as model layers use it: over the tokens of the pass, over a cache, over an encoder's output.

import { ShapeError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { type AttentionOptions, attention, unitValues } from "../ops/attention.js";
import { contiguous, copyInto } from "../ops/copy.js";
import type { AttentionKind, Pass } from "./pass.js";

export interface AttendOptions {
  readonly scale: number;
  /** f32[H]: ALiBi slopes. */
  readonly slopes?: Tensor;
  /** f32[H,W]: relative bias by clamped distance (ops/attention.ts). */
  readonly distances?: Tensor;
  readonly window?: number;
  readonly softcap?: number;
  /** f32[H]: a score of each head that only makes its weights smaller (ops/attention.ts). */
  readonly sinks?: Tensor;
}

/** Attention over all keys [B,G,S,D] of a pass without a cache: [B,T,H,E]. Its weights are captured if the pass wants them. */
function whole(pass: Pass, kind: AttentionKind, q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): Tensor {
  pass.capture_attention(
    kind,
    () => contiguous(attention(q, k, unitValues(k), options).permute(0, 2, 1, 3)), // [B,H,T,S]
  );
  return attention(q, k, v, options);
}

/**
 * Causal attention of `q[B,T,H,D]` over `k, v[B,T,G,D]`, or over the cache: [B,T,H*D]. With a cache, k and v are first
 * appended to its layer `layer`, at the pass's lanes.
 */
export function attend(pass: Pass, layer: number, q: Tensor, k: Tensor, v: Tensor, options: AttendOptions): Tensor {
  const [batch = 0, steps = 0, heads = 0] = q.shape;
  const { cache, lanes, mask, segments } = pass.input;
  const { compute, deterministic } = pass.attention;
  const width = heads * v.shape[3]!;
  const { device } = q;
  const hides = { mask: pass.at(device, mask), segments: pass.at(device, segments), deterministic };
  if (!cache) {
    const [keys, values] = [k.permute(0, 2, 1, 3), v.permute(0, 2, 1, 3)]; // [B,G,S,D]
    return whole(pass, "self", q, keys, values, { ...options, ...hides }).view(batch, steps, width);
  }
  if (!lanes) throw new ShapeError("a pass with a cache needs lanes");
  const own = pass.at(device, lanes);
  const held = cache.append(layer, k, v, own);
  const { scales, table } = held;
  const paged = { scales, lanes: own, table, ...hides, compute };
  return attention(q, held.k, held.v, { ...options, ...paged }).view(batch, steps, width);
}

/** Attention of `q[B,T,H,D]` in which every token sees all unmasked tokens of its row (or segment): [B,T,H*D]. */
export function attendAll(pass: Pass, q: Tensor, k: Tensor, v: Tensor, options: AttendOptions): Tensor {
  const [batch = 0, steps = 0, heads = 0] = q.shape;
  const { mask, segments } = pass.input;
  const [keys, values] = [k.permute(0, 2, 1, 3), v.permute(0, 2, 1, 3)]; // [B,G,S,D]
  const own = { mask: pass.at(q.device, mask), segments: pass.at(q.device, segments), causal: false };
  const y = whole(pass, "self", q, keys, values, { ...options, ...own });
  return y.view(batch, steps, heads * v.shape[3]!);
}

/** Elements of a bias that are held at once: 16 MB. */
const PIECE = 1 << 22;

/** Records additions to the scores of tokens `from` to `from + steps`, the queries, for all keys: f32[R,H,steps,T]. */
export type BiasOfQueries = (from: number, steps: number) => Tensor;

/**
 * `attendAll` with additions to the scores that differ from query to query: `biasOf(row, rows)` prepares those of the rows `row` to
 * `row + rows`. A pass that captures weights holds all additions at once, others a bounded piece.
 */
export function attendBiased(
  pass: Pass,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: { readonly scale: number; readonly biasOf: (row: number, rows: number) => BiasOfQueries },
): Tensor {
  const [batch = 0, steps = 0, heads = 0] = q.shape;
  const { scale, biasOf } = options;
  const mask = pass.at(q.device, pass.input.mask);
  const segments = pass.at(q.device, pass.input.segments);
  const each = heads * steps * steps;
  const all = pass.captures_attentions || each * batch <= PIECE;
  const rowsAtOnce = all ? batch : Math.max(1, Math.floor(PIECE / each));
  // Segments are told by the places of queries among the keys: no piece of a row has them.
  const stepsAtOnce = all || each <= PIECE || segments ? steps : Math.max(1, Math.floor(PIECE / (heads * steps)));
  const piece = (row: number, rows: number, from: number, count: number, bias: Tensor): Tensor => {
    const keys = (x: Tensor): Tensor => x.narrow(0, row, rows).permute(0, 2, 1, 3); // [R,H,T,D]
    return whole(pass, "self", q.narrow(0, row, rows).narrow(1, from, count), keys(k), keys(v), {
      scale,
      bias,
      causal: false,
      mask: mask?.narrow(0, row, rows),
      segments: segments?.narrow(0, row, rows),
    });
  };
  if (rowsAtOnce === batch && stepsAtOnce === steps) {
    return scope(() => piece(0, batch, 0, steps, biasOf(0, batch)(0, steps)).view(batch, steps, -1));
  }
  const y = Tensor.empty(q.device, [batch, steps, heads, v.shape[3]!], "f32", "attention");
  for (let row = 0; row < batch; row += rowsAtOnce) {
    const rows = Math.min(rowsAtOnce, batch - row);
    scope(() => {
      const bias = biasOf(row, rows);
      for (let from = 0; from < steps; from += stepsAtOnce) {
        const count = Math.min(stepsAtOnce, steps - from);
        const to = y.narrow(0, row, rows).narrow(1, from, count);
        scope(() => copyInto(piece(row, rows, from, count, bias(from, count)), to));
      }
    });
  }
  return y.view(batch, steps, -1);
}

/**
 * Attention of `q[B,T,H,D]` over the encoder's output: [B,T,H*D]. Keys and values come from layer `layer` of the pass's cross
 * cache; without one, `project` makes them, each [B,S,G,D], from the encoder's hidden states [B,S,hidden].
 */
export function attendEncoded(
  pass: Pass,
  layer: number,
  q: Tensor,
  project: (encoded: Tensor) => readonly [k: Tensor, v: Tensor],
  options: AttendOptions,
): Tensor {
  const [batch = 0, steps = 0, heads = 0] = q.shape;
  const { encoded, cross, lanes } = pass.input;
  const { compute, deterministic } = pass.attention;
  if (cross) {
    if (!lanes) throw new ShapeError("a pass with a cross cache needs lanes");
    const { k, v, scales, table } = cross.layer(layer);
    const paged = { scales, lanes: pass.at(q.device, lanes), table, compute, deterministic, causal: false };
    return attention(q, k, v, { ...options, ...paged }).view(batch, steps, heads * v.shape[3]!);
  }
  if (!encoded) throw new ShapeError("a decoder with cross-attention ran without an encoder's output");
  const [k, v] = project(pass.at(q.device, encoded.hidden));
  const [keys, values] = [k.permute(0, 2, 1, 3), v.permute(0, 2, 1, 3)]; // [B,G,S,D]
  const y = whole(pass, "cross", q, keys, values, {
    ...options,
    mask: pass.at(q.device, encoded.mask),
    causal: false,
    deterministic,
  });
  return y.view(batch, steps, heads * v.shape[3]!);
}
