// MPNet (Song et al. 2020): BERT's layers without token types, positions that count the tokens that are no padding, and a learned
// bias for the distance between two tokens, which all layers share.

import type { Device } from "../core/device.js";
import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { attendAll } from "../nn/attend.js";
import { distanceBuckets } from "../nn/buckets.js";
import { EncoderForTask, type EncoderGeometry } from "../nn/encoder.js";
import { Buffer, Embedding, Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import type { Act } from "../ops/activation.js";
import { contiguous } from "../ops/copy.js";
import {
  BertEmbeddings,
  BertOutput,
  bertFields,
  Dense,
  featuresOf,
  firstToken,
  type PooledBase,
  questionAnsweringOf,
  tokenClassifierOf,
} from "./_bert.js";
import { count, headSize, labelCount, readConfig } from "./_config.js";
import { ClassificationHead, GeluScoresHead } from "./_roberta.js";

/** As transformers computes them, whatever config.json says: it only gives the rows of the table. */
const BUCKETS = { count: 32, max: 128, both: true };
/** The id of padding, whatever config.json says. */
const PADDING = 1;

const { type_vocab_size: _, position_embedding_type: __, is_decoder: ___, ...fields } = bertFields;
const schema = z.object({
  ...fields,
  relative_attention_num_buckets: count.min(BUCKETS.count).max(65_536).default(BUCKETS.count),
});
type MPNetConfig = z.infer<typeof schema>;
const NAMES = { classes: "MPNet", prefix: "mpnet" };

class MPNetSelfAttention extends Module {
  q: Linear;
  k: Linear;
  v: Linear;
  o: Linear;
  readonly heads: number;

  constructor(c: MPNetConfig) {
    super();
    const projection = (): Linear => new Linear(c.hidden_size, c.hidden_size, { bias: true });
    this.q = projection();
    this.k = projection();
    this.v = projection();
    this.o = projection();
    this.heads = c.num_attention_heads;
  }

  forward(x: Tensor, pass: Pass, distances: Tensor): Tensor {
    const [batch = 0, steps = 0, width = 0] = x.shape;
    const size = width / this.heads;
    const split = (projection: Linear): Tensor => projection.forward(x).view(batch, steps, this.heads, size); // [B,T,H,D]
    const y = attendAll(pass, split(this.q), split(this.k), split(this.v), { scale: size ** -0.5, distances });
    return this.o.forward(y, { residual: x });
  }
}

class MPNetAttention extends Module {
  attn: MPNetSelfAttention;
  LayerNorm: LayerNorm;

  constructor(c: MPNetConfig) {
    super();
    this.attn = new MPNetSelfAttention(c);
    this.LayerNorm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
  }
}

class MPNetLayer extends Module {
  attention: MPNetAttention;
  intermediate: Dense;
  output: BertOutput;
  readonly act: Act;

  constructor(c: MPNetConfig) {
    super();
    this.attention = new MPNetAttention(c);
    this.intermediate = new Dense(c.hidden_size, c.intermediate_size);
    this.output = new BertOutput(c, c.intermediate_size);
    this.act = c.hidden_act;
  }

  forward(x: Tensor, pass: Pass, distances: Tensor): Tensor {
    const { attn, LayerNorm: norm } = this.attention;
    const h = scope(() => norm.forward(attn.forward(x, pass, distances)));
    return this.output.forward(this.intermediate.dense.forward(h, { act: this.act }), h);
  }
}

class MPNetEncoder extends Module {
  layer: MPNetLayer[];
  relative_attention_bias: Embedding;

  constructor(c: MPNetConfig) {
    super();
    this.layer = Array.from({ length: c.num_hidden_layers }, () => new MPNetLayer(c));
    this.relative_attention_bias = new Embedding(c.relative_attention_num_buckets, c.num_attention_heads);
  }
}

class MPNetModel extends Module implements PooledBase {
  embeddings: BertEmbeddings;
  encoder: MPNetEncoder;
  pooler: Dense | undefined;
  readonly buckets: Buffer;
  readonly geometry: EncoderGeometry;

  constructor(c: MPNetConfig, pooler: boolean) {
    super();
    headSize(c.hidden_size, c.num_attention_heads);
    if (c.max_position_embeddings <= PADDING + 1) {
      throw new ConfigError(
        `config.json: positions count from ${PADDING + 1}, and ${c.max_position_embeddings} are too few`,
        { hint: CONFIG_HINT },
      );
    }
    this.embeddings = new BertEmbeddings({ ...c, pad_token_id: PADDING }, 0, { padding_idx: PADDING });
    this.encoder = new MPNetEncoder(c);
    this.pooler = pooler ? new Dense(c.hidden_size, c.hidden_size) : undefined;
    this.buckets = new Buffer(() => distanceBuckets(BUCKETS));
    this.geometry = {
      layers: c.num_hidden_layers,
      hidden: c.hidden_size,
      vocab: c.vocab_size,
      token_types: 0,
      max_positions: c.max_position_embeddings - PADDING - 1,
      padding_idx: PADDING,
    };
  }

  get words(): Embedding {
    return this.embeddings.word_embeddings;
  }

  get blocks(): readonly Module[] {
    return this.encoder.layer;
  }

  /** Biases by head and distance, f32[H,2*max+1]; constant beyond `max`. */
  #distances(pass: Pass, device: Device): Tensor {
    const { relative_attention_bias: table } = this.encoder;
    return pass.once(this, device, () => contiguous(table.forward(this.buckets.on(device)).permute(1, 0)));
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      // By the table's device; the blocks' may be others.
      const distances = this.#distances(pass, ids.device);
      return runBlocks(this.encoder.layer, this.embeddings.forward(pass, ids), pass, (layer, x) =>
        layer.forward(x, pass, pass.at(x.device, distances)),
      );
    });
  }

  pooled(hidden: Tensor): Tensor {
    return scope(() => this.pooler!.dense.forward(firstToken(hidden), { act: "tanh" }));
  }
}

function maskedLM(c: MPNetConfig): EncoderForTask {
  const base = new MPNetModel(c, false);
  const lm_head = new GeluScoresHead(c, base);
  return new EncoderForTask({
    ...{ name: "MPNetForMaskedLM", prefix: NAMES.prefix, base, heads: { lm_head } },
    unquantized: ["lm_head"],
    output_embeddings: lm_head.decoder,
    per_token: true,
    outputs: (hidden) => ({ logits: lm_head.forward(hidden) }),
  });
}

function sequenceClassifier(c: MPNetConfig, labels: number): EncoderForTask {
  const base = new MPNetModel(c, false);
  const classifier = new ClassificationHead(c, labels, "tanh");
  return new EncoderForTask({
    ...{ name: "MPNetForSequenceClassification", prefix: NAMES.prefix, base, heads: { classifier } },
    unquantized: ["classifier.out_proj"],
    outputs: (hidden) => ({ logits: classifier.forward(hidden) }),
  });
}

const read = (json: ConfigJson): MPNetConfig => readConfig(json, schema);

export const mpnet: Architecture = {
  model_type: "mpnet",
  tasks: {
    base: (json) => featuresOf(NAMES, new MPNetModel(read(json), true)),
    "masked-lm": (json) => maskedLM(read(json)),
    "sequence-classification": (json) => sequenceClassifier(read(json), labelCount(json)),
    "token-classification": (json) => tokenClassifierOf(NAMES, new MPNetModel(read(json), false), json),
    "question-answering": (json) => questionAnsweringOf(NAMES, new MPNetModel(read(json), false)),
  },
  names: [{ ignore: /\.position_ids$/ }, { prefix: "mpnet." }],
};
