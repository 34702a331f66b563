// What decoders share that have a LayerNorm where LLaMA has an RMSNorm: StableLM, Phi, StarCoder 2, Cohere's, OLMo. Their attention has
// grouped heads and rotary positions, on a part of each head or all of it; the two parts of a layer stand one after the other, or side by
// side behind one norm.

import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { ConfigJson } from "../nn/architecture.js";
import { type AttendOptions, attend } from "../nn/attend.js";
import { clip } from "../nn/clip.js";
import { DecoderForCausalLM } from "../nn/decoder.js";
import { Embedding, Linear, Module } from "../nn/module.js";
import type { LayerNorm } from "../nn/norm.js";
import { rotaryDims } from "../nn/partial-rotary.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { type RopeFrequencies, ropeFields, ropeFrequencies } from "../nn/rope.js";
import { Rotary } from "../nn/rotary.js";
import type { Act } from "../ops/activation.js";
import { gated } from "../ops/gated.js";
import { rope } from "../ops/rope.js";
import { scale } from "../ops/scale.js";
import { headSize } from "./_config.js";
import { decoderFields, groupsOf } from "./_decoder.js";

const shared = z.object(decoderFields);

type Fields = z.infer<typeof shared>;

/** The fields with the values derived from them. */
export interface DecoderConfig extends Fields {
  readonly head_dim: number;
  readonly groups: number;
  readonly rope: RopeFrequencies;
}

/**
 * @param share of the dims of a head that rotate, with its name in config.json
 * @param theta where the file has none
 * @throws ConfigError for inconsistent sizes
 */
export function resolveDecoder<F extends Omit<Fields, "head_dim"> & Partial<Pick<Fields, "head_dim">>>(
  fields: F,
  json: ConfigJson,
  { share = 1, theta }: { share?: number; theta?: number } = {},
): Omit<F, "head_dim"> & DecoderConfig {
  const heads = fields.num_attention_heads;
  const groups = groupsOf(heads, fields.num_key_value_heads);
  const head_dim = fields.head_dim ?? headSize(fields.hidden_size, heads);
  const own = ropeFields(json, theta);
  const dim = rotaryDims(own.scaling, share, head_dim, "partial_rotary_factor");
  return { ...fields, head_dim, groups, rope: ropeFrequencies({ ...own, dim }) };
}

/** A norm of heads [B,T,H,D]. */
type HeadNorm = Module & { forward(x: Tensor, pass: Pass): Tensor };

/** How attention differs. */
export interface AttentionTraits {
  /** Biases of queries, keys and values, and of the output. */
  readonly bias: boolean;
  readonly out_bias: boolean;
  /** The output's field in checkpoints; default "o_proj". */
  readonly out?: "dense";
  /** Neighbouring dims rotate together. */
  readonly interleaved?: boolean;
  /** Keys that a token sees, itself included. */
  readonly window?: number | undefined;
  /** Limit of queries, keys and values. */
  readonly limit?: number | undefined;
  /** Norms of the heads of queries and keys, and their fields in checkpoints. */
  readonly norm?: { readonly fields: readonly [q: string, k: string]; readonly of: (heads: number) => HeadNorm };
}

export class DecoderAttention extends Module {
  q_proj: Linear;
  k_proj: Linear;
  v_proj: Linear;
  o_proj: Linear | undefined;
  dense: Linear | undefined;
  readonly layer: number;
  readonly size: number;
  readonly options: AttendOptions;
  readonly traits: AttentionTraits;
  readonly #norms: readonly [q: HeadNorm, k: HeadNorm] | undefined;

  constructor(c: DecoderConfig, layer: number, traits: AttentionTraits) {
    super();
    const { bias, out_bias, out, norm, window } = traits;
    const projection = (heads: number): Linear => new Linear(c.hidden_size, heads * c.head_dim, { bias });
    const output = new Linear(c.num_attention_heads * c.head_dim, c.hidden_size, { bias: out_bias });
    this.q_proj = projection(c.num_attention_heads);
    this.k_proj = projection(c.groups);
    this.v_proj = projection(c.groups);
    this.o_proj = out === undefined ? output : undefined;
    this.dense = out === "dense" ? output : undefined;
    this.#norms = norm && [norm.of(c.num_attention_heads), norm.of(c.groups)];
    if (norm) Object.assign(this, { [norm.fields[0]]: this.#norms![0], [norm.fields[1]]: this.#norms![1] });
    this.layer = layer;
    this.size = c.head_dim;
    this.options = { scale: c.head_dim ** -0.5, ...(window === undefined ? {} : { window }) };
    this.traits = traits;
  }

  /** x[B,T,hidden] -> [B,T,hidden], plus `residual`. */
  forward(x: Tensor, residual: Tensor, pass: Pass, table: Tensor): Tensor {
    const [batch = 0, steps = 0] = x.shape;
    const { limit, interleaved = false } = this.traits;
    const heads = (projection: Linear): Tensor => {
      const y = projection.forward(x);
      return (limit ? clip(y, limit) : y).view(batch, steps, -1, this.size);
    };
    const [q, k, v] = [heads(this.q_proj), heads(this.k_proj), heads(this.v_proj)]; // [B,T,H,D], [B,T,G,D]
    const [normalQ, normalK] = this.#norms
      ? [this.#norms[0].forward(q, pass), this.#norms[1].forward(k, pass)]
      : [q, k];
    const turned = (y: Tensor): Tensor => rope(y, table, interleaved);
    const y = attend(pass, this.layer, turned(normalQ), turned(normalK), v, this.options);
    return (this.o_proj ?? this.dense)!.forward(y, { residual });
  }
}

/** down(act(gate(x)) * up(x)) */
export class DecoderMLP extends Module {
  gate_proj: Linear;
  up_proj: Linear;
  down_proj: Linear;
  readonly act: Act;

  constructor(c: DecoderConfig) {
    super();
    this.gate_proj = new Linear(c.hidden_size, c.intermediate_size);
    this.up_proj = new Linear(c.hidden_size, c.intermediate_size);
    this.down_proj = new Linear(c.intermediate_size, c.hidden_size);
    this.act = c.hidden_act;
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    return this.down_proj.forward(gated(this.gate_proj.forward(x), this.up_proj.forward(x), this.act), { residual });
  }
}

/** down(act(up(x))), whose fields are named by `up` and `down`. */
export class PlainMLP extends Module {
  readonly act: Act;
  readonly #up: Linear;
  readonly #down: Linear;

  constructor(c: DecoderConfig, [up, down]: readonly [string, string], bias: boolean) {
    super();
    this.#up = new Linear(c.hidden_size, c.intermediate_size, { bias });
    this.#down = new Linear(c.intermediate_size, c.hidden_size, { bias });
    Object.assign(this, { [up]: this.#up, [down]: this.#down });
    this.act = c.hidden_act;
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    return this.#down.forward(this.#up.forward(x, { act: this.act }), { residual });
  }
}

/** The second part of a layer. */
type FeedForward = Module & { forward(x: Tensor, residual: Tensor): Tensor };

export class DecoderLayer extends Module {
  self_attn: DecoderAttention;
  mlp: FeedForward;
  input_layernorm: LayerNorm;
  /** Only where the parts come one after the other; side by side they share one norm. */
  post_attention_layernorm: LayerNorm | undefined;

  constructor(self_attn: DecoderAttention, mlp: FeedForward, norm: () => LayerNorm, parallel: boolean) {
    super();
    this.self_attn = self_attn;
    this.mlp = mlp;
    this.input_layernorm = norm();
    this.post_attention_layernorm = parallel ? undefined : norm();
  }

  forward(x: Tensor, pass: Pass, table: Tensor): Tensor {
    const normal = this.input_layernorm.forward(x);
    const h = scope(() => this.self_attn.forward(normal, x, pass, table));
    return this.mlp.forward(this.post_attention_layernorm?.forward(h) ?? normal, h);
  }
}

class DecoderModel extends Module {
  embed_tokens: Embedding;
  layers: DecoderLayer[];
  norm: LayerNorm | undefined;
  final_layernorm: LayerNorm | undefined;
  readonly rotary: Rotary;

  constructor(c: DecoderConfig, layers: DecoderLayer[], norm: LayerNorm, field: "norm" | "final_layernorm") {
    super();
    this.embed_tokens = new Embedding(c.vocab_size, c.hidden_size);
    this.layers = layers;
    this.norm = field === "norm" ? norm : undefined;
    this.final_layernorm = field === "norm" ? undefined : norm;
    this.rotary = new Rotary(c.rope);
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const h = runBlocks(this.layers, this.embed_tokens.forward(ids), pass, (layer, x) =>
        layer.forward(x, pass, this.rotary.table(pass, x.device)),
      );
      return (this.norm ?? this.final_layernorm)!.forward(h);
    });
  }
}

/** How a model around the layers differs. */
interface ModelTraits {
  /** The name that transformers gives the class. */
  readonly name: string;
  readonly layer: (index: number) => DecoderLayer;
  readonly norm: () => LayerNorm;
  /** The last norm's field in checkpoints; default "norm". */
  readonly last?: "final_layernorm";
  readonly head_bias?: boolean;
  readonly window?: number | undefined;
  /** Factor on logits. */
  readonly logit_scale?: number;
}

export function decoderForCausalLM(c: DecoderConfig, traits: ModelTraits): DecoderForCausalLM {
  const { name, layer, norm, last = "norm", head_bias = false, window, logit_scale = 1 } = traits;
  const layers = Array.from({ length: c.num_hidden_layers }, (_, index) => layer(index));
  const base = new DecoderModel(c, layers, norm(), last);
  return new DecoderForCausalLM({
    ...{ name, prefix: "model", base, layers, words: base.embed_tokens, tied: c.tie_word_embeddings, head_bias },
    ...(logit_scale === 1 ? {} : { finish: (scores: Tensor) => scale(scores, logit_scale) }),
    sizes: {
      heads: c.num_attention_heads,
      groups: c.groups,
      head_dim: c.head_dim,
      hidden: c.hidden_size,
      max_positions: Number.POSITIVE_INFINITY,
      ...(window === undefined ? {} : { windows: layers.map(() => window) }),
    },
  });
}
