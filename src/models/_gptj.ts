// What GPT-J (Wang and Komatsuzaki 2021) and CodeGen share: one norm for attention and feed-forward, which both read, rotary
// positions on neighbouring dims of a part of each head, and a head with a bias. They differ in their projections.

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { ConfigJson, NameRule } from "../nn/architecture.js";
import { attend } from "../nn/attend.js";
import { DecoderForCausalLM } from "../nn/decoder.js";
import { Embedding, Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { ropeFrequencies } from "../nn/rope.js";
import { Rotary } from "../nn/rotary.js";
import type { Act } from "../ops/activation.js";
import { rope } from "../ops/rope.js";
import { activationName, count, epsilon, headSize, readConfig } from "./_config.js";

const schema = z.object({
  vocab_size: count,
  n_embd: count,
  n_layer: count.max(1024),
  n_head: count,
  n_positions: count,
  n_inner: count.nullish(),
  rotary_dim: count.default(64),
  activation_function: activationName.default("gelu_tanh"),
  layer_norm_epsilon: epsilon.default(1e-5),
  tie_word_embeddings: z.boolean().default(false),
  // Keys of the files that no class reads any more.
  rotary: z.literal(true).default(true),
  scale_attn_weights: z.literal(true).default(true),
});

const ALIASES = {
  n_embd: ["hidden_size"],
  n_layer: ["num_hidden_layers"],
  n_head: ["num_attention_heads"],
  n_positions: ["max_position_embeddings"],
};

export type GPTJConfig = z.infer<typeof schema> & { readonly head_dim: number };

/** @throws ConfigError */
export function parseGPTJ(json: ConfigJson): GPTJConfig {
  const fields = readConfig(json, schema, ALIASES);
  const head_dim = headSize(fields.n_embd, fields.n_head);
  if (fields.rotary_dim % 2 !== 0 || fields.rotary_dim > head_dim) {
    throw new ConfigError(
      `config.json: rotary_dim must be even and at most the head size ${head_dim}, got ${fields.rotary_dim}`,
      { hint: CONFIG_HINT },
    );
  }
  return { ...fields, head_dim };
}

/** Attention, whose projections differ. */
export abstract class GPTJAttention extends Module {
  readonly layer: number;
  readonly heads: number;
  readonly size: number;

  constructor(c: GPTJConfig, layer: number) {
    super();
    this.layer = layer;
    this.heads = c.n_head;
    this.size = c.head_dim;
  }

  abstract readonly out_proj: Linear;

  /** x[B,T,hidden] -> q, k, v, each [B,T,H,D] */
  protected abstract project(x: Tensor): readonly [q: Tensor, k: Tensor, v: Tensor];

  forward(x: Tensor, residual: Tensor, pass: Pass, table: Tensor): Tensor {
    const [q, k, v] = this.project(x);
    const y = attend(pass, this.layer, rope(q, table, true), rope(k, table, true), v, { scale: this.size ** -0.5 });
    return this.out_proj.forward(y, { residual });
  }
}

class GPTJMLP extends Module {
  fc_in: Linear;
  fc_out: Linear;
  readonly act: Act;

  constructor(c: GPTJConfig) {
    super();
    const inner = c.n_inner ?? 4 * c.n_embd;
    this.fc_in = new Linear(c.n_embd, inner, { bias: true });
    this.fc_out = new Linear(inner, c.n_embd, { bias: true });
    this.act = c.activation_function;
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    return this.fc_out.forward(this.fc_in.forward(x, { act: this.act }), { residual });
  }
}

/** Makes the attention of layer number `layer`. */
type MakeAttention = (layer: number) => GPTJAttention;

class GPTJBlock extends Module {
  ln_1: LayerNorm;
  attn: GPTJAttention;
  mlp: GPTJMLP;

  constructor(c: GPTJConfig, attention: GPTJAttention) {
    super();
    this.ln_1 = new LayerNorm(c.n_embd, c.layer_norm_epsilon);
    this.attn = attention;
    this.mlp = new GPTJMLP(c);
  }

  forward(x: Tensor, pass: Pass, table: Tensor): Tensor {
    const normal = this.ln_1.forward(x);
    const h = scope(() => this.attn.forward(normal, x, pass, table));
    return this.mlp.forward(normal, h);
  }
}

class GPTJModel extends Module {
  wte: Embedding;
  h: GPTJBlock[];
  ln_f: LayerNorm;
  readonly rotary: Rotary;

  constructor(c: GPTJConfig, attention: MakeAttention) {
    super();
    this.wte = new Embedding(c.vocab_size, c.n_embd);
    this.h = Array.from({ length: c.n_layer }, (_, layer) => new GPTJBlock(c, attention(layer)));
    this.ln_f = new LayerNorm(c.n_embd, c.layer_norm_epsilon);
    this.rotary = new Rotary(ropeFrequencies({ theta: 10000, dim: c.rotary_dim, scaling: null }));
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const h = runBlocks(this.h, this.wte.forward(ids), pass, (block, x) =>
        block.forward(x, pass, this.rotary.table(pass, x.device)),
      );
      return this.ln_f.forward(h);
    });
  }
}

/** @param name of the class in transformers */
export function gptjForCausalLM(name: string, c: GPTJConfig, attention: MakeAttention): DecoderForCausalLM {
  const base = new GPTJModel(c, attention);
  return new DecoderForCausalLM({
    name,
    prefix: "transformer",
    base,
    layers: base.h,
    words: base.wte,
    tied: c.tie_word_embeddings,
    head_bias: true,
    sizes: {
      heads: c.n_head,
      groups: c.n_head,
      head_dim: c.head_dim,
      hidden: c.n_embd,
      // The classes have a table of angles, as long as this.
      max_positions: c.n_positions,
    },
  });
}

export const gptjNames: readonly NameRule[] = [
  { ignore: /\.attn\.(bias|masked_bias|causal_mask|embed_positions)$/ },
  { prefix: "transformer." },
];
