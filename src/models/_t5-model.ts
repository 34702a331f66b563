// The stacks of T5 and its descendants, and their encoder as features.

import type { Device } from "../core/device.js";
import { scope, type Tensor } from "../core/tensor.js";
import { distanceBuckets } from "../nn/buckets.js";
import type { EncoderBase, EncoderGeometry } from "../nn/encoder.js";
import { Buffer, Embedding, Module } from "../nn/module.js";
import { RMSNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import type { Stack } from "../nn/seq2seq.js";
import { contiguous } from "../ops/copy.js";
import { T5Block, type T5Config, type T5Kind } from "./_t5.js";

class T5Stack extends Module implements Stack<T5Block> {
  embed_tokens: Embedding;
  block: T5Block[];
  final_layer_norm: RMSNorm;
  readonly buckets: Buffer;

  constructor(c: T5Config, kind: T5Kind, embed_tokens: Embedding, decoder: boolean) {
    super();
    this.embed_tokens = embed_tokens;
    const layers = decoder ? (c.num_decoder_layers ?? c.num_layers) : c.num_layers;
    const biased = (index: number): boolean => index === 0 || kind.own_biases;
    this.block = Array.from({ length: layers }, (_, index) => new T5Block(c, decoder, biased(index)));
    this.final_layer_norm = new RMSNorm(c.d_model, c.layer_norm_epsilon);
    const { relative_attention_num_buckets: count, relative_attention_max_distance: max } = c;
    this.buckets = new Buffer(() => distanceBuckets({ count, max, both: !decoder }));
  }

  get layers(): readonly T5Block[] {
    return this.block;
  }

  /** Biases by head and distance on a table's device, f32[H,2*max+1]; constant beyond `max`. */
  #distances(pass: Pass, device: Device, table: Embedding): Tensor {
    return pass.once(table, device, () => contiguous(table.forward(this.buckets.on(device)).permute(1, 0)));
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      let distances: Tensor | undefined;
      const h = runBlocks(this.block, this.embed_tokens.forward(ids), pass, (block, x, index) => {
        const { relative_attention_bias: table } = block.self_attention;
        if (table) distances = this.#distances(pass, x.device, table);
        return block.forward(x, pass, pass.at(x.device, distances!), index); // the first block has a table
      });
      return this.final_layer_norm.forward(h);
    });
  }
}

/** Both stacks over one table of words. */
export class T5Model extends Module {
  shared: Embedding;
  encoder: T5Stack;
  decoder: T5Stack;

  constructor(c: T5Config, kind: T5Kind) {
    super();
    this.shared = new Embedding(c.vocab_size, c.d_model);
    this.encoder = new T5Stack(c, kind, this.shared, false);
    this.decoder = new T5Stack(c, kind, this.shared, true);
  }
}

/** The encoder alone. */
export class T5Encoder extends Module implements EncoderBase {
  shared: Embedding;
  encoder: T5Stack;
  readonly geometry: EncoderGeometry;

  constructor(c: T5Config, kind: T5Kind) {
    super();
    this.shared = new Embedding(c.vocab_size, c.d_model);
    this.encoder = new T5Stack(c, kind, this.shared, false);
    this.geometry = readingGeometry(c, c.num_layers);
  }

  get words(): Embedding {
    return this.shared;
  }

  get blocks(): readonly Module[] {
    return this.encoder.block;
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return this.encoder.forward(pass, ids);
  }
}

/** Of what reads texts and writes none. */
export function readingGeometry(c: T5Config, layers: number): EncoderGeometry {
  return {
    layers,
    hidden: c.d_model,
    vocab: c.vocab_size,
    token_types: 0,
    max_positions: Number.POSITIVE_INFINITY,
  };
}
