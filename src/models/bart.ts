// BART (Lewis et al. 2020) and mBART (Liu et al. 2020): an encoder-decoder of text with learned positions that begin at 2.

import * as z from "zod";
import type { Architecture } from "../nn/architecture.js";
import { BartForSequenceClassification } from "./_bart-classifier.js";
import { type BartConfig, type BartKind, bartAs, bartFields } from "./_bart-model.js";
import { OffsetPositions } from "./_offset-positions.js";

const shared = {
  schema: z.object({
    ...bartFields,
    // Of files from before there was a class for each; all others are BART and mBART as they are.
    normalize_embedding: z.literal(true).default(true),
    static_position_embeddings: z.literal(false).default(false),
    extra_pos_embeddings: z.literal(2).default(2),
  }),
  norm_embedding: true,
  head_bias: true,
  positions: (c: BartConfig) => new OffsetPositions(c.max_position_embeddings, c.d_model),
  ignore: /^model\.(encoder|decoder)\.version$/,
};

const kind: BartKind = {
  ...shared,
  ...{ model_type: "bart", class_name: "BartForConditionalGeneration", norm_before: false },
};
const generating = bartAs(kind);
export const bart: Architecture = {
  ...generating,
  tasks: {
    ...generating.tasks,
    "sequence-classification": (json) => new BartForSequenceClassification(json, kind).name_tree(),
  },
};
export const mbart: Architecture = bartAs({
  ...shared,
  ...{ model_type: "mbart", class_name: "MBartForConditionalGeneration", norm_before: true },
});
