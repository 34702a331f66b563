// The loss for an even use of experts (Fedus et al. 2021, equations 4 to 6), as transformers has it: over the tokens of all layers together,
// the number of experts times the sum of the share of choices that each expert gets and its mean probability.

import { scope, Tensor } from "../core/tensor.js";
import { add } from "../ops/add.js";
import { contiguous } from "../ops/copy.js";
import { embeddingBack } from "../ops/embedding.js";
import { route } from "../ops/experts.js";
import { filled } from "../ops/fill.js";
import { multiply } from "../ops/gated.js";
import { scale } from "../ops/scale.js";
import { sumRows } from "../ops/sum-rows.js";
import { taping } from "../ops/tape.js";
import { transfer } from "../ops/transfer.js";
import { softmax } from "./weighed-attention.js";

/** How a model with experts is kept from using a few of them alone. */
export interface EvenUse {
  /** Experts of a token. */
  readonly each: number;
  /** What the loss is multiplied by where it is added to that of labels. */
  readonly coefficient: number;
  /** config.json asks for it. */
  readonly by_default: boolean;
}

/**
 * Records the loss [1] of the scores of experts, [R,E] for each layer, on the device of the first. The choices count as constants.
 * @param mask 0 for a token that does not count
 */
export function evenUseLoss(logits: readonly Tensor[], each: number, mask: Uint8Array | undefined): Tensor {
  return scope(() => {
    const { device, shape } = logits[0]!;
    const [rows = 0, experts = 0] = shape;
    const counted = mask?.some((one) => one === 0)
      ? Tensor.from(device, Float32Array.from(mask), [rows, 1], "f32", "mask")
      : undefined;
    const tokens = mask ? mask.reduce((sum, one) => sum + one, 0) : rows;
    const total = tokens * logits.length;
    const here = logits.map((one) => transfer(one, device));
    const shares = taping(undefined, () =>
      scope(() => {
        const ones = counted ?? filled(device, [rows, 1], 1);
        const times = contiguous(ones.view(rows, 1, 1).expand(rows, each, 1));
        const counts = here.map((one) => embeddingBack(route(one, each, false).experts, times, experts));
        return scale(counts.reduce((sum, one) => add(sum, one)).view(experts), experts / total ** 2);
      }),
    );
    const sums = here.map((one) => {
      const likely = softmax(one);
      return sumRows(counted ? multiply(likely, counted.expand(rows, experts)) : likely);
    });
    return sumRows(
      multiply(
        sums.reduce((sum, one) => add(sum, one)),
        shares,
      ).view(experts, 1),
    );
  });
}
