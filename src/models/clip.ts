// CLIP (Radford et al. 2021): a causal transformer for texts and a vision transformer for images, with LayerNorm before each
// part, whose pooled states are projected into one space.

import * as z from "zod";
import { scope, Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { attend, attendAll } from "../nn/attend.js";
import type { Conv2d } from "../nn/conv.js";
import { type DualGeometry, DualModel } from "../nn/dual.js";
import type { FeatureInput } from "../nn/features.js";
import { Embedding, Linear, Module, Parameter, Scalar } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { add } from "../ops/add.js";
import { contiguous } from "../ops/copy.js";
import { embedding } from "../ops/embedding.js";
import { activationName, count, epsilon, headSize, readConfig } from "./_config.js";
import { area, checkImage, gridOf, PatchConv, pixelInput, VisionMLP, withClass } from "./_vit.js";

const tower = {
  num_hidden_layers: count.max(1024).default(12),
  hidden_act: activationName.default("quick_gelu"),
  layer_norm_eps: epsilon.default(1e-5),
  /** That of the whole model is used: a tower by itself is another kind of file. */
  projection_dim: count.nullish(),
};

const text = z.object({
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

const schema = z.object({
  text_config: text.default(text.parse({})),
  vision_config: vision.default(vision.parse({})),
  projection_dim: count.default(512),
});

type TextConfig = z.infer<typeof text>;
type VisionConfig = z.infer<typeof vision>;
type Tower = TextConfig | VisionConfig;

/** The id of files before the end of a text had its own: there the largest id of a text ends it. */
const OLD_EOS = 2;
const EOS = 49_407;

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

class CLIPEncoder extends Module {
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

class CLIPTextEmbeddings extends Module {
  token_embedding: Embedding;
  position_embedding: Embedding;

  constructor(c: TextConfig) {
    super();
    this.token_embedding = new Embedding(c.vocab_size, c.hidden_size);
    this.position_embedding = new Embedding(c.max_position_embeddings, c.hidden_size);
  }
}

class CLIPTextTransformer extends Module {
  embeddings: CLIPTextEmbeddings;
  encoder: CLIPEncoder;
  final_layer_norm: LayerNorm;

  constructor(c: TextConfig) {
    super();
    this.embeddings = new CLIPTextEmbeddings(c);
    this.encoder = new CLIPEncoder(c, true);
    this.final_layer_norm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const { token_embedding, position_embedding } = this.embeddings;
      const embedded = add(token_embedding.forward(ids), position_embedding.forward(pass.input.positions));
      return this.final_layer_norm.forward(this.encoder.forward(embedded, pass));
    });
  }
}

class CLIPVisionEmbeddings extends Module {
  class_embedding: Parameter;
  patch_embedding: Conv2d;
  position_embedding: Embedding;

  constructor(c: VisionConfig) {
    super();
    const [high, wide] = gridOf(c.image_size, c.patch_size);
    this.class_embedding = new Parameter(c.hidden_size);
    this.patch_embedding = new PatchConv(c.num_channels, c.hidden_size, c.patch_size, false);
    this.position_embedding = new Embedding(1 + high * wide, c.hidden_size);
  }

  forward(pixels: Tensor): Tensor {
    return scope(() => {
      const patches = this.patch_embedding.forward(pixels); // [B,H',W',hidden]
      const tokens = patches.view(patches.shape[0]!, -1, patches.shape[3]!);
      const entries = Int32Array.from({ length: 1 + tokens.shape[1]! }, (_, t) => t);
      const positions = this.position_embedding.forward(Tensor.from(pixels.device, entries, [1, entries.length]));
      return withClass(this.class_embedding.value, tokens, positions);
    });
  }
}

class CLIPVisionTransformer extends Module {
  embeddings: CLIPVisionEmbeddings;
  /** The name in files. */
  pre_layrnorm: LayerNorm;
  encoder: CLIPEncoder;
  post_layernorm: LayerNorm;
  readonly image: readonly [number, number];

  constructor(c: VisionConfig) {
    super();
    this.embeddings = new CLIPVisionEmbeddings(c);
    this.pre_layrnorm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.encoder = new CLIPEncoder(c, false);
    this.post_layernorm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.image = c.image_size;
  }

  /** The class token's state after the last norm, [B,hidden]. */
  forward(pass: Pass, pixels: Tensor): Tensor {
    checkImage(pixels, this.image);
    return scope(() => {
      const h = this.encoder.forward(this.pre_layrnorm.forward(this.embeddings.forward(pixels)), pass);
      return this.post_layernorm.forward(contiguous(h.select(1, 0)));
    });
  }
}

class CLIPModel extends DualModel {
  logit_scale: Scalar;
  text_model: CLIPTextTransformer;
  vision_model: CLIPVisionTransformer;
  visual_projection: Linear;
  text_projection: Linear;
  readonly geometry: DualGeometry;
  readonly input: FeatureInput;
  readonly #eos: number;

  constructor({ text_config: t, vision_config: v, projection_dim }: z.infer<typeof schema>) {
    super();
    this.logit_scale = new Scalar();
    this.text_model = new CLIPTextTransformer(t);
    this.vision_model = new CLIPVisionTransformer(v);
    this.visual_projection = new Linear(v.hidden_size, projection_dim);
    this.text_projection = new Linear(t.hidden_size, projection_dim);
    this.geometry = { vocab: t.vocab_size, max_positions: t.max_position_embeddings };
    this.input = pixelInput(v.num_channels);
    this.#eos = t.eos_token_id ?? EOS;
  }

  get blocks(): readonly (readonly Module[])[] {
    return [this.text_model.encoder.layers, this.vision_model.encoder.layers];
  }

  get logit_factor(): number {
    return Math.exp(this.logit_scale.number);
  }

  /** The last of its modules, as transformers chooses where a model has no head. */
  override modules_not_quantized(): readonly string[] {
    return ["text_projection"];
  }

  pooledAt(ids: Int32Array, rows: number, steps: number): Int32Array {
    return Int32Array.from({ length: rows }, (_, r) => {
      const row = ids.subarray(r * steps, (r + 1) * steps);
      const end = this.#eos === OLD_EOS ? row.reduce((most, id) => Math.max(most, id), 0) : this.#eos;
      return Math.max(0, row.indexOf(end)); // the first token of a text without an end, as in transformers
    });
  }

  text(pass: Pass, ids: Tensor, pooled: Tensor): Tensor {
    return scope(() => {
      const hidden = this.text_model.forward(pass, ids);
      return this.text_projection.forward(embedding(hidden.view(-1, hidden.shape[2]!), pooled));
    });
  }

  image(pass: Pass, pixels: Tensor): Tensor {
    return scope(() => this.visual_projection.forward(this.vision_model.forward(pass, pixels)));
  }
}

const build = (json: ConfigJson): CLIPModel => new CLIPModel(readConfig(json, schema)).name_tree();

export const clip: Architecture = {
  model_type: "clip",
  tasks: { clip: build, base: build },
  names: [{ ignore: /\.position_ids$/ }],
};
