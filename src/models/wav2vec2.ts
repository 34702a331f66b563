// wav2vec 2.0 (Baevski et al. 2020): convolutions over a waveform, a convolution for positions with normalised weights, and an
// encoder with LayerNorm after each part, or before it (do_stable_layer_norm).

import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { positionsOf } from "../nn/conv.js";
import { type FeatureInput, FeatureModel, type Features, type Logits } from "../nn/features.js";
import { Linear, Module, Parameter } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { add } from "../ops/add.js";
import { contiguous } from "../ops/copy.js";
import { multiply } from "../ops/gated.js";
import { headSize } from "./_config.js";
import {
  EncoderLayer,
  FeatureExtractor,
  FeatureProjection,
  PositionalConvEmbedding,
  parse,
  type Wav2Vec2Config,
} from "./_wav2vec2.js";

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
