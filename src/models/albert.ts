// ALBERT (Lan et al. 2019): BERT with narrow tables behind a projection, and few layers that run several times: groups of them
// share the depth of the network.

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { attendAll } from "../nn/attend.js";
import { EncoderForTask, type EncoderGeometry } from "../nn/encoder.js";
import { type Embedding, Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import type { Act } from "../ops/activation.js";
import {
  BertEmbeddings,
  bertFields,
  featuresOf,
  firstToken,
  type PooledBase,
  questionAnsweringOf,
  ScoresHead,
  tokenClassifierOf,
} from "./_bert.js";
import { activationName, count, headSize, labelCount, readConfig } from "./_config.js";

const schema = z.object({
  ...bertFields,
  hidden_act: activationName.default("gelu_tanh"),
  embedding_size: count.default(128),
  num_hidden_groups: count.max(1024).default(1),
  inner_group_num: count.max(1024).default(1),
});
type AlbertConfig = z.infer<typeof schema>;
const NAMES = { classes: "Albert", prefix: "albert" };

class AlbertAttention extends Module {
  query: Linear;
  key: Linear;
  value: Linear;
  dense: Linear;
  LayerNorm: LayerNorm;
  readonly heads: number;

  constructor(c: AlbertConfig) {
    super();
    const projection = (): Linear => new Linear(c.hidden_size, c.hidden_size, { bias: true });
    this.query = projection();
    this.key = projection();
    this.value = projection();
    this.dense = projection();
    this.LayerNorm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.heads = c.num_attention_heads;
  }

  forward(x: Tensor, pass: Pass): Tensor {
    const [batch = 0, steps = 0, width = 0] = x.shape;
    const size = width / this.heads;
    const split = (projection: Linear): Tensor => projection.forward(x).view(batch, steps, this.heads, size); // [B,T,H,D]
    const y = attendAll(pass, split(this.query), split(this.key), split(this.value), { scale: size ** -0.5 });
    return this.LayerNorm.forward(this.dense.forward(y, { residual: x }));
  }
}

class AlbertLayer extends Module {
  full_layer_layer_norm: LayerNorm;
  attention: AlbertAttention;
  ffn: Linear;
  ffn_output: Linear;
  readonly act: Act;

  constructor(c: AlbertConfig) {
    super();
    this.full_layer_layer_norm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.attention = new AlbertAttention(c);
    this.ffn = new Linear(c.hidden_size, c.intermediate_size, { bias: true });
    this.ffn_output = new Linear(c.intermediate_size, c.hidden_size, { bias: true });
    this.act = c.hidden_act;
  }

  forward(x: Tensor, pass: Pass): Tensor {
    const h = scope(() => this.attention.forward(x, pass));
    const inner = this.ffn.forward(h, { act: this.act });
    return this.full_layer_layer_norm.forward(this.ffn_output.forward(inner, { residual: h }));
  }
}

class AlbertLayerGroup extends Module {
  albert_layers: AlbertLayer[];

  constructor(c: AlbertConfig) {
    super();
    this.albert_layers = Array.from({ length: c.inner_group_num }, () => new AlbertLayer(c));
  }
}

class AlbertTransformer extends Module {
  embedding_hidden_mapping_in: Linear;
  albert_layer_groups: AlbertLayerGroup[];

  constructor(c: AlbertConfig) {
    super();
    this.embedding_hidden_mapping_in = new Linear(c.embedding_size, c.hidden_size, { bias: true });
    this.albert_layer_groups = Array.from({ length: c.num_hidden_groups }, () => new AlbertLayerGroup(c));
  }
}

class AlbertModel extends Module implements PooledBase {
  embeddings: BertEmbeddings;
  encoder: AlbertTransformer;
  pooler: Linear | undefined;
  readonly geometry: EncoderGeometry;
  /** The layers in the order in which they run, most of them several times. */
  readonly #depth: readonly AlbertLayer[];

  /** @throws ConfigError */
  constructor(c: AlbertConfig, pooler: boolean) {
    super();
    headSize(c.hidden_size, c.num_attention_heads);
    const { num_hidden_layers: depth, num_hidden_groups: groups } = c;
    if (groups > depth) {
      throw new ConfigError(
        `config.json: num_hidden_layers ${depth} leaves some of num_hidden_groups ${groups} unused`,
        {
          hint: CONFIG_HINT,
        },
      );
    }
    this.embeddings = new BertEmbeddings(c, c.type_vocab_size);
    this.encoder = new AlbertTransformer(c);
    this.pooler = pooler ? new Linear(c.hidden_size, c.hidden_size, { bias: true }) : undefined;
    this.#depth = Array.from({ length: depth }, (_, i) => Math.floor(i / (depth / groups))).flatMap(
      (group) => this.encoder.albert_layer_groups[group]!.albert_layers,
    );
    this.geometry = {
      layers: this.#depth.length,
      hidden: c.hidden_size,
      vocab: c.vocab_size,
      token_types: c.type_vocab_size,
      max_positions: c.max_position_embeddings,
    };
  }

  get words(): Embedding {
    return this.embeddings.word_embeddings;
  }

  /** Each layer once. */
  get blocks(): readonly Module[] {
    return [...new Set(this.#depth)];
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const h = this.encoder.embedding_hidden_mapping_in.forward(this.embeddings.forward(pass, ids));
      return runBlocks(this.#depth, h, pass, (layer, x) => layer.forward(x, pass));
    });
  }

  pooled(hidden: Tensor): Tensor {
    return scope(() => this.pooler!.forward(firstToken(hidden), { act: "tanh" }));
  }
}

class AlbertMLMHead extends ScoresHead {
  LayerNorm: LayerNorm;
  dense: Linear;
  readonly act: Act;

  constructor(c: AlbertConfig, base: AlbertModel) {
    super(c, base);
    this.LayerNorm = new LayerNorm(c.embedding_size, c.layer_norm_eps);
    this.dense = new Linear(c.hidden_size, c.embedding_size, { bias: true });
    this.act = c.hidden_act;
  }

  forward(hidden: Tensor): Tensor {
    return scope(() => this.decoder.forward(this.LayerNorm.forward(this.dense.forward(hidden, { act: this.act }))));
  }
}

function maskedLM(c: AlbertConfig): EncoderForTask {
  const base = new AlbertModel(c, false);
  const predictions = new AlbertMLMHead(c, base);
  return new EncoderForTask({
    ...{ name: "AlbertForMaskedLM", prefix: NAMES.prefix, base, heads: { predictions } },
    unquantized: ["predictions"],
    output_embeddings: predictions.decoder,
    per_token: true,
    outputs: (hidden) => ({ logits: predictions.forward(hidden) }),
  });
}

function sequenceClassifier(c: AlbertConfig, labels: number): EncoderForTask {
  const base = new AlbertModel(c, true);
  const classifier = new Linear(c.hidden_size, labels, { bias: true });
  return new EncoderForTask({
    ...{ name: "AlbertForSequenceClassification", prefix: NAMES.prefix, base, heads: { classifier } },
    unquantized: ["classifier"],
    outputs: (hidden) => ({ logits: classifier.forward(base.pooled(hidden)) }),
  });
}

const read = (json: ConfigJson): AlbertConfig => readConfig(json, schema);

export const albert: Architecture = {
  model_type: "albert",
  tasks: {
    base: (json) => featuresOf(NAMES, new AlbertModel(read(json), true)),
    "masked-lm": (json) => maskedLM(read(json)),
    "sequence-classification": (json) => sequenceClassifier(read(json), labelCount(json)),
    "token-classification": (json) => tokenClassifierOf(NAMES, new AlbertModel(read(json), false), json),
    "question-answering": (json) => questionAnsweringOf(NAMES, new AlbertModel(read(json), false)),
  },
  names: [{ ignore: /\.position_ids$/ }, { ignore: /^sop_classifier\./ }, { prefix: "albert." }],
};
