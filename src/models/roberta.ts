// RoBERTa (Liu et al. 2019), and XLM-RoBERTa and CamemBERT, which differ from it in their vocabulary: BERT's layers, with
// positions that count the tokens that are no padding, from the id of padding + 1.

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import type { Architecture, ConfigJson } from "../nn/architecture.js";
import { EncoderForTask } from "../nn/encoder.js";
import { type BertConfig, BertModel, bertFields, featuresOf, questionAnsweringOf, tokenClassifierOf } from "./_bert.js";
import { labelCount, readConfig } from "./_config.js";
import { ClassificationHead, GeluScoresHead } from "./_roberta.js";

const schema = z.object({ ...bertFields, pad_token_id: z.int().min(0).nullable().default(1) });

function baseOf(json: ConfigJson, pooler: boolean): { c: BertConfig; base: BertModel } {
  const c = readConfig(json, schema);
  const padding = c.pad_token_id ?? 1;
  if (padding + 1 >= c.max_position_embeddings) {
    throw new ConfigError(
      `config.json: positions count from pad_token_id + 1, and ${c.max_position_embeddings} are too few for ${padding}`,
      { hint: CONFIG_HINT },
    );
  }
  return { c, base: new BertModel(c, pooler, padding) };
}

/** The architecture under one of its model types; `classes` is how transformers names its classes. */
function robertaAs(model_type: string, classes: string): Architecture {
  const names = { classes, prefix: "roberta" };
  return {
    model_type,
    tasks: {
      base: (json) => featuresOf(names, baseOf(json, true).base),
      "masked-lm": (json) => {
        const { c, base } = baseOf(json, false);
        const lm_head = new GeluScoresHead(c, base);
        return new EncoderForTask({
          ...{ name: `${classes}ForMaskedLM`, prefix: names.prefix, base, heads: { lm_head } },
          unquantized: ["lm_head"],
          output_embeddings: lm_head.decoder,
          per_token: true,
          outputs: (hidden) => ({ logits: lm_head.forward(hidden) }),
        });
      },
      "sequence-classification": (json) => {
        const { c, base } = baseOf(json, false);
        const classifier = new ClassificationHead(c, labelCount(json), "tanh");
        return new EncoderForTask({
          ...{ name: `${classes}ForSequenceClassification`, prefix: names.prefix, base, heads: { classifier } },
          unquantized: ["classifier.out_proj"],
          outputs: (hidden) => ({ logits: classifier.forward(hidden) }),
        });
      },
      "token-classification": (json) => tokenClassifierOf(names, baseOf(json, false).base, json),
      "question-answering": (json) => questionAnsweringOf(names, baseOf(json, false).base),
    },
    names: [
      { ignore: /\.position_ids$/ },
      { rename: /LayerNorm\.gamma$/, to: "LayerNorm.weight" },
      { rename: /LayerNorm\.beta$/, to: "LayerNorm.bias" },
      { prefix: "roberta." },
    ],
  };
}

export const roberta: Architecture = robertaAs("roberta", "Roberta");
export const xlmRoberta: Architecture = robertaAs("xlm-roberta", "XLMRoberta");
export const camembert: Architecture = robertaAs("camembert", "Camembert");
