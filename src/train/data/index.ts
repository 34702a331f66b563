// What goes into training, as `octavo/train` exports it.

export type { PaddingOptions } from "./collator-options.js";
export type { CompletionCollatorOptions, Seq2SeqCollatorOptions, TokenClassificationOptions } from "./collators.js";
export {
  DataCollatorForCompletionOnlyLM,
  DataCollatorForPackedTexts,
  DataCollatorForSeq2Seq,
  DataCollatorForTokenClassification,
  DataCollatorWithPadding,
} from "./collators.js";
export type { ColumnType } from "./csv.js";
export { type Columns, Dataset, type MapOptions, type SplitOptions } from "./dataset.js";
export type { DataFile } from "./files.js";
export { IterableDataset, type StreamShuffleOptions } from "./iterable-dataset.js";
export { DataCollatorForLanguageModeling, type LanguageModelingOptions } from "./language-modeling.js";
export type { DataFiles, LoadDataset, LoadDatasetOptions, Loaded } from "./load.js";
export {
  DataCollatorForPreference,
  type PreferenceBatch,
  type PreferenceCollatorOptions,
  type PreferenceOptions,
  prepare_preference_dataset,
} from "./preference.js";
export type { LoadFromDisk } from "./saved.js";
export { prepare_sft_dataset } from "./sft.js";
export type { PackingStrategy, SFTOptions } from "./sft-options.js";
export type { Batch, DataCollator, Dataset as AnyDataset, Feature, MapDataset } from "./types.js";
export { load_dataset } from "./web.js";
