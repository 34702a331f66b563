// The config of T5 and of its descendants mT5 and UMT5, and their layers.

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { show } from "../core/show.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { ConfigJson } from "../nn/architecture.js";
import { attend, attendAll, attendEncoded } from "../nn/attend.js";
import { Embedding, Linear, Module } from "../nn/module.js";
import { RMSNorm } from "../nn/norm.js";
import type { Pass } from "../nn/pass.js";
import type { CrossAttention } from "../nn/seq2seq.js";
import type { Act } from "../ops/activation.js";
import { gated } from "../ops/gated.js";
import { activationName, count, epsilon, readConfig } from "./_config.js";

const schema = z.object({
  vocab_size: count,
  d_model: count,
  d_kv: count,
  d_ff: count,
  num_layers: count.max(1024),
  num_decoder_layers: count.max(1024).nullish(),
  num_heads: count,
  relative_attention_num_buckets: count.min(4).max(65_536).default(32),
  relative_attention_max_distance: count.max(65_536).default(128),
  layer_norm_epsilon: epsilon.default(1e-6),
  feed_forward_proj: z.string().default("relu"),
  tie_word_embeddings: z.boolean().default(true),
  // Files of transformers 5 say by this what tie_word_embeddings says in others.
  scale_decoder_outputs: z.boolean().nullish(),
  // And by these what feed_forward_proj says.
  dense_act_fn: z.string().nullish(),
  is_gated_act: z.boolean().nullish(),
});

/** What distinguishes T5's descendants. */
export interface T5Kind {
  readonly model_type: string;
  /** How the names of its classes begin. */
  readonly classes: string;
  /** Of many languages: gated by default, as T5 1.1. */
  readonly multilingual: boolean;
  /** Each layer has its own biases for distances. */
  readonly own_biases: boolean;
  /** Hidden states are made smaller before the head: where it is shared, unless a file says otherwise; where it is shared; never. */
  readonly scales: "unless said" | "shared" | "never";
}

const multilingualSchema = z.object({ ...schema.shape, feed_forward_proj: z.string().default("gated-gelu") });

const ALIASES = {
  d_model: ["hidden_size"],
  d_kv: ["head_dim"],
  num_layers: ["num_hidden_layers"],
  num_heads: ["num_attention_heads"],
};

export interface T5Config extends z.infer<typeof schema> {
  readonly act: Act;
  readonly gated: boolean;
}

/** The fields of a config.json of a kind. @throws ConfigError */
export function parse(json: ConfigJson, { multilingual, scales }: T5Kind): T5Config {
  const fields = readConfig(json, multilingual ? multilingualSchema : schema, ALIASES);
  if (scales !== "unless said") fields.scale_decoder_outputs = scales === "shared" && fields.tie_word_embeddings;
  const [first, second] = fields.feed_forward_proj.split("-");
  const isGated = first === "gated" && second !== undefined;
  const given = isGated ? fields.feed_forward_proj.slice("gated-".length) : fields.feed_forward_proj;
  // transformers reads "gated-gelu" as the tanh form, for the files of T5 1.1.
  const name = fields.dense_act_fn ?? (fields.feed_forward_proj === "gated-gelu" ? "gelu_new" : given);
  const act = activationName.safeParse(name);
  if (!act.success) {
    throw new ConfigError(`config.json: the activation ${show(name)} is not known`, {
      hint: CONFIG_HINT,
    });
  }
  return { ...fields, act: act.data, gated: fields.is_gated_act ?? isGated };
}

class T5Attention extends Module implements CrossAttention {
  q: Linear;
  k: Linear;
  v: Linear;
  o: Linear;
  /** Only in the first block of a stack, whose biases the others share; of UMT5 in each. */
  relative_attention_bias: Embedding | undefined;
  readonly size: number;

  constructor(c: T5Config, biased: boolean) {
    super();
    const inner = c.num_heads * c.d_kv;
    this.q = new Linear(c.d_model, inner);
    this.k = new Linear(c.d_model, inner);
    this.v = new Linear(c.d_model, inner);
    this.o = new Linear(inner, c.d_model);
    this.relative_attention_bias = biased ? new Embedding(c.relative_attention_num_buckets, c.num_heads) : undefined;
    this.size = c.d_kv;
  }

  /** Heads of a projection of x: [B,T,H,D]. */
  heads(projection: Linear, x: Tensor): Tensor {
    return projection.forward(x).view(x.shape[0]!, x.shape[1]!, -1, this.size);
  }

  keysAndValues(encoded: Tensor): readonly [k: Tensor, v: Tensor] {
    return [this.heads(this.k, encoded), this.heads(this.v, encoded)];
  }

  get projections(): readonly Linear[] {
    return [this.k, this.v];
  }
}

/** A norm, a part of a block, and the residual. */
class T5LayerSelfAttention extends Module {
  SelfAttention: T5Attention;
  layer_norm: RMSNorm;

  constructor(c: T5Config, biased: boolean) {
    super();
    this.SelfAttention = new T5Attention(c, biased);
    this.layer_norm = new RMSNorm(c.d_model, c.layer_norm_epsilon);
  }

  /** `layer` is the decoder's layer in the cache; undefined in the encoder, which sees all tokens. */
  forward(h: Tensor, pass: Pass, distances: Tensor, layer: number | undefined): Tensor {
    return scope(() => {
      const { SelfAttention: own } = this;
      const x = this.layer_norm.forward(h);
      const [q, k, v] = [own.heads(own.q, x), own.heads(own.k, x), own.heads(own.v, x)];
      const options = { scale: 1, distances };
      const y = layer === undefined ? attendAll(pass, q, k, v, options) : attend(pass, layer, q, k, v, options);
      return own.o.forward(y, { residual: h });
    });
  }
}

class T5LayerCrossAttention extends Module {
  EncDecAttention: T5Attention;
  layer_norm: RMSNorm;

  constructor(c: T5Config) {
    super();
    this.EncDecAttention = new T5Attention(c, false);
    this.layer_norm = new RMSNorm(c.d_model, c.layer_norm_epsilon);
  }

  forward(h: Tensor, pass: Pass, layer: number): Tensor {
    return scope(() => {
      const { EncDecAttention: own } = this;
      const q = own.heads(own.q, this.layer_norm.forward(h));
      const y = attendEncoded(pass, layer, q, (encoded) => own.keysAndValues(encoded), { scale: 1 });
      return own.o.forward(y, { residual: h });
    });
  }
}

class T5DenseReluDense extends Module {
  wi: Linear | undefined;
  wi_0: Linear | undefined;
  wi_1: Linear | undefined;
  wo: Linear;
  readonly act: Act;

  constructor(c: T5Config) {
    super();
    const projection = (): Linear => new Linear(c.d_model, c.d_ff);
    this.wi = c.gated ? undefined : projection();
    this.wi_0 = c.gated ? projection() : undefined;
    this.wi_1 = c.gated ? projection() : undefined;
    this.wo = new Linear(c.d_ff, c.d_model);
    this.act = c.act;
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    const inner = this.wi
      ? this.wi.forward(x, { act: this.act })
      : gated(this.wi_0!.forward(x), this.wi_1!.forward(x), this.act);
    return this.wo.forward(inner, { residual });
  }
}

class T5LayerFF extends Module {
  DenseReluDense: T5DenseReluDense;
  layer_norm: RMSNorm;

  constructor(c: T5Config) {
    super();
    this.DenseReluDense = new T5DenseReluDense(c);
    this.layer_norm = new RMSNorm(c.d_model, c.layer_norm_epsilon);
  }

  forward(h: Tensor): Tensor {
    return scope(() => this.DenseReluDense.forward(this.layer_norm.forward(h), h));
  }
}

export class T5Block extends Module {
  layer: Module[];
  readonly #self: T5LayerSelfAttention;
  readonly #cross: T5LayerCrossAttention | undefined;
  readonly #feed: T5LayerFF;

  /** @param biased has a table of biases of its own */
  constructor(c: T5Config, decoder: boolean, biased: boolean) {
    super();
    this.#self = new T5LayerSelfAttention(c, biased);
    this.#cross = decoder ? new T5LayerCrossAttention(c) : undefined;
    this.#feed = new T5LayerFF(c);
    this.layer = [this.#self, ...(this.#cross ? [this.#cross] : []), this.#feed];
  }

  get self_attention(): T5Attention {
    return this.#self.SelfAttention;
  }

  get cross_attention(): CrossAttention {
    return this.#cross!.EncDecAttention;
  }

  forward(x: Tensor, pass: Pass, distances: Tensor, index: number): Tensor {
    const h = this.#self.forward(x, pass, distances, this.#cross && index);
    return this.#feed.forward(this.#cross ? this.#cross.forward(h, pass, index) : h);
  }
}
