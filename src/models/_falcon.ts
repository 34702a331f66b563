// The config of Falcon in its styles.

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import type { ConfigJson } from "../nn/architecture.js";
import { type RopeFrequencies, ropeFields, ropeFrequencies } from "../nn/rope.js";
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

export interface FalconConfig extends z.infer<typeof schema> {
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
export const WEIGHED_TWICE =
  'ALiBi is added twice, as with attn_implementation "eager" in transformers; pass attn_implementation: "sdpa" to add it once, ' +
  "as transformers does by default";

function refuse(problem: string): never {
  throw new ConfigError(`config.json of a Falcon model: ${problem}`, { hint: CONFIG_HINT });
}

/** @throws ConfigError for combinations that transformers' class cannot run either */
export function parse(json: ConfigJson): FalconConfig {
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
