// What loading, planning, saving and training need of any model. Nothing here is specific to text.

import { type Embedding, type Linear, type Matrix, Module, type Parameter } from "./module.js";
import { type AttentionChoice, EXACT_ATTENTION, type ModelPlacement } from "./pass.js";

/** The parts of a model that are as large as its vocabulary, beside its output embeddings. */
export interface Vocabulary {
  /** The table of input ids. */
  readonly words: Embedding;
  /** Where the number of tokens stands. */
  readonly geometry: { readonly vocab: number };
  /** What is added to the scores, [1,vocab], beside the head's own bias. */
  readonly offsets?: Parameter;
}

export abstract class Model extends Module {
  /** How attention is computed in its passes; set once the weights are loaded. */
  attention: AttentionChoice = EXACT_ATTENTION;
  /**
   * Where its blocks run; undefined if all run on one device that holds their weights. Whoever sets it disposes it, after the
   * model.
   */
  placement: ModelPlacement | undefined;

  /** Under a tape only the inputs of blocks are kept, and the backward pass computes the rest again; of causal language models. */
  gradient_checkpointing = false;

  /** What users are told when the model is loaded. */
  readonly notes: readonly string[] = [];

  /**
   * Units of placement, offload and gradient checkpointing, in the order in which they run: one list for each stack
   * (an encoder's, a decoder's).
   */
  abstract readonly blocks: readonly (readonly Module[])[];

  /** The linear that gives scores over a vocabulary, if the model has one. It may share its matrix with an embedding. */
  output_embeddings(): Linear | undefined {
    return undefined;
  }

  /** The matrix that the output embeddings share where a file has none of their own, though config.json says that they do not. */
  matrix_without_head(): Matrix | undefined {
    return undefined;
  }

  /** What changes with the number of tokens; undefined for models whose inputs are no tokens. */
  vocabulary(): Vocabulary | undefined {
    return undefined;
  }

  /**
   * Paths of the modules that stay in full precision by default, as transformers chooses them: the output embeddings, which
   * includes the matrix they are tied to.
   */
  modules_not_quantized(): readonly string[] {
    const head = this.output_embeddings();
    return head ? [head.path] : [];
  }
}
