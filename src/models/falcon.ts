// Falcon (Almazrouei et al. 2023) in its styles: one key-value head for all queries (7B), groups of heads with two norms or
// one (40B, 180B, Falcon 2), and ALiBi with the parts of a layer one after the other (RW). Old files say RefinedWeb.

import { scope, type Tensor } from "../core/tensor.js";
import { alibiSlopes } from "../nn/alibi.js";
import type { Architecture } from "../nn/architecture.js";
import { attend } from "../nn/attend.js";
import { DecoderForCausalLM } from "../nn/decoder.js";
import { Embedding, Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { Rotary } from "../nn/rotary.js";
import { RoundedAlibi } from "../nn/rounded-alibi.js";
import type { Act } from "../ops/activation.js";
import { contiguous } from "../ops/copy.js";
import { rope } from "../ops/rope.js";
import { type FalconConfig, parse, WEIGHED_TWICE } from "./_falcon.js";

class FalconAttention extends Module {
  query_key_value: Linear;
  dense: Linear;
  readonly layer: number;
  readonly heads: number;
  readonly groups: number;
  readonly rows: FalconConfig["rows"];

  constructor(c: FalconConfig, layer: number) {
    super();
    const width = (c.num_attention_heads + 2 * c.groups) * c.head_dim;
    this.query_key_value = new Linear(c.hidden_size, width, { bias: c.bias });
    this.dense = new Linear(c.hidden_size, c.hidden_size, { bias: c.bias });
    this.layer = layer;
    this.heads = c.num_attention_heads;
    this.groups = c.groups;
    this.rows = c.rows;
  }

  /** `table`, [B,T,2,D/2], or `alibi` says where tokens are. */
  forward(x: Tensor, residual: Tensor, pass: Pass, table?: Tensor, alibi?: RoundedAlibi): Tensor {
    const size = x.shape[2]! / this.heads;
    const [q, k, v] = this.#split(this.query_key_value.forward(x), size); // [B,T,H or G,D]
    const [queries, keys] = table ? [rope(q, table), rope(k, table)] : (alibi?.widened(pass, q, k) ?? [q, k]);
    const y = attend(pass, this.layer, queries, keys, v, { scale: size ** -0.5 });
    return this.dense.forward(y, { residual });
  }

  #split(fused: Tensor, size: number): readonly [q: Tensor, k: Tensor, v: Tensor] {
    const [batch = 0, steps = 0] = fused.shape;
    if (this.rows === "shared") {
      const all = fused.view(batch, steps, -1, size); // [B,T,H+2,D]
      return [all.narrow(2, 0, this.heads), all.narrow(2, this.heads, 1), all.narrow(2, this.heads + 1, 1)];
    }
    const each = this.heads / this.groups;
    const all = fused.view(batch, steps, this.groups, each + 2, size); // [B,T,G,H/G+2,D]
    const q = each === 1 ? all.select(3, 0) : contiguous(all.narrow(3, 0, each)).view(batch, steps, this.heads, size);
    return [q, all.select(3, each), all.select(3, each + 1)];
  }
}

class FalconMLP extends Module {
  dense_h_to_4h: Linear;
  dense_4h_to_h: Linear;
  readonly act: Act;

  constructor(c: FalconConfig) {
    super();
    const inner = c.ffn_hidden_size ?? 4 * c.hidden_size;
    this.dense_h_to_4h = new Linear(c.hidden_size, inner, { bias: c.bias });
    this.dense_4h_to_h = new Linear(inner, c.hidden_size, { bias: c.bias });
    this.act = c.activation;
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    return this.dense_4h_to_h.forward(this.dense_h_to_4h.forward(x, { act: this.act }), { residual });
  }
}

class FalconDecoderLayer extends Module {
  ln_attn: LayerNorm | undefined;
  ln_mlp: LayerNorm | undefined;
  input_layernorm: LayerNorm | undefined;
  post_attention_layernorm: LayerNorm | undefined;
  self_attention: FalconAttention;
  mlp: FalconMLP;

  constructor(c: FalconConfig, layer: number) {
    super();
    const norm = (present: boolean): LayerNorm | undefined =>
      present ? new LayerNorm(c.hidden_size, c.layer_norm_epsilon) : undefined;
    this.ln_attn = norm(c.norms === 2);
    this.ln_mlp = norm(c.norms === 2);
    this.input_layernorm = norm(c.norms === 1);
    this.post_attention_layernorm = norm(!c.parallel_attn);
    this.self_attention = new FalconAttention(c, layer);
    this.mlp = new FalconMLP(c);
  }

  forward(x: Tensor, pass: Pass, table?: Tensor, alibi?: RoundedAlibi): Tensor {
    const normal = (this.ln_attn ?? this.input_layernorm!).forward(x);
    const h = scope(() => this.self_attention.forward(normal, x, pass, table, alibi));
    const inner = this.ln_mlp?.forward(x) ?? this.post_attention_layernorm?.forward(h) ?? normal;
    return this.mlp.forward(inner, h);
  }
}

class FalconModel extends Module {
  word_embeddings: Embedding;
  h: FalconDecoderLayer[];
  ln_f: LayerNorm;
  readonly rotary: Rotary | undefined;
  readonly alibi: RoundedAlibi | undefined;

  constructor(c: FalconConfig) {
    super();
    this.word_embeddings = new Embedding(c.vocab_size, c.hidden_size);
    this.h = Array.from({ length: c.num_hidden_layers }, (_, layer) => new FalconDecoderLayer(c, layer));
    this.ln_f = new LayerNorm(c.hidden_size, c.layer_norm_epsilon);
    this.rotary = c.rope && new Rotary(c.rope);
    this.alibi = c.alibi ? new RoundedAlibi(alibiSlopes(c.num_attention_heads), c.groups, c.weighed) : undefined;
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const h = runBlocks(this.h, this.word_embeddings.forward(ids), pass, (layer, x) =>
        layer.forward(x, pass, this.rotary?.table(pass, x.device), this.alibi),
      );
      return this.ln_f.forward(h);
    });
  }
}

function falconForCausalLM(c: FalconConfig): DecoderForCausalLM {
  const base = new FalconModel(c);
  return new DecoderForCausalLM({
    name: "FalconForCausalLM",
    prefix: "transformer",
    base,
    layers: base.h,
    words: base.word_embeddings,
    tied: c.tie_word_embeddings,
    notes: c.alibi && c.weighed === 2 && !c.attn_implementation ? [WEIGHED_TWICE] : [],
    sizes: {
      heads: c.num_attention_heads,
      groups: c.groups,
      head_dim: c.head_dim,
      ...(base.alibi ? { key_dim: c.head_dim + base.alibi.dims } : {}),
      hidden: c.hidden_size,
      max_positions: Number.POSITIVE_INFINITY,
    },
  });
}

export const falcon: Architecture = {
  model_type: "falcon",
  tasks: { "causal-lm": (json) => falconForCausalLM(parse(json)) },
  names: [{ ignore: /\.(maybe_rotary|rotary_emb)\.inv_freq$/ }, { prefix: "transformer." }],
};
