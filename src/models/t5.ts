// T5 (Raffel et al. 2020), versions 1.0 and 1.1: an encoder-decoder whose attention adds a learned bias for the distance
// between two tokens, shared by all layers of a stack, and does not divide by the root of the head size.

import type { Device } from "../core/device.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture } from "../nn/architecture.js";
import { distanceBuckets } from "../nn/buckets.js";
import type { DecoderGeometry } from "../nn/decoder.js";
import type { Vocabulary } from "../nn/model.js";
import { Buffer, Embedding, Linear, Module } from "../nn/module.js";
import { RMSNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { Seq2SeqLM, type Stack } from "../nn/seq2seq.js";
import { contiguous } from "../ops/copy.js";
import { scale } from "../ops/scale.js";
import { parse, T5Block, type T5Config } from "./_t5.js";

class T5Stack extends Module implements Stack<T5Block> {
  embed_tokens: Embedding;
  block: T5Block[];
  final_layer_norm: RMSNorm;
  readonly buckets: Buffer;

  constructor(c: T5Config, embed_tokens: Embedding, decoder: boolean) {
    super();
    this.embed_tokens = embed_tokens;
    const layers = decoder ? (c.num_decoder_layers ?? c.num_layers) : c.num_layers;
    this.block = Array.from({ length: layers }, (_, index) => new T5Block(c, decoder, index === 0));
    this.final_layer_norm = new RMSNorm(c.d_model, c.layer_norm_epsilon);
    const { relative_attention_num_buckets: count, relative_attention_max_distance: max } = c;
    this.buckets = new Buffer(() => distanceBuckets({ count, max, both: !decoder }));
  }

  get layers(): readonly T5Block[] {
    return this.block;
  }

  /** Biases by head and distance on the first block's device, f32[H,2*max+1]; constant beyond `max`. */
  #distances(pass: Pass, device: Device): Tensor {
    const table = this.block[0]!.self_attention.relative_attention_bias!;
    return pass.once(this, device, () => contiguous(table.forward(this.buckets.on(device)).permute(1, 0)));
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      let distances: Tensor | undefined;
      const h = runBlocks(this.block, this.embed_tokens.forward(ids), pass, (block, x, index) => {
        distances ??= this.#distances(pass, x.device); // by the first block, which has the table
        return block.forward(x, pass, pass.at(x.device, distances), index);
      });
      return this.final_layer_norm.forward(h);
    });
  }
}

class T5ForConditionalGeneration extends Seq2SeqLM {
  shared: Embedding;
  encoder: T5Stack;
  decoder: T5Stack;
  lm_head: Linear;
  readonly geometry: DecoderGeometry;
  /** Factor on hidden states before a head that shares the embedding. */
  readonly #head_scale: number;

  constructor(c: T5Config) {
    super();
    this.shared = new Embedding(c.vocab_size, c.d_model);
    this.encoder = new T5Stack(c, this.shared, false);
    this.decoder = new T5Stack(c, this.shared, true);
    this.lm_head = new Linear(c.d_model, c.vocab_size);
    if (c.tie_word_embeddings) this.lm_head.tie(this.shared.weight);
    this.#head_scale = (c.scale_decoder_outputs ?? c.tie_word_embeddings) ? c.d_model ** -0.5 : 1;
    this.geometry = {
      layers: this.decoder.block.length,
      heads: c.num_heads,
      groups: c.num_heads,
      head_dim: c.d_kv,
      hidden: c.d_model,
      vocab: c.vocab_size,
      max_positions: Number.POSITIVE_INFINITY,
    };
  }

  get stacks(): Seq2SeqLM["stacks"] {
    return this;
  }

  override vocabulary(): Vocabulary {
    return { words: this.shared, geometry: this.geometry };
  }

  output_embeddings(): Linear {
    return this.lm_head;
  }

  /** Besides the head `wo` stays unquantized: its inputs are too large for few bits (the original keeps it in f32). */
  override modules_not_quantized(): readonly string[] {
    return ["lm_head", "wo"];
  }

  override head(hidden: Tensor): Tensor {
    if (this.#head_scale === 1) return this.lm_head.forward(hidden);
    return scope(() => this.lm_head.forward(scale(hidden, this.#head_scale)));
  }
}

function t5As(model_type: string, multilingual: boolean): Architecture {
  return {
    model_type,
    tasks: { "seq2seq-lm": (json) => new T5ForConditionalGeneration(parse(json, multilingual)).name_tree() },
    names: [{ ignore: /^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$/ }],
  };
}

export const t5: Architecture = t5As("t5", false);
/** mT5 (Xue et al. 2021): T5 1.1 for many languages. */
export const mt5: Architecture = t5As("mt5", true);
