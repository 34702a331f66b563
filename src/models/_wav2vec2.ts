// The parts of wav2vec 2.0: its config, the convolutions that hear, and the layers.

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { ConfigJson } from "../nn/architecture.js";
import { attendAll } from "../nn/attend.js";
import { Conv1d, positionsOf } from "../nn/conv.js";
import { Linear, Module } from "../nn/module.js";
import { GroupNorm, LayerNorm } from "../nn/norm.js";
import type { Pass } from "../nn/pass.js";
import { type Act, activation } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { contiguous } from "../ops/copy.js";
import { gated } from "../ops/gated.js";
import { scale } from "../ops/scale.js";
import { activationName, count, epsilon, readConfig } from "./_config.js";

const sizes = z.array(count).min(1).max(64);

const schema = z.object({
  vocab_size: count.default(32),
  hidden_size: count,
  num_hidden_layers: count.max(1024),
  num_attention_heads: count,
  intermediate_size: count,
  hidden_act: activationName.default("gelu"),
  layer_norm_eps: epsilon.default(1e-5),
  feat_extract_norm: z.literal(["group", "layer"]).default("group"),
  feat_extract_activation: activationName.default("gelu"),
  conv_dim: sizes.default([512, 512, 512, 512, 512, 512, 512]),
  conv_stride: sizes.default([5, 2, 2, 2, 2, 2, 2]),
  conv_kernel: sizes.default([10, 3, 3, 3, 3, 2, 2]),
  conv_bias: z.boolean().default(false),
  num_feat_extract_layers: count.nullish(),
  num_conv_pos_embeddings: count.default(128),
  num_conv_pos_embedding_groups: count.default(16),
  do_stable_layer_norm: z.boolean().default(false),
  /** Of classifiers. */
  use_weighted_layer_sum: z.boolean().default(false),
  classifier_proj_size: count.default(256),
  /** Convolutions behind the encoder, which shorten its output. */
  add_adapter: z.boolean().default(false),
  num_adapter_layers: count.max(64).default(3),
  adapter_kernel_size: count.max(1024).default(3),
  adapter_stride: count.max(1024).default(2),
  output_hidden_size: count.nullish(),
  /** Of models of many languages (MMS, Pratap et al. 2023): the width of a language's part of each layer. */
  adapter_attn_dim: count.nullish(),
});

export interface Wav2Vec2Config extends z.infer<typeof schema> {
  /** HuBERT may leave out the norm behind the convolutions. */
  readonly feat_proj_layer_norm?: boolean;
}

const hubertSchema = z.object({
  ...schema.shape,
  add_adapter: z.literal(false).default(false),
  feat_proj_layer_norm: z.boolean().default(true),
  // Instead of normalised weights.
  conv_pos_batch_norm: z.literal(false).default(false),
});

/** That of norms among the convolutions, whatever config.json says of the others. */
const CONV_EPSILON = 1e-5;

export function parse(json: ConfigJson): Wav2Vec2Config {
  return checked(readConfig(json, schema));
}

export function parseHubert(json: ConfigJson): Wav2Vec2Config {
  return checked(readConfig(json, hubertSchema));
}

/** @throws ConfigError for inconsistent sizes */
function checked(c: Wav2Vec2Config): Wav2Vec2Config {
  const layers = c.num_feat_extract_layers ?? c.conv_dim.length;
  if (![c.conv_dim, c.conv_stride, c.conv_kernel].every(({ length }) => length === layers)) {
    throw new ConfigError(`config.json: conv_dim, conv_stride and conv_kernel must have ${layers} entries each`, {
      hint: CONFIG_HINT,
    });
  }
  if (c.hidden_size % c.num_conv_pos_embedding_groups !== 0) {
    throw new ConfigError(
      `config.json: hidden size ${c.hidden_size} is not a multiple of ${c.num_conv_pos_embedding_groups} groups`,
      { hint: CONFIG_HINT },
    );
  }
  return c;
}

class ConvLayer extends Module {
  conv: Conv1d;
  layer_norm: LayerNorm | GroupNorm | undefined;
  readonly act: Act;

  constructor(c: Wav2Vec2Config, layer: number) {
    super();
    const [inputs, out] = [layer === 0 ? 1 : c.conv_dim[layer - 1]!, c.conv_dim[layer]!];
    this.conv = new Conv1d(inputs, out, c.conv_kernel[layer]!, { stride: c.conv_stride[layer]!, bias: c.conv_bias });
    if (c.feat_extract_norm === "layer") this.layer_norm = new LayerNorm(out, CONV_EPSILON);
    else if (layer === 0) this.layer_norm = new GroupNorm(out, out, CONV_EPSILON);
    this.act = c.feat_extract_activation;
  }

  forward(x: Tensor): Tensor {
    const { layer_norm: norm } = this;
    if (!norm) return this.conv.forward(x, this.act);
    return scope(() => activation(norm.forward(this.conv.forward(x)), this.act));
  }
}

export class FeatureExtractor extends Module {
  conv_layers: ConvLayer[];

  constructor(c: Wav2Vec2Config) {
    super();
    this.conv_layers = c.conv_dim.map((_, layer) => new ConvLayer(c, layer));
  }

  /** Samples [B,T] -> [B,frames,channels]. */
  forward(samples: Tensor): Tensor {
    let h = samples.view(samples.shape[0]!, -1, 1);
    for (const layer of this.conv_layers) {
      const next = layer.forward(h);
      h.dispose();
      h = next;
    }
    return h;
  }
}

export class FeatureProjection extends Module {
  layer_norm: LayerNorm | undefined;
  projection: Linear;

  constructor(c: Wav2Vec2Config) {
    super();
    const channels = c.conv_dim.at(-1)!;
    this.layer_norm = c.feat_proj_layer_norm === false ? undefined : new LayerNorm(channels, c.layer_norm_eps);
    this.projection = new Linear(channels, c.hidden_size, { bias: true });
  }
}

export class PositionalConvEmbedding extends Module {
  conv: Conv1d;
  readonly act: Act;

  constructor(c: Wav2Vec2Config) {
    super();
    const { num_conv_pos_embeddings: size, num_conv_pos_embedding_groups: groups, hidden_size: hidden } = c;
    this.conv = new Conv1d(hidden, hidden, size, { padding: Math.floor(size / 2), groups, normed: 2 });
    this.act = c.feat_extract_activation;
  }

  /** [B,T,hidden] -> [B,T,hidden]; the position that an even window adds at the end is dropped. */
  forward(x: Tensor): Tensor {
    return scope(() => contiguous(this.conv.forward(x, this.act).narrow(1, 0, x.shape[1]!)));
  }
}

class Wav2Vec2Attention extends Module {
  k_proj: Linear;
  v_proj: Linear;
  q_proj: Linear;
  out_proj: Linear;
  readonly heads: number;

  constructor(hidden: number, heads: number) {
    super();
    const projection = (): Linear => new Linear(hidden, hidden, { bias: true });
    this.k_proj = projection();
    this.v_proj = projection();
    this.q_proj = projection();
    this.out_proj = projection();
    this.heads = heads;
  }

  forward(x: Tensor, residual: Tensor, pass: Pass): Tensor {
    const [batch = 0, steps = 0, width = 0] = x.shape;
    const size = width / this.heads;
    const split = (projection: Linear): Tensor => projection.forward(x).view(batch, steps, this.heads, size); // [B,T,H,D]
    const y = attendAll(pass, split(this.q_proj), split(this.k_proj), split(this.v_proj), { scale: size ** -0.5 });
    return this.out_proj.forward(y, { residual });
  }
}

class FeedForward extends Module {
  intermediate_dense: Linear;
  output_dense: Linear;
  readonly act: Act;

  constructor(c: Wav2Vec2Config) {
    super();
    this.intermediate_dense = new Linear(c.hidden_size, c.intermediate_size, { bias: true });
    this.output_dense = new Linear(c.intermediate_size, c.hidden_size, { bias: true });
    this.act = c.hidden_act;
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    return this.output_dense.forward(this.intermediate_dense.forward(x, { act: this.act }), { residual });
  }
}

/** What a language adds to each layer of a model of many. */
class AttentionAdapter extends Module {
  norm: LayerNorm;
  linear_1: Linear;
  linear_2: Linear;

  constructor(hidden: number, width: number) {
    super();
    this.norm = new LayerNorm(hidden, CONV_EPSILON);
    this.linear_1 = new Linear(hidden, width, { bias: true });
    this.linear_2 = new Linear(width, hidden, { bias: true });
  }

  forward(x: Tensor): Tensor {
    return this.linear_2.forward(this.linear_1.forward(this.norm.forward(x), { act: "relu" }), { residual: x });
  }
}

/** A convolution half of whose channels let the others through. */
class AdapterLayer extends Module {
  conv: Conv1d;

  constructor(width: number, size: number, stride: number) {
    super();
    this.conv = new Conv1d(width, 2 * width, size, { stride, padding: 1, bias: true });
  }

  forward(x: Tensor): Tensor {
    return scope(() => {
      const both = this.conv.forward(x);
      const width = both.shape[2]! / 2;
      const [through, gate] = [contiguous(both.narrow(2, 0, width)), contiguous(both.narrow(2, width, width))];
      // The logistic function of g is half of 1 + tanh(g / 2).
      return scale(add(through, gated(scale(gate, 0.5), through, "tanh")), 0.5);
    });
  }
}

/** Convolutions behind the encoder (`add_adapter`), of a width of their own. */
export class Adapter extends Module {
  proj: Linear | undefined;
  proj_layer_norm: LayerNorm | undefined;
  layers: AdapterLayer[];

  constructor(c: Wav2Vec2Config) {
    super();
    const width = outputSize(c);
    if (width !== c.hidden_size) {
      this.proj = new Linear(c.hidden_size, width, { bias: true });
      this.proj_layer_norm = new LayerNorm(width, CONV_EPSILON);
    }
    const layer = (): AdapterLayer => new AdapterLayer(width, c.adapter_kernel_size, c.adapter_stride);
    this.layers = Array.from({ length: c.num_adapter_layers }, layer);
  }

  /** Frames that count as real of those that it makes of `length`, as transformers has it, whatever its kernels' size. */
  counted(length: number): number {
    return this.layers.reduce((n, { conv }) => (n < 1 ? 0 : positionsOf(n, 1, conv.stride, 0)), length);
  }

  /** [B,T,hidden] -> [B,T',width] */
  forward(x: Tensor): Tensor {
    const { proj, proj_layer_norm: norm } = this;
    return scope(() => {
      const first = proj && norm ? norm.forward(proj.forward(x)) : x;
      return this.layers.reduce((h, layer) => layer.forward(h), first);
    });
  }
}

/** Width of the model's output. */
export function outputSize(c: Wav2Vec2Config): number {
  return c.add_adapter ? (c.output_hidden_size ?? c.hidden_size) : c.hidden_size;
}

export class EncoderLayer extends Module {
  attention: Wav2Vec2Attention;
  layer_norm: LayerNorm;
  feed_forward: FeedForward;
  final_layer_norm: LayerNorm;
  adapter_layer: AttentionAdapter | undefined;
  readonly stable: boolean;

  constructor(c: Wav2Vec2Config) {
    super();
    this.attention = new Wav2Vec2Attention(c.hidden_size, c.num_attention_heads);
    this.layer_norm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.feed_forward = new FeedForward(c);
    this.final_layer_norm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.stable = c.do_stable_layer_norm;
    // Other layers have none, whatever the config says, as in transformers.
    if (c.adapter_attn_dim && this.stable) this.adapter_layer = new AttentionAdapter(c.hidden_size, c.adapter_attn_dim);
  }

  forward(x: Tensor, pass: Pass): Tensor {
    if (this.stable) {
      const h = scope(() => this.attention.forward(this.layer_norm.forward(x), x, pass));
      const y = this.feed_forward.forward(this.final_layer_norm.forward(h), h);
      return this.adapter_layer ? this.adapter_layer.forward(y) : y;
    }
    const h = scope(() => this.layer_norm.forward(this.attention.forward(x, x, pass)));
    return this.final_layer_norm.forward(this.feed_forward.forward(h, h));
  }
}
