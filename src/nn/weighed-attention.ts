// Attention in three steps, a product, a softmax and a product, each head's T x S weights between them: for dropout, and where a caller
// asks for it. Without a tape one head's weights are held at a time; under one, those of all heads.

import type { Device } from "../core/device.js";
import { scope, Tensor } from "../core/tensor.js";
import { add } from "../ops/add.js";
import { blockwiseDequantize } from "../ops/blockwise.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { crossEntropy, crossEntropyBackOp } from "../ops/cross-entropy.js";
import { filled } from "../ops/fill.js";
import { multiply } from "../ops/gated.js";
import { linear } from "../ops/linear.js";
import { scale } from "../ops/scale.js";
import { type GradientCall, recordAs, taping } from "../ops/tape.js";
import { type Band, type FusedOptions, fused } from "./fused-attention.js";
import { stream } from "./init.js";

/**
 * What `fused` gives, from its weights: f32[B,T,H,E]. Each weight becomes 0 with probability `dropout`, and the others are divided
 * by 1 - dropout; the masks come from the generator of `manual_seed`.
 */
export function weighed(q: Tensor, k: Tensor, v: Tensor, options: FusedOptions, dropout: number): Tensor {
  const { device } = q;
  const [batch = 0, steps = 0, heads = 0] = q.shape;
  const [, groups = 0, keys = 0, size = 0] = v.shape;
  if (batch * steps * heads * keys * size === 0) return filled(device, [batch, steps, heads, size], 0);
  const blind = mayBeBlind(options, steps, keys) ? blindness(q, k, options) : undefined; // [B,T,H,1]
  const added = new Additions(device, options, steps, keys);
  const draw = dropout > 0 ? stream()() : undefined;
  const y = Tensor.empty(device, [batch, steps, heads, size], "f32", "attention");
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      const g = Math.floor(h / (heads / groups));
      scope(() => {
        const queries = scale(contiguous(q.select(0, b).select(1, h), "f32"), options.scale);
        const of = (x: Tensor): Tensor => x.select(0, b).select(0, g); // [S,D]
        const [own, values] = [of(k), of(v)].map((x) => (blind ? withRow(x) : contiguous(x))) as [Tensor, Tensor];
        const more = added.of(b, h);
        const bias = blind ? withColumn(more, blind.select(0, b).select(1, h), [steps, keys]) : more;
        const weights = softmax(scores(queries, own, options.softcap, bias));
        const kept = draw ? multiply(weights, dropped(device, weights.shape, draw, dropout)) : weights;
        copyInto(linear(kept, contiguous(values.permute(1, 0), "f32")), y.select(0, b).select(1, h));
      });
    }
  }
  return y;
}

/** q kᵀ, soft-capped, with `bias` added, for q[T,D] and k[S,D]: [T,S]. */
function scores(q: Tensor, k: Tensor, softcap: number | undefined, bias: Tensor | undefined): Tensor {
  if (!softcap) return linear(q, k, bias ? { residual: bias } : {});
  const capped = scale(linear(q, k), 1, softcap);
  return bias ? add(capped, bias) : capped;
}

/** Not a label: all rows count. */
const NONE = -(2 ** 31);

/** The softmax of each row of x[R,S], which is the gradient of its log-sum-exp. */
export function softmax(x: Tensor): Tensor {
  const { device, shape } = x;
  const [rows = 0] = shape;
  const [y] = recordAs("softmax", [x], softmaxBack, () => {
    const p = scope(() => {
      const first = Tensor.from(device, new Int32Array(rows), [rows]);
      const { lse } = crossEntropy(x, first, 0, NONE);
      return crossEntropyBackOp.run([x, first, lse, filled(device, [rows], 0), filled(device, [rows], 1)], [0, NONE]);
    });
    return { outputs: [p], saved: [p] };
  });
  return y!;
}

/** p * (dp - the sum of p dp over its row). */
function softmaxBack({ inputs: [, p], dy: [dp] }: GradientCall): readonly Tensor[] {
  return [
    scope(() => {
      const both = multiply(p!, dp!);
      const sums = linear(both, filled(both.device, [1, both.shape[1]!], 1)); // [R,1]
      return add(both, scale(multiply(p!, sums.expand(...both.shape)), -1));
    }),
  ];
}

/** 0 or 1 / (1 - p) for each weight. */
function dropped(device: Device, shape: readonly number[], draw: () => number, p: number): Tensor {
  const size = shape.reduce((n, length) => n * length, 1);
  const mask = Float32Array.from({ length: size }, () => (draw() < p ? 0 : 1 / (1 - p)));
  return Tensor.from(device, mask, shape, "f32", "dropout");
}

/** What is added to the scores of one head, f32[T,S]. */
class Additions {
  readonly #options: FusedOptions;
  readonly #steps: number;
  readonly #keys: number;
  /** 0 or minus infinity. */
  readonly #band: Tensor | undefined;
  /** Minus the distance of query and key, for slopes. */
  readonly #away: Tensor | undefined;
  /** f32[B,S] of the mask. */
  readonly #hiding: Tensor | undefined;

  constructor(device: Device, options: FusedOptions, steps: number, keys: number) {
    const { band, slopes, mask } = options;
    this.#options = options;
    this.#steps = steps;
    this.#keys = keys;
    const matrix = (row: (own: Float32Array, t: number) => void): Tensor => {
      const all = new Float32Array(steps * keys);
      for (let t = 0; t < steps; t++) row(all.subarray(t * keys, (t + 1) * keys), t);
      return Tensor.from(device, all, [steps, keys], "f32", "attention bias");
    };
    if (band && (band.left !== undefined || band.right !== undefined)) {
      this.#band = matrix((own, t) => {
        const [first, end] = visible(band, t, keys);
        own.fill(Number.NEGATIVE_INFINITY).fill(0, first, Math.max(first, end));
      });
    }
    if (band && slopes) {
      this.#away = matrix((own, t) => {
        for (let j = 0; j < keys; j++) own[j] = -Math.abs(j - t - band.diagonal);
      });
    }
    this.#hiding = mask && hiding(contiguous(mask));
  }

  /** Of row b and head h; undefined where nothing is added. */
  of(b: number, h: number): Tensor | undefined {
    const { bias, slopes } = this.#options;
    const wide = (x: Tensor): Tensor => x.expand(this.#steps, this.#keys);
    const parts = [
      this.#band,
      this.#away && slopes && multiply(wide(slopes.narrow(0, h, 1).view(1, 1)), this.#away),
      this.#hiding && contiguous(wide(this.#hiding.narrow(0, b, 1))),
      bias && contiguous(bias.select(0, b).select(0, h)),
    ];
    return parts.reduce((sum, part) => (sum && part ? add(sum, part) : (sum ?? part)), undefined);
  }
}

/** The keys that query t sees, from the first to before the end. */
function visible({ diagonal, left, right }: Band, t: number, keys: number): readonly [first: number, end: number] {
  const at = t + diagonal;
  return [
    left === undefined ? 0 : Math.max(0, at - left),
    right === undefined ? keys : Math.max(0, Math.min(keys, at + right + 1)),
  ];
}

/** True if a query may see no key: its softmax would be of nothing but minus infinities. */
function mayBeBlind({ mask, bias, band }: FusedOptions, steps: number, keys: number): boolean {
  if (mask || bias) return true;
  for (let t = 0; band && t < steps; t++) {
    const [first, end] = visible(band, t, keys);
    if (end <= first) return true;
  }
  return false;
}

/** Scores of one key more, which only queries that see no other one see: 0, or minus infinity; f32[B,T,H,1]. */
function blindness(q: Tensor, k: Tensor, options: FusedOptions): Tensor {
  return taping(undefined, () =>
    scope(() => {
      // Attention over ones is 1, and 0 for queries that see nothing.
      const seen = fused(q, k, filled(k.device, [...k.shape.slice(0, 3), 1], 1), options);
      return scale(scale(seen, -3e38), 3e38);
    }),
  );
}

/** `x` [S,D] with a row of zeros behind it. */
function withRow(x: Tensor): Tensor {
  const [rows = 0, columns = 0] = x.shape;
  const wide = filled(x.device, [rows + 1, columns], 0);
  copyInto(x, wide.narrow(0, 0, rows));
  return wide;
}

/** `x` (by default zeros) of `shape` [T,S] with a column [T,1] behind it. */
function withColumn(x: Tensor | undefined, column: Tensor, [rows, columns]: readonly [number, number]): Tensor {
  const wide = filled(column.device, [rows, columns + 1], 0);
  if (x) copyInto(x, wide.narrow(1, 0, columns));
  copyInto(column, wide.narrow(1, columns, 1));
  return wide;
}

/** f32: 0 where a boolean mask is set, minus infinity where it is 0: a table of its 256 values. */
export function hiding(mask: Tensor): Tensor {
  const { device, size, shape } = mask;
  const table = new Float32Array(256);
  table[0] = Number.NEGATIVE_INFINITY;
  const one = Tensor.from(device, Float32Array.of(1), [1]);
  if (size === 0) return Tensor.empty(device, shape, "f32");
  return blockwiseDequantize(mask.view(size), one, Tensor.from(device, table, [256]), size).view(...shape);
}
