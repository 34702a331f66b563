// SigLIP (Zhai et al. 2023), and the models of SigLIP 2 with a fixed size of images: two towers as CLIP's, without a causal order or a class
// token. The last token stands for a text, and a learned query gathers an image. Each pair of a text and an image is judged by itself.

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { type DualGeometry, DualModel } from "../nn/dual.js";
import { type FeatureInput, FeatureModel, type Logits } from "../nn/features.js";
import { Embedding, Linear, Module, Scalar } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import type { Pass } from "../nn/pass.js";
import { add } from "../ops/add.js";
import { contiguous } from "../ops/copy.js";
import { embedding } from "../ops/embedding.js";
import { filled } from "../ops/fill.js";
import { pool } from "../ops/pool.js";
import { CLIPEncoder, TextEmbeddings } from "./_clip.js";
import { activationName, count, epsilon, headSize, labelCount, readConfig } from "./_config.js";
import { GatheringHead } from "./_gathering.js";
import { area, checkImage, gridOf, PatchConv, pixelInput } from "./_vit.js";

const tower = {
  hidden_size: count.default(768),
  intermediate_size: count.default(3072),
  num_hidden_layers: count.max(1024).default(12),
  num_attention_heads: count.default(12),
  hidden_act: activationName.default("gelu_tanh"),
  layer_norm_eps: epsilon.default(1e-6),
};

const text = z.object({
  ...tower,
  vocab_size: count.default(32_000),
  max_position_embeddings: count.default(64),
  /** Width of the embedding; by default that of the states. */
  projection_size: count.nullish(),
});

const vision = z.object({
  ...tower,
  num_channels: count.default(3),
  image_size: area.default([224, 224]),
  patch_size: area.default([16, 16]),
  /** Some judges of images have nothing that gathers them. */
  vision_use_head: z.boolean().default(true),
});

const schema = z.object({
  text_config: text.default(text.parse({})),
  vision_config: vision.default(vision.parse({})),
});

type TextConfig = z.infer<typeof text>;
type VisionConfig = z.infer<typeof vision>;

class TextTransformer extends Module {
  embeddings: TextEmbeddings;
  encoder: CLIPEncoder;
  final_layer_norm: LayerNorm;
  head: Linear;

  constructor(c: TextConfig) {
    super();
    this.embeddings = new TextEmbeddings(c);
    this.encoder = new CLIPEncoder(c, false);
    this.final_layer_norm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.head = new Linear(c.hidden_size, c.projection_size ?? c.hidden_size, { bias: true });
  }

  /** Embeddings [B,width] by the states of the tokens `pooled` i32[B]. */
  forward(pass: Pass, ids: Tensor, pooled: Tensor): Tensor {
    return scope(() => {
      const hidden = this.final_layer_norm.forward(this.encoder.forward(this.embeddings.forward(pass, ids), pass));
      return this.head.forward(embedding(hidden.view(-1, hidden.shape[2]!), pooled));
    });
  }
}

class VisionEmbeddings extends Module {
  patch_embedding: PatchConv;
  position_embedding: Embedding;

  constructor(c: VisionConfig) {
    super();
    const [high, wide] = gridOf(c.image_size, c.patch_size);
    this.patch_embedding = new PatchConv(c.num_channels, c.hidden_size, c.patch_size, true);
    this.position_embedding = new Embedding(high * wide, c.hidden_size);
  }

  forward(pixels: Tensor): Tensor {
    return scope(() => {
      const patches = this.patch_embedding.forward(pixels); // [B,H',W',hidden]
      const [batch = 0, high = 0, wide = 0, hidden = 0] = patches.shape;
      const entries = Int32Array.from({ length: high * wide }, (_, t) => t);
      const positions = this.position_embedding.forward(Tensor.from(pixels.device, entries, [1, entries.length]));
      const steps = [batch, entries.length, hidden];
      return add(patches.view(...steps), contiguous(positions.expand(...steps)));
    });
  }
}

class VisionTransformer extends Module {
  embeddings: VisionEmbeddings;
  encoder: CLIPEncoder;
  post_layernorm: LayerNorm;
  head: GatheringHead | undefined;
  readonly image: readonly [number, number];

  constructor(c: VisionConfig) {
    super();
    this.embeddings = new VisionEmbeddings(c);
    this.encoder = new CLIPEncoder(c, false);
    this.post_layernorm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.head = c.vision_use_head ? new GatheringHead(c) : undefined;
    this.image = c.image_size;
  }

  /** States of the patches after the last norm, [B,N,hidden]. */
  forward(pass: Pass, pixels: Tensor): Tensor {
    checkImage(pixels, this.image);
    return scope(() => this.post_layernorm.forward(this.encoder.forward(this.embeddings.forward(pixels), pass)));
  }
}

class SiglipModel extends DualModel {
  logit_scale: Scalar;
  logit_bias: Scalar;
  text_model: TextTransformer;
  vision_model: VisionTransformer;
  readonly geometry: DualGeometry;
  readonly input: FeatureInput;

  constructor({ text_config: t, vision_config: v }: z.infer<typeof schema>) {
    super();
    headSize(t.hidden_size, t.num_attention_heads);
    headSize(v.hidden_size, v.num_attention_heads);
    if (!v.vision_use_head) {
      throw new ConfigError("config.json: images are not gathered to one vector (vision_use_head: false)", {
        hint: "it is the config of a judge of images",
      });
    }
    const width = t.projection_size ?? t.hidden_size;
    if (width !== v.hidden_size) {
      throw new ConfigError(`config.json: texts have ${width} features, and images ${v.hidden_size}`, {
        hint: CONFIG_HINT,
      });
    }
    this.logit_scale = new Scalar(1);
    this.logit_bias = new Scalar(1);
    this.text_model = new TextTransformer(t);
    this.vision_model = new VisionTransformer(v);
    this.geometry = { vocab: t.vocab_size, max_positions: t.max_position_embeddings };
    this.input = pixelInput(v.num_channels);
  }

  get blocks(): readonly (readonly Module[])[] {
    return [this.text_model.encoder.layers, this.vision_model.encoder.layers];
  }

  get logit_factor(): number {
    return Math.exp(this.logit_scale.number);
  }

  override readonly judges_pairs = true;

  /** What gathers an image multiplies with its matrices as they are, in torch too. */
  override modules_not_quantized(): readonly string[] {
    return ["vision_model.head"];
  }

  /** The last place, which may be padding: texts are padded to their full length. */
  pooledAt(_ids: Int32Array, rows: number, steps: number): Int32Array {
    return new Int32Array(rows).fill(steps - 1);
  }

  text(pass: Pass, ids: Tensor, pooled: Tensor): Tensor {
    return this.text_model.forward(pass, ids, pooled);
  }

  image(pass: Pass, pixels: Tensor): Tensor {
    return scope(() => this.vision_model.head!.forward(this.vision_model.forward(pass, pixels)));
  }

  override similarities(one: Tensor, other: Tensor): Tensor {
    return scope(() => {
      const scaled = super.similarities(one, other);
      return add(scaled, filled(scaled.device, scaled.shape, this.logit_bias.number));
    });
  }
}

/** Labels for images, by the mean of the patches' states. */
class SiglipForImageClassification extends FeatureModel<Logits> {
  vision_model: VisionTransformer;
  classifier: Linear;
  readonly input: FeatureInput;

  constructor({ vision_config: v }: z.infer<typeof schema>, labels: number) {
    super();
    headSize(v.hidden_size, v.num_attention_heads);
    this.vision_model = new VisionTransformer(v);
    this.classifier = new Linear(v.hidden_size, labels, { bias: true });
    this.input = pixelInput(v.num_channels);
  }

  get blocks(): readonly (readonly Module[])[] {
    return [this.vision_model.encoder.layers];
  }

  override modules_not_quantized(): readonly string[] {
    return ["vision_model.head", "classifier"];
  }

  outputs(pass: Pass, pixels: Tensor): Logits {
    return scope(() => ({
      logits: this.classifier.forward(pool(this.vision_model.forward(pass, pixels), undefined, "mean")),
    }));
  }
}

const build = (json: ConfigJson): SiglipModel => new SiglipModel(readConfig(json, schema)).name_tree();

export const siglip: Architecture = {
  model_type: "siglip",
  tasks: {
    clip: build,
    base: build,
    "image-classification": (json) =>
      new SiglipForImageClassification(readConfig(json, schema), labelCount(json)).name_tree(),
  },
  // A judge of images may be made of the whole model.
  names: [{ ignore: /\.position_ids$/ }, { spare: /^(text_model\.|logit_(scale|bias)$)/ }],
};
