// text2text-generation, summarization and translation: texts that an encoder-decoder writes about others.

import { flag, type Options, omit } from "../core/options.js";
import type { GenerationOptions } from "../generate/config.js";
import { SEQ2SEQ_GENERATE } from "../generate/options.js";
import type { PreTrainedSeq2SeqLM } from "../generate/seq2seq-model.js";
import type { ConfigJson } from "../nn/architecture.js";
import { taskParameters, withDefaults } from "./generation-defaults.js";
import { asText, forBatch, inBatches, isText, type Kind, kind, listed, type Parts, TOKENIZER_CALL } from "./kinds.js";

/** What transformers' pipelines set if nothing else does. */
const USUAL: GenerationOptions = { max_new_tokens: 256, num_beams: 4 };

const OWN = {
  /** Token ids instead of text. */
  return_tensors: flag(),
  clean_up_tokenization_spaces: flag(),
  truncation: TOKENIZER_CALL.truncation,
};
const WRITE = {
  ...omit(SEQ2SEQ_GENERATE, [
    ...(["input_ids", "attention_mask", "token_type_ids", "decoder_input_ids", "tokenizer", "use_cache"] as const),
    ...(["return_dict_in_generate", "output_scores", "output_logits", "logprobs", "streamer"] as const),
  ]),
  ...OWN,
};
export interface Text2TextOptions extends Options<typeof WRITE> {}

/** The names of results, by the task. */
const RESULTS = {
  "text2text-generation": "generated",
  summarization: "summary",
  translation: "translation",
} as const;

/** A task of the model's config: of "translation" without languages the first translation that the config names, as in Python. */
function namedIn({ task_specific_params: all }: ConfigJson, task: string): string {
  if (task !== "translation" || typeof all !== "object" || all === null) return task;
  return Object.keys(all).find((name) => name.startsWith("translation")) ?? task;
}

/** @param of the task whose `task_specific_params` the model's config may have */
export function text2text(task: keyof typeof RESULTS, of: string = task): Kind {
  const name = RESULTS[task];
  return kind({
    models: ["seq2seq-lm"],
    needs: ["tokenizer"],
    calls: WRITE,
    async run({ model, tokenizer, batch_size }: Parts<PreTrainedSeq2SeqLM>, inputs, options: Text2TextOptions) {
      const { return_tensors, clean_up_tokenization_spaces, truncation, ...generation } = options;
      const { items, many } = listed(inputs, asText, "a text");
      const own = taskParameters(model.config, namedIn(model.config, of));
      const prefix = isText(own.prefix) ? own.prefix : isText(model.config.prefix) ? model.config.prefix : "";
      const found = await inBatches(
        items,
        batch_size,
        (one) => one.length,
        async (batch, numbers) => {
          const { input_ids, attention_mask } = tokenizer(
            batch.map((one) => prefix + one),
            { padding: true, truncation },
          );
          const room = model.module.geometry.max_positions - 1;
          const wanted = withDefaults(model, generation, USUAL, own, room);
          const texts = await model.generate({ input_ids, attention_mask, ...forBatch(wanted, numbers), tokenizer });
          const each = texts.length / batch.length;
          return batch.map((_, row) =>
            texts.slice(row * each, (row + 1) * each).map((ids) =>
              return_tensors
                ? { [`${name}_token_ids`]: ids }
                : {
                    [`${name}_text`]: tokenizer.decode(ids, {
                      skip_special_tokens: true,
                      clean_up_tokenization_spaces,
                    }),
                  },
            ),
          );
        },
      );
      if (!many) return found[0];
      // As in Python: one text for each of a list is given by itself.
      return found.every(({ length }) => length === 1) ? found.map(([first]) => first) : found;
    },
  });
}
