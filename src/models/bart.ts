// BART (Lewis et al. 2020) and mBART (Liu et al. 2020): an encoder-decoder of text with learned positions that begin at 2.

import * as z from "zod";
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
import { BartDecoderLayer, BartEncoderLayer, type BartLayerOptions, EPSILON } from "./_bart.js";
import { activationName, count, headSize, readConfig } from "./_config.js";
import { OffsetPositions } from "./_offset-positions.js";

const schema = z.object({
  vocab_size: count,
  d_model: count,
  encoder_layers: count.max(1024),
  encoder_attention_heads: count,
  encoder_ffn_dim: count,
  decoder_layers: count.max(1024),
  decoder_attention_heads: count,
  decoder_ffn_dim: count,
  activation_function: activationName.default("gelu"),
  max_position_embeddings: count.default(1024),
  scale_embedding: z.boolean().default(false),
  tie_word_embeddings: z.boolean().default(true),
  pad_token_id: z.int().nullable().default(1),
  // Of files from before there was a class for each; all others are BART and mBART as they are.
  normalize_embedding: z.literal(true).default(true),
  static_position_embeddings: z.literal(false).default(false),
  extra_pos_embeddings: z.literal(2).default(2),
});

const ALIASES = {
  d_model: ["hidden_size"],
  encoder_layers: ["num_hidden_layers"],
  encoder_attention_heads: ["num_attention_heads"],
};

interface BartConfig extends z.infer<typeof schema> {
  /** mBART: LayerNorm before each part, and one after the last layer of a stack. */
  readonly norm_before: boolean;
}

/** An encoder's or a decoder's layers, with the embeddings before them. */
class BartStack<L extends Module & { forward(x: Tensor, pass: Pass): Tensor }> extends Module {
  embed_tokens: Embedding;
  embed_positions: OffsetPositions;
  layers: L[];
  layernorm_embedding: LayerNorm;
  layer_norm: LayerNorm | undefined;
  readonly #scale: number;

  constructor(c: BartConfig, words: Embedding, layers: L[]) {
    super();
    this.embed_tokens = words;
    this.embed_positions = new OffsetPositions(c.max_position_embeddings, c.d_model);
    this.layers = layers;
    this.layernorm_embedding = new LayerNorm(c.d_model, EPSILON);
    this.layer_norm = c.norm_before ? new LayerNorm(c.d_model, EPSILON) : undefined;
    this.#scale = c.scale_embedding ? Math.sqrt(c.d_model) : 1;
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const words = this.embed_tokens.forward(ids);
      const scaled = this.#scale === 1 ? words : scale(words, this.#scale);
      const embedded = this.layernorm_embedding.forward(
        add(scaled, this.embed_positions.forward(pass.input.positions)),
      );
      const h = runBlocks(this.layers, embedded, pass, (layer, x) => layer.forward(x, pass));
      return this.layer_norm?.forward(h) ?? h;
    });
  }
}

class BartModel extends Module {
  shared: Embedding;
  encoder: BartStack<BartEncoderLayer>;
  decoder: BartStack<BartDecoderLayer>;

  constructor(c: BartConfig) {
    super();
    const both = { width: c.d_model, act: c.activation_function, norm_before: c.norm_before, key_bias: true };
    const encoder: BartLayerOptions = { ...both, heads: c.encoder_attention_heads, inner: c.encoder_ffn_dim };
    const decoder: BartLayerOptions = { ...both, heads: c.decoder_attention_heads, inner: c.decoder_ffn_dim };
    const layers = Array.from({ length: c.encoder_layers }, () => new BartEncoderLayer(encoder));
    const decoding = Array.from({ length: c.decoder_layers }, (_, layer) => new BartDecoderLayer(decoder, layer));
    this.shared = new Embedding(c.vocab_size, c.d_model, c.pad_token_id);
    this.encoder = new BartStack(c, this.shared, layers);
    this.decoder = new BartStack(c, this.shared, decoding);
  }
}

class BartForConditionalGeneration extends Seq2SeqLM {
  model: BartModel;
  lm_head: Linear;
  /** The head's bias, of zeros in most files, which some lack. */
  final_logits_bias: Parameter;
  readonly geometry: DecoderGeometry;
  override readonly encoder_positions: number;

  constructor(c: BartConfig) {
    super();
    this.model = new BartModel(c);
    this.lm_head = new Linear(c.d_model, c.vocab_size);
    if (c.tie_word_embeddings) this.lm_head.tie(this.model.shared.weight);
    this.final_logits_bias = new Parameter(1, c.vocab_size);
    this.final_logits_bias.optional = true;
    this.encoder_positions = c.max_position_embeddings;
    this.geometry = {
      layers: c.decoder_layers,
      heads: c.decoder_attention_heads,
      groups: c.decoder_attention_heads,
      head_dim: headSize(c.d_model, c.decoder_attention_heads),
      hidden: c.d_model,
      vocab: c.vocab_size,
      max_positions: c.max_position_embeddings,
    };
  }

  get stacks(): Seq2SeqLM["stacks"] {
    return this.model;
  }

  override vocabulary(): Vocabulary {
    return { words: this.model.shared, geometry: this.geometry, offsets: this.final_logits_bias };
  }

  output_embeddings(): Linear {
    return this.lm_head;
  }

  override head(hidden: Tensor): Tensor {
    const { lm_head, final_logits_bias: bias } = this;
    if (!bias.filled) return lm_head.forward(hidden);
    return lm_head.weight.weight.linear(hidden, { bias: bias.value.view(-1) });
  }
}

function bartAs(model_type: string, norm_before: boolean): Architecture {
  return {
    model_type,
    tasks: {
      "seq2seq-lm": (json: ConfigJson) =>
        new BartForConditionalGeneration({ ...readConfig(json, schema, ALIASES), norm_before }).name_tree(),
    },
    names: [{ ignore: /^model\.(encoder|decoder)\.version$/ }, { prefix: "model." }],
  };
}

export const bart: Architecture = bartAs("bart", false);
export const mbart: Architecture = bartAs("mbart", true);
