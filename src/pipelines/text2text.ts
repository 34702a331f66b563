// text2text-generation, summarization and translation: texts that an encoder-decoder writes about others.

import { OptionError } from "../core/errors.js";
import { flag, type Options, omit, text } from "../core/options.js";
import type { GenerationOptions } from "../generate/config.js";
import { SEQ2SEQ_GENERATE } from "../generate/options.js";
import type { PreTrainedSeq2SeqLM } from "../generate/seq2seq-model.js";
import type { ConfigJson } from "../nn/architecture.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { taskParameters, withDefaults } from "./generation-defaults.js";
import { asText, forBatch, inBatches, isText, type Kind, kind, listed, type Parts, TOKENIZER_CALL } from "./kinds.js";

/** What transformers' pipelines set if nothing else does. */
const USUAL: GenerationOptions = { max_new_tokens: 256, num_beams: 4 };

const OWN = {
  /** Token ids instead of text. */
  return_tensors: flag(),
  clean_up_tokenization_spaces: flag(),
  truncation: TOKENIZER_CALL.truncation,
  /** Of translators between many languages: the language of the texts, and the one that is written, as the tokenizer names them. */
  src_lang: text(),
  tgt_lang: text(),
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

/**
 * The languages of a translation, said by the caller or by the task ("translation_en_to_fr").
 * @throws OptionError if the tokenizer needs them and has none, or says no language and is given one
 */
function languagesOf(
  tokenizer: PreTrainedTokenizer,
  { src_lang, tgt_lang }: Pick<Text2TextOptions, "src_lang" | "tgt_lang">,
  task: string,
): { from: string; to: number } | undefined {
  if (tokenizer.src_lang === null) {
    if (src_lang === undefined && tgt_lang === undefined) return undefined;
    throw new OptionError("src_lang and tgt_lang are for tokenizers that say the language; this one does not", {
      details: { option: src_lang === undefined ? "tgt_lang" : "src_lang" },
    });
  }
  if (!task.startsWith("translation")) return undefined;
  const items = task.split("_");
  const named = src_lang === undefined && tgt_lang === undefined && items.length === 4;
  const [from, to] = named ? [items[1], items[3]] : [src_lang, tgt_lang];
  if (from !== undefined && to !== undefined) return { from, to: tokenizer.get_lang_id(to) };
  throw new OptionError("Translation requires a `src_lang` and a `tgt_lang` for this model", {
    details: { option: from === undefined ? "src_lang" : "tgt_lang" },
  });
}

/** Ids of texts in a language, which the tokenizer says beside them for this call. */
function inLanguage<T>(tokenizer: PreTrainedTokenizer, language: string | undefined, encode: () => T): T {
  const before = tokenizer.src_lang;
  if (language === undefined || before === null) return encode();
  tokenizer.src_lang = language;
  try {
    return encode();
  } finally {
    tokenizer.src_lang = before;
  }
}

/** @param of the task whose `task_specific_params` the model's config may have */
export function text2text(task: keyof typeof RESULTS, of: string = task): Kind {
  const name = RESULTS[task];
  return kind({
    models: ["seq2seq-lm"],
    needs: ["tokenizer"],
    calls: WRITE,
    async run({ model, tokenizer, batch_size }: Parts<PreTrainedSeq2SeqLM>, inputs, options: Text2TextOptions) {
      const { return_tensors, clean_up_tokenization_spaces, truncation, src_lang, tgt_lang, ...given } = options;
      const languages = languagesOf(tokenizer, { src_lang, tgt_lang }, of);
      const generation = languages ? { ...given, forced_bos_token_id: languages.to } : given;
      const { items, many } = listed(inputs, asText, "a text");
      const own = taskParameters(model.config, namedIn(model.config, of));
      const prefix = isText(own.prefix) ? own.prefix : isText(model.config.prefix) ? model.config.prefix : "";
      const found = await inBatches(
        items,
        batch_size,
        (one) => one.length,
        async (batch, numbers) => {
          const { input_ids, attention_mask } = inLanguage(tokenizer, languages?.from, () =>
            tokenizer(
              batch.map((one) => prefix + one),
              { padding: true, truncation },
            ),
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
