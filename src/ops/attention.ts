// attention: scaled dot-product attention over grouped heads, with the variants of all architectures (causal, window, key
// mask, packed segments, ALiBi, T5's distances, additive bias, soft cap, sinks), over keys in the pages of a cache or beside
// the queries. Kernels never hold a T x S matrix (Dao et al. 2022); pages: Kwon et al. 2023.

import { GradientError, OptionError, ShapeError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { laneOf, laneProblem, pageOf, pageProblem } from "./_paged.js";
import { add } from "./add.js";
import { type AttentionBackOptions, attentionBack } from "./attention-back.js";
import { contiguous, copyInto } from "./copy.js";
import { embedding, embeddingBack } from "./embedding.js";
import { filled } from "./fill.js";
import { multiply } from "./gated.js";
import { COMPUTE, type Compute, checkCompute, linear } from "./linear.js";
import { Op } from "./op.js";
import { scale } from "./scale.js";
import { sumRows } from "./sum-rows.js";

/** Added to the code of `compute` if all kernels of a backend must give a token the same bits. */
const DETERMINISTIC = 4;

export const attentionOp = new Op({
  signature:
    "attention: q[B,T,H,D]:f32~ k[P,G,S,D]:f32|f16|bf16|i8~ v[P,G,S,E]:f32|f16|bf16|i8~ scales[2,P,G,S]:f32? lanes[2,B,T]:i32? table[R,C]:i32? mask[B,S]:u8? segments[B,S]:i32? slopes[H]:f32? distances[H,W]:f32? bias[B,H,T,S]:f32~? sinks[H]:f32? ; scale:f32 causal:i32 window:i32 softcap:f32 compute:i32 -> y[B,T,H,E]:f32",
  check([q, k, v, scales, lanes, table, mask, segments, slopes, distances, bias, sinks], attributes) {
    const [, causal, window, , compute] = attributes;
    checkCompute("attention", compute! & ~DETERMINISTIC, 2);
    const [batch = 0, steps = 0, heads = 0] = q!.shape;
    const [pages = 0, groups = 0, keys = 0] = k!.shape;
    if (groups === 0 || heads % groups !== 0) {
      throw new ShapeError(`attention: ${heads} query heads cannot share ${groups} key heads`);
    }
    const codes = k!.dtype === "i8" || v!.dtype === "i8";
    if (codes !== (scales !== undefined)) {
      throw new ShapeError(
        `attention: ${codes ? "keys and values in i8 need" : "only keys and values in i8 have"} scales`,
      );
    }
    if (distances && distances.shape[1]! % 2 === 0) {
      throw new ShapeError(`attention: distances[H,W] need an odd W, got ${distances.shape[1]}`);
    }
    // A GPU has no bindings left for all of them, and no architecture has both.
    if (sinks && (slopes || distances))
      throw new OptionError("attention: sinks cannot be combined with slopes or distances");
    if ((lanes === undefined) !== (table === undefined)) {
      throw new ShapeError("attention: `lanes` and `table` must be given together");
    }
    if (table) {
      if (mask || segments || bias) {
        throw new OptionError("attention: mask, segments and bias cannot be combined with a table");
      }
      if (window! > 0 && !causal) throw new OptionError("attention: a window over a table needs causal: true");
      if (table.shape[1]! < 2 || keys === 0) throw new ShapeError("attention: a row of the table needs a page");
      return;
    }
    if (pages !== batch) throw new ShapeError(`attention: ${batch} rows of queries, ${pages} of keys, and no table`);
    if (steps <= keys) return;
    if (causal || window! > 0 || segments || slopes || distances) {
      throw new ShapeError(`attention: ${steps} queries cannot be the last of ${keys} keys`, {
        hint: "more queries than keys can only see all of them: causal: false, and nothing that depends on positions",
      });
    }
  },
  reference(operands, { scale, causal, window, softcap }) {
    const { q, k, v, scales, lanes, table, mask, segments, slopes, distances, bias, sinks, y } = operands;
    const [batch = 0, steps = 0, heads = 0, size = 0] = q!.shape;
    const [pages = 0, groups = 0, keys = 0] = k!.shape;
    const width = v!.shape[3]!;
    const keyScale = k!.dtype === "i8" ? scales!.data : undefined;
    const valueScale = v!.dtype === "i8" ? scales!.data.subarray(pages * groups * keys) : undefined;
    const farthest = distances ? (distances.shape[1]! - 1) / 2 : 0;
    for (let at = 0; at < batch * steps; at++) {
      const b = Math.floor(at / steps);
      const t = at % steps;
      const { row, position: i } = lanes ? laneOf(lanes, at) : { row: b, position: keys - steps + t };
      if (row < 0) {
        y!.data.fill(0, at * heads * width, (at + 1) * heads * width);
        continue;
      }
      let end = causal ? i + 1 : keys;
      if (table) {
        const problem = laneProblem(table, row, i);
        if (problem) return problem;
        if (!causal) end = table.data[row * table.shape[1]!]!;
      }
      if (!causal && window! > 0) end = Math.max(0, Math.min(end, i + window!));
      const start = window! > 0 ? Math.max(0, i - window! + 1) : 0;
      const room = table ? (table.shape[1]! - 1) * keys : keys;
      if (end - start > room) return `${end - start} keys do not fit pages of ${room} tokens`;
      for (let j = start; table && j < end; j++) {
        const problem = pageProblem(pageOf(table, row, j, keys), pages);
        if (problem) return problem;
      }
      for (let h = 0; h < heads; h++) {
        const g = Math.floor(h / (heads / groups));
        const place = (j: number): number => {
          const page = table ? pageOf(table, row, j, keys) : b;
          return (page * groups + g) * keys + (table ? j % keys : j);
        };
        const scores = new Float64Array(Math.max(0, end)).fill(Number.NEGATIVE_INFINITY);
        const sink = sinks ? sinks.data[h]! : Number.NEGATIVE_INFINITY;
        let highest = sink;
        let broken = false;
        for (let j = start; j < end; j++) {
          if (mask && mask.data[b * keys + j] === 0) continue;
          if (segments && segments.data[b * keys + j] !== segments.data[b * keys + i]) continue;
          const key = place(j);
          let dot = 0;
          for (let d = 0; d < size; d++) dot += q!.data[(at * heads + h) * size + d]! * k!.data[key * size + d]!;
          if (keyScale) dot *= keyScale[key]! / 127;
          let score = dot * scale!;
          if (softcap! > 0) score = softcap! * Math.tanh(score / softcap!);
          if (slopes) score += slopes.data[h]! * (j - i);
          if (distances) {
            const away = Math.max(-farthest, Math.min(farthest, j - i)) + farthest;
            score += distances.data[h * distances.shape[1]! + away]!;
          }
          if (bias) score += bias.data[((b * heads + h) * steps + t) * keys + j]!;
          scores[j] = score;
          if (score > highest) highest = score;
          if (Number.isNaN(score)) broken = true;
        }
        const out = (at * heads + h) * width;
        let sum = 0;
        const mixed = new Float64Array(width);
        if (highest > Number.NEGATIVE_INFINITY || broken) {
          sum = Math.exp(sink - highest);
          for (let j = start; j < end; j++) {
            const p = Math.exp(scores[j]! - highest);
            if (p === 0) continue;
            sum += p;
            const value = place(j);
            const weight = valueScale ? (p * valueScale[value]!) / 127 : p;
            for (let e = 0; e < width; e++) mixed[e] = mixed[e]! + weight * v!.data[value * width + e]!;
          }
        }
        for (let e = 0; e < width; e++) y!.data[out + e] = sum === 0 ? 0 : mixed[e]! / sum;
      }
    }
    return undefined;
  },
  gradient({ inputs, outputs: [y], attributes: [scale = 1, causal, window = 0, softcap = 0], dy: [dy], wanted }) {
    const given = new Map<string, Tensor>();
    attentionOp.signature.inputs.forEach(({ name }, i) => {
      if (!inputs[i]) return;
      if (!DIFFERENTIATED.includes(name)) throw new GradientError(`attention: with \`${name}\` it has no gradient`);
      given.set(name, inputs[i]);
    });
    const rows = (x: Tensor): Tensor => (lastDimContiguous(x) && x.dtype === "f32" ? x : contiguous(x, "f32"));
    const [q, k, v] = ["q", "k", "v"].map((name) => rows(given.get(name)!));
    const [mask, segments, slopes, distances, added, sinks] = DIFFERENTIATED.slice(3).map((name) => given.get(name));
    const far = distances && new Distances(distances, q!, k!);
    const bias = far && added ? add(contiguous(far.bias), contiguous(added)) : (far?.bias ?? added);
    const options = { mask, segments, slopes, bias, sinks, scale, causal: causal !== 0, window, softcap };
    const found: (Tensor | undefined)[] = [...attentionBack(q!, k!, v!, dy!, options)];
    if (wanted[SINKS]) found[SINKS] = sinksGradient(q!, k!, y!, dy!, options);
    if (!wanted[BIAS] && !wanted[DISTANCES]) return found;
    const byBias = biasGradient(q!, k!, v!, dy!, options);
    if (wanted[BIAS]) found[BIAS] = byBias;
    if (wanted[DISTANCES]) found[DISTANCES] = far!.gradient(byBias);
    return found;
  },
  keeps: (wanted) => [...DIFFERENTIATED, ...(wanted[SINKS] ? ["y"] : [])],
});

/** Operands that attention can be differentiated with: those of attention without a cache. */
const DIFFERENTIATED: readonly string[] = ["q", "k", "v", "mask", "segments", "slopes", "distances", "bias", "sinks"];

/** Where they are among the operands. */
const [BIAS = 0, DISTANCES = 0, SINKS = 0] = ["bias", "distances", "sinks"].map((wanted) =>
  attentionOp.signature.inputs.findIndex(({ name }) => name === wanted),
);

/** Additions by clamped distance, f32[H,W], as a bias: T x S numbers for each head, which only the backward pass holds. */
class Distances {
  /** f32[B,H,T,S], the same for all rows. */
  readonly bias: Tensor;
  readonly #away: Int32Array;
  readonly #columns: number;

  constructor(distances: Tensor, q: Tensor, k: Tensor) {
    const [batch = 0, steps = 0, heads = 0] = q.shape;
    const keys = k.shape[2]!;
    this.#columns = distances.shape[1]!;
    const farthest = (this.#columns - 1) / 2;
    this.#away = Int32Array.from({ length: steps * keys }, (_, at) => {
      const distance = (at % keys) - (keys - steps + Math.floor(at / keys));
      return Math.max(-farthest, Math.min(farthest, distance)) + farthest;
    });
    const table = contiguous(distances.permute(1, 0)); // [W,H]
    const all = embedding(table, Tensor.from(q.device, this.#away, [steps, keys])); // [T,S,H]
    this.bias = contiguous(all.permute(2, 0, 1))
      .view(1, heads, steps, keys)
      .expand(batch, heads, steps, keys);
  }

  /** The gradient by the additions of that by the bias. */
  gradient(byBias: Tensor): Tensor {
    const [batch = 0, heads = 0, steps = 0, keys = 0] = byBias.shape;
    const sum = sumRows(byBias.view(batch, -1)).view(heads, steps, keys);
    const ids = Tensor.from(byBias.device, this.#away, [steps, keys]);
    return contiguous(embeddingBack(ids, contiguous(sum.permute(1, 2, 0)), this.#columns).permute(1, 0));
  }
}

/**
 * The gradient of attention by `bias`, f32[B,H,T,S]: P * (dP - the sum of P dP over the keys), with the weights P and dP = dy vᵀ,
 * which this holds as the bias itself is held.
 */
function biasGradient(q: Tensor, k: Tensor, v: Tensor, dy: Tensor, options: AttentionBackOptions): Tensor {
  const keys = k.shape[2]!;
  const weights = attention(q, k, unitValues(k), options as AttentionOptions); // [B,T,H,S]
  const both = multiply(weights, mixValues(dy, v.permute(0, 1, 3, 2)));
  const ones = Tensor.from(q.device, new Float32Array(keys).fill(1), [1, keys]);
  const sums = linear(both, ones).expand(...weights.shape);
  return contiguous(add(both, scale(multiply(weights, sums), -1)).permute(0, 2, 1, 3));
}

/**
 * The gradient of attention by `sinks`, f32[H]: -P · (dy · y), summed over rows and queries. P is the weight of a sink, what the weights
 * of the keys leave of 1; dy · y is the sum of P dP over the keys.
 */
function sinksGradient(q: Tensor, k: Tensor, y: Tensor, dy: Tensor, options: AttentionBackOptions): Tensor {
  const [batch = 0, steps = 0, heads = 0] = q.shape;
  const [, groups = 0, keys = 0] = k.shape;
  const ones = filled(q.device, [1, 1, 1, 1], 1).expand(batch, groups, keys, 1);
  const seen = attention(q, k, ones, options as AttentionOptions).view(batch, steps, heads);
  const left = add(seen, filled(q.device, [batch, steps, heads], -1)); // -P
  const along = linear(multiply(y, dy), filled(q.device, [1, y.shape[3]!], 1)).view(batch, steps, heads);
  return sumRows(multiply(left, along));
}

/** Values [B,G,S,S] for keys k[B,G,S,D], each a row of the unit matrix: attention over them gives its weights, [B,T,H,S]. */
export function unitValues({ device, shape: [batch = 0, groups = 0, keys = 0] }: Tensor): Tensor {
  const unit = Float32Array.from({ length: keys * keys }, (_, at) => (at % (keys + 1) === 0 ? 1 : 0));
  return Tensor.from(device, unit, [1, 1, keys, keys]).expand(batch, groups, keys, keys);
}

/** Sums of values v[B,G,S,E] by weights w[B,T,H,S] of the heads that share them: f32[B,T,H,E]. */
export function mixValues(w: Tensor, v: Tensor): Tensor {
  const [batch = 0, steps = 0, heads = 0] = w.shape;
  const [, groups = 0, , size = 0] = v.shape;
  const share = heads / groups;
  const y = Tensor.empty(v.device, [batch, steps, heads, size], "f32", "attention");
  for (let b = 0; b < batch; b++) {
    for (let g = 0; g < groups; g++) {
      scope(() => {
        const own = contiguous(w.select(0, b).narrow(1, g * share, share));
        const columns = contiguous(v.select(0, b).select(0, g).permute(1, 0), "f32");
        copyInto(linear(own, columns), y.select(0, b).narrow(1, g * share, share));
      });
    }
  }
  return y;
}

function lastDimContiguous({ strides, shape }: Tensor): boolean {
  return strides === null || strides.at(-1) === 1 || shape.at(-1) === 1;
}

export interface AttentionOptions {
  /** f32[2,P,G,S]: absmax of each row of keys, then of values, where these are i8 codes (kv_append makes both). */
  scales?: Tensor;
  /**
   * i32[2,B,T], with `table`: the row of each token (-1: an unused lane, whose result is zero), and its position in that
   * row's cache. Without it the T queries of a row are the last of its S key positions.
   */
  lanes?: Tensor;
  /**
   * i32[R,C]: for each row its number of keys (read if `causal` is false), then its pages. The token at position p lies in
   * page `table[r][1 + floor(p / S) % (C - 1)]`, at place p % S.
   */
  table?: Tensor;
  /** u8[B,S]: 0 hides a key. Not with a table. */
  mask?: Tensor;
  /** i32[B,S]: packed sequences; a query sees keys of its own segment. Not with a table. */
  segments?: Tensor;
  /** f32[H]: ALiBi slopes; adds slope * (key position - query position). */
  slopes?: Tensor;
  /**
   * f32[H,W], W odd: adds `distances[h, clamp(j - i, -(W-1)/2, (W-1)/2) + (W-1)/2]` to the score of query i and key j (the
   * relative bias of T5, Raffel et al. 2020, whose buckets are constant beyond a distance).
   */
  distances?: Tensor;
  /** f32[B,H,T,S], strides of zero allowed: added to the scores. Not with a table. */
  bias?: Tensor;
  /**
   * f32[H]: the score of one more key that every query of a head sees, whose value is zero (gpt-oss; Xiao et al. 2023, section 3.3).
   * Not with slopes or distances.
   */
  sinks?: Tensor;
  scale: number;
  /** Default true. With a table a query sees keys 0 to its own position; without one, those up to its place. */
  causal?: boolean;
  /**
   * Keys that a query sees, itself included; 0 for all. Without `causal` those on both sides that are nearer than `window`; then
   * not with a table.
   */
  window?: number;
  softcap?: number;
  /**
   * "bf16": with keys and values in bf16 a kernel may round scaled queries and weights to bf16 before it multiplies, as a
   * bf16 model does in Python; sums stay f32.
   */
  compute?: Compute;
  /**
   * All kernels of the backend give a token the same bits, for few queries and for many. Otherwise a backend may use a faster
   * kernel for many queries, whose sums round differently.
   */
  deterministic?: boolean;
}

/**
 * Softmax(q kᵀ * scale + ...) v for `q[B,T,H,D]`: f32[B,T,H,E]. Keys `k[P,G,S,D]` and values `v[P,G,S,E]` are P pages of S
 * tokens, which `table` assigns to rows, or, without a table, the S keys of each of P = B rows. Queries that see no key
 * give zeros.
 * @throws ShapeError, OptionError for inconsistent operands. Reading the result rejects with a KernelError if lanes or table
 *   are out of range, or a query sees more keys than its row has room for.
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): Tensor {
  const { scales, lanes, table, mask, segments, slopes, distances, bias, sinks } = options;
  return attentionOp.run(
    [q, k, v, scales, lanes, table, mask, segments, slopes, distances, bias, sinks],
    [
      options.scale,
      options.causal === false ? 0 : 1,
      options.window ?? 0,
      options.softcap ?? 0,
      COMPUTE[options.compute ?? "f32"] + (options.deterministic ? DETERMINISTIC : 0),
    ],
  );
}
