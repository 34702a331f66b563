// Falcon (Almazrouei et al. 2023) in its styles: one key-value head for all queries (7B), groups of heads with two norms or
// one (40B, 180B, Falcon 2), and ALiBi with the parts of a layer one after the other (RW). Old files say RefinedWeb.

import * as z from "zod";
import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import { scope, type Tensor } from "../core/tensor.js";
import { alibiSlopes } from "../nn/alibi.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { attend } from "../nn/attend.js";
import { CausalLM, type DecoderGeometry } from "../nn/decoder.js";
import { Embedding, Linear, Module } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { type RopeFrequencies, ropeFields, ropeFrequencies } from "../nn/rope.js";
import { Rotary } from "../nn/rotary.js";
import { RoundedAlibi } from "../nn/rounded-alibi.js";
import type { Act } from "../ops/activation.js";
import { contiguous } from "../ops/copy.js";
import { rope } from "../ops/rope.js";
import { activationName, count, epsilon, headSize, readConfig } from "./_config.js";

const schema = z.object({
  vocab_size: count,
  hidden_size: count,
  num_hidden_layers: count.max(1024),
  num_attention_heads: count,
  num_kv_heads: count.nullish(),
  ffn_hidden_size: count.nullish(),
  activation: activationName.default("gelu"),
  layer_norm_epsilon: epsilon.default(1e-5),
  new_decoder_architecture: z.boolean().optional(),
  multi_query: z.boolean().default(true),
  parallel_attn: z.boolean().default(true),
  num_ln_in_parallel_attn: count.max(2).nullish(),
  alibi: z.boolean().default(false),
  bias: z.boolean().default(false),
  attn_implementation: z.string().nullish(),
  apply_residual_connection_post_layernorm: z.literal(false).default(false),
  tie_word_embeddings: z.boolean().default(true),
});

const ALIASES = {
  hidden_size: ["n_embed"],
  num_hidden_layers: ["n_layer"],
  num_attention_heads: ["n_head"],
  num_kv_heads: ["n_head_kv"],
  attn_implementation: ["_attn_implementation"],
};

interface FalconConfig extends z.infer<typeof schema> {
  readonly head_dim: number;
  /** Key-value heads. */
  readonly groups: number;
  /** The rows of the fused projection: [H, 3, D], all queries before one k and one v, or the queries of each group before its. */
  readonly rows: "heads" | "shared" | "groups";
  readonly norms: 1 | 2;
  readonly rope: RopeFrequencies | undefined;
  /**
   * How often ALiBi is added to the scores. transformers' "eager" attention, the one that defines the others, adds it twice; its
   * "sdpa" once, as does the code beside the first files.
   */
  readonly weighed: 1 | 2;
}

/** What a user is told of a model whose attention was not chosen. */
const WEIGHED_TWICE =
  'ALiBi is added twice, as with attn_implementation "eager" in transformers; pass attn_implementation: "sdpa" to add it once, ' +
  "as transformers does by default";

function refuse(problem: string): never {
  throw new ConfigError(`config.json of a Falcon model: ${problem}`, { hint: CONFIG_HINT });
}

/** @throws ConfigError for combinations that transformers' class cannot run either */
function parse(json: ConfigJson): FalconConfig {
  const fields = readConfig(json, schema, ALIASES);
  // The code beside the first files had a class for each layout; the larger models' is called RefinedWeb.
  const grouped = fields.new_decoder_architecture ?? json.model_type === "RefinedWeb";
  const old = json.model_type !== "falcon";
  const heads = fields.num_attention_heads;
  const head_dim = headSize(fields.hidden_size, heads);
  const given = fields.num_kv_heads ?? heads;
  const rows = grouped ? "groups" : fields.multi_query ? "shared" : "heads";
  const groups = rows === "shared" ? 1 : given;
  if (heads % groups !== 0) refuse(`${heads} attention heads cannot share ${groups} key-value heads`);
  if (rows === "heads" && groups !== heads) refuse(`num_kv_heads ${groups} needs new_decoder_architecture`);
  if (grouped && !fields.parallel_attn) refuse("new_decoder_architecture needs parallel_attn");
  const norms = fields.num_ln_in_parallel_attn ?? (grouped ? 2 : 1);
  if (norms === 2 && !grouped) refuse("num_ln_in_parallel_attn 2 needs new_decoder_architecture");
  if (!fields.alibi && head_dim % 2 !== 0) refuse(`rotary positions need an even head size, got ${head_dim}`);
  // Files with ALiBi say something about rotary positions, too.
  const frequencies = ropeFrequencies({ ...ropeFields(json), dim: head_dim });
  return {
    ...fields,
    head_dim,
    groups,
    rows,
    norms: norms === 2 ? 2 : 1,
    rope: fields.alibi ? undefined : frequencies,
    weighed: fields.attn_implementation ? (fields.attn_implementation === "eager" ? 2 : 1) : old ? 1 : 2,
  };
}

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

class FalconForCausalLM extends CausalLM {
  transformer: FalconModel;
  lm_head: Linear;
  readonly geometry: DecoderGeometry;
  override readonly notes: readonly string[];

  constructor(c: FalconConfig) {
    super();
    this.notes = c.alibi && c.weighed === 2 && !c.attn_implementation ? [WEIGHED_TWICE] : [];
    this.transformer = new FalconModel(c);
    this.lm_head = new Linear(c.hidden_size, c.vocab_size);
    if (c.tie_word_embeddings) this.lm_head.tie(this.transformer.word_embeddings.weight);
    const { alibi } = this.transformer;
    this.geometry = {
      layers: c.num_hidden_layers,
      heads: c.num_attention_heads,
      groups: c.groups,
      head_dim: c.head_dim,
      ...(alibi ? { key_dim: c.head_dim + alibi.dims } : {}),
      hidden: c.hidden_size,
      vocab: c.vocab_size,
      max_positions: Number.POSITIVE_INFINITY,
    };
  }

  get blocks(): readonly (readonly Module[])[] {
    return [this.transformer.h];
  }

  override output_embeddings(): Linear {
    return this.lm_head;
  }

  hidden(pass: Pass, ids: Tensor): Tensor {
    return this.transformer.forward(pass, ids);
  }

  head(hidden: Tensor): Tensor {
    return this.lm_head.forward(hidden);
  }
}

export const falcon: Architecture = {
  model_type: "falcon",
  tasks: { "causal-lm": (json) => new FalconForCausalLM(parse(json)).name_tree() },
  names: [{ ignore: /\.(maybe_rotary|rotary_emb)\.inv_freq$/ }, { prefix: "transformer." }],
};
