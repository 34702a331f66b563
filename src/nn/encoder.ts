// What text encoders share: every token sees every other token of its row, and nothing is cached.

import { scope, type Tensor } from "../core/tensor.js";
import { Model } from "./model.js";
import { Pass, type PassInput, type PassOptions } from "./pass.js";

export interface EncoderGeometry {
  readonly layers: number;
  readonly hidden: number;
  readonly vocab: number;
  /** Number of token types. */
  readonly token_types: number;
  /** Longest text that the position encoding allows; Infinity if there is no limit. */
  readonly max_positions: number;
}

export interface EncoderInput extends PassInput {
  /** i32[B,T] */
  readonly ids: Tensor;
}

/** An encoder with a head for one task. */
export abstract class EncoderModel extends Model {
  abstract readonly geometry: EncoderGeometry;

  /** Records the encoder for `ids` i32[B,T]: hidden states [B,T,hidden]. */
  abstract hidden(pass: Pass, ids: Tensor): Tensor;

  /** Records the head: hidden states [B,T,hidden] -> [B,T,vocab] for a masked LM, [B,labels] for a classifier of texts. */
  abstract head(hidden: Tensor): Tensor;

  /** A pass of this model. The caller disposes it. */
  pass(input: PassInput, options: PassOptions = {}): Pass {
    return new Pass(input, { attention: this.attention, place: this.placement, ...options });
  }

  /** The head's output for one pass. */
  forward({ ids, ...input }: EncoderInput): Tensor {
    using pass = this.pass(input);
    return scope(() => {
      const hidden = this.hidden(pass, ids);
      pass.capture(hidden);
      return this.head(hidden);
    });
  }
}
