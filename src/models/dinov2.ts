// DINOv2 (Oquab et al. 2023): a vision transformer whose parts are scaled by a vector each before they are added, for images
// of any size.

import { OptionError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { type FeatureInput, FeatureModel, type Features, type Logits } from "../nn/features.js";
import { Linear, Module, Parameter } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { add } from "../ops/add.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { filled } from "../ops/fill.js";
import { gated, multiply } from "../ops/gated.js";
import { linear } from "../ops/linear.js";
import { epsilon, headSize, labelCount, readConfig } from "./_config.js";
import { positionsFor } from "./_positions.js";
import {
  area,
  gridOf,
  PatchEmbeddings,
  pixelInput,
  tokens,
  VisionAttention,
  VisionMLP,
  visionFields,
  withClass,
} from "./_vit.js";

const schema = z.object({
  ...visionFields,
  mlp_ratio: z.number().positive().max(1024).default(4),
  image_size: area.default([224, 224]),
  patch_size: area.default([14, 14]),
  layer_norm_eps: epsilon.default(1e-6),
  use_swiglu_ffn: z.boolean().default(false),
});

type Dinov2Config = z.infer<typeof schema>;

class Dinov2Embeddings extends Module {
  cls_token: Parameter;
  /** Replaces masked patches while the model is trained; files may lack it. */
  mask_token: Parameter;
  position_embeddings: Parameter;
  patch_embeddings: PatchEmbeddings;

  constructor(c: Dinov2Config) {
    super();
    const [high, wide] = gridOf(c.image_size, c.patch_size);
    this.cls_token = tokens(1, c.hidden_size);
    this.mask_token = new Parameter(1, c.hidden_size);
    this.mask_token.optional = true;
    this.position_embeddings = tokens(1 + high * wide, c.hidden_size);
    this.patch_embeddings = new PatchEmbeddings(c.num_channels, c.hidden_size, c.patch_size);
  }

  forward(pixels: Tensor): Tensor {
    return scope(() => {
      const [size] = this.patch_embeddings.projection.size;
      const [high = 0, wide = 0] = pixels.shape.slice(2).map((length) => Math.floor(length / size));
      const patches = this.patch_embeddings.forward(pixels);
      return withClass(this.cls_token.value, patches, positionsFor(this.position_embeddings.value, high, wide));
    });
  }
}

class LayerScale extends Module {
  lambda1: Parameter;

  constructor(hidden: number) {
    super();
    this.lambda1 = new Parameter(hidden);
  }

  /** x[B,T,hidden] scaled, plus the residual. */
  forward(x: Tensor, residual: Tensor): Tensor {
    return scope(() => {
      const factors = contiguous(this.lambda1.value, "f32")
        .view(1, 1, -1)
        .expand(...x.shape);
      return add(multiply(x, factors), residual);
    });
  }
}

/** silu(gate) * up, with both projections in one matrix. */
class SwiGLU extends Module {
  weights_in: Linear;
  weights_out: Linear;

  constructor(hidden: number, inner: number) {
    super();
    // Two thirds of the plain size, in whole eights.
    const size = 8 * Math.ceil(Math.floor((inner * 2) / 3) / 8);
    this.weights_in = new Linear(hidden, 2 * size, { bias: true });
    this.weights_out = new Linear(size, hidden, { bias: true });
  }

  forward(x: Tensor): Tensor {
    return scope(() => {
      const both = this.weights_in.forward(x);
      const size = both.shape[2]! / 2;
      return this.weights_out.forward(gated(both.narrow(2, 0, size), both.narrow(2, size, size), "silu"));
    });
  }
}

class Dinov2Layer extends Module {
  norm1: LayerNorm;
  attention: VisionAttention;
  layer_scale1: LayerScale;
  norm2: LayerNorm;
  mlp: VisionMLP | SwiGLU;
  layer_scale2: LayerScale;

  constructor(c: Dinov2Config) {
    super();
    const hidden = c.hidden_size;
    const inner = Math.floor(hidden * c.mlp_ratio);
    this.norm1 = new LayerNorm(hidden, c.layer_norm_eps);
    this.attention = new VisionAttention(hidden, c.num_attention_heads, c.qkv_bias);
    this.layer_scale1 = new LayerScale(hidden);
    this.norm2 = new LayerNorm(hidden, c.layer_norm_eps);
    this.mlp = c.use_swiglu_ffn ? new SwiGLU(hidden, inner) : new VisionMLP(hidden, inner, c.hidden_act);
    this.layer_scale2 = new LayerScale(hidden);
  }

  forward(x: Tensor, pass: Pass): Tensor {
    const h = scope(() => this.layer_scale1.forward(this.attention.forward(this.norm1.forward(x), pass), x));
    return this.layer_scale2.forward(this.mlp.forward(this.norm2.forward(h)), h);
  }
}

class Dinov2Encoder extends Module {
  layer: Dinov2Layer[];

  constructor(c: Dinov2Config) {
    super();
    this.layer = Array.from({ length: c.num_hidden_layers }, () => new Dinov2Layer(c));
  }
}

class Dinov2Model extends FeatureModel<Features> {
  embeddings: Dinov2Embeddings;
  encoder: Dinov2Encoder;
  layernorm: LayerNorm;
  readonly input: FeatureInput;

  constructor(c: Dinov2Config) {
    super();
    headSize(c.hidden_size, c.num_attention_heads);
    this.embeddings = new Dinov2Embeddings(c);
    this.encoder = new Dinov2Encoder(c);
    this.layernorm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.input = pixelInput(c.num_channels);
  }

  get blocks(): readonly (readonly Module[])[] {
    return [this.encoder.layer];
  }

  /** Hidden states after the last norm, [B,1+N,hidden]. */
  hidden(pass: Pass, pixels: Tensor): Tensor {
    const [size] = this.embeddings.patch_embeddings.projection.size;
    const [high = 0, wide = 0] = pixels.shape.slice(2);
    if (Math.min(high, wide) < size) {
      throw new OptionError(`pixel_values of ${high} x ${wide} hold no patch of ${size} x ${size}`);
    }
    return scope(() => {
      const h = runBlocks(this.encoder.layer, this.embeddings.forward(pixels), pass, (layer, x) =>
        layer.forward(x, pass),
      );
      pass.capture(h);
      return this.layernorm.forward(h);
    });
  }

  outputs(pass: Pass, pixels: Tensor): Features {
    return scope(() => {
      const last_hidden_state = this.hidden(pass, pixels);
      return { last_hidden_state, pooler_output: contiguous(last_hidden_state.select(1, 0)) };
    });
  }
}

class Dinov2ForImageClassification extends FeatureModel<Logits> {
  dinov2: Dinov2Model;
  classifier: Linear;

  constructor(c: Dinov2Config, labels: number) {
    super();
    this.dinov2 = new Dinov2Model(c);
    this.classifier = new Linear(2 * c.hidden_size, labels, { bias: true });
  }

  get input(): FeatureInput {
    return this.dinov2.input;
  }

  get blocks(): readonly (readonly Module[])[] {
    return this.dinov2.blocks;
  }

  override modules_not_quantized(): readonly string[] {
    return ["classifier"];
  }

  outputs(pass: Pass, pixels: Tensor): Logits {
    return scope(() => {
      const hidden = this.dinov2.hidden(pass, pixels);
      const [batch = 0, steps = 0, width = 0] = hidden.shape;
      const patches = contiguous(hidden.narrow(1, 1, steps - 1).permute(0, 2, 1)); // [B,hidden,N]
      const mean = linear(patches, filled(hidden.device, [1, steps - 1], 1 / (steps - 1))); // [B,hidden,1]
      const both = Tensor.empty(hidden.device, [batch, 2 * width], "f32", "pooled");
      copyInto(hidden.select(1, 0), both.narrow(1, 0, width));
      copyInto(mean.view(batch, width), both.narrow(1, width, width));
      return { logits: this.classifier.forward(both) };
    });
  }
}

export const dinov2: Architecture = {
  model_type: "dinov2",
  tasks: {
    "image-classification": (json: ConfigJson) =>
      new Dinov2ForImageClassification(readConfig(json, schema), labelCount(json)).name_tree(),
    base: (json: ConfigJson) => new Dinov2Model(readConfig(json, schema)).name_tree(),
  },
  names: [{ prefix: "dinov2." }],
};
