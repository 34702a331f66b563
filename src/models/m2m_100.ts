// M2M-100 (Fan et al. 2020) and NLLB (Costa-jussa et al. 2022), translators between many languages: BART's layers with the norms before
// each part, and sinusoids for the places of the tokens that are no padding.

import * as z from "../core/schema.js";
import type { Architecture } from "../nn/architecture.js";
import { type BartConfig, bartAs, bartFields, sinusoidFields } from "./_bart-model.js";
import { activationName } from "./_config.js";
import { fairseqSinusoids } from "./_sinusoids.js";

export const m2m_100: Architecture = bartAs({
  model_type: "m2m_100",
  class_name: "M2M100ForConditionalGeneration",
  schema: z.object({
    ...bartFields,
    activation_function: activationName.default("relu"),
    scale_embedding: z.boolean().default(true),
    pad_token_id: z.int().min(0).max(1024).default(1),
    ...sinusoidFields(true),
  }),
  norm_before: true,
  norm_embedding: false,
  head_bias: false,
  positions: (c: BartConfig) => fairseqSinusoids(c.max_position_embeddings, c.d_model, c.pad_token_id ?? 1),
  counts_tokens: true,
  ignore: /^model\.(encoder|decoder)\.(version|embed_positions\.weights?)$/,
});
