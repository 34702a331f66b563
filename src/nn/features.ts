// Models whose input is not text: pixels or a waveform. Every position sees all others, and nothing is cached.

import { ShapeError } from "../core/errors.js";
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
export type Features = {
  readonly last_hidden_state: Tensor;
  readonly pooler_output?: Tensor;
  /** [B,T,channels]: what the convolutions make of a waveform, after their norm. */
  readonly extract_features?: Tensor;
};

export abstract class FeatureModel<O extends Outputs = Outputs> extends Model {
  abstract readonly input: FeatureInput;

  /**
   * Records the model for one batch, f32 with the dims of `input`. Captures all hidden states, the last as transformers gives it.
   * @param real f32[B,T] of positions: 1 for those of real samples, 0 for padding, which the pass's mask hides
   * @throws ShapeError, OptionError (a size that the model was not made for)
   */
  abstract outputs(pass: Pass, x: Tensor, real?: Tensor): O;

  /** Positions of an input of `length` samples, of a model whose inputs have a mask; undefined for others. */
  frames(_length: number): number | undefined {
    return undefined;
  }

  /** Of `frames` positions, those of the output that count as real; fewer where convolutions follow the layers. */
  outputFrames(frames: number): number {
    return frames;
  }

  /** @throws ShapeError for an input that is shorter than one position */
  protected checkLength(length: number): void {
    if (this.frames(length) !== 0) return;
    throw new ShapeError(`${this.input.name}: ${length} samples are too few for one position of this model`);
  }

  /** A pass of this model. The caller disposes it. */
  pass(input: PassInput, options: PassOptions = {}): Pass {
    return new Pass(input, { attention: this.attention, place: this.placement, ...options });
  }
}
