// What LLaMA (Touvron et al. 2023) and its descendants share: RMSNorm before each part, rotary positions, grouped
// key-value heads. Their layers differ after attention; what else differs are traits.

import type { Device } from "../core/device.js";
import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { ConfigJson } from "../nn/architecture.js";
import { type AttendOptions, attend } from "../nn/attend.js";
import { DecoderForCausalLM } from "../nn/decoder.js";
import type { EvenUse } from "../nn/even-use.js";
import { Embedding, Linear, Module } from "../nn/module.js";
import { RMSNorm } from "../nn/norm.js";
import { type Pass, runBlocks } from "../nn/pass.js";
import { type RopeFrequencies, ropeFields, ropeFrequencies } from "../nn/rope.js";
import { Rotary } from "../nn/rotary.js";
import type { Act } from "../ops/activation.js";
import { gated } from "../ops/gated.js";
import { rope } from "../ops/rope.js";
import { scale } from "../ops/scale.js";
import { count, epsilon, headSize } from "./_config.js";
import { decoderFields, decoderNames, groupsOf } from "./_decoder.js";

/** Fields of config.json that they share. */
export const llamaFields = {
  ...decoderFields,
  max_position_embeddings: count.default(2048),
  rms_norm_eps: epsilon.default(1e-6),
  attention_bias: z.boolean().default(false),
};

export { decoderNames as llamaNames };

/** A bias that files of an architecture name and never have. */
export const never: z.Schema<boolean> = z.literal(false).default(false);

const shared = z.object(llamaFields);
type Fields = z.infer<typeof shared>;

/** How descendants differ; the defaults are LLaMA's. */
export interface LlamaTraits {
  /** Keys that layer `layer` sees, itself included; undefined for all. */
  readonly window?: (layer: number) => number | undefined;
  /** Whether layer `layer` rotates queries and keys, by the second set of frequencies ("local") or the first. */
  readonly turns?: (layer: number) => "not" | "local" | "global";
  /** Neighbouring dims rotate together, not those of the two halves. */
  readonly interleaved?: boolean;
  /** Factor on scores; 1 / sqrt(head_dim). */
  readonly scale?: number;
  /** Soft cap of scores. */
  readonly softcap?: number;
  /** Biases of q_proj, k_proj and v_proj; those of `attention_bias`, which o_proj has too. */
  readonly qkv_bias?: boolean;
  /** RMSNorm of each head of queries and keys. */
  readonly head_norms?: boolean;
  /** 1 where norms store weight - 1. */
  readonly norm_offset?: number;
  /** Factor on embeddings, as it is or rounded to their dtype. */
  readonly embedding_scale?: { readonly factor: number; readonly rounded: boolean };
  /** Factor on logits, and their soft cap. */
  readonly logit_scale?: number;
  readonly logit_softcap?: number;
  /** The frequencies of "local" layers. */
  readonly local_rope?: RopeFrequencies;
}

/** The fields with the values derived from them. */
export type LlamaConfig<F extends Fields = Fields> = F & {
  readonly head_dim: number;
  readonly num_key_value_heads: number;
  readonly rope: RopeFrequencies;
  readonly traits: LlamaTraits;
};

/**
 * @param rotation the frequencies of heads of `head_dim`; by default what config.json says, for all dims
 * @throws ConfigError for inconsistent sizes
 */
export function resolveLlama<F extends Fields>(
  fields: F,
  json: ConfigJson,
  traits: LlamaTraits = {},
  rotation: (head_dim: number) => RopeFrequencies = (dim) => ropeFrequencies({ ...ropeFields(json), dim }),
): LlamaConfig<F> {
  const heads = fields.num_attention_heads;
  const groups = groupsOf(heads, fields.num_key_value_heads);
  const head_dim = fields.head_dim ?? headSize(fields.hidden_size, heads);
  if (head_dim % 2 !== 0) {
    throw new ConfigError(`config.json: rotary positions need an even head_dim, got ${head_dim}`, {
      hint: CONFIG_HINT,
    });
  }
  return { ...fields, head_dim, num_key_value_heads: groups, rope: rotation(head_dim), traits };
}

/** Queries, keys and values of a layer: [B,T,H,D], and twice [B,T,G,D]. */
type Heads = readonly [q: Tensor, k: Tensor, v: Tensor];

/** Attention with rotary positions; descendants differ in their projections. */
export abstract class RotaryAttention extends Module {
  abstract o_proj: Linear;
  readonly layer: number;
  readonly head_dim: number;
  readonly options: AttendOptions;
  readonly interleaved: boolean;

  constructor(c: LlamaConfig, layer: number) {
    super();
    const { scale = c.head_dim ** -0.5, softcap, window, interleaved = false } = c.traits;
    this.interleaved = interleaved;
    this.layer = layer;
    this.head_dim = c.head_dim;
    this.options = { scale, softcap, window: window?.(layer) };
  }

  /** Queries and keys before their rotation, and values, of x[B,T,hidden]. */
  abstract project(x: Tensor): Heads;

  /** `options`, with what is known only once there are values. */
  attending(): AttendOptions {
    return this.options;
  }

  /** x[B,T,hidden], of which it sees `norm(x)` -> [B,T,hidden], plus `residual`. Without a table nothing is rotated. */
  forward(x: Tensor, norm: RMSNorm, residual: Tensor | undefined, pass: Pass, table: Tensor | undefined): Tensor {
    const turned = (heads: Tensor): Tensor => (table ? rope(heads, table, this.interleaved) : heads);
    const [q, k, v] = pass.again(x, (h): Heads => {
      const [queries, keys, values] = this.project(norm.forward(h));
      return [turned(queries), turned(keys), values];
    });
    const y = attend(pass, this.layer, q, k, v, this.attending()); // [B,T,H*D]
    return this.o_proj.forward(y, residual ? { residual } : {});
  }
}

export class LlamaAttention extends RotaryAttention {
  q_proj: Linear;
  k_proj: Linear;
  v_proj: Linear;
  o_proj: Linear;
  q_norm: RMSNorm | undefined;
  k_norm: RMSNorm | undefined;

  constructor(c: LlamaConfig, layer: number) {
    super(c, layer);
    const width = c.num_attention_heads * c.head_dim;
    const shared = c.num_key_value_heads * c.head_dim;
    const { qkv_bias: bias = c.attention_bias, head_norms, norm_offset } = c.traits;
    const norm = (): RMSNorm | undefined =>
      head_norms ? new RMSNorm(c.head_dim, c.rms_norm_eps, norm_offset) : undefined;
    this.q_proj = new Linear(c.hidden_size, width, { bias });
    this.k_proj = new Linear(c.hidden_size, shared, { bias });
    this.v_proj = new Linear(c.hidden_size, shared, { bias });
    this.o_proj = new Linear(width, c.hidden_size, { bias: c.attention_bias });
    this.q_norm = norm();
    this.k_norm = norm();
  }

  project(x: Tensor): Heads {
    const [batch = 0, steps = 0] = x.shape;
    const heads = (projection: Linear): Tensor => projection.forward(x).view(batch, steps, -1, this.head_dim);
    const [q, k, v] = [heads(this.q_proj), heads(this.k_proj), heads(this.v_proj)];
    return [this.q_norm?.forward(q) ?? q, this.k_norm?.forward(k) ?? k, v];
  }
}

/** A layer as the model runs it. */
export abstract class DecoderLayer extends Module {
  /** Which frequencies its positions have. */
  readonly turns: "not" | "local" | "global";

  constructor(c: LlamaConfig, layer: number) {
    super();
    this.turns = c.traits.turns?.(layer) ?? "global";
  }

  abstract forward(x: Tensor, pass: Pass, table: Tensor | undefined): Tensor;
}

/** A layer: attention, then the part that differs between descendants. */
export abstract class LlamaLayer extends DecoderLayer {
  /** Features inside the second half. */
  readonly width: number;
  self_attn: RotaryAttention;
  input_layernorm: RMSNorm;
  post_attention_layernorm: RMSNorm;

  constructor(c: LlamaConfig, layer: number, attention: RotaryAttention = new LlamaAttention(c, layer)) {
    super(c, layer);
    this.width = c.intermediate_size;
    this.self_attn = attention;
    const { norm_offset } = c.traits;
    this.input_layernorm = new RMSNorm(c.hidden_size, c.rms_norm_eps, norm_offset);
    this.post_attention_layernorm = new RMSNorm(c.hidden_size, c.rms_norm_eps, norm_offset);
  }

  /** The second half, for x[B,T,hidden] after its norm; `residual` is added. Each token's result depends on that token alone. */
  abstract feedForward(x: Tensor, residual: Tensor): Tensor;

  /** The scores of its experts for x[B,T,hidden] after the norm; undefined for a layer without. */
  routerLogits(_x: Tensor): Tensor | undefined {
    return undefined;
  }

  forward(x: Tensor, pass: Pass, table: Tensor | undefined): Tensor {
    const h = scope(() => this.self_attn.forward(x, this.input_layernorm, x, pass, table));
    if (pass.captures_routers) this.#captureRouter(h, pass);
    return pass.byRows(h, this.width, (rows) => this.feedForward(this.post_attention_layernorm.forward(rows), rows));
  }

  /** Beside the feed-forward, which is computed again by pieces of rows: its scores cost little. */
  #captureRouter(h: Tensor, pass: Pass): void {
    const scores = scope(() => this.routerLogits(this.post_attention_layernorm.forward(h)));
    if (scores) pass.capture_router(scores);
  }
}

/** down(act(gate(x)) * up(x)), of `width` inner features. */
export class LlamaMLP extends Module {
  gate_proj: Linear;
  up_proj: Linear;
  down_proj: Linear;
  readonly act: Act;

  constructor(c: LlamaConfig, bias = false, width = c.intermediate_size) {
    super();
    this.gate_proj = new Linear(c.hidden_size, width, { bias });
    this.up_proj = new Linear(c.hidden_size, width, { bias });
    this.down_proj = new Linear(width, c.hidden_size, { bias });
    this.act = c.hidden_act;
  }

  forward(x: Tensor, residual?: Tensor): Tensor {
    const inner = gated(this.gate_proj.forward(x), this.up_proj.forward(x), this.act);
    return this.down_proj.forward(inner, residual ? { residual } : {});
  }
}

/** The layer of LLaMA itself. */
export class LlamaDecoderLayer extends LlamaLayer {
  mlp: LlamaMLP;

  constructor(c: LlamaConfig, layer: number, mlp_bias = false) {
    super(c, layer);
    this.mlp = new LlamaMLP(c, mlp_bias);
  }

  feedForward(x: Tensor, residual: Tensor): Tensor {
    return this.mlp.forward(x, residual);
  }
}

/** Makes layer number `layer`. */
type MakeLayer = (layer: number) => DecoderLayer;

class LlamaModel extends Module {
  embed_tokens: Embedding;
  layers: DecoderLayer[];
  norm: RMSNorm;
  readonly rotary: Rotary;
  readonly local_rotary: Rotary | undefined;
  readonly embedding_scale: LlamaTraits["embedding_scale"];

  constructor(c: LlamaConfig, layer: MakeLayer) {
    super();
    const { norm_offset, local_rope, embedding_scale } = c.traits;
    this.embed_tokens = new Embedding(c.vocab_size, c.hidden_size);
    this.layers = Array.from({ length: c.num_hidden_layers }, (_, i) => layer(i));
    this.norm = new RMSNorm(c.hidden_size, c.rms_norm_eps, norm_offset);
    this.rotary = new Rotary(c.rope);
    this.local_rotary = local_rope && new Rotary(local_rope);
    this.embedding_scale = embedding_scale;
  }

  #table(layer: DecoderLayer, pass: Pass, device: Device): Tensor | undefined {
    if (layer.turns === "not") return undefined;
    const rotary = layer.turns === "local" ? this.local_rotary! : this.rotary;
    return rotary.table(pass, device); // [B,T,2,R]
  }

  #embedded(ids: Tensor): Tensor {
    const words = this.embed_tokens.forward(ids);
    if (!this.embedding_scale) return words;
    const { factor, rounded } = this.embedding_scale;
    return scale(words, rounded ? this.norm.weight.rounded(factor) : factor);
  }

  forward(pass: Pass, ids: Tensor): Tensor {
    return scope(() => {
      const h = runBlocks(this.layers, this.#embedded(ids), pass, (layer, x) =>
        layer.forward(x, pass, this.#table(layer, pass, x.device)),
      );
      return this.norm.forward(h);
    });
  }
}

/** @param name of the class in transformers */
export function llamaForCausalLM(
  name: string,
  c: LlamaConfig,
  layer: MakeLayer,
  experts?: EvenUse,
): DecoderForCausalLM {
  const base = new LlamaModel(c, layer);
  const { logit_scale = 1, logit_softcap = 0 } = c.traits;
  const scaled = logit_scale !== 1 || logit_softcap !== 0;
  return new DecoderForCausalLM({
    name,
    prefix: "model",
    base,
    layers: base.layers,
    words: base.embed_tokens,
    tied: c.tie_word_embeddings,
    ...(experts && { even_use: experts }),
    ...(scaled ? { finish: (scores: Tensor) => scale(scores, logit_scale, logit_softcap) } : {}),
    sizes: {
      heads: c.num_attention_heads,
      groups: c.num_key_value_heads,
      head_dim: c.head_dim,
      hidden: c.hidden_size,
      max_positions: Number.POSITIVE_INFINITY,
      windows: base.layers.map((_, index) => c.traits.window?.(index)),
      ...(experts && { experts_per_token: experts.each }),
    },
  });
}
