// GPT-NeoX (Black et al. 2022), and Pythia: one fused projection whose rows are grouped by head ([H, 3, D]), rotary positions
// on a part of each head, and a feed-forward that reads the layer's input beside attention instead of after it.

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { show } from "../core/show.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { attend } from "../nn/attend.js";
import { DecoderForCausalLM } from "../nn/decoder.js";
import { Embedding, Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { rotaryDims } from "../nn/partial-rotary.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { type RopeFrequencies, ropeFields, ropeFrequencies } from "../nn/rope.js";
import { Rotary } from "../nn/rotary.js";
import type { Act } from "../ops/activation.js";
import { rope } from "../ops/rope.js";
import { activationName, count, epsilon, headSize, readConfig } from "./_config.js";

const schema = z.object({
  vocab_size: count,
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: count.max(1024),
  num_attention_heads: count,
  hidden_act: activationName.default("gelu"),
  layer_norm_eps: epsilon.default(1e-5),
  use_parallel_residual: z.boolean().default(true),
  attention_bias: z.boolean().default(true),
  tie_word_embeddings: z.boolean().default(false),
});

interface GPTNeoXConfig extends z.infer<typeof schema> {
  readonly head_dim: number;
  readonly rope: RopeFrequencies;
}

function parse(json: ConfigJson): GPTNeoXConfig {
  const fields = readConfig(json, schema);
  const head_dim = headSize(fields.hidden_size, fields.num_attention_heads);
  const { rope_scaling, rope_parameters, rotary_emb_base, rotary_pct = 0.25, max_position_embeddings } = json;
  const own = ropeFields({ rope_scaling, rope_parameters, rope_theta: rotary_emb_base, max_position_embeddings });
  const dim = rotaryDims(own.scaling, rotary_pct, head_dim, "rotary_pct");
  // Files of transformers 4.45 and later have the usual names, too.
  const { rope_theta, partial_rotary_factor } = json;
  const turns = rotaryDims(null, partial_rotary_factor ?? dim / head_dim, head_dim, "partial_rotary_factor");
  if ((rope_theta ?? own.theta) !== own.theta || turns !== dim) {
    throw new ConfigError(
      `config.json: rope_theta ${show(rope_theta)} and partial_rotary_factor ${show(partial_rotary_factor)} ` +
        `say something else than rotary_emb_base and rotary_pct (${own.theta}, ${dim} of ${head_dim} dims)`,
      { hint: CONFIG_HINT },
    );
  }
  return { ...fields, head_dim, rope: ropeFrequencies({ ...own, dim }) };
}

class GPTNeoXAttention extends Module {
  query_key_value: Linear;
  dense: Linear;
  readonly layer: number;
  readonly heads: number;

  constructor(c: GPTNeoXConfig, layer: number) {
    super();
    this.query_key_value = new Linear(c.hidden_size, 3 * c.hidden_size, { bias: c.attention_bias });
    this.dense = new Linear(c.hidden_size, c.hidden_size, { bias: c.attention_bias });
    this.layer = layer;
    this.heads = c.num_attention_heads;
  }

  forward(x: Tensor, residual: Tensor, pass: Pass, table: Tensor): Tensor {
    const [batch = 0, steps = 0, width = 0] = x.shape;
    const size = width / this.heads;
    const qkv = this.query_key_value.forward(x).view(batch, steps, this.heads, 3, size); // [B,T,H,3,D]
    const [q, k] = [rope(qkv.select(3, 0), table), rope(qkv.select(3, 1), table)];
    const y = attend(pass, this.layer, q, k, qkv.select(3, 2), { scale: size ** -0.5 });
    return this.dense.forward(y, { residual });
  }
}

class GPTNeoXMLP extends Module {
  dense_h_to_4h: Linear;
  dense_4h_to_h: Linear;
  readonly act: Act;

  constructor(c: GPTNeoXConfig) {
    super();
    this.dense_h_to_4h = new Linear(c.hidden_size, c.intermediate_size, { bias: true });
    this.dense_4h_to_h = new Linear(c.intermediate_size, c.hidden_size, { bias: true });
    this.act = c.hidden_act;
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    return this.dense_4h_to_h.forward(this.dense_h_to_4h.forward(x, { act: this.act }), { residual });
  }
}

class GPTNeoXLayer extends Module {
  input_layernorm: LayerNorm;
  post_attention_layernorm: LayerNorm;
  attention: GPTNeoXAttention;
  mlp: GPTNeoXMLP;
  readonly parallel: boolean;

  constructor(c: GPTNeoXConfig, layer: number) {
    super();
    this.input_layernorm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.post_attention_layernorm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.attention = new GPTNeoXAttention(c, layer);
    this.mlp = new GPTNeoXMLP(c);
    this.parallel = c.use_parallel_residual;
  }

  forward(x: Tensor, pass: Pass, table: Tensor): Tensor {
    const h = scope(() => this.attention.forward(this.input_layernorm.forward(x), x, pass, table));
    return this.mlp.forward(this.post_attention_layernorm.forward(this.parallel ? x : h), h);
  }
}

class GPTNeoXModel extends Module {
  embed_in: Embedding;
  layers: GPTNeoXLayer[];
  final_layer_norm: LayerNorm;
  readonly rotary: Rotary;

  constructor(c: GPTNeoXConfig) {
    super();
    this.embed_in = new Embedding(c.vocab_size, c.hidden_size);
    this.layers = Array.from({ length: c.num_hidden_layers }, (_, layer) => new GPTNeoXLayer(c, layer));
    this.final_layer_norm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.rotary = new Rotary(c.rope);
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const h = runBlocks(this.layers, this.embed_in.forward(ids), pass, (layer, x) =>
        layer.forward(x, pass, this.rotary.table(pass, x.device)),
      );
      return this.final_layer_norm.forward(h);
    });
  }
}

function gptNeoXForCausalLM(c: GPTNeoXConfig): DecoderForCausalLM {
  const base = new GPTNeoXModel(c);
  return new DecoderForCausalLM({
    name: "GPTNeoXForCausalLM",
    prefix: "gpt_neox",
    base,
    layers: base.layers,
    words: base.embed_in,
    tied: c.tie_word_embeddings,
    head: "embed_out",
    sizes: {
      heads: c.num_attention_heads,
      groups: c.num_attention_heads,
      head_dim: c.head_dim,
      hidden: c.hidden_size,
      max_positions: Number.POSITIVE_INFINITY,
    },
  });
}

export const gptNeox: Architecture = {
  model_type: "gpt_neox",
  tasks: { "causal-lm": (json) => gptNeoXForCausalLM(parse(json)) },
  names: [
    { ignore: /\.attention\.(masked_bias|bias|rotary_emb\.inv_freq)$/ },
    // The name in the memory of transformers 5.
    { rename: /^lm_head\./, to: "embed_out." },
    { prefix: "gpt_neox." },
  ],
};
