// attention: scaled dot-product attention over grouped heads, with everything that the architectures ask of it (causal,
// window, key mask, packed segments, ALiBi, additive bias, soft cap). Kernels never hold a T x S matrix (Dao et al. 2022).

import { GradientError, ShapeError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import { attentionBack } from "./attention-back.js";
import { contiguous } from "./copy.js";
import { COMPUTE, type Compute, checkCompute } from "./linear.js";
import { Op } from "./op.js";

export const attentionOp = new Op({
  signature:
    "attention: q[B,T,H,D]:f32~ k[B,G,S,D]:f32|f16|bf16|i8~ v[B,G,S,E]:f32|f16|bf16|i8~ scales[2,B,G,S]:f32? cursor[1]:i32? mask[B,S]:u8? segments[B,S]:i32? slopes[H]:f32? bias[B,H,T,S]:f32~? ; scale:f32 causal:i32 window:i32 softcap:f32 compute:i32 -> y[B,T,H,E]:f32",
  check([q, k, v, scales], attributes) {
    checkCompute("attention", attributes[4]!, 2);
    const heads = q!.shape[2]!;
    const groups = k!.shape[1]!;
    if (groups === 0 || heads % groups !== 0) {
      throw new ShapeError(`attention: ${heads} query heads cannot share ${groups} key heads`);
    }
    const codes = k!.dtype === "i8" || v!.dtype === "i8";
    if (codes !== (scales !== undefined)) {
      throw new ShapeError(
        `attention: ${codes ? "keys and values in i8 need" : "only keys and values in i8 have"} scales`,
      );
    }
  },
  reference({ q, k, v, scales, cursor, mask, segments, slopes, bias, y }, { scale, causal, window, softcap }) {
    const [batch = 0, steps = 0, heads = 0, size = 0] = q!.shape;
    const groups = k!.shape[1]!;
    const keys = k!.shape[2]!;
    const width = v!.shape[3]!;
    const keyScale = k!.dtype === "i8" ? scales!.data : undefined;
    const valueScale = v!.dtype === "i8" ? scales!.data.subarray(batch * groups * keys) : undefined;
    const past = cursor ? cursor.data[0]! : keys - steps;
    const total = past + steps;
    if (past < 0 || total > keys) return `${past} + ${steps} keys do not fit ${keys}`;
    for (let b = 0; b < batch; b++) {
      for (let h = 0; h < heads; h++) {
        const g = Math.floor(h / (heads / groups));
        for (let t = 0; t < steps; t++) {
          const i = past + t;
          const scores = new Float64Array(total).fill(Number.NEGATIVE_INFINITY);
          let highest = Number.NEGATIVE_INFINITY;
          for (let j = 0; j < total; j++) {
            if (causal && j > i) continue;
            if (window! > 0 && j <= i - window!) continue;
            if (mask && mask.data[b * keys + j] === 0) continue;
            if (segments && segments.data[b * keys + j] !== segments.data[b * keys + i]) continue;
            let dot = 0;
            for (let d = 0; d < size; d++) {
              dot +=
                q!.data[((b * steps + t) * heads + h) * size + d]! * k!.data[((b * groups + g) * keys + j) * size + d]!;
            }
            if (keyScale) dot *= keyScale[(b * groups + g) * keys + j]! / 127;
            let score = dot * scale!;
            if (softcap! > 0) score = softcap! * Math.tanh(score / softcap!);
            if (slopes) score += slopes.data[h]! * (j - i);
            if (bias) score += bias.data[((b * heads + h) * steps + t) * keys + j]!;
            scores[j] = score;
            if (score > highest) highest = score;
          }
          const out = ((b * steps + t) * heads + h) * width;
          let sum = 0;
          const mixed = new Float64Array(width);
          if (highest > Number.NEGATIVE_INFINITY) {
            for (let j = 0; j < total; j++) {
              const p = Math.exp(scores[j]! - highest);
              if (p === 0) continue;
              sum += p;
              const row = (b * groups + g) * keys + j;
              const weight = valueScale ? (p * valueScale[row]!) / 127 : p;
              for (let e = 0; e < width; e++) mixed[e] = mixed[e]! + weight * v!.data[row * width + e]!;
            }
          }
          for (let e = 0; e < width; e++) y!.data[out + e] = sum > 0 ? mixed[e]! / sum : 0;
        }
      }
    }
    return undefined;
  },
  gradient({ inputs, attributes: [scale = 1, causal, window = 0, softcap = 0], dy: [dy] }) {
    const given = new Map<string, Tensor>();
    attentionOp.signature.inputs.forEach(({ name }, i) => {
      if (!inputs[i]) return;
      if (!DIFFERENTIATED.includes(name)) throw new GradientError(`attention: with \`${name}\` it has no gradient`);
      given.set(name, inputs[i]);
    });
    const rows = (x: Tensor): Tensor => (lastDimContiguous(x) && x.dtype === "f32" ? x : contiguous(x, "f32"));
    const [q, k, v] = ["q", "k", "v"].map((name) => rows(given.get(name)!));
    const [mask, segments, slopes, bias] = DIFFERENTIATED.slice(3).map((name) => given.get(name));
    const options = { mask, segments, slopes, bias, scale, causal: causal !== 0, window, softcap };
    return attentionBack(q!, k!, v!, dy!, options);
  },
  keeps: () => DIFFERENTIATED,
});

/** Operands with which attention has a gradient: those of attention without a cache. */
const DIFFERENTIATED: readonly string[] = ["q", "k", "v", "mask", "segments", "slopes", "bias"];

function lastDimContiguous({ strides, shape }: Tensor): boolean {
  return strides === null || strides.at(-1) === 1 || shape.at(-1) === 1;
}

export interface AttentionOptions {
  /** f32[2,B,G,S]: absmax of each row of keys, then of values, where these are i8 codes (kv_append makes both). */
  scales?: Tensor;
  /** i32[1] on the device: tokens in the cache before these. Without it queries stand at the end of the keys. */
  cursor?: Tensor;
  /** u8[B,S]: 0 hides a key. */
  mask?: Tensor;
  /** i32[B,S]: packed sequences; a query sees keys of its own segment. */
  segments?: Tensor;
  /** f32[H]: ALiBi slopes; adds slope * (key position - query position). */
  slopes?: Tensor;
  /** f32[B,H,T,S], strides of zero allowed: added to the scores. */
  bias?: Tensor;
  scale: number;
  causal?: boolean;
  /** Keys that a query sees, itself included; 0 for all. */
  window?: number;
  softcap?: number;
  /**
   * "bf16": with keys and values in bf16 a kernel may round scaled queries and weights to bf16 before it multiplies, as a
   * bf16 model does in Python; sums stay f32.
   */
  compute?: Compute;
}

/** Softmax(q kᵀ * scale + ...) v for `q[B,T,H,D]`, `k[B,G,S,D]`, `v[B,G,S,E]`: [B,T,H,E]. Rows that see nothing are zero. */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): Tensor {
  const { scales, cursor, mask, segments, slopes, bias } = options;
  return attentionOp.run(
    [q, k, v, scales, cursor, mask, segments, slopes, bias],
    [
      options.scale,
      options.causal === false ? 0 : 1,
      options.window ?? 0,
      options.softcap ?? 0,
      COMPUTE[options.compute ?? "f32"],
    ],
  );
}
