// Whisper (Radford et al. 2022): an encoder of log-mel spectrograms behind two convolutions, and a decoder of text with
// learned positions.

import * as z from "../core/schema.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { Conv1d } from "../nn/conv.js";
import type { DecoderGeometry } from "../nn/decoder.js";
import type { FeatureInput } from "../nn/features.js";
import type { Vocabulary } from "../nn/model.js";
import { Embedding, Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { Seq2SeqLM } from "../nn/seq2seq.js";
import { add } from "../ops/add.js";
import { contiguous } from "../ops/copy.js";
import { BartDecoderLayer, BartEncoderLayer, type BartLayerOptions, EPSILON, stackFields } from "./_bart.js";
import { count, headSize, readConfig } from "./_config.js";

const schema = z.object({
  vocab_size: count,
  num_mel_bins: count.default(80),
  ...stackFields,
  max_source_positions: count.default(1500),
  max_target_positions: count.default(448),
  /** Read by nothing: transformers has the field and never scales. */
  scale_embedding: z.boolean().default(false),
  tie_word_embeddings: z.boolean().default(true),
  pad_token_id: z.int().nullable().default(50256),
});

type WhisperConfig = z.infer<typeof schema>;

function layerOptions(c: WhisperConfig, heads: number, inner: number): BartLayerOptions {
  return { width: c.d_model, act: c.activation_function, norm_before: true, key_bias: false, heads, inner };
}

/** Frames of the spectrogram for a position of the encoder: the steps of its convolutions. */
const FRAMES = 2;

class WhisperEncoder extends Module {
  conv1: Conv1d;
  conv2: Conv1d;
  embed_positions: Embedding;
  layers: BartEncoderLayer[];
  layer_norm: LayerNorm;

  constructor(c: WhisperConfig) {
    super();
    this.conv1 = new Conv1d(c.num_mel_bins, c.d_model, 3, { padding: 1 });
    this.conv2 = new Conv1d(c.d_model, c.d_model, 3, { padding: 1, stride: FRAMES });
    this.embed_positions = new Embedding(c.max_source_positions, c.d_model);
    const options = layerOptions(c, c.encoder_attention_heads, c.encoder_ffn_dim);
    this.layers = Array.from({ length: c.encoder_layers }, () => new BartEncoderLayer(options));
    this.layer_norm = new LayerNorm(c.d_model, EPSILON);
  }

  /** Spectrograms [B,mels,T] -> [B,T/2,hidden]. */
  forward(pass: Pass, features: Tensor): Tensor {
    return scope(() => {
      // The convolutions' activation is the exact gelu, whatever that of the layers is.
      const frames = this.conv2.forward(this.conv1.forward(features.permute(0, 2, 1), "gelu"), "gelu");
      const [batch = 0, steps = 0, width = 0] = frames.shape;
      const entries = Int32Array.from({ length: steps }, (_, t) => t);
      const positions = this.embed_positions.forward(Tensor.from(frames.device, entries, [1, steps]));
      const embedded = add(frames, contiguous(positions.expand(batch, steps, width)));
      const h = runBlocks(this.layers, embedded, pass, (layer, x) => layer.forward(x, pass));
      return this.layer_norm.forward(h);
    });
  }
}

class WhisperDecoder extends Module {
  embed_tokens: Embedding;
  embed_positions: Embedding;
  layers: BartDecoderLayer[];
  layer_norm: LayerNorm;

  constructor(c: WhisperConfig) {
    super();
    this.embed_tokens = new Embedding(c.vocab_size, c.d_model, c.pad_token_id);
    this.embed_positions = new Embedding(c.max_target_positions, c.d_model);
    const options = layerOptions(c, c.decoder_attention_heads, c.decoder_ffn_dim);
    this.layers = Array.from({ length: c.decoder_layers }, (_, layer) => new BartDecoderLayer(options, layer));
    this.layer_norm = new LayerNorm(c.d_model, EPSILON);
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const embedded = add(this.embed_tokens.forward(ids), this.embed_positions.forward(pass.input.positions));
      return this.layer_norm.forward(runBlocks(this.layers, embedded, pass, (layer, x) => layer.forward(x, pass)));
    });
  }
}

class WhisperModel extends Module {
  encoder: WhisperEncoder;
  decoder: WhisperDecoder;

  constructor(c: WhisperConfig) {
    super();
    this.encoder = new WhisperEncoder(c);
    this.decoder = new WhisperDecoder(c);
  }
}

class WhisperForConditionalGeneration extends Seq2SeqLM {
  model: WhisperModel;
  proj_out: Linear;
  readonly geometry: DecoderGeometry;
  override readonly features: FeatureInput;
  override readonly encoder_positions: number;

  constructor(c: WhisperConfig) {
    super();
    this.model = new WhisperModel(c);
    this.proj_out = new Linear(c.d_model, c.vocab_size);
    if (c.tie_word_embeddings) this.proj_out.tie(this.model.decoder.embed_tokens.weight);
    this.geometry = {
      layers: c.decoder_layers,
      heads: c.decoder_attention_heads,
      groups: c.decoder_attention_heads,
      head_dim: headSize(c.d_model, c.decoder_attention_heads),
      hidden: c.d_model,
      vocab: c.vocab_size,
      max_positions: c.max_target_positions,
    };
    this.encoder_positions = c.max_source_positions;
    const fixed = { mels: c.num_mel_bins, frames: FRAMES * c.max_source_positions };
    this.features = { name: "input_features", dims: ["batch", "mels", "frames"], fixed };
  }

  get stacks(): Seq2SeqLM["stacks"] {
    return this.model;
  }

  override vocabulary(): Vocabulary {
    return { words: this.model.decoder.embed_tokens, geometry: this.geometry };
  }

  output_embeddings(): Linear {
    return this.proj_out;
  }
}

/** The names that transformers reads and writes as well. */
const ALIASES = {
  d_model: ["hidden_size"],
  encoder_layers: ["num_hidden_layers"],
  encoder_attention_heads: ["num_attention_heads", "num_key_value_heads"],
};

export const whisper: Architecture = {
  model_type: "whisper",
  tasks: {
    "speech-seq2seq": (json: ConfigJson) =>
      new WhisperForConditionalGeneration(readConfig(json, schema, ALIASES)).name_tree(),
  },
  names: [{ prefix: "model." }],
};
