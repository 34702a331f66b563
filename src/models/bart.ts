// BART (Lewis et al. 2020) and mBART (Liu et al. 2020): an encoder-decoder of text with learned positions that begin at 2.

import * as z from "../core/schema.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { type BartConfig, type BartKind, BartModel, bartAs, bartFields, readBart } from "./_bart-model.js";
import { OffsetPositions } from "./_offset-positions.js";
import { answersOf, maskedOf, type ReadingStacks, readEnds, textJudgeOf } from "./_seq2seq-judges.js";

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

/** What the decoder of a judge reads before a text. */
type FirstOf = (c: BartConfig, decoder_start_token_id: number) => ReadingStacks["first"];

/** With judges of texts, and of where answers are. */
function withJudges(kind: BartKind, classes: string, firstOf: FirstOf): Architecture {
  const reading = (json: ConfigJson): ReadingStacks => {
    const c = readBart(json, kind);
    const model = new BartModel(c, kind);
    const { eos_token_id, decoder_start_token_id } = readEnds(json, { eos: 2, start: 2 });
    return {
      ...{
        classes,
        tree: model,
        words: model.encoder.embed_tokens,
        encoder: model.encoder,
        decoder: model.decoder,
        eos_token_id,
      },
      geometry: {
        layers: c.encoder_layers + c.decoder_layers,
        hidden: c.d_model,
        vocab: c.vocab_size,
        token_types: 0,
        max_positions: c.max_position_embeddings,
      },
      first: firstOf(c, decoder_start_token_id),
    };
  };
  const { tasks, ...generating } = bartAs(kind);
  return {
    ...generating,
    tasks: {
      ...tasks,
      "masked-lm": (json) =>
        maskedOf(reading(json), kind.class_name, "model", readBart(json, kind).tie_word_embeddings),
      "sequence-classification": (json) => textJudgeOf(reading(json), json, "model"),
      "question-answering": (json) => answersOf(reading(json), "model"),
    },
  };
}

export const bart: Architecture = withJudges(
  { ...shared, ...{ model_type: "bart", class_name: "BartForConditionalGeneration", norm_before: false } },
  "Bart",
  (_, start) => () => start,
);

export const mbart: Architecture = withJudges(
  { ...shared, ...{ model_type: "mbart", class_name: "MBartForConditionalGeneration", norm_before: true } },
  "MBart",
  // The text's language, which stands last: as transformers finds it, by the number of tokens that are no padding.
  ({ pad_token_id }) =>
    (text) =>
      text[Math.max(0, text.filter((id) => id !== pad_token_id).length - 1)]!,
);
