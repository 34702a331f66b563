// ALiBi as Falcon computes it: slope * position of each key, rounded to bf16. Rounded, it is no longer a function of the distance,
// so it cannot be the attention op's slopes: it becomes further dims of the keys, one for each query head of a group, and
// queries are 1 there.

import type { Device } from "../core/device.js";
import { fromBf16, toBf16 } from "../core/dtype.js";
import { OptionError } from "../core/errors.js";
import { Tensor } from "../core/tensor.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { multiply } from "../ops/gated.js";
import { Buffer } from "./module.js";
import type { Pass } from "./pass.js";

/** The constant is f32[H + H * N], N = H / G: slopes, then what queries are in the further dims. */
export class RoundedAlibi extends Buffer {
  readonly #heads: number;
  /** Further dims of keys and queries. */
  readonly dims: number;
  /** How often the bias counts. */
  readonly factor: number;

  constructor(slopes: Float32Array, groups: number, factor: number) {
    const heads = slopes.length;
    const dims = heads / groups;
    super(() => {
      const values = new Float32Array(heads * (1 + dims));
      for (const [head, slope] of slopes.entries()) {
        values[head] = fromBf16(toBf16(slope));
        values[heads + head * dims + (head % dims)] = factor;
      }
      return values;
    });
    this.#heads = heads;
    this.factor = factor;
    this.dims = dims;
  }

  /**
   * Operands of attention that add `factor` * bias to q kᵀ: q[B,T,H,D+N] and k[B,T,G,D+N].
   * @throws OptionError for a cache in 8 bits, whose steps are as wide as the whole of a key beside a bias of hundreds
   */
  widened(pass: Pass, q: Tensor, k: Tensor): readonly [q: Tensor, k: Tensor] {
    if (pass.input.cache?.dtype === "i8") {
      throw new OptionError("a cache in 8 bits cannot hold the ALiBi of this Falcon model", {
        details: { option: "cache_implementation" },
        hint: 'leave cache_implementation out; cache_dtype: "bfloat16" halves the cache',
      });
    }
    const [batch = 0, steps = 0, groups = 0] = k.shape;
    const [heads, dims] = [this.#heads, this.dims];
    const ones = this.on(q.device)
      .narrow(0, heads, heads * dims)
      .view(1, 1, heads, dims);
    return [
      withDims(q, ones.expand(batch, steps, heads, dims)),
      withDims(k, this.#bias(pass, q.device).view(batch, steps, groups, dims)),
    ];
  }

  /** f32[B,T,H], made once per device and pass: bf16(slope * bf16(position)). */
  #bias(pass: Pass, device: Device): Tensor {
    return pass.once(this, device, () => {
      const { lanes, positions } = pass.input;
      const places = contiguous(lanes ? pass.at(device, lanes).select(0, 1) : pass.at(device, positions), "f32"); // [B,T]
      const [batch = 0, steps = 0] = places.shape;
      const wide = [batch, steps, this.#heads] as const;
      const rounded = contiguous(contiguous(places, "bf16"), "f32")
        .view(batch, steps, 1)
        .expand(...wide);
      const slopes = this.on(device)
        .narrow(0, 0, this.#heads)
        .view(1, 1, this.#heads)
        .expand(...wide);
      return contiguous(contiguous(multiply(slopes, rounded), "bf16"), "f32");
    });
  }
}

/** x[B,T,H,D] and more[B,T,H,N] side by side: [B,T,H,D+N]. */
function withDims(x: Tensor, more: Tensor): Tensor {
  const [batch = 0, steps = 0, heads = 0, size = 0] = x.shape;
  const dims = more.shape[3]!;
  const wide = Tensor.empty(x.device, [batch, steps, heads, size + dims], "f32", "keys with a bias");
  copyInto(x, wide.narrow(3, 0, size));
  copyInto(more, wide.narrow(3, size, dims));
  return wide;
}
