// DeBERTa v2 and v3 (He et al. 2020; 2021): BERT's layers with attention by relative positions (_deberta.ts), in the larger models a
// convolution beside the first of them.

import type { Device } from "../core/device.js";
import { OptionError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Architecture } from "../nn/architecture.js";
import { Conv1d } from "../nn/conv.js";
import { type EncoderBase, EncoderForTask, type EncoderGeometry } from "../nn/encoder.js";
import { Embedding, Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import type { Act } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { attention } from "../ops/attention.js";
import { transfer } from "../ops/transfer.js";
import {
  BertEmbeddings,
  BertOutput,
  Dense,
  featuresOf,
  firstToken,
  questionAnsweringOf,
  ScoresHead,
  tokenClassifierOf,
} from "./_bert.js";
import { BertOnlyMLMHead } from "./_bert-mlm.js";
import { labelCount } from "./_config.js";
import { type DebertaConfig, DisentangledSelfAttention, Relative, RelativeRows, read } from "./_deberta.js";

const NAMES = { classes: "DebertaV2", prefix: "deberta" };

class DebertaV2Attention extends Module {
  self: DisentangledSelfAttention;
  output: BertOutput;

  constructor(c: DebertaConfig) {
    super();
    this.self = new DisentangledSelfAttention(c);
    this.output = new BertOutput(c, c.hidden_size);
  }
}

class DebertaV2Layer extends Module {
  attention: DebertaV2Attention;
  intermediate: Dense;
  output: BertOutput;
  readonly act: Act;

  constructor(c: DebertaConfig) {
    super();
    this.attention = new DebertaV2Attention(c);
    this.intermediate = new Dense(c.hidden_size, c.intermediate_size);
    this.output = new BertOutput(c, c.intermediate_size);
    this.act = c.hidden_act;
  }

  forward(x: Tensor, pass: Pass, relative: Relative | undefined): Tensor {
    const h = scope(() => this.attention.output.forward(this.attention.self.forward(x, pass, relative), x));
    return this.output.forward(this.intermediate.dense.forward(h, { act: this.act }), h);
  }
}

/** A convolution over the tokens of the embeddings, added to what the first layer gives. */
class ConvLayer extends Module {
  conv: Conv1d;
  LayerNorm: LayerNorm;
  readonly act: Act;

  constructor(c: DebertaConfig) {
    super();
    const { hidden_size: hidden, conv_kernel_size: size, conv_groups: groups } = c;
    this.conv = new Conv1d(hidden, hidden, size, { padding: (size - 1) / 2, groups });
    this.LayerNorm = new LayerNorm(hidden, c.layer_norm_eps);
    this.act = c.conv_act;
  }

  /** @throws OptionError for several texts in a row, which a convolution cannot tell apart */
  forward(embedded: Tensor, h: Tensor, { input: { mask, segments } }: Pass): Tensor {
    if (segments) throw new OptionError("a convolution over tokens cannot tell several texts of a row apart");
    const x = mask ? withoutPadding(embedded, mask) : embedded;
    return this.LayerNorm.forward(add(h, this.conv.forward(x, this.act)));
  }
}

/** x[B,T,C] with zeros where mask[B,T] is 0: attention of each token to itself alone gives it, or nothing. */
function withoutPadding(x: Tensor, mask: Tensor): Tensor {
  const [batch = 0, steps = 0, width = 0] = x.shape;
  const tokens = x.view(batch * steps, 1, 1, width);
  const options = { scale: 0, causal: false, mask: mask.view(batch * steps, 1) };
  return attention(tokens, tokens, tokens, options).view(batch, steps, width);
}

class DebertaV2Encoder extends Module {
  layer: DebertaV2Layer[];
  rel_embeddings: Embedding | undefined;
  LayerNorm: LayerNorm | undefined;
  conv: ConvLayer | undefined;

  constructor(c: DebertaConfig) {
    super();
    this.layer = Array.from({ length: c.num_hidden_layers }, () => new DebertaV2Layer(c));
    this.rel_embeddings = c.relative_attention ? new Embedding(2 * c.span, c.hidden_size) : undefined;
    const norms = c.norm_rel_ebd.toLowerCase().split("|");
    const normed = norms.some((name) => name.trim() === "layer_norm");
    this.LayerNorm = normed ? new LayerNorm(c.hidden_size, c.layer_norm_eps) : undefined;
    this.conv = c.conv_kernel_size > 0 ? new ConvLayer(c) : undefined;
  }
}

class DebertaV2Model extends Module implements EncoderBase {
  embeddings: BertEmbeddings;
  encoder: DebertaV2Encoder;
  readonly geometry: EncoderGeometry;
  readonly #c: DebertaConfig;

  constructor(c: DebertaConfig) {
    super();
    this.embeddings = new BertEmbeddings(c, c.type_vocab_size, { positions: c.position_biased_input });
    this.encoder = new DebertaV2Encoder(c);
    this.geometry = {
      layers: c.num_hidden_layers,
      hidden: c.hidden_size,
      vocab: c.vocab_size,
      token_types: c.type_vocab_size,
      max_positions: c.position_biased_input ? c.max_position_embeddings : Number.POSITIVE_INFINITY,
      pairs: true,
    };
    this.#c = c;
  }

  get words(): Embedding {
    return this.embeddings.word_embeddings;
  }

  get blocks(): readonly Module[] {
    return this.encoder.layer;
  }

  /** The relative positions that a pass over `steps` tokens looks at. */
  #relative(pass: Pass, home: Device, steps: number): Relative | undefined {
    const { rel_embeddings: all, LayerNorm: norm } = this.encoder;
    if (!all) return undefined;
    const rows = new RelativeRows(this.#c, steps);
    const make = (): Tensor => {
      const ids = Int32Array.from({ length: rows.count }, (_, i) => rows.first + i);
      const table = all.forward(Tensor.from(home, ids, [rows.count]));
      return norm?.forward(table) ?? table;
    };
    return new Relative(pass, steps, rows, pass.once(rows, home, make));
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    const { device: home, shape } = ids;
    const { layer, conv } = this.encoder;
    return scope(() => {
      const relative = this.#relative(pass, home, shape[1]!);
      return runBlocks(layer, this.embeddings.forward(pass, ids), pass, (block, x, index) => {
        const h = block.forward(x, pass, relative);
        if (index > 0 || !conv) return h;
        return conv.forward(transfer(x, home), transfer(h, home), pass); // it is no part of the block
      });
    });
  }
}

/** The head of DeBERTa's own code; it always has the matrix of the words. */
class DebertaV2LMPredictionHead extends ScoresHead {
  dense: Linear;
  LayerNorm: LayerNorm;
  readonly act: Act;

  constructor(c: DebertaConfig, base: DebertaV2Model) {
    super({ ...c, tie_word_embeddings: true }, base);
    this.dense = new Linear(c.hidden_size, c.hidden_size, { bias: true });
    this.LayerNorm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.act = c.hidden_act;
  }
}

class DebertaV2OnlyMLMHead extends Module {
  lm_head: DebertaV2LMPredictionHead;

  constructor(c: DebertaConfig, base: DebertaV2Model) {
    super();
    this.lm_head = new DebertaV2LMPredictionHead(c, base);
  }

  forward(hidden: Tensor): Tensor {
    const { dense, LayerNorm: norm, decoder, act } = this.lm_head;
    return scope(() => decoder.forward(norm.forward(dense.forward(hidden, { act }))));
  }
}

function maskedLM(c: DebertaConfig): EncoderForTask {
  const base = new DebertaV2Model(c);
  const cls = c.legacy ? new BertOnlyMLMHead(c, base) : undefined;
  const lm_predictions = cls ? undefined : new DebertaV2OnlyMLMHead(c, base);
  const head = (cls ?? lm_predictions)!;
  return new EncoderForTask({
    ...{ name: "DebertaV2ForMaskedLM", prefix: NAMES.prefix, base },
    heads: cls ? { cls } : { lm_predictions: lm_predictions! },
    unquantized: [cls ? "cls" : "lm_predictions"],
    output_embeddings: (cls?.predictions ?? lm_predictions!.lm_head).decoder,
    per_token: true,
    outputs: (hidden) => ({ logits: head.forward(hidden) }),
  });
}

function sequenceClassifier(c: DebertaConfig, labels: number): EncoderForTask {
  const base = new DebertaV2Model(c);
  const pooler = new Dense(c.hidden_size, c.hidden_size);
  const classifier = new Linear(c.hidden_size, labels, { bias: true });
  return new EncoderForTask({
    ...{ name: "DebertaV2ForSequenceClassification", prefix: NAMES.prefix, base, heads: { pooler, classifier } },
    unquantized: ["classifier"],
    outputs: (hidden) => ({
      logits: classifier.forward(pooler.dense.forward(firstToken(hidden), { act: c.pooler_hidden_act })),
    }),
  });
}

export const debertaV2: Architecture = {
  model_type: "deberta-v2",
  tasks: {
    base: (json) => featuresOf(NAMES, new DebertaV2Model(read(json))),
    "masked-lm": (json) => maskedLM(read(json)),
    "sequence-classification": (json) => sequenceClassifier(read(json), labelCount(json)),
    "token-classification": (json) => tokenClassifierOf(NAMES, new DebertaV2Model(read(json)), json),
    "question-answering": (json) => questionAnsweringOf(NAMES, new DebertaV2Model(read(json))),
  },
  names: [
    { ignore: /\.position_ids$|^mask_predictions\./ },
    { spare: /(^|\.)embeddings\.position_embeddings\.weight$/ },
    { prefix: "deberta." },
    // Published files have the head of DeBERTa's own code, and configs that say nothing of it.
    { also: /^lm_predictions\.lm_head\.(dense|LayerNorm)\./, to: "cls.predictions.transform.$1." },
    { also: /^lm_predictions\.lm_head\.bias$/, to: "cls.predictions.bias" },
  ],
};
