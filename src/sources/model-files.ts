// The small files of a model's folder, beside config.json and the weights.

/** Files of tokenizers, chat templates, processors, generation and sentence embeddings, by their names in published folders. */
export const MODEL_FILES: readonly string[] = [
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "vocab.txt",
  "merges.txt",
  "normalizer.json",
  "tokenizer.model",
  "spiece.model",
  "sentencepiece.bpe.model",
  "sentencepiece.model",
  "spm.model",
  "chat_template.jinja",
  "chat_template.json",
  "preprocessor_config.json",
  "processor_config.json",
  "modules.json",
  "sentence_bert_config.json",
  "config_sentence_transformers.json",
  "1_Pooling/config.json",
];
