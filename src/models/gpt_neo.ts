// GPT-Neo (Black et al. 2021): GPT-2's decoder with a projection for each of q, k and v, scores that are not divided by the root of the
// head size, and layers that see a window in turn with those that see all.

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { attend } from "../nn/attend.js";
import { DecoderForCausalLM } from "../nn/decoder.js";
import { Embedding, Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import type { Act } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { activationName, count, epsilon, headSize, readConfig } from "./_config.js";

const kind = z.literal(["global", "local"]);

const schema = z.object({
  vocab_size: count,
  hidden_size: count,
  num_layers: count.max(1024),
  num_heads: count,
  max_position_embeddings: count.default(2048),
  intermediate_size: count.nullish(),
  /** The kinds of layers that are repeated, and how often. */
  attention_types: z
    .array(z.tuple([z.array(kind).max(1024), count.max(1024)]))
    .max(1024)
    .nullish(),
  /** The kind of each layer; instead of it. */
  attention_layers: z.array(kind).max(1024).nullish(),
  window_size: count.default(256),
  activation_function: activationName.default("gelu_tanh"),
  layer_norm_epsilon: epsilon.default(1e-5),
  tie_word_embeddings: z.boolean().default(true),
});

interface GPTNeoConfig extends z.infer<typeof schema> {
  /** Of each layer the keys that a token sees, itself included. */
  readonly windows: readonly (number | undefined)[];
}

const ALIASES = { num_layers: ["num_hidden_layers"], num_heads: ["num_attention_heads"] };

function parse(json: ConfigJson): GPTNeoConfig {
  const c = readConfig(json, schema, ALIASES);
  headSize(c.hidden_size, c.num_heads);
  const types = c.attention_types ?? [[["global", "local"], 12]];
  // Counted before they are listed: a file may name a thousand million.
  const named = c.attention_layers?.length ?? types.reduce((sum, [kinds, times]) => sum + kinds.length * times, 0);
  if (named !== c.num_layers) {
    throw new ConfigError(`config.json: attention_types has ${named} layers, and num_layers is ${c.num_layers}`, {
      hint: CONFIG_HINT,
    });
  }
  const layers =
    c.attention_layers ?? types.flatMap(([kinds, times]) => Array.from({ length: times }, () => kinds).flat());
  return { ...c, windows: layers.map((one) => (one === "local" ? c.window_size : undefined)) };
}

class GPTNeoSelfAttention extends Module {
  k_proj: Linear;
  v_proj: Linear;
  q_proj: Linear;
  out_proj: Linear;
  readonly layer: number;
  readonly heads: number;
  readonly window: number | undefined;

  constructor(c: GPTNeoConfig, layer: number) {
    super();
    this.k_proj = new Linear(c.hidden_size, c.hidden_size);
    this.v_proj = new Linear(c.hidden_size, c.hidden_size);
    this.q_proj = new Linear(c.hidden_size, c.hidden_size);
    this.out_proj = new Linear(c.hidden_size, c.hidden_size, { bias: true });
    this.layer = layer;
    this.heads = c.num_heads;
    this.window = c.windows[layer];
  }

  forward(x: Tensor, residual: Tensor, pass: Pass): Tensor {
    const [batch = 0, steps = 0, width = 0] = x.shape;
    const { heads, layer, window } = this;
    const split = (projection: Linear): Tensor => projection.forward(x).view(batch, steps, heads, width / heads); // [B,T,H,D]
    const [q, k, v] = [split(this.q_proj), split(this.k_proj), split(this.v_proj)];
    const options = { scale: 1, ...(window === undefined ? {} : { window }) };
    return this.out_proj.forward(attend(pass, layer, q, k, v, options), { residual });
  }
}

class GPTNeoAttention extends Module {
  attention: GPTNeoSelfAttention;

  constructor(c: GPTNeoConfig, layer: number) {
    super();
    this.attention = new GPTNeoSelfAttention(c, layer);
  }
}

class GPTNeoMLP extends Module {
  c_fc: Linear;
  c_proj: Linear;
  readonly act: Act;

  constructor(c: GPTNeoConfig) {
    super();
    const inner = c.intermediate_size ?? 4 * c.hidden_size;
    this.c_fc = new Linear(c.hidden_size, inner, { bias: true });
    this.c_proj = new Linear(inner, c.hidden_size, { bias: true });
    this.act = c.activation_function;
  }

  forward(x: Tensor, residual: Tensor): Tensor {
    return this.c_proj.forward(this.c_fc.forward(x, { act: this.act }), { residual });
  }
}

class GPTNeoBlock extends Module {
  ln_1: LayerNorm;
  attn: GPTNeoAttention;
  ln_2: LayerNorm;
  mlp: GPTNeoMLP;

  constructor(c: GPTNeoConfig, layer: number) {
    super();
    this.ln_1 = new LayerNorm(c.hidden_size, c.layer_norm_epsilon);
    this.attn = new GPTNeoAttention(c, layer);
    this.ln_2 = new LayerNorm(c.hidden_size, c.layer_norm_epsilon);
    this.mlp = new GPTNeoMLP(c);
  }

  forward(x: Tensor, pass: Pass): Tensor {
    const h = scope(() => this.attn.attention.forward(this.ln_1.forward(x), x, pass));
    return this.mlp.forward(this.ln_2.forward(h), h);
  }
}

class GPTNeoModel extends Module {
  wte: Embedding;
  wpe: Embedding;
  h: GPTNeoBlock[];
  ln_f: LayerNorm;

  constructor(c: GPTNeoConfig) {
    super();
    this.wte = new Embedding(c.vocab_size, c.hidden_size);
    this.wpe = new Embedding(c.max_position_embeddings, c.hidden_size);
    this.h = Array.from({ length: c.num_layers }, (_, layer) => new GPTNeoBlock(c, layer));
    this.ln_f = new LayerNorm(c.hidden_size, c.layer_norm_epsilon);
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const words = add(this.wte.forward(ids), this.wpe.forward(pass.input.positions)); // [B,T,hidden]
      return this.ln_f.forward(runBlocks(this.h, words, pass, (block, x) => block.forward(x, pass)));
    });
  }
}

function gptNeoForCausalLM(c: GPTNeoConfig): DecoderForCausalLM {
  const base = new GPTNeoModel(c);
  return new DecoderForCausalLM({
    ...{ name: "GPTNeoForCausalLM", prefix: "transformer", base, layers: base.h, words: base.wte },
    tied: c.tie_word_embeddings,
    sizes: {
      heads: c.num_heads,
      groups: c.num_heads,
      head_dim: headSize(c.hidden_size, c.num_heads),
      hidden: c.hidden_size,
      max_positions: c.max_position_embeddings,
      windows: c.windows,
    },
  });
}

export const gptNeo: Architecture = {
  model_type: "gpt_neo",
  tasks: { "causal-lm": (json) => gptNeoForCausalLM(parse(json)) },
  names: [{ ignore: /\.attn\.attention\.(masked_)?bias$/ }, { prefix: "transformer." }],
};
