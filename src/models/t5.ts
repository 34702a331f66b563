// T5 (Raffel et al. 2020), versions 1.0 and 1.1, mT5 (Xue et al. 2021) and UMT5 (Chung et al. 2023): encoder-decoders whose attention adds
// a learned bias for the distance between two tokens, shared by all layers of a stack or each layer's own, and does not divide by the root
// of the head size.

import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import type { DecoderGeometry } from "../nn/decoder.js";
import { EncoderForTask } from "../nn/encoder.js";
import type { Vocabulary } from "../nn/model.js";
import { type Embedding, Linear, type Matrix } from "../nn/module.js";
import { Seq2SeqLM } from "../nn/seq2seq.js";
import { scale } from "../ops/scale.js";
import { labelCount } from "./_config.js";
import { answersOf, type ReadingStacks, readEnds, textJudgeOf } from "./_seq2seq-judges.js";
import { parse, type T5Config, type T5Kind } from "./_t5.js";
import { readingGeometry, T5Encoder, T5Model } from "./_t5-model.js";

class T5ForConditionalGeneration extends Seq2SeqLM {
  shared: Embedding;
  encoder: T5Model["encoder"];
  decoder: T5Model["decoder"];
  lm_head: Linear;
  readonly geometry: DecoderGeometry;
  /** Factor on hidden states before a head that shares the embedding. */
  readonly #head_scale: number;
  readonly #class_name: string;

  constructor(c: T5Config, kind: T5Kind) {
    super();
    this.#class_name = `${kind.classes}ForConditionalGeneration`;
    const { shared, encoder, decoder } = new T5Model(c, kind);
    this.shared = shared;
    this.encoder = encoder;
    this.decoder = decoder;
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

  override get class_name(): string {
    return this.#class_name;
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

  /** Files of T5 1.1 and mT5 say that their head is their own, and have it; without one it is the embedding's, whatever they say. */
  override matrix_without_head(): Matrix {
    return this.shared.weight;
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

/** Both stacks read a text. */
function reading(json: ConfigJson, kind: T5Kind): ReadingStacks {
  const c = parse(json, kind);
  const model = new T5Model(c, kind);
  const { eos_token_id, decoder_start_token_id } = readEnds(json, { eos: 1, start: 0 });
  return {
    classes: kind.classes,
    tree: model,
    ...{ words: model.shared, encoder: model.encoder, decoder: model.decoder },
    geometry: readingGeometry(c, model.encoder.block.length + model.decoder.block.length),
    unquantized: ["wo"],
    eos_token_id,
    first: () => decoder_start_token_id,
  };
}

/** A label for each token, by the encoder alone: `logits` [B,T,labels]. */
function tokenJudge(base: T5Encoder, json: ConfigJson, classes: string): EncoderForTask {
  const classifier = new Linear(base.geometry.hidden, labelCount(json), { bias: true });
  return new EncoderForTask({
    ...{ name: `${classes}ForTokenClassification`, prefix: "transformer", base, heads: { classifier } },
    unquantized: ["classifier", "wo"],
    per_token: true,
    outputs: (hidden) => ({ logits: classifier.forward(hidden) }),
  });
}

function t5As(kind: T5Kind): Architecture {
  const encoder = (json: ConfigJson): T5Encoder => new T5Encoder(parse(json, kind), kind);
  const { classes } = kind;
  return {
    model_type: kind.model_type,
    tasks: {
      "seq2seq-lm": (json) => new T5ForConditionalGeneration(parse(json, kind), kind).name_tree(),
      base: (json) =>
        new EncoderForTask({
          ...{ name: `${classes}EncoderModel`, base: encoder(json), unquantized: ["wo"] },
          outputs: (hidden) => ({ last_hidden_state: hidden.alias() }),
        }),
      "sequence-classification": (json) => textJudgeOf(reading(json, kind), json, "transformer"),
      "token-classification": (json) => tokenJudge(encoder(json), json, classes),
      "question-answering": (json) => answersOf(reading(json, kind)),
    },
    names: [
      { ignore: /^(transformer\.)?decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$/ },
      { spare: /^(transformer\.)?decoder\.|^lm_head\./ },
      { prefix: "transformer." },
    ],
  };
}

export const t5: Architecture = t5As({
  ...{ model_type: "t5", classes: "T5", multilingual: false, own_biases: false, scales: "unless said" },
});
/** T5 1.1 for many languages. */
export const mt5: Architecture = t5As({
  ...{ model_type: "mt5", classes: "MT5", multilingual: true, own_biases: false, scales: "never" },
});
/** mT5 with biases of its own in each layer. */
export const umt5: Architecture = t5As({
  ...{ model_type: "umt5", classes: "UMT5", multilingual: true, own_biases: true, scales: "shared" },
});
