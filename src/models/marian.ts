// Marian (Junczys-Dowmunt et al. 2018), the translators of OPUS-MT: BART's layers with sinusoids for positions, and no norm of the
// embeddings.

import * as z from "../core/schema.js";
import type { Architecture } from "../nn/architecture.js";
import { type BartConfig, bartAs, bartFields, sinusoidFields } from "./_bart-model.js";
import { count, readConfig } from "./_config.js";
import { marianSinusoids } from "./_sinusoids.js";

/** Where each stack has its own table, the decoder's may be of another size. */
const two = z.object({
  share_encoder_decoder_embeddings: z.boolean().default(true),
  decoder_vocab_size: count.nullish(),
  vocab_size: count,
});

export const marian: Architecture = bartAs({
  model_type: "marian",
  class_name: "MarianMTModel",
  schema: z.object({
    ...bartFields,
    pad_token_id: z.int().nullable().default(58_100),
    ...sinusoidFields(false),
  }),
  target_vocab: (json) => {
    const { share_encoder_decoder_embeddings: shared, decoder_vocab_size, vocab_size } = readConfig(json, two);
    return shared ? undefined : (decoder_vocab_size ?? vocab_size);
  },
  norm_before: false,
  norm_embedding: false,
  head_bias: true,
  positions: (c: BartConfig) => marianSinusoids(c.max_position_embeddings, c.d_model),
  ignore: /^model\.(encoder|decoder)\.(version|embed_positions\.weight)$/,
});
