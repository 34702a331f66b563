// wav2vec 2.0 (Baevski et al. 2020): convolutions over a waveform, a convolution for positions with normalised weights, and an
// encoder with LayerNorm after each part, or before it (do_stable_layer_norm).

import * as z from "zod";
import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { attendAll } from "../nn/attend.js";
import { Conv1d, positionsOf } from "../nn/conv.js";
import { type FeatureInput, FeatureModel, type Features, type Logits } from "../nn/features.js";
import { Linear, Module, Parameter } from "../nn/module.js";
import { GroupNorm, LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { type Act, activation } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { contiguous } from "../ops/copy.js";
import { multiply } from "../ops/gated.js";
import { activationName, count, epsilon, headSize, readConfig } from "./_config.js";

const sizes = z.array(count).min(1).max(64);

const schema = z.object({
  vocab_size: count.default(32),
  hidden_size: count,
  num_hidden_layers: count.max(1024),
  num_attention_heads: count,
  intermediate_size: count,
  hidden_act: activationName.default("gelu"),
  layer_norm_eps: epsilon.default(1e-5),
  feat_extract_norm: z.enum(["group", "layer"]).default("group"),
  feat_extract_activation: activationName.default("gelu"),
  conv_dim: sizes.default([512, 512, 512, 512, 512, 512, 512]),
  conv_stride: sizes.default([5, 2, 2, 2, 2, 2, 2]),
  conv_kernel: sizes.default([10, 3, 3, 3, 3, 2, 2]),
  conv_bias: z.boolean().default(false),
  num_feat_extract_layers: count.nullish(),
  num_conv_pos_embeddings: count.default(128),
  num_conv_pos_embedding_groups: count.default(16),
  do_stable_layer_norm: z.boolean().default(false),
  // Layers behind the encoder, or within its layers, that this model does not have.
  add_adapter: z.literal(false).default(false),
  adapter_attn_dim: z.null().optional(),
});

type Wav2Vec2Config = z.infer<typeof schema>;

/** That of norms among the convolutions, whatever config.json says of the others. */
const CONV_EPSILON = 1e-5;

function parse(json: ConfigJson): Wav2Vec2Config {
  const c = readConfig(json, schema);
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

class FeatureExtractor extends Module {
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

class FeatureProjection extends Module {
  layer_norm: LayerNorm;
  projection: Linear;

  constructor(c: Wav2Vec2Config) {
    super();
    const channels = c.conv_dim.at(-1)!;
    this.layer_norm = new LayerNorm(channels, c.layer_norm_eps);
    this.projection = new Linear(channels, c.hidden_size, { bias: true });
  }
}

class PositionalConvEmbedding extends Module {
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

class EncoderLayer extends Module {
  attention: Wav2Vec2Attention;
  layer_norm: LayerNorm;
  feed_forward: FeedForward;
  final_layer_norm: LayerNorm;
  readonly stable: boolean;

  constructor(c: Wav2Vec2Config) {
    super();
    this.attention = new Wav2Vec2Attention(c.hidden_size, c.num_attention_heads);
    this.layer_norm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.feed_forward = new FeedForward(c);
    this.final_layer_norm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.stable = c.do_stable_layer_norm;
  }

  forward(x: Tensor, pass: Pass): Tensor {
    if (this.stable) {
      const h = scope(() => this.attention.forward(this.layer_norm.forward(x), x, pass));
      return this.feed_forward.forward(this.final_layer_norm.forward(h), h);
    }
    const h = scope(() => this.layer_norm.forward(this.attention.forward(x, x, pass)));
    return this.final_layer_norm.forward(this.feed_forward.forward(h, h));
  }
}

class Encoder extends Module {
  pos_conv_embed: PositionalConvEmbedding;
  layer_norm: LayerNorm;
  layers: EncoderLayer[];
  readonly stable: boolean;

  constructor(c: Wav2Vec2Config) {
    super();
    this.pos_conv_embed = new PositionalConvEmbedding(c);
    this.layer_norm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.layers = Array.from({ length: c.num_hidden_layers }, () => new EncoderLayer(c));
    this.stable = c.do_stable_layer_norm;
  }

  forward(x: Tensor, pass: Pass): Tensor {
    return scope(() => {
      const placed = add(x, this.pos_conv_embed.forward(x));
      const first = this.stable ? placed : this.layer_norm.forward(placed);
      const h = runBlocks(this.layers, first, pass, (layer, one) => layer.forward(one, pass));
      pass.capture(h);
      return this.stable ? this.layer_norm.forward(h) : h;
    });
  }
}

class Wav2Vec2Model extends FeatureModel<Features> {
  /** Replaces masked frames while the model is trained; files of finished models may lack it. */
  masked_spec_embed: Parameter;
  feature_extractor: FeatureExtractor;
  feature_projection: FeatureProjection;
  encoder: Encoder;
  readonly input: FeatureInput = { name: "input_values", dims: ["batch", "samples"], fixed: {} };

  constructor(c: Wav2Vec2Config) {
    super();
    headSize(c.hidden_size, c.num_attention_heads);
    this.masked_spec_embed = new Parameter(c.hidden_size);
    this.masked_spec_embed.optional = true;
    this.feature_extractor = new FeatureExtractor(c);
    this.feature_projection = new FeatureProjection(c);
    this.encoder = new Encoder(c);
  }

  get blocks(): readonly (readonly Module[])[] {
    return [this.encoder.layers];
  }

  override frames(length: number): number {
    const { conv_layers: layers } = this.feature_extractor;
    return layers.reduce((n, { conv }) => Math.max(0, positionsOf(n, conv.size, conv.stride, 0)), length);
  }

  outputs(pass: Pass, samples: Tensor, real?: Tensor): Features {
    this.checkLength(samples.shape[1]!);
    return scope((): Features => {
      const { layer_norm, projection } = this.feature_projection;
      const extract_features = scope(() => layer_norm.forward(this.feature_extractor.forward(samples)));
      const last_hidden_state = scope(() => {
        const x = projection.forward(extract_features);
        const kept = real && contiguous(real.view(...real.shape, 1).expand(...x.shape));
        return this.encoder.forward(kept ? multiply(x, kept) : x, pass);
      });
      return { last_hidden_state, extract_features };
    });
  }
}

class Wav2Vec2ForCTC extends FeatureModel<Logits> {
  wav2vec2: Wav2Vec2Model;
  lm_head: Linear;

  constructor(c: Wav2Vec2Config) {
    super();
    this.wav2vec2 = new Wav2Vec2Model(c);
    this.lm_head = new Linear(c.hidden_size, c.vocab_size, { bias: true });
  }

  get input(): FeatureInput {
    return this.wav2vec2.input;
  }

  get blocks(): readonly (readonly Module[])[] {
    return this.wav2vec2.blocks;
  }

  override frames(length: number): number {
    return this.wav2vec2.frames(length);
  }

  override output_embeddings(): Linear {
    return this.lm_head;
  }

  outputs(pass: Pass, samples: Tensor, real?: Tensor): Logits {
    return scope(() => ({
      logits: this.lm_head.forward(this.wav2vec2.outputs(pass, samples, real).last_hidden_state),
    }));
  }
}

export const wav2vec2: Architecture = {
  model_type: "wav2vec2",
  tasks: {
    ctc: (json: ConfigJson) => new Wav2Vec2ForCTC(parse(json)).name_tree(),
    base: (json: ConfigJson) => new Wav2Vec2Model(parse(json)).name_tree(),
  },
  names: [
    { rename: /\.parametrizations\.weight\.original0$/, to: ".weight_g" },
    { rename: /\.parametrizations\.weight\.original1$/, to: ".weight_v" },
    { magnitude: /\.weight_g$/, direction: /\.weight_v$/, to: ".weight" },
    { prefix: "wav2vec2." },
  ],
};
