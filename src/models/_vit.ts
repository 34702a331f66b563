// What vision transformers (Dosovitskiy et al. 2021) and their descendants share: patches as tokens, a class token, learned
// positions, and attention in the modules of BERT's names.

import { CONFIG_HINT, ConfigError, OptionError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { scope, Tensor } from "../core/tensor.js";
import { attendAll } from "../nn/attend.js";
import { Conv2d } from "../nn/conv.js";
import type { FeatureInput } from "../nn/features.js";
import { Linear, Module, Parameter } from "../nn/module.js";
import type { Pass } from "../nn/pass.js";
import type { Act } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { activationName, count, epsilon } from "./_config.js";

/** A size of an image or a patch: a number, or height and width. */
export const area = z
  .union([count, z.tuple([count, count])])
  .transform((size): readonly [number, number] => (typeof size === "number" ? [size, size] : size));

/** Fields of config.json that they share. */
export const visionFields = {
  hidden_size: count,
  num_hidden_layers: count.max(1024),
  num_attention_heads: count,
  hidden_act: activationName.default("gelu"),
  layer_norm_eps: epsilon,
  num_channels: count.default(3),
  qkv_bias: z.boolean().default(true),
};

/** Patches of an image by rows and columns. @throws ConfigError if not one fits */
export function gridOf(image: readonly [number, number], patch: readonly [number, number]): readonly [number, number] {
  const [high, wide] = [Math.floor(image[0] / patch[0]), Math.floor(image[1] / patch[1])];
  if (high > 0 && wide > 0) return [high, wide];
  throw new ConfigError(`config.json: patches of ${patch.join(" x ")} do not fit an image of ${image.join(" x ")}`, {
    hint: CONFIG_HINT,
  });
}

/** A convolution whose windows do not overlap. @throws ConfigError for patches that are not square */
export class PatchConv extends Conv2d {
  constructor(channels: number, hidden: number, patch: readonly [number, number], bias: boolean) {
    if (patch[0] !== patch[1]) {
      throw new ConfigError(`config.json: patches must be square, got ${patch.join(" x ")}`, { hint: CONFIG_HINT });
    }
    super(channels, hidden, patch, { stride: patch[0], bias });
  }
}

/** Patches as tokens. */
export class PatchEmbeddings extends Module {
  projection: Conv2d;

  constructor(channels: number, hidden: number, patch: readonly [number, number]) {
    super();
    this.projection = new PatchConv(channels, hidden, patch, true);
  }

  /** Pixels [B,C,H,W] -> [B,N,hidden], row by row. */
  forward(pixels: Tensor): Tensor {
    return scope(() => {
      const patches = this.projection.forward(pixels); // [B,H',W',hidden]
      return patches.view(patches.shape[0]!, -1, patches.shape[3]!);
    });
  }
}

/** The class token `first` (hidden elements) before the patches [B,N,hidden], plus positions [1,1+N,hidden]. */
export function withClass(first: Tensor, patches: Tensor, positions: Tensor): Tensor {
  return scope(() => {
    const [batch = 0, count = 0, hidden = 0] = patches.shape;
    const tokens = Tensor.empty(patches.device, [batch, 1 + count, hidden], "f32", "tokens");
    copyInto(first.view(1, 1, hidden).expand(batch, 1, hidden), tokens.narrow(1, 0, 1));
    copyInto(patches, tokens.narrow(1, 1, count));
    return add(tokens, contiguous(positions.expand(batch, 1 + count, hidden), "f32"));
  });
}

/** @throws OptionError for an image of another size than the model's */
export function checkImage(pixels: Tensor, image: readonly [number, number]): void {
  const [high, wide] = pixels.shape.slice(2);
  if (high === image[0] && wide === image[1]) return;
  throw new OptionError(`pixel_values of ${high} x ${wide}: this model reads images of ${image.join(" x ")}`, {
    hint: "AutoImageProcessor.from_pretrained(model) gives images of the right size",
  });
}

class VisionSelfAttention extends Module {
  query: Linear;
  key: Linear;
  value: Linear;
  readonly heads: number;

  constructor(hidden: number, heads: number, bias: boolean) {
    super();
    this.query = new Linear(hidden, hidden, { bias });
    this.key = new Linear(hidden, hidden, { bias });
    this.value = new Linear(hidden, hidden, { bias });
    this.heads = heads;
  }

  forward(x: Tensor, pass: Pass): Tensor {
    const [batch = 0, steps = 0, width = 0] = x.shape;
    const size = width / this.heads;
    const split = (projection: Linear): Tensor => projection.forward(x).view(batch, steps, this.heads, size); // [B,T,H,D]
    return attendAll(pass, split(this.query), split(this.key), split(this.value), { scale: size ** -0.5 });
  }
}

/** A projection called `dense`. */
export class VisionDense extends Module {
  dense: Linear;

  constructor(inputs: number, out: number) {
    super();
    this.dense = new Linear(inputs, out, { bias: true });
  }
}

export class VisionAttention extends Module {
  attention: VisionSelfAttention;
  output: VisionDense;

  constructor(hidden: number, heads: number, bias: boolean) {
    super();
    this.attention = new VisionSelfAttention(hidden, heads, bias);
    this.output = new VisionDense(hidden, hidden);
  }

  /** x[B,T,hidden] -> [B,T,hidden]; `residual` is added. */
  forward(x: Tensor, pass: Pass, residual?: Tensor): Tensor {
    return scope(() => this.output.dense.forward(this.attention.forward(x, pass), { residual }));
  }
}

/** fc2(act(fc1(x))) plus a residual. */
export class VisionMLP extends Module {
  fc1: Linear;
  fc2: Linear;
  readonly act: Act;

  constructor(hidden: number, inner: number, act: Act) {
    super();
    this.fc1 = new Linear(hidden, inner, { bias: true });
    this.fc2 = new Linear(inner, hidden, { bias: true });
    this.act = act;
  }

  forward(x: Tensor, residual?: Tensor): Tensor {
    return scope(() => this.fc2.forward(this.fc1.forward(x, { act: this.act }), { residual }));
  }
}

/** A parameter of shape [1,n,hidden]: a table of positions, or a token. */
export function tokens(n: number, hidden: number): Parameter {
  return new Parameter(1, n, hidden);
}

/** What such a model reads: images of any number and, unless it checks them, of any size. */
export function pixelInput(channels: number): FeatureInput {
  return { name: "pixel_values", dims: ["batch", "channels", "height", "width"], fixed: { channels } };
}
