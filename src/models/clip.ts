// CLIP (Radford et al. 2021): a causal transformer for texts and a vision transformer for images, with LayerNorm before each
// part, whose pooled states are projected into one space.

import type * as z from "../core/schema.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import type { Conv2d } from "../nn/conv.js";
import { type DualGeometry, DualModel } from "../nn/dual.js";
import type { FeatureInput } from "../nn/features.js";
import { Embedding, Linear, Module, Parameter, Scalar } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import type { Pass } from "../nn/pass.js";
import { contiguous } from "../ops/copy.js";
import { embedding } from "../ops/embedding.js";
import { CLIPEncoder, EOS, OLD_EOS, schema, type TextConfig, TextEmbeddings, type VisionConfig } from "./_clip.js";
import { readConfig } from "./_config.js";
import { checkImage, gridOf, PatchConv, pixelInput, withClass } from "./_vit.js";

class CLIPTextTransformer extends Module {
  embeddings: TextEmbeddings;
  encoder: CLIPEncoder;
  final_layer_norm: LayerNorm;

  constructor(c: TextConfig) {
    super();
    this.embeddings = new TextEmbeddings(c);
    this.encoder = new CLIPEncoder(c, true);
    this.final_layer_norm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      return this.final_layer_norm.forward(this.encoder.forward(this.embeddings.forward(pass, ids), pass));
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
