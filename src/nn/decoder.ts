// What text decoders share: sizes for caches and plans, the interface for generation, and the class of decoder-only language
// models.

import { scope, type Tensor } from "../core/tensor.js";
import { contiguous } from "../ops/copy.js";
import type { EvenUse } from "./even-use.js";
import { Model, type Vocabulary } from "./model.js";
import { type Embedding, Linear, type Module } from "./module.js";
import { Pass, type PassInput, type PassOptions } from "./pass.js";

/** Sizes of a decoder that caches, plans and benchmarks need. */
export interface DecoderGeometry {
  readonly layers: number;
  readonly heads: number;
  readonly groups: number;
  readonly head_dim: number;
  /** Size of a key in the cache, where it is not `head_dim`. */
  readonly key_dim?: number;
  /** Keys that a token of each layer sees, itself included; absent, or undefined for a layer, where it sees all. */
  readonly windows?: readonly (number | undefined)[];
  readonly hidden: number;
  readonly vocab: number;
  /** Experts of a stack that each token meets, in a mixture of experts. */
  readonly experts_per_token?: number;
  /** Longest text that the position encoding allows; Infinity if there is no limit. */
  readonly max_positions: number;
}

/** What generation needs of a model. */
export interface Decoder extends Pick<Model, "placement" | "blocks"> {
  readonly geometry: DecoderGeometry;
  /**
   * Records the decoder for `ids` i32[B,T]: hidden states after the last norm, [B,T,hidden]. Appends to the pass's cache,
   * at the pass's lanes.
   */
  hidden(pass: Pass, ids: Tensor): Tensor;
  /** Records the head: [..,hidden] -> logits [..,vocab]. */
  head(hidden: Tensor): Tensor;
  /** A pass of the decoder. The caller disposes it. */
  pass(input: PassInput, options?: PassOptions): Pass;
}

interface DecoderInput extends PassInput {
  /** i32[B,T] */
  readonly ids: Tensor;
}

export interface LogitsOptions {
  /** How many positions at the end of each row get logits; 0, the default, means all. */
  logits_to_keep?: number;
}

/**
 * Records hidden states and head: logits [B,T,vocab], or [B,n,vocab] of the last n positions. The others never reach the head.
 */
export function logits(model: Decoder, pass: Pass, ids: Tensor, options: LogitsOptions = {}): Tensor {
  return scope(() => {
    const hidden = model.hidden(pass, ids);
    pass.capture(hidden);
    const steps = hidden.shape[1]!;
    const keep = Math.min(steps, options.logits_to_keep || steps);
    return model.head(keep === steps ? hidden : contiguous(hidden.narrow(1, steps - keep, keep)));
  });
}

/** A decoder with a language-model head, and no encoder. */
export abstract class CausalLM extends Model implements Decoder {
  abstract readonly geometry: DecoderGeometry;
  abstract hidden(pass: Pass, ids: Tensor): Tensor;
  abstract head(hidden: Tensor): Tensor;

  /** What its experts are kept in use by; undefined for a model without. */
  get even_use(): EvenUse | undefined {
    return undefined;
  }

  /** A pass of this model. The caller disposes it. */
  pass(input: PassInput, options: PassOptions = {}): Pass {
    return new Pass(input, { attention: this.attention, place: this.placement, ...options });
  }

  /** Logits of one pass: [B,T,vocab], or [B,n,vocab] with `logits_to_keep`. */
  forward({ ids, ...input }: DecoderInput, options: LogitsOptions = {}): Tensor {
    using pass = this.pass(input);
    return logits(this, pass, ids, options);
  }
}

/** A decoder-only model before its head. */
interface DecoderBase extends Module {
  /** Records hidden states [B,T,hidden], after the last norm, of `ids` i32[B,T]. */
  forward(pass: Pass, ids: Tensor): Tensor;
}

export interface CausalParts {
  /** The name that transformers gives the class. */
  readonly name: string;
  readonly base: DecoderBase;
  /** The base's field in checkpoints. */
  readonly prefix: string;
  /** The base's layers, in order. */
  readonly layers: readonly Module[];
  /** Its embedding: the head has as many rows, and as many columns. */
  readonly words: Embedding;
  /** The head shares the embedding's matrix. */
  readonly tied: boolean;
  /** The head's field in checkpoints; default "lm_head". */
  readonly head?: string;
  readonly head_bias?: boolean;
  readonly sizes: Omit<DecoderGeometry, "layers" | "vocab">;
  /** What becomes of the head's output, [..,vocab]. */
  /** Of a mixture of experts. */
  readonly even_use?: EvenUse;
  readonly finish?: (scores: Tensor) => Tensor;
  readonly notes?: readonly string[];
}

/** A base with a head over its vocabulary. */
export class DecoderForCausalLM extends CausalLM {
  readonly geometry: DecoderGeometry;
  override readonly notes: readonly string[];
  /** What it is made of, beside its head. */
  readonly parts: CausalParts;
  readonly #head: Linear;

  constructor(parts: CausalParts) {
    super();
    this.parts = parts;
    const { prefix, base, layers, words, tied, head = "lm_head", head_bias: bias = false, sizes, notes = [] } = parts;
    const [vocab, width] = words.weight.shape;
    this.#head = new Linear(width, vocab, { bias });
    if (tied) this.#head.tie(words.weight);
    this.geometry = { ...sizes, layers: layers.length, vocab };
    this.notes = notes;
    Object.assign(this, { [prefix]: base, [head]: this.#head });
    this.name_tree();
  }

  override get class_name(): string {
    return this.parts.name;
  }

  get blocks(): readonly (readonly Module[])[] {
    return [this.parts.layers];
  }

  override get even_use(): EvenUse | undefined {
    return this.parts.even_use;
  }

  override output_embeddings(): Linear {
    return this.#head;
  }

  override vocabulary(): Vocabulary {
    return { words: this.parts.words, geometry: this.geometry };
  }

  hidden(pass: Pass, ids: Tensor): Tensor {
    return this.parts.base.forward(pass, ids);
  }

  head(hidden: Tensor): Tensor {
    const { finish } = this.parts;
    return finish ? scope(() => finish(this.#head.forward(hidden))) : this.#head.forward(hidden);
  }
}
