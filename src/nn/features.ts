// Models whose input is not text: pixels or a waveform. Every position sees all others, and nothing is cached.

import type { Tensor } from "../core/tensor.js";
import { Model } from "./model.js";
import { Pass, type PassInput, type PassOptions } from "./pass.js";

/** The input of such a model. */
export interface FeatureInput {
  /** Its name in a call of forward. */
  readonly name: "pixel_values" | "input_values" | "input_features";
  /** Names of its dims, the batch first. */
  readonly dims: readonly string[];
  /** Sizes that are fixed, by their dims. */
  readonly fixed: Readonly<Record<string, number>>;
}

/** Results of a forward pass by the names that transformers gives them. */
export type Outputs = Readonly<Record<string, Tensor>>;

/** Scores of a classifier, [B,labels], or of each frame, [B,T,vocab]. */
export type Logits = { readonly logits: Tensor };

/** Features of each position, [B,T,hidden], and of the whole, [B,hidden], where a model has them. */
export type Features = { readonly last_hidden_state: Tensor; readonly pooler_output?: Tensor };

export abstract class FeatureModel<O extends Outputs = Outputs> extends Model {
  abstract readonly input: FeatureInput;

  /**
   * Records the model for one batch, f32 with the dims of `input`. Captures all hidden states, the last as transformers gives it.
   * @throws ShapeError, OptionError (a size that the model was not made for)
   */
  abstract outputs(pass: Pass, x: Tensor): O;

  /** Positions of an input of `length` samples, of a model whose inputs have a mask; undefined for others. */
  frames(_length: number): number | undefined {
    return undefined;
  }

  /** A pass of this model. The caller disposes it. */
  pass(input: PassInput, options: PassOptions = {}): Pass {
    return new Pass(input, { attention: this.attention, place: this.placement, ...options });
  }
}
