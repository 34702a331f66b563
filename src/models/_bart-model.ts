// What BART and its descendants share around their layers: the embeddings of both stacks, and the head. They differ in where the norms
// stand, in what tells positions apart, and in what their files name.

import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import type { DecoderGeometry } from "../nn/decoder.js";
import type { Vocabulary } from "../nn/model.js";
import { Embedding, Linear, Module, Parameter } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { Seq2SeqLM } from "../nn/seq2seq.js";
import { add } from "../ops/add.js";
import { scale } from "../ops/scale.js";
import { BartDecoderLayer, BartEncoderLayer, type BartLayerOptions, EPSILON, stackFields } from "./_bart.js";
import { count, headSize, readConfig } from "./_config.js";

/** Fields of config.json that they share, with BART's defaults. */
export const bartFields = {
  vocab_size: count,
  ...stackFields,
  max_position_embeddings: count.default(1024),
  scale_embedding: z.boolean().default(false),
  tie_word_embeddings: z.boolean().default(true),
  pad_token_id: z.int().nullable().default(1),
};

/**
 * What early files of descendants with sinusoids for positions say of their class, from before there was one for each: nothing but what it
 * is, else they are refused.
 */
export const sinusoidFields = (norm_before: boolean) => ({
  normalize_before: z.literal(norm_before).default(norm_before),
  normalize_embedding: z.literal(false).default(false),
  add_final_layer_norm: z.literal(norm_before).default(norm_before),
  static_position_embeddings: z.literal(true).default(true),
  /** Read by nothing: sinusoids have no rows to spare. */
  extra_pos_embeddings: z.int().nullish(),
});

const shared = z.object(bartFields);
export type BartConfig = z.infer<typeof shared>;

const ALIASES = {
  d_model: ["hidden_size"],
  encoder_layers: ["num_hidden_layers"],
  encoder_attention_heads: ["num_attention_heads"],
};

/** What distinguishes an architecture from another. */
export interface BartKind {
  readonly model_type: string;
  readonly class_name: string;
  readonly schema: z.ObjectSchema & z.Schema<BartConfig>;
  /** LayerNorm before each part, and one after the last layer of a stack; else after each part. */
  readonly norm_before: boolean;
  /** A LayerNorm of the embeddings. */
  readonly norm_embedding: boolean;
  /** The head has a bias, of zeros in most files, which some lack. */
  readonly head_bias: boolean;
  /** What is added for positions i32[B,T] that count from 0: [B,T,hidden]. */
  readonly positions: (config: BartConfig) => Module & { forward(positions: Tensor): Tensor };
  /** The encoder's positions count the tokens that are not this id, wherever padding stands. */
  readonly counts_tokens?: boolean;
  /** Tokens of the decoder, where it has a table and a vocabulary of its own. */
  readonly target_vocab?: (config: ConfigJson) => number | undefined;
  /** Tensors of files that are known and not needed. */
  readonly ignore: RegExp;
}

/** An encoder's or a decoder's layers, with the embeddings before them. */
class BartStack<L extends Module & { forward(x: Tensor, pass: Pass): Tensor }> extends Module {
  embed_tokens: Embedding;
  embed_positions: Module & { forward(positions: Tensor): Tensor };
  layers: L[];
  layernorm_embedding: LayerNorm | undefined;
  layer_norm: LayerNorm | undefined;
  readonly #scale: number;

  constructor(c: BartConfig, kind: BartKind, words: Embedding, layers: L[]) {
    super();
    this.embed_tokens = words;
    this.embed_positions = kind.positions(c);
    this.layers = layers;
    this.layernorm_embedding = kind.norm_embedding ? new LayerNorm(c.d_model, EPSILON) : undefined;
    this.layer_norm = kind.norm_before ? new LayerNorm(c.d_model, EPSILON) : undefined;
    this.#scale = c.scale_embedding ? Math.sqrt(c.d_model) : 1;
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const words = this.embed_tokens.forward(ids);
      const scaled = this.#scale === 1 ? words : scale(words, this.#scale);
      const placed = add(scaled, this.embed_positions.forward(pass.input.positions));
      const embedded = this.layernorm_embedding?.forward(placed) ?? placed;
      const h = runBlocks(this.layers, embedded, pass, (layer, x) => layer.forward(x, pass));
      return this.layer_norm?.forward(h) ?? h;
    });
  }
}

export class BartModel extends Module {
  /** Absent where each stack has its own table. */
  shared: Embedding | undefined;
  encoder: BartStack<BartEncoderLayer>;
  decoder: BartStack<BartDecoderLayer>;

  /** @param target tokens of the decoder's own table, if it has one */
  constructor(c: BartConfig, kind: BartKind, target?: number) {
    super();
    const both = { width: c.d_model, act: c.activation_function, norm_before: kind.norm_before, key_bias: true };
    const encoder: BartLayerOptions = { ...both, heads: c.encoder_attention_heads, inner: c.encoder_ffn_dim };
    const decoder: BartLayerOptions = { ...both, heads: c.decoder_attention_heads, inner: c.decoder_ffn_dim };
    const layers = Array.from({ length: c.encoder_layers }, () => new BartEncoderLayer(encoder));
    const decoding = Array.from({ length: c.decoder_layers }, (_, layer) => new BartDecoderLayer(decoder, layer));
    const words = new Embedding(c.vocab_size, c.d_model, c.pad_token_id);
    this.shared = target === undefined ? words : undefined;
    const written = target === undefined ? words : new Embedding(target, c.d_model, c.pad_token_id);
    this.encoder = new BartStack(c, kind, words, layers);
    this.decoder = new BartStack(c, kind, written, decoding);
  }
}

class BartForConditionalGeneration extends Seq2SeqLM {
  model: BartModel;
  lm_head: Linear;
  final_logits_bias: Parameter | undefined;
  readonly geometry: DecoderGeometry;
  override readonly encoder_positions: number;
  override readonly encoder_vocab: number | undefined;
  override readonly padding_idx: number | undefined;

  readonly #class_name: string;

  constructor(c: BartConfig, kind: BartKind, target?: number) {
    super();
    this.#class_name = kind.class_name;
    this.model = new BartModel(c, kind, target);
    const vocab = target ?? c.vocab_size;
    this.lm_head = new Linear(c.d_model, vocab);
    if (c.tie_word_embeddings) this.lm_head.tie(this.model.decoder.embed_tokens.weight);
    this.final_logits_bias = kind.head_bias ? new Parameter(1, vocab) : undefined;
    if (this.final_logits_bias) this.final_logits_bias.optional = true;
    this.padding_idx = kind.counts_tokens ? (c.pad_token_id ?? undefined) : undefined;
    this.encoder_positions = c.max_position_embeddings;
    this.geometry = {
      layers: c.decoder_layers,
      heads: c.decoder_attention_heads,
      groups: c.decoder_attention_heads,
      head_dim: headSize(c.d_model, c.decoder_attention_heads),
      hidden: c.d_model,
      vocab,
      max_positions: c.max_position_embeddings,
    };
    this.encoder_vocab = target === undefined ? undefined : c.vocab_size;
  }

  override get class_name(): string {
    return this.#class_name;
  }

  get stacks(): Seq2SeqLM["stacks"] {
    return this.model;
  }

  /** None where there are two. */
  override vocabulary(): Vocabulary | undefined {
    const { shared: words } = this.model;
    return words && { words, geometry: this.geometry, offsets: this.final_logits_bias };
  }

  output_embeddings(): Linear {
    return this.lm_head;
  }

  override head(hidden: Tensor): Tensor {
    const { lm_head, final_logits_bias: bias } = this;
    if (!bias?.filled) return lm_head.forward(hidden);
    return lm_head.weight.weight.linear(hidden, { bias: bias.value.view(-1) });
  }
}

/** The fields of a config.json of a kind. @throws ConfigError */
export function readBart(json: ConfigJson, kind: BartKind): BartConfig {
  return readConfig(json, kind.schema, ALIASES);
}

/** The architecture of a kind. */
export function bartAs(kind: BartKind): Architecture {
  return {
    model_type: kind.model_type,
    tasks: {
      "seq2seq-lm": (json) =>
        new BartForConditionalGeneration(readBart(json, kind), kind, kind.target_vocab?.(json)).name_tree(),
    },
    names: [{ ignore: kind.ignore }, { prefix: "model." }],
  };
}
