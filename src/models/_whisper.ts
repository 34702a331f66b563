// The layers of Whisper: LayerNorm before each part, and projections of keys without a bias.

import * as z from "zod";
import { scope, type Tensor } from "../core/tensor.js";
import { type AttendOptions, attend, attendAll, attendEncoded } from "../nn/attend.js";
import { Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import type { Pass } from "../nn/pass.js";
import type { Act } from "../ops/activation.js";
import { activationName, count, headSize } from "./_config.js";

export const whisperSchema = z.object({
  vocab_size: count,
  num_mel_bins: count.default(80),
  d_model: count,
  encoder_layers: count.max(1024),
  encoder_attention_heads: count,
  encoder_ffn_dim: count,
  decoder_layers: count.max(1024),
  decoder_attention_heads: count,
  decoder_ffn_dim: count,
  activation_function: activationName.default("gelu"),
  max_source_positions: count.default(1500),
  max_target_positions: count.default(448),
  /** Read by nothing: transformers has the field and never scales. */
  scale_embedding: z.boolean().default(false),
  tie_word_embeddings: z.boolean().default(true),
});

export type WhisperConfig = z.infer<typeof whisperSchema>;

export const EPSILON = 1e-5;
class WhisperAttention extends Module {
  k_proj: Linear;
  v_proj: Linear;
  q_proj: Linear;
  out_proj: Linear;
  readonly size: number;

  constructor(width: number, heads: number) {
    super();
    this.size = headSize(width, heads);
    this.k_proj = new Linear(width, width);
    this.v_proj = new Linear(width, width, { bias: true });
    this.q_proj = new Linear(width, width, { bias: true });
    this.out_proj = new Linear(width, width, { bias: true });
  }

  get options(): AttendOptions {
    return { scale: this.size ** -0.5 };
  }

  /** A projection by heads: [B,T,H,D]. */
  heads(projection: Linear, x: Tensor): Tensor {
    return projection.forward(x).view(x.shape[0]!, x.shape[1]!, -1, this.size);
  }
}

/** Attention to the own sequence, and the feed-forward: all of an encoder's layer. */
class WhisperLayer extends Module {
  self_attn: WhisperAttention;
  self_attn_layer_norm: LayerNorm;
  fc1: Linear;
  fc2: Linear;
  final_layer_norm: LayerNorm;
  readonly act: Act;

  constructor(c: WhisperConfig, heads: number, inner: number) {
    super();
    this.self_attn = new WhisperAttention(c.d_model, heads);
    this.self_attn_layer_norm = new LayerNorm(c.d_model, EPSILON);
    this.fc1 = new Linear(c.d_model, inner, { bias: true });
    this.fc2 = new Linear(inner, c.d_model, { bias: true });
    this.final_layer_norm = new LayerNorm(c.d_model, EPSILON);
    this.act = c.activation_function;
  }

  /** @param layer number of a decoder's layer in the cache; undefined in the encoder, which sees all frames */
  protected attendSelf(h: Tensor, pass: Pass, layer: number | undefined): Tensor {
    return scope(() => {
      const { self_attn: own } = this;
      const x = this.self_attn_layer_norm.forward(h);
      const [q, k, v] = [own.heads(own.q_proj, x), own.heads(own.k_proj, x), own.heads(own.v_proj, x)];
      const y = layer === undefined ? attendAll(pass, q, k, v, own.options) : attend(pass, layer, q, k, v, own.options);
      return own.out_proj.forward(y, { residual: h });
    });
  }

  protected feedForward(h: Tensor): Tensor {
    return scope(() => {
      const inner = this.fc1.forward(this.final_layer_norm.forward(h), { act: this.act });
      return this.fc2.forward(inner, { residual: h });
    });
  }
}

export class WhisperEncoderLayer extends WhisperLayer {
  constructor(c: WhisperConfig) {
    super(c, c.encoder_attention_heads, c.encoder_ffn_dim);
  }

  forward(x: Tensor, pass: Pass): Tensor {
    return this.feedForward(this.attendSelf(x, pass, undefined));
  }
}

export class WhisperDecoderLayer extends WhisperLayer {
  encoder_attn: WhisperAttention;
  encoder_attn_layer_norm: LayerNorm;
  readonly layer: number;

  constructor(c: WhisperConfig, layer: number) {
    super(c, c.decoder_attention_heads, c.decoder_ffn_dim);
    this.encoder_attn = new WhisperAttention(c.d_model, c.decoder_attention_heads);
    this.encoder_attn_layer_norm = new LayerNorm(c.d_model, EPSILON);
    this.layer = layer;
  }

  keysAndValues(encoded: Tensor): readonly [k: Tensor, v: Tensor] {
    const { encoder_attn: own } = this;
    return [own.heads(own.k_proj, encoded), own.heads(own.v_proj, encoded)];
  }

  forward(x: Tensor, pass: Pass): Tensor {
    const h = this.attendSelf(x, pass, this.layer);
    const crossed = scope(() => {
      const { encoder_attn: own } = this;
      const q = own.heads(own.q_proj, this.encoder_attn_layer_norm.forward(h));
      const y = attendEncoded(pass, this.layer, q, (encoded) => this.keysAndValues(encoded), own.options);
      return own.out_proj.forward(y, { residual: h });
    });
    return this.feedForward(crossed);
  }
}
