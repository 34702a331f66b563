// What the two towers of CLIP (and of SigLIP) share: their configs, what texts begin with, and the layers.

import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import { attend, attendAll } from "../nn/attend.js";
import { Embedding, Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { add } from "../ops/add.js";
import { activationName, count, epsilon, headSize } from "./_config.js";
import { area, VisionMLP } from "./_vit.js";

const tower = {
  num_hidden_layers: count.max(1024).default(12),
  hidden_act: activationName.default("quick_gelu"),
  layer_norm_eps: epsilon.default(1e-5),
  /** That of the whole model is used: a tower by itself is another kind of file. */
  projection_dim: count.nullish(),
};

export const text = z.object({
  ...tower,
  vocab_size: count.default(49_408),
  hidden_size: count.default(512),
  intermediate_size: count.default(2048),
  num_attention_heads: count.default(8),
  max_position_embeddings: count.default(77),
  eos_token_id: z.int().min(0).nullish(),
});

const vision = z.object({
  ...tower,
  hidden_size: count.default(768),
  intermediate_size: count.default(3072),
  num_attention_heads: count.default(12),
  num_channels: count.default(3),
  image_size: area.default([224, 224]),
  patch_size: area.default([32, 32]),
});

export const schema = z.object({
  text_config: text.default(text.parse({})),
  vision_config: vision.default(vision.parse({})),
  projection_dim: count.default(512),
});

export type TextConfig = z.infer<typeof text>;
export type VisionConfig = z.infer<typeof vision>;
/** What layers are made of. */
type Tower = Pick<
  TextConfig,
  "hidden_size" | "intermediate_size" | "num_hidden_layers" | "num_attention_heads" | "hidden_act" | "layer_norm_eps"
>;

/** The id of files before the end of a text had its own: there the largest id of a text ends it. */
export const OLD_EOS = 2;
export const EOS = 49_407;

/** Tokens and their positions. */
export class TextEmbeddings extends Module {
  token_embedding: Embedding;
  position_embedding: Embedding;

  constructor(c: Pick<TextConfig, "vocab_size" | "max_position_embeddings" | "hidden_size">) {
    super();
    this.token_embedding = new Embedding(c.vocab_size, c.hidden_size);
    this.position_embedding = new Embedding(c.max_position_embeddings, c.hidden_size);
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return add(this.token_embedding.forward(ids), this.position_embedding.forward(pass.input.positions));
  }
}

class CLIPAttention extends Module {
  k_proj: Linear;
  v_proj: Linear;
  q_proj: Linear;
  out_proj: Linear;
  readonly size: number;

  constructor(c: Tower) {
    super();
    this.size = headSize(c.hidden_size, c.num_attention_heads);
    const projection = (): Linear => new Linear(c.hidden_size, c.hidden_size, { bias: true });
    this.k_proj = projection();
    this.v_proj = projection();
    this.q_proj = projection();
    this.out_proj = projection();
  }

  forward(x: Tensor, residual: Tensor, pass: Pass, causal: boolean): Tensor {
    const [batch = 0, steps = 0] = x.shape;
    const split = (projection: Linear): Tensor => projection.forward(x).view(batch, steps, -1, this.size); // [B,T,H,D]
    const [q, k, v] = [split(this.q_proj), split(this.k_proj), split(this.v_proj)];
    const options = { scale: this.size ** -0.5 };
    const y = causal ? attend(pass, 0, q, k, v, options) : attendAll(pass, q, k, v, options);
    return this.out_proj.forward(y, { residual });
  }
}

class CLIPEncoderLayer extends Module {
  self_attn: CLIPAttention;
  layer_norm1: LayerNorm;
  mlp: VisionMLP;
  layer_norm2: LayerNorm;
  readonly causal: boolean;

  constructor(c: Tower, causal: boolean) {
    super();
    this.self_attn = new CLIPAttention(c);
    this.layer_norm1 = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.mlp = new VisionMLP(c.hidden_size, c.intermediate_size, c.hidden_act);
    this.layer_norm2 = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.causal = causal;
  }

  forward(x: Tensor, pass: Pass): Tensor {
    const h = scope(() => this.self_attn.forward(this.layer_norm1.forward(x), x, pass, this.causal));
    return this.mlp.forward(this.layer_norm2.forward(h), h);
  }
}

export class CLIPEncoder extends Module {
  layers: CLIPEncoderLayer[];

  constructor(c: Tower, causal: boolean) {
    super();
    this.layers = Array.from({ length: c.num_hidden_layers }, () => new CLIPEncoderLayer(c, causal));
  }

  forward(embedded: Tensor, pass: Pass): Tensor {
    const h = runBlocks(this.layers, embedded, pass, (layer, x) => layer.forward(x, pass));
    pass.capture(h);
    return h;
  }
}
