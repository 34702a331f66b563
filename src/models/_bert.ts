// What BERT (Devlin et al. 2018) and its descendants share: learned positions, attention over all tokens, LayerNorm after each
// part, and heads whose shape is the same whatever they are called.

import * as z from "../core/schema.js";
import { scope, Tensor } from "../core/tensor.js";
import type { ConfigJson } from "../nn/architecture.js";
import { attendAll } from "../nn/attend.js";
import {
  type EncoderBase,
  EncoderForTask,
  type EncoderGeometry,
  type EncoderOutputs,
  startAndEnd,
} from "../nn/encoder.js";
import { Embedding, Linear, Module, optional, type Parameter } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import type { Act } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { contiguous } from "../ops/copy.js";
import { activationName, count, epsilon, headSize, labelCount } from "./_config.js";

/** Fields of config.json that they share. */
export const bertFields = {
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
  /** The entry of padding, which is not trained. */
  pad_token_id: z.int().nullable().default(0),
};

const shared = z.object(bertFields);
export type BertConfig = z.infer<typeof shared> & {
  /** Width of the tables, where a projection makes hidden states of it (ELECTRA, ALBERT). */
  readonly embedding_size?: number;
};

/** What tables of words, positions and token types are made of. */
type TableConfig = Pick<
  BertConfig,
  "vocab_size" | "hidden_size" | "max_position_embeddings" | "layer_norm_eps" | "pad_token_id" | "embedding_size"
>;

export class BertEmbeddings extends Module {
  word_embeddings: Embedding;
  position_embeddings: Embedding | undefined;
  token_type_embeddings: Embedding | undefined;
  LayerNorm: LayerNorm;

  /**
   * @param types number of token types; 0 for a model without them
   * @param options `positions: false` for a model that adds none; `padding_idx` where they count from it (`EncoderGeometry`)
   */
  constructor(
    c: TableConfig,
    types: number,
    options: { readonly positions?: boolean; readonly padding_idx?: number | undefined } = {},
  ) {
    super();
    const width = c.embedding_size ?? c.hidden_size;
    this.word_embeddings = new Embedding(c.vocab_size, width, c.pad_token_id);
    const { positions = true, padding_idx } = options;
    this.position_embeddings = positions ? new Embedding(c.max_position_embeddings, width, padding_idx) : undefined;
    this.token_type_embeddings = types > 0 ? new Embedding(types, width) : undefined;
    this.LayerNorm = new LayerNorm(width, c.layer_norm_eps);
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    const { positions, token_types } = pass.input;
    let h = this.word_embeddings.forward(ids);
    if (this.token_type_embeddings) {
      const types = token_types ?? Tensor.from(ids.device, new Int32Array(ids.size), ids.shape);
      h = add(h, this.token_type_embeddings.forward(types));
    }
    if (this.position_embeddings) h = add(h, this.position_embeddings.forward(positions));
    return this.LayerNorm.forward(h);
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
export class BertOutput extends Module {
  dense: Linear;
  LayerNorm: LayerNorm;

  constructor(c: Pick<BertConfig, "hidden_size" | "layer_norm_eps">, inputs: number) {
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

/** A linear in a field of its own, as checkpoints name it ("dense"). */
export class Dense extends Module {
  dense: Linear;

  constructor(inputs: number, outputs: number) {
    super();
    this.dense = new Linear(inputs, outputs, { bias: true });
  }
}

class BertLayer extends Module {
  attention: BertAttention;
  intermediate: Dense;
  output: BertOutput;
  readonly act: Act;

  constructor(c: BertConfig) {
    super();
    this.attention = new BertAttention(c);
    this.intermediate = new Dense(c.hidden_size, c.intermediate_size);
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

/** A base with a pooler: a projection of each text's first token. */
export interface PooledBase extends EncoderBase {
  /** Absent in models for other tasks than features. */
  readonly pooler: Dense | Linear | undefined;
  /** The pooler's output for the first token of each row, [B,hidden]. */
  pooled(hidden: Tensor): Tensor;
}

export class BertModel extends Module implements PooledBase {
  embeddings: BertEmbeddings;
  /** Only where the tables have another width than hidden states. */
  embeddings_project: Linear | undefined;
  encoder: BertEncoder;
  pooler: Dense | undefined;
  readonly geometry: EncoderGeometry;

  /** @param padding_idx where positions count from it (`EncoderGeometry`) */
  constructor(c: BertConfig, pooler: boolean, padding_idx?: number) {
    super();
    headSize(c.hidden_size, c.num_attention_heads);
    this.embeddings = new BertEmbeddings(c, c.type_vocab_size, { padding_idx });
    const { embedding_size: width = c.hidden_size } = c;
    this.embeddings_project = width === c.hidden_size ? undefined : new Linear(width, c.hidden_size, { bias: true });
    this.encoder = new BertEncoder(c);
    this.pooler = pooler ? new Dense(c.hidden_size, c.hidden_size) : undefined;
    this.geometry = {
      layers: c.num_hidden_layers,
      hidden: c.hidden_size,
      vocab: c.vocab_size,
      token_types: c.type_vocab_size,
      max_positions: c.max_position_embeddings - (padding_idx === undefined ? 0 : padding_idx + 1),
      ...(padding_idx === undefined ? {} : { padding_idx }),
    };
  }

  get words(): Embedding {
    return this.embeddings.word_embeddings;
  }

  get blocks(): readonly Module[] {
    return this.encoder.layer;
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const embedded = this.embeddings.forward(pass, ids);
      const h = this.embeddings_project?.forward(embedded) ?? embedded;
      return runBlocks(this.encoder.layer, h, pass, (layer, x) => layer.forward(x, pass));
    });
  }

  pooled(hidden: Tensor): Tensor {
    return scope(() => this.pooler!.dense.forward(firstToken(hidden), { act: "tanh" }));
  }
}

/** Hidden states of the first token of each row ([CLS]): [B,hidden]. */
export function firstToken(hidden: Tensor): Tensor {
  return contiguous(hidden.select(1, 0));
}

/** Names that transformers gives to the classes of an architecture, and to the field of its base: "Bert" and "bert". */
export interface BertNames {
  readonly classes: string;
  readonly prefix: string;
}

/** The base alone: `last_hidden_state` [B,T,hidden] and, if it has a pooler, `pooler_output` [B,hidden]. */
export function featuresOf(names: BertNames, base: EncoderBase | PooledBase): EncoderForTask {
  const pooling = "pooled" in base ? base : undefined;
  if (pooling?.pooler) optional(pooling.pooler); // files of masked language models have none
  return new EncoderForTask({
    name: `${names.classes}Model`,
    base,
    unquantized: pooling ? ["pooler"] : [],
    outputs: (hidden): EncoderOutputs => {
      const last_hidden_state = hidden.alias();
      const pooler = pooling?.pooler;
      const filled = pooler && (pooler instanceof Linear ? pooler : pooler.dense).weight.filled;
      return filled ? { last_hidden_state, pooler_output: pooling.pooled(hidden) } : { last_hidden_state };
    },
  });
}

/** A label for each token: `logits` [B,T,labels]. */
export function tokenClassifierOf(names: BertNames, base: EncoderBase, config: ConfigJson): EncoderForTask {
  const classifier = new Linear(base.geometry.hidden, labelCount(config), { bias: true });
  return new EncoderForTask({
    ...{ name: `${names.classes}ForTokenClassification`, prefix: names.prefix, base, heads: { classifier } },
    unquantized: ["classifier"],
    per_token: true,
    outputs: (hidden) => ({ logits: classifier.forward(hidden) }),
  });
}

/** Where an answer starts and ends: `start_logits` and `end_logits` [B,T]. */
export function questionAnsweringOf(names: BertNames, base: EncoderBase): EncoderForTask {
  const qa_outputs = new Linear(base.geometry.hidden, 2, { bias: true });
  return new EncoderForTask({
    ...{ name: `${names.classes}ForQuestionAnswering`, prefix: names.prefix, base, heads: { qa_outputs } },
    unquantized: ["qa_outputs"],
    per_token: true,
    outputs: (hidden) => startAndEnd(qa_outputs.forward(hidden)),
  });
}

/** What a head of scores is made of. */
export type HeadConfig = Pick<
  BertConfig,
  "hidden_size" | "vocab_size" | "tie_word_embeddings" | "layer_norm_eps" | "embedding_size"
>;

/** The head of a masked language model: scores for each word of the vocabulary, by the embedding's matrix if the config says so. */
export abstract class ScoresHead extends Module {
  /** The decoder's, under the name that it has in most checkpoints; some have both. */
  bias: Parameter;
  decoder: Linear;
  readonly #tied: boolean;

  constructor(c: HeadConfig, { words }: EncoderBase) {
    super();
    this.#tied = c.tie_word_embeddings;
    this.decoder = new Linear(c.embedding_size ?? c.hidden_size, c.vocab_size, { bias: true });
    if (this.#tied) this.decoder.tie(words.weight);
    this.bias = this.decoder.bias!;
  }

  /** Of a tensor's names the first counts. A decoder that shares nothing uses and stores its own bias, as in transformers. */
  override *named_modules(prefix = ""): Iterable<[string, Module]> {
    const [own, ...below] = super.named_modules(prefix);
    yield* this.#tied ? [own!, ...below] : [...below, own!];
  }
}
