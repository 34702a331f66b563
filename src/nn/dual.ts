// Models with a tower for texts and one for images, whose embeddings are compared.

import { scope, type Tensor } from "../core/tensor.js";
import { filled } from "../ops/fill.js";
import { linear } from "../ops/linear.js";
import { rmsNorm } from "../ops/rms-norm.js";
import { scale } from "../ops/scale.js";
import type { FeatureInput } from "./features.js";
import { Model } from "./model.js";
import { Pass, type PassInput, type PassOptions } from "./pass.js";

export interface DualGeometry {
  readonly vocab: number;
  /** Longest text that the position encoding allows. */
  readonly max_positions: number;
}

export abstract class DualModel extends Model {
  abstract readonly geometry: DualGeometry;
  /** The images. */
  abstract readonly input: FeatureInput;

  /** The factor on similarities. */
  abstract readonly logit_factor: number;

  /** A text and an image match by themselves, whatever the other texts are: the logistic function of their score says how much. */
  readonly judges_pairs: boolean = false;

  /** For each row of ids [B,T] on the host the position whose hidden state stands for the text. */
  abstract pooledAt(ids: Int32Array, rows: number, steps: number): Int32Array;

  /**
   * Records the tower for texts: `ids` i32[B,T], `pooled` i32[B] (places among all B*T tokens) -> [B,embedding], not
   * normalised. Captures all hidden states.
   */
  abstract text(pass: Pass, ids: Tensor, pooled: Tensor): Tensor;

  /** Records the tower for images: pixels [B,C,H,W] -> [B,embedding], not normalised. Captures all hidden states. */
  abstract image(pass: Pass, pixels: Tensor): Tensor;

  /** A pass of one tower. The caller disposes it. */
  pass(input: PassInput, options: PassOptions = {}): Pass {
    return new Pass(input, { attention: this.attention, place: this.placement, ...options });
  }

  /** Scaled similarities of embeddings with length one: texts [B,E] and images [C,E] -> [B,C]. */
  similarities(texts: Tensor, images: Tensor): Tensor {
    return scope(() => scale(linear(texts, images), this.logit_factor));
  }
}

/** Rows of x[B,E] divided by their lengths. */
export function unitRows(x: Tensor): Tensor {
  const width = x.shape.at(-1)!;
  // rms_norm divides by the length and multiplies by the root of the width.
  return scope(() => scale(rmsNorm(x, filled(x.device, [width], 1), 0), width ** -0.5));
}
