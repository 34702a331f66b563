// ViT (Dosovitskiy et al. 2021): an image as a text of patches behind a class token, LayerNorm before each part, and a
// classifier on the class token.

import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { type FeatureInput, FeatureModel, type Features, type Logits } from "../nn/features.js";
import { Linear, Module, optional, type Parameter } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import type { Act } from "../ops/activation.js";
import { contiguous } from "../ops/copy.js";
import { activationName, count, epsilon, headSize, labelCount, readConfig } from "./_config.js";
import {
  area,
  checkImage,
  gridOf,
  PatchEmbeddings,
  pixelInput,
  tokens,
  VisionAttention,
  VisionDense,
  visionFields,
  withClass,
} from "./_vit.js";

const schema = z.object({
  ...visionFields,
  intermediate_size: count,
  image_size: area.default([224, 224]),
  patch_size: area.default([16, 16]),
  layer_norm_eps: epsilon.default(1e-12),
  pooler_output_size: count.nullish(),
  pooler_act: activationName.default("tanh"),
});

type ViTConfig = z.infer<typeof schema>;

class ViTEmbeddings extends Module {
  cls_token: Parameter;
  position_embeddings: Parameter;
  patch_embeddings: PatchEmbeddings;

  constructor(c: ViTConfig) {
    super();
    const [high, wide] = gridOf(c.image_size, c.patch_size);
    this.cls_token = tokens(1, c.hidden_size);
    this.position_embeddings = tokens(1 + high * wide, c.hidden_size);
    this.patch_embeddings = new PatchEmbeddings(c.num_channels, c.hidden_size, c.patch_size);
  }

  forward(pixels: Tensor): Tensor {
    const patches = this.patch_embeddings.forward(pixels);
    return withClass(this.cls_token.value, patches, this.position_embeddings.value);
  }
}

class ViTLayer extends Module {
  attention: VisionAttention;
  intermediate: VisionDense;
  output: VisionDense;
  layernorm_before: LayerNorm;
  layernorm_after: LayerNorm;
  readonly act: Act;

  constructor(c: ViTConfig) {
    super();
    this.attention = new VisionAttention(c.hidden_size, c.num_attention_heads, c.qkv_bias);
    this.intermediate = new VisionDense(c.hidden_size, c.intermediate_size);
    this.output = new VisionDense(c.intermediate_size, c.hidden_size);
    this.layernorm_before = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.layernorm_after = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.act = c.hidden_act;
  }

  forward(x: Tensor, pass: Pass): Tensor {
    const h = scope(() => this.attention.forward(this.layernorm_before.forward(x), pass, x));
    const inner = this.intermediate.dense.forward(this.layernorm_after.forward(h), { act: this.act });
    return this.output.dense.forward(inner, { residual: h });
  }
}

class ViTEncoder extends Module {
  layer: ViTLayer[];

  constructor(c: ViTConfig) {
    super();
    this.layer = Array.from({ length: c.num_hidden_layers }, () => new ViTLayer(c));
  }
}

class ViTModel extends FeatureModel<Features> {
  embeddings: ViTEmbeddings;
  encoder: ViTEncoder;
  layernorm: LayerNorm;
  pooler: VisionDense | undefined;
  readonly input: FeatureInput;
  readonly #image: readonly [number, number];
  readonly #act: Act;

  constructor(c: ViTConfig, pooler: boolean) {
    super();
    headSize(c.hidden_size, c.num_attention_heads);
    this.embeddings = new ViTEmbeddings(c);
    this.encoder = new ViTEncoder(c);
    this.layernorm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    if (pooler) this.pooler = optional(new VisionDense(c.hidden_size, c.pooler_output_size ?? c.hidden_size));
    this.input = pixelInput(c.num_channels);
    this.#image = c.image_size;
    this.#act = c.pooler_act;
  }

  get blocks(): readonly (readonly Module[])[] {
    return [this.encoder.layer];
  }

  /** Hidden states after the last norm, [B,1+N,hidden]. */
  hidden(pass: Pass, pixels: Tensor): Tensor {
    checkImage(pixels, this.#image);
    return scope(() => {
      const h = runBlocks(this.encoder.layer, this.embeddings.forward(pixels), pass, (layer, x) =>
        layer.forward(x, pass),
      );
      pass.capture(h);
      return this.layernorm.forward(h);
    });
  }

  outputs(pass: Pass, pixels: Tensor): Features {
    return scope((): Features => {
      const last_hidden_state = this.hidden(pass, pixels);
      const { dense } = this.pooler ?? {};
      if (!dense?.weight.filled) return { last_hidden_state };
      const first = contiguous(last_hidden_state.select(1, 0)); // [B,hidden]: the class token
      return { last_hidden_state, pooler_output: dense.forward(first, { act: this.#act }) };
    });
  }
}

class ViTForImageClassification extends FeatureModel<Logits> {
  vit: ViTModel;
  classifier: Linear;

  constructor(c: ViTConfig, labels: number) {
    super();
    this.vit = new ViTModel(c, false);
    this.classifier = new Linear(c.hidden_size, labels, { bias: true });
  }

  get input(): FeatureInput {
    return this.vit.input;
  }

  get blocks(): readonly (readonly Module[])[] {
    return this.vit.blocks;
  }

  override modules_not_quantized(): readonly string[] {
    return ["classifier"];
  }

  outputs(pass: Pass, pixels: Tensor): Logits {
    return scope(() => ({ logits: this.classifier.forward(contiguous(this.vit.hidden(pass, pixels).select(1, 0))) }));
  }
}

export const vit: Architecture = {
  model_type: "vit",
  tasks: {
    "image-classification": (json: ConfigJson) =>
      new ViTForImageClassification(readConfig(json, schema), labelCount(json)).name_tree(),
    base: (json: ConfigJson) => new ViTModel(readConfig(json, schema), true).name_tree(),
  },
  names: [{ ignore: /(^|\.)embeddings\.mask_token$/ }, { prefix: "vit." }],
};
