// wav2vec 2.0 (Baevski et al. 2020) and HuBERT (Hsu et al. 2021), which is the same model: convolutions over a waveform, a convolution for
// positions with normalised weights, and an encoder with LayerNorm after each part, or before it (do_stable_layer_norm).

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { positionsOf } from "../nn/conv.js";
import { type FeatureInput, FeatureModel, type Features, type Logits } from "../nn/features.js";
import { Linear, Module, Parameter } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { add } from "../ops/add.js";
import { attention } from "../ops/attention.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { multiply } from "../ops/gated.js";
import { pool } from "../ops/pool.js";
import { headSize, labelCount } from "./_config.js";
import {
  Adapter,
  EncoderLayer,
  FeatureExtractor,
  FeatureProjection,
  outputSize,
  PositionalConvEmbedding,
  parse,
  parseHubert,
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

  /** @param also gets the input of each layer, then the last one's output, each to be read at once */
  forward(x: Tensor, pass: Pass, also: (h: Tensor, index: number) => void = () => {}): Tensor {
    return scope(() => {
      const placed = add(x, this.pos_conv_embed.forward(x));
      const first = this.stable ? placed : this.layer_norm.forward(placed);
      const h = runBlocks(this.layers, first, pass, (layer, one, index) => {
        also(one, index);
        return layer.forward(one, pass);
      });
      pass.capture(h);
      also(h, this.layers.length);
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
  /** Convolutions behind the encoder. */
  adapter: Adapter | undefined;
  readonly input: FeatureInput = { name: "input_values", dims: ["batch", "samples"], fixed: {} };

  readonly #kind: SpeechKind;

  constructor(c: Wav2Vec2Config, kind: SpeechKind) {
    super();
    this.#kind = kind;
    headSize(c.hidden_size, c.num_attention_heads);
    this.masked_spec_embed = new Parameter(c.hidden_size);
    this.masked_spec_embed.optional = true;
    this.feature_extractor = new FeatureExtractor(c);
    this.feature_projection = new FeatureProjection(c);
    this.encoder = new Encoder(c);
    if (c.add_adapter) this.adapter = new Adapter(c);
  }

  override get class_name(): string {
    return `${this.#kind.classes}Model`;
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
      const extract_features = this.#heard(samples);
      const encoded = this.#encoded(pass, extract_features, real);
      const last_hidden_state = this.adapter?.forward(encoded) ?? encoded;
      return this.#kind.extracts ? { last_hidden_state, extract_features } : { last_hidden_state };
    });
  }

  /** Of `frames` positions, those of the output. */
  override outputFrames(frames: number): number {
    return this.adapter?.counted(frames) ?? frames;
  }

  #heard(samples: Tensor): Tensor {
    const { layer_norm } = this.feature_projection;
    return scope(() => {
      const heard = this.feature_extractor.forward(samples);
      return layer_norm?.forward(heard) ?? heard;
    });
  }

  #encoded(pass: Pass, features: Tensor, real?: Tensor, also?: (h: Tensor, index: number) => void): Tensor {
    return scope(() => {
      const x = this.feature_projection.projection.forward(features);
      const kept = real && contiguous(real.view(...real.shape, 1).expand(...x.shape));
      return this.encoder.forward(kept ? multiply(x, kept) : x, pass, also);
    });
  }

  /** The inputs of all layers and the last one's output, [L+1,B,T,hidden]. */
  layerStates(pass: Pass, samples: Tensor, real?: Tensor): Tensor {
    this.checkLength(samples.shape[1]!);
    return scope(() => {
      const [batch = 0, length = 0] = samples.shape;
      const shape = [this.encoder.layers.length + 1, batch, this.frames(length), ...this.masked_spec_embed.shape];
      const all = Tensor.empty(samples.device, shape, "f32", "layers");
      const read = (h: Tensor, index: number): void => copyInto(h, all.select(0, index));
      this.#encoded(pass, this.#heard(samples), real, read);
      return all;
    });
  }
}

/** What distinguishes wav2vec 2.0 and HuBERT. */
interface SpeechKind {
  readonly model_type: string;
  /** How the names of its classes begin. */
  readonly classes: string;
  /** What the convolutions make is among the results of the model itself. */
  readonly extracts: boolean;
}

const WAV2VEC2: SpeechKind = { model_type: "wav2vec2", classes: "Wav2Vec2", extracts: true };
const HUBERT: SpeechKind = { model_type: "hubert", classes: "Hubert", extracts: false };

/** The model behind a head. */
abstract class SpeechWithHead extends FeatureModel<Logits> {
  protected readonly model: () => Wav2Vec2Model;
  readonly #class_name: string;

  constructor(c: Wav2Vec2Config, kind: SpeechKind, task: string) {
    super();
    const model = new Wav2Vec2Model(c, kind);
    this.model = () => model;
    this.#class_name = `${kind.classes}${task}`;
    Object.assign(this, { [kind.model_type]: model });
  }

  override get class_name(): string {
    return this.#class_name;
  }

  get input(): FeatureInput {
    return this.model().input;
  }

  get blocks(): readonly (readonly Module[])[] {
    return this.model().blocks;
  }

  override frames(length: number): number {
    return this.model().frames(length);
  }

  override outputFrames(frames: number): number {
    return this.model().outputFrames(frames);
  }

  /** The model's last states. */
  protected states(pass: Pass, samples: Tensor, real: Tensor | undefined): Tensor {
    return this.model().outputs(pass, samples, real).last_hidden_state;
  }
}

class SpeechForCTC extends SpeechWithHead {
  lm_head: Linear;

  constructor(c: Wav2Vec2Config, kind: SpeechKind) {
    super(c, kind, "ForCTC");
    this.lm_head = new Linear(outputSize(c), c.vocab_size, { bias: true });
  }

  override output_embeddings(): Linear {
    return this.lm_head;
  }

  outputs(pass: Pass, samples: Tensor, real?: Tensor): Logits {
    return scope(() => ({ logits: this.lm_head.forward(this.states(pass, samples, real)) }));
  }
}

/** One label for a whole sound: the mean over its frames, of the last layer's states or of all layers' in learned shares. */
class SpeechForSequenceClassification extends SpeechWithHead {
  layer_weights: Parameter | undefined;
  projector: Linear;
  classifier: Linear;

  constructor(c: Wav2Vec2Config, kind: SpeechKind, labels: number) {
    super(c, kind, "ForSequenceClassification");
    if (c.add_adapter) {
      throw new ConfigError("config.json: a classifier of sounds does not have add_adapter, as in transformers", {
        hint: CONFIG_HINT,
      });
    }
    if (c.use_weighted_layer_sum) this.layer_weights = new Parameter(c.num_hidden_layers + 1);
    this.projector = new Linear(c.hidden_size, c.classifier_proj_size, { bias: true });
    this.classifier = new Linear(c.classifier_proj_size, labels, { bias: true });
  }

  override modules_not_quantized(): readonly string[] {
    return ["classifier"];
  }

  outputs(pass: Pass, samples: Tensor, real?: Tensor): Logits {
    return scope(() => {
      const states = this.layer_weights
        ? weightedSum(this.model().layerStates(pass, samples, real), contiguous(this.layer_weights.value, "f32"))
        : this.states(pass, samples, real);
      const mean = pool(this.projector.forward(states), pass.input.mask, "mean");
      return { logits: this.classifier.forward(mean) };
    });
  }
}

/** States [L,B,T,hidden] in shares that are the softmax of `weights` f32[L]: [B,T,hidden]. */
function weightedSum(states: Tensor, weights: Tensor): Tensor {
  const [layers = 0, batch = 0, steps = 0, width = 0] = states.shape;
  // Attention whose scores are the weights alone; a frame's layers are its keys.
  const rows = states.view(layers, batch * steps, 1, width).permute(1, 2, 0, 3); // [B*T,1,L,hidden]
  const query = rows.narrow(2, 0, 1).permute(0, 2, 1, 3);
  const bias = weights.view(1, 1, 1, layers).expand(batch * steps, 1, 1, layers);
  return attention(query, rows, rows, { scale: 0, bias, causal: false }).view(batch, steps, width);
}

function speechAs(kind: SpeechKind, parse: (json: ConfigJson) => Wav2Vec2Config): Architecture {
  return {
    model_type: kind.model_type,
    tasks: {
      ctc: (json: ConfigJson) => new SpeechForCTC(parse(json), kind).name_tree(),
      base: (json: ConfigJson) => new Wav2Vec2Model(parse(json), kind).name_tree(),
      "audio-classification": (json: ConfigJson) =>
        new SpeechForSequenceClassification(parse(json), kind, labelCount(json)).name_tree(),
    },
    names: [
      { rename: /\.parametrizations\.weight\.original0$/, to: ".weight_g" },
      { rename: /\.parametrizations\.weight\.original1$/, to: ".weight_v" },
      { magnitude: /\.weight_g$/, direction: /\.weight_v$/, to: ".weight" },
      { prefix: `${kind.model_type}.` },
    ],
  };
}

export const wav2vec2: Architecture = speechAs(WAV2VEC2, parse);
export const hubert: Architecture = speechAs(HUBERT, parseHubert);
