// Pegasus (Zhang et al. 2020), for summaries: BART's layers with the norms before each part, and sinusoids for positions.

import * as z from "../core/schema.js";
import type { Architecture } from "../nn/architecture.js";
import { type BartConfig, bartAs, bartFields, sinusoidFields } from "./_bart-model.js";
import { marianSinusoids } from "./_sinusoids.js";

export const pegasus: Architecture = bartAs({
  model_type: "pegasus",
  class_name: "PegasusForConditionalGeneration",
  schema: z.object({
    ...bartFields,
    pad_token_id: z.int().nullable().default(0),
    ...sinusoidFields(true),
  }),
  norm_before: true,
  norm_embedding: false,
  head_bias: true,
  positions: (c: BartConfig) => marianSinusoids(c.max_position_embeddings, c.d_model),
  ignore: /^model\.(encoder|decoder)\.(version|embed_positions\.weight)$/,
});
