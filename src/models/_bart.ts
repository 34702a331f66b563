// The layers of BART (Lewis et al. 2020) and of its descendants mBART and Whisper, which have a LayerNorm before each part
// instead of after it.

import { scope, type Tensor } from "../core/tensor.js";
import { type AttendOptions, attend, attendAll, attendEncoded } from "../nn/attend.js";
import { Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import type { Pass } from "../nn/pass.js";
import type { CrossAttention } from "../nn/seq2seq.js";
import type { Act } from "../ops/activation.js";
import { activationName, count, headSize } from "./_config.js";

/** Fields of config.json that say how deep and wide both stacks are. */
export const stackFields = {
  d_model: count,
  encoder_layers: count.max(1024),
  encoder_attention_heads: count,
  encoder_ffn_dim: count,
  decoder_layers: count.max(1024),
  decoder_attention_heads: count,
  decoder_ffn_dim: count,
  activation_function: activationName.default("gelu"),
};

/** What distinguishes the layers of one stack from those of another. */
export interface BartLayerOptions {
  readonly width: number;
  readonly heads: number;
  /** Width of the feed-forward. */
  readonly inner: number;
  readonly act: Act;
  /** LayerNorm before each part, not after it. */
  readonly norm_before: boolean;
  /** Projections of keys have a bias. */
  readonly key_bias: boolean;
}

export const EPSILON = 1e-5;

class BartAttention extends Module implements CrossAttention {
  k_proj: Linear;
  v_proj: Linear;
  q_proj: Linear;
  out_proj: Linear;
  readonly size: number;

  constructor({ width, heads, key_bias }: BartLayerOptions) {
    super();
    this.size = headSize(width, heads);
    this.k_proj = new Linear(width, width, { bias: key_bias });
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

  keysAndValues(encoded: Tensor): readonly [k: Tensor, v: Tensor] {
    return [this.heads(this.k_proj, encoded), this.heads(this.v_proj, encoded)];
  }

  get projections(): readonly Linear[] {
    return [this.k_proj, this.v_proj];
  }
}

/** Attention to the own sequence, and the feed-forward: all of an encoder's layer. */
class BartLayer extends Module {
  self_attn: BartAttention;
  self_attn_layer_norm: LayerNorm;
  fc1: Linear;
  fc2: Linear;
  final_layer_norm: LayerNorm;
  readonly act: Act;
  readonly norm_before: boolean;

  constructor(options: BartLayerOptions) {
    super();
    const { width, inner } = options;
    this.self_attn = new BartAttention(options);
    this.self_attn_layer_norm = new LayerNorm(width, EPSILON);
    this.fc1 = new Linear(width, inner, { bias: true });
    this.fc2 = new Linear(inner, width, { bias: true });
    this.final_layer_norm = new LayerNorm(width, EPSILON);
    this.act = options.act;
    this.norm_before = options.norm_before;
  }

  /** One part with its norm, before or after it; `run` adds the residual to what it makes of its input. */
  protected part(h: Tensor, norm: LayerNorm, run: (x: Tensor, residual: Tensor) => Tensor): Tensor {
    return scope(() => (this.norm_before ? run(norm.forward(h), h) : norm.forward(run(h, h))));
  }

  /** @param layer number of a decoder's layer in the cache; undefined in the encoder, which sees all positions */
  protected attendSelf(h: Tensor, pass: Pass, layer: number | undefined): Tensor {
    const { self_attn: own } = this;
    return this.part(h, this.self_attn_layer_norm, (x, residual) => {
      const [q, k, v] = [own.heads(own.q_proj, x), own.heads(own.k_proj, x), own.heads(own.v_proj, x)];
      const y = layer === undefined ? attendAll(pass, q, k, v, own.options) : attend(pass, layer, q, k, v, own.options);
      return own.out_proj.forward(y, { residual });
    });
  }

  protected feedForward(h: Tensor): Tensor {
    return this.part(h, this.final_layer_norm, (x, residual) =>
      this.fc2.forward(this.fc1.forward(x, { act: this.act }), { residual }),
    );
  }
}

export class BartEncoderLayer extends BartLayer {
  forward(x: Tensor, pass: Pass): Tensor {
    return this.feedForward(this.attendSelf(x, pass, undefined));
  }
}

export class BartDecoderLayer extends BartLayer {
  encoder_attn: BartAttention;
  encoder_attn_layer_norm: LayerNorm;
  readonly layer: number;

  constructor(options: BartLayerOptions, layer: number) {
    super(options);
    this.encoder_attn = new BartAttention(options);
    this.encoder_attn_layer_norm = new LayerNorm(options.width, EPSILON);
    this.layer = layer;
  }

  get cross_attention(): CrossAttention {
    return this.encoder_attn;
  }

  forward(x: Tensor, pass: Pass): Tensor {
    const { encoder_attn: own } = this;
    const h = this.attendSelf(x, pass, this.layer);
    const crossed = this.part(h, this.encoder_attn_layer_norm, (x, residual) => {
      const q = own.heads(own.q_proj, x);
      const y = attendEncoded(pass, this.layer, q, (encoded) => own.keysAndValues(encoded), own.options);
      return own.out_proj.forward(y, { residual });
    });
    return this.feedForward(crossed);
  }
}
