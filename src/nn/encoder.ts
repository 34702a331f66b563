// What text encoders share: every token sees every other token of its row, and nothing is cached. Each task is the same encoder
// with another head.

import { scope, type Tensor } from "../core/tensor.js";
import { contiguous } from "../ops/copy.js";
import { Model, type Vocabulary } from "./model.js";
import { Buffer, type Embedding, type Linear, Module } from "./module.js";
import { Pass, type PassInput, type PassOptions } from "./pass.js";

export interface EncoderGeometry {
  readonly layers: number;
  readonly hidden: number;
  readonly vocab: number;
  /** Number of token types; 0 if the model does not tell them apart. */
  readonly token_types: number;
  /** Longest text that the position encoding allows; Infinity if there is no limit. */
  readonly max_positions: number;
  /**
   * The id of padding, where positions count the other tokens, from this id + 1 (RoBERTa). Undefined where they count columns
   * from 0.
   */
  readonly padding_idx?: number;
  /** A token sees what stands before it alone, and padding has no positions. */
  readonly causal?: boolean;
  /** Attention holds numbers for each pair of a row's tokens: batches keep their rows, with padding, instead of one row of all. */
  readonly pairs?: boolean;
}

interface EncoderInput extends PassInput {
  /** i32[B,T] */
  readonly ids: Tensor;
}

/** Results of a task by the names of transformers, such as `logits`. */
export type EncoderOutputs = Readonly<Record<string, Tensor>>;

/** Ids of a batch [rows,steps]. */
export interface BatchIds {
  readonly ids: Int32Array;
  readonly rows: number;
  readonly steps: number;
}

/** What `PassInput.judged` has, on the host. */
interface Beside {
  /** What the decoder of an encoder-decoder reads, whose hidden states are then those of the chosen tokens, [B,1,hidden]. */
  readonly decoder_ids?: Int32Array;
  readonly chosen?: Int32Array;
}

/** An encoder with a head for one task. */
export abstract class EncoderModel extends Model {
  abstract readonly geometry: EncoderGeometry;

  /** Records the encoder for `ids` i32[B,T]: hidden states [B,T,hidden]. */
  abstract hidden(pass: Pass, ids: Tensor): Tensor;

  /** The head computes each token by itself: its outputs are [B,T,..], and a batch needs no padding for it. */
  abstract readonly per_token: boolean;

  /** Of a judge of texts as wholes: what its head needs to know of their ids. @throws OptionError */
  beside?(batch: BatchIds): Beside;

  /** Records the task's head over the hidden states [B,T,hidden]. */
  abstract outputs(hidden: Tensor, pass: Pass): EncoderOutputs;

  /** A pass of this model. The caller disposes it. */
  pass(input: PassInput, options: PassOptions = {}): Pass {
    return new Pass(input, { attention: this.attention, place: this.placement, ...options });
  }

  /** The task's results for one pass. */
  forward({ ids, ...input }: EncoderInput): EncoderOutputs {
    using pass = this.pass(input);
    return scope(() => {
      const hidden = this.hidden(pass, ids);
      pass.capture(hidden);
      return this.outputs(hidden, pass);
    });
  }
}

/** The part of an encoder that all its tasks share. */
export interface EncoderBase {
  readonly geometry: EncoderGeometry;
  /** Its layers, in order. */
  readonly blocks: readonly Module[];
  /** The table of its ids. */
  readonly words: Embedding;
  /** Records hidden states [B,T,hidden] of `ids` i32[B,T]. */
  forward(pass: Pass, ids: Tensor): Tensor;
}

interface TaskParts {
  /** The name that transformers gives the class. */
  readonly name: string;
  readonly base: EncoderBase;
  /** Its layers by stacks, if it has several. */
  readonly stacks?: readonly (readonly Module[])[];
  /** The module whose fields checkpoints have; by default the base. */
  readonly tree?: Module;
  readonly notes?: readonly string[] | undefined;
  /** The base's field in checkpoints of the task; absent if the task is the base itself, whose fields are the model's then. */
  readonly prefix?: string;
  /** Modules of the head, by their fields. */
  readonly heads?: Readonly<Record<string, Module>>;
  /** See `EncoderModel`; default false. */
  readonly per_token?: boolean;
  /** Records the head over hidden states [B,T,hidden]. */
  readonly outputs: (hidden: Tensor, pass: Pass) => EncoderOutputs;
  /** See `EncoderModel`. */
  readonly beside?: (batch: BatchIds) => Beside;
  /** Paths of the modules that stay in full precision by default. */
  readonly unquantized: readonly string[];
  /** Scores over the vocabulary. */
  readonly output_embeddings?: Linear;
}

/** An encoder's base with the head of a task. */
export class EncoderForTask extends EncoderModel {
  readonly #parts: TaskParts;
  override readonly notes: readonly string[];

  constructor(parts: TaskParts) {
    super();
    this.#parts = parts;
    const { base, tree = base as EncoderBase & Module, prefix, heads, beside, notes = [] } = parts;
    this.notes = notes;
    if (beside) this.beside = beside;
    Object.assign(this, prefix === undefined ? fieldsOf(tree) : { [prefix]: tree }, heads);
    this.name_tree();
  }

  override get class_name(): string {
    return this.#parts.name;
  }

  get geometry(): EncoderGeometry {
    return this.#parts.base.geometry;
  }

  get blocks(): readonly (readonly Module[])[] {
    return this.#parts.stacks ?? [this.#parts.base.blocks];
  }

  override output_embeddings(): Linear | undefined {
    return this.#parts.output_embeddings;
  }

  override vocabulary(): Vocabulary {
    const { words, geometry } = this.#parts.base;
    return { words, geometry };
  }

  override modules_not_quantized(): readonly string[] {
    return this.#parts.unquantized;
  }

  hidden(pass: Pass, ids: Tensor): Tensor {
    return this.#parts.base.forward(pass, ids);
  }

  get per_token(): boolean {
    return this.#parts.per_token ?? false;
  }

  outputs(hidden: Tensor, pass: Pass): EncoderOutputs {
    return scope(() => this.#parts.outputs(hidden, pass));
  }
}

/** Where an answer starts and ends, [B,T] each, from a head's scores [B,T,2]. */
export function startAndEnd(scores: Tensor): EncoderOutputs {
  return { start_logits: contiguous(scores.select(2, 0)), end_logits: contiguous(scores.select(2, 1)) };
}

/** The fields of a module that hold modules or constants. */
function fieldsOf(module: Module): Record<string, unknown> {
  const isPart = (value: unknown): boolean => value instanceof Module || value instanceof Buffer;
  return Object.fromEntries(
    Object.entries(module).filter(([, value]) => isPart(value) || (Array.isArray(value) && value.every(isPart))),
  );
}
