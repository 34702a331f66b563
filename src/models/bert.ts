// BERT (Devlin et al. 2018): an encoder with learned positions, LayerNorm after each part, and heads for masked tokens and
// text classification.

import * as z from "zod";
import { scope, Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { attendAll } from "../nn/attend.js";
import { type EncoderGeometry, EncoderModel } from "../nn/encoder.js";
import { Embedding, Linear, Module, Parameter } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import type { Act } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { contiguous } from "../ops/copy.js";
import { activationName, count, epsilon, headSize, labelCount, readConfig } from "./_config.js";

const schema = z.object({
  vocab_size: count,
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: count.max(1024),
  num_attention_heads: count,
  max_position_embeddings: count,
  type_vocab_size: count.default(2),
  hidden_act: activationName.default("gelu"),
  layer_norm_eps: epsilon.default(1e-12),
  position_embedding_type: z.literal("absolute").default("absolute"),
  is_decoder: z.literal(false).default(false),
  tie_word_embeddings: z.boolean().default(true),
});

type BertConfig = z.infer<typeof schema>;

class BertEmbeddings extends Module {
  word_embeddings: Embedding;
  position_embeddings: Embedding;
  token_type_embeddings: Embedding;
  LayerNorm: LayerNorm;

  constructor(c: BertConfig) {
    super();
    this.word_embeddings = new Embedding(c.vocab_size, c.hidden_size);
    this.position_embeddings = new Embedding(c.max_position_embeddings, c.hidden_size);
    this.token_type_embeddings = new Embedding(c.type_vocab_size, c.hidden_size);
    this.LayerNorm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    const { positions, token_types } = pass.input;
    const types = token_types ?? Tensor.from(ids.device, new Int32Array(ids.size), ids.shape);
    const words = add(this.word_embeddings.forward(ids), this.token_type_embeddings.forward(types));
    return this.LayerNorm.forward(add(words, this.position_embeddings.forward(positions)));
  }
}

class BertSelfAttention extends Module {
  query: Linear;
  key: Linear;
  value: Linear;
  readonly heads: number;

  constructor(c: BertConfig) {
    super();
    const projection = (): Linear => new Linear(c.hidden_size, c.hidden_size, { bias: true });
    this.query = projection();
    this.key = projection();
    this.value = projection();
    this.heads = c.num_attention_heads;
  }

  forward(x: Tensor, pass: Pass): Tensor {
    const [batch = 0, steps = 0, width = 0] = x.shape;
    const size = width / this.heads;
    const split = (projection: Linear): Tensor => projection.forward(x).view(batch, steps, this.heads, size); // [B,T,H,D]
    return attendAll(pass, split(this.query), split(this.key), split(this.value), { scale: size ** -0.5 });
  }
}

/** A projection, the residual, and a LayerNorm: the end of both parts of a layer. */
class BertOutput extends Module {
  dense: Linear;
  LayerNorm: LayerNorm;

  constructor(c: BertConfig, inputs: number) {
    super();
    this.dense = new Linear(inputs, c.hidden_size, { bias: true });
    this.LayerNorm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    return this.LayerNorm.forward(this.dense.forward(x, { residual }));
  }
}

class BertAttention extends Module {
  self: BertSelfAttention;
  output: BertOutput;

  constructor(c: BertConfig) {
    super();
    this.self = new BertSelfAttention(c);
    this.output = new BertOutput(c, c.hidden_size);
  }
}

class BertIntermediate extends Module {
  dense: Linear;

  constructor(c: BertConfig) {
    super();
    this.dense = new Linear(c.hidden_size, c.intermediate_size, { bias: true });
  }
}

class BertLayer extends Module {
  attention: BertAttention;
  intermediate: BertIntermediate;
  output: BertOutput;
  readonly act: Act;

  constructor(c: BertConfig) {
    super();
    this.attention = new BertAttention(c);
    this.intermediate = new BertIntermediate(c);
    this.output = new BertOutput(c, c.intermediate_size);
    this.act = c.hidden_act;
  }

  forward(x: Tensor, pass: Pass): Tensor {
    const h = scope(() => this.attention.output.forward(this.attention.self.forward(x, pass), x));
    return this.output.forward(this.intermediate.dense.forward(h, { act: this.act }), h);
  }
}

class BertEncoder extends Module {
  layer: BertLayer[];

  constructor(c: BertConfig) {
    super();
    this.layer = Array.from({ length: c.num_hidden_layers }, () => new BertLayer(c));
  }
}

class BertPooler extends Module {
  dense: Linear;

  constructor(c: BertConfig) {
    super();
    this.dense = new Linear(c.hidden_size, c.hidden_size, { bias: true });
  }
}

class BertModel extends Module {
  embeddings: BertEmbeddings;
  encoder: BertEncoder;
  pooler: BertPooler | undefined;

  constructor(c: BertConfig, pooler: boolean) {
    super();
    this.embeddings = new BertEmbeddings(c);
    this.encoder = new BertEncoder(c);
    this.pooler = pooler ? new BertPooler(c) : undefined;
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() =>
      runBlocks(this.encoder.layer, this.embeddings.forward(pass, ids), pass, (layer, x) => layer.forward(x, pass)),
    );
  }
}

abstract class BertForTask extends EncoderModel {
  bert: BertModel;
  readonly geometry: EncoderGeometry;

  constructor(c: BertConfig, pooler: boolean) {
    super();
    headSize(c.hidden_size, c.num_attention_heads);
    this.bert = new BertModel(c, pooler);
    this.geometry = {
      layers: c.num_hidden_layers,
      hidden: c.hidden_size,
      vocab: c.vocab_size,
      token_types: c.type_vocab_size,
      max_positions: c.max_position_embeddings,
    };
  }

  get blocks(): readonly (readonly Module[])[] {
    return [this.bert.encoder.layer];
  }

  hidden(pass: Pass, ids: Tensor): Tensor {
    return this.bert.forward(pass, ids);
  }
}

class BertPredictionHeadTransform extends Module {
  dense: Linear;
  LayerNorm: LayerNorm;
  readonly act: Act;

  constructor(c: BertConfig) {
    super();
    this.dense = new Linear(c.hidden_size, c.hidden_size, { bias: true });
    this.LayerNorm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.act = c.hidden_act;
  }

  forward(x: Tensor): Tensor {
    return this.LayerNorm.forward(this.dense.forward(x, { act: this.act }));
  }
}

class BertLMPredictionHead extends Module {
  /** The name in checkpoints; some use the decoder's as well. */
  bias: Parameter;
  transform: BertPredictionHeadTransform;
  decoder: Linear;

  constructor(c: BertConfig, words: Embedding) {
    super();
    this.bias = new Parameter(c.vocab_size);
    this.transform = new BertPredictionHeadTransform(c);
    this.decoder = new Linear(c.hidden_size, c.vocab_size);
    this.decoder.bias = this.bias;
    if (c.tie_word_embeddings) this.decoder.tie(words.weight);
  }
}

class BertOnlyMLMHead extends Module {
  predictions: BertLMPredictionHead;

  constructor(c: BertConfig, words: Embedding) {
    super();
    this.predictions = new BertLMPredictionHead(c, words);
  }
}

class BertForMaskedLM extends BertForTask {
  cls: BertOnlyMLMHead;

  constructor(c: BertConfig) {
    super(c, false);
    this.cls = new BertOnlyMLMHead(c, this.bert.embeddings.word_embeddings);
  }

  override output_embeddings(): Linear {
    return this.cls.predictions.decoder;
  }

  override modules_not_quantized(): readonly string[] {
    return ["cls"];
  }

  head(hidden: Tensor): Tensor {
    const { transform, decoder } = this.cls.predictions;
    return scope(() => decoder.forward(transform.forward(hidden)));
  }
}

class BertForSequenceClassification extends BertForTask {
  classifier: Linear;

  constructor(c: BertConfig, labels: number) {
    super(c, true);
    this.classifier = new Linear(c.hidden_size, labels, { bias: true });
  }

  override modules_not_quantized(): readonly string[] {
    return ["classifier"];
  }

  head(hidden: Tensor): Tensor {
    return scope(() => {
      const first = contiguous(hidden.select(1, 0)); // [B,hidden]: the [CLS] token
      return this.classifier.forward(this.bert.pooler!.dense.forward(first, { act: "tanh" }));
    });
  }
}

export const bert: Architecture = {
  model_type: "bert",
  tasks: {
    "masked-lm": (json: ConfigJson) => new BertForMaskedLM(readConfig(json, schema)).name_tree(),
    "sequence-classification": (json: ConfigJson) =>
      new BertForSequenceClassification(readConfig(json, schema), labelCount(json)).name_tree(),
  },
  names: [
    { ignore: /\.position_ids$/ },
    { ignore: /^cls\.seq_relationship\./ },
    { rename: /LayerNorm\.gamma$/, to: "LayerNorm.weight" },
    { rename: /LayerNorm\.beta$/, to: "LayerNorm.bias" },
    { prefix: "bert." },
  ],
};
