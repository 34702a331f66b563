// Blenderbot (Roller et al. 2020), which chats: BART's layers with the norms before each part, and positions that begin at 0.

import * as z from "../core/schema.js";
import type { Architecture } from "../nn/architecture.js";
import { Embedding } from "../nn/module.js";
import { type BartConfig, bartAs, bartFields } from "./_bart-model.js";
import { count } from "./_config.js";

export const blenderbot: Architecture = bartAs({
  model_type: "blenderbot",
  class_name: "BlenderbotForConditionalGeneration",
  schema: z.object({
    ...bartFields,
    max_position_embeddings: count.default(128),
    pad_token_id: z.int().nullable().default(0),
    // What early files say of their class: what it is.
    normalize_before: z.literal(true).default(true),
    normalize_embedding: z.literal(false).default(false),
    add_final_layer_norm: z.literal(true).default(true),
    static_position_embeddings: z.literal(false).default(false),
    extra_pos_embeddings: z.literal(0).default(0),
    layernorm_variant: z.literal("prelayernorm").default("prelayernorm"),
  }),
  norm_before: true,
  norm_embedding: false,
  head_bias: true,
  positions: (c: BartConfig) => new Embedding(c.max_position_embeddings, c.d_model),
  ignore: /^model\.(encoder|decoder)\.version$/,
});
