// SFTTrainer: supervised fine-tuning on texts, prompts with completions, or messages, in TRL's words.

import type { DrawnLora } from "../adapters/config.js";
import { isOf } from "../core/checks.js";
import { entriesOf, OptionError } from "../core/errors.js";
import { type Options, pick, readOptions } from "../core/options.js";
import { show } from "../core/show.js";
import { PreTrainedModel } from "../generate/model.js";
import { PreTrainedTokenizer } from "../tokenizer/api.js";
import { adapting } from "./adapt.js";
import { optionsOf, TrainingArguments } from "./arguments.js";
import { DataCollatorForPackedTexts } from "./data/collators.js";
import { DataCollatorForLanguageModeling } from "./data/language-modeling.js";
import { type Examples, longestText, preparedSets } from "./data/prepared-sets.js";
import { prepare_sft_dataset } from "./data/sft.js";
import { SFT, type SFTOptions } from "./data/sft-options.js";
import type { DataCollator, Feature } from "./data/types.js";
import type { TrainingOptions } from "./options.js";
import { ROUTER, ROUTER_AUX_LOSS_COEF, routerInputs } from "./router-options.js";
import { Trainer, type TrainerKind } from "./trainer.js";
import type { CheckpointStore, TrainerOptions } from "./types.js";

/** TRL's defaults, where they are not transformers'. */
const DEFAULTS: TrainingOptions = { learning_rate: 2e-5, logging_steps: 10 };

export interface SFTConfigOptions extends TrainingOptions, SFTOptions, Options<typeof ROUTER> {}

/** The options of supervised fine-tuning: those of TrainingArguments, and what examples become. */
export class SFTConfig extends TrainingArguments {
  /** What examples become. */
  readonly sft: Readonly<Options<typeof SFT>>;
  /** Weight of the loss for an even use of experts. */
  readonly router_aux_loss_coef: number;

  /** @throws OptionError for unknown and wrong options, and for what does not fit together */
  constructor(options: SFTConfigOptions = {}) {
    const given = Object.fromEntries(entriesOf("SFTConfig", options));
    const sft = readOptions("SFTConfig", SFT, pick(SFT, given));
    const { router_aux_loss_coef = ROUTER_AUX_LOSS_COEF } = readOptions("SFTConfig", ROUTER, pick(ROUTER, given));
    const own = { ...SFT, ...ROUTER };
    const rest = Object.fromEntries(Object.entries(given).filter(([name]) => !Object.hasOwn(own, name)));
    super({ ...DEFAULTS, ...rest });
    this.sft = sft;
    this.router_aux_loss_coef = router_aux_loss_coef;
  }
}

/** Examples of texts. */
export type SFTDataset = Examples;

export interface SFTTrainerOptions
  extends Omit<TrainerOptions, "model" | "args" | "train_dataset" | "eval_dataset" | "processing_class" | "tokenizer"> {
  readonly model: PreTrainedModel;
  readonly args?: SFTConfig | SFTConfigOptions | TrainingArguments;
  readonly train_dataset?: SFTDataset;
  readonly eval_dataset?: SFTDataset | Readonly<Record<string, SFTDataset>>;
  /** The tokenizer. */
  readonly processing_class: PreTrainedTokenizer;
  /** An adapter that the model gets. */
  readonly peft_config?: DrawnLora | null;
}

const CALL = "SFTTrainer";

/** What a Trainer gets for it. @throws OptionError */
function prepared(options: SFTTrainerOptions): { readonly options: TrainerOptions } & TrainerKind {
  const { args, peft_config, ...rest } = Object.fromEntries(entriesOf(CALL, options)) as unknown as SFTTrainerOptions;
  const { model, processing_class: tokenizer, train_dataset, eval_dataset } = rest;
  if (!isOf(model, PreTrainedModel)) {
    throw new OptionError(`${CALL}: expected a language model, got ${show(model)}`, { details: { option: "model" } });
  }
  if (!isOf(tokenizer, PreTrainedTokenizer)) {
    throw new OptionError(`${CALL}: processing_class must be the tokenizer, got ${show(tokenizer)}`, {
      details: { option: "processing_class" },
    });
  }
  const config = isOf(args, SFTConfig) ? args : new SFTConfig(optionsOf(CALL, args, Object.keys(DEFAULTS)));
  const begin = adapting(model, peft_config);
  const sft = {
    ...config.sft,
    max_length: config.sft.max_length === undefined ? longestText(model.config) : config.sft.max_length,
  };
  const { packing: _, packing_strategy: __, ...plain } = sft;
  const made: TrainerOptions = {
    data_collator: sftCollator(tokenizer, config.sft),
    ...rest,
    args: config,
    ...preparedSets(CALL, { train_dataset, eval_dataset }, (set, evaluated) =>
      prepare_sft_dataset(set, tokenizer, evaluated ? plain : sft),
    ),
  };
  const inputs = routerInputs(model, config.router_aux_loss_coef);
  return { options: made, inputs, ...(begin ? { begin } : {}) };
}

/** Batches of what prepare_sft_dataset gives: rows that are filled up, or packed texts one behind the other. */
export function sftCollator(
  tokenizer: PreTrainedTokenizer,
  { padding_free, pad_to_multiple_of }: Pick<SFTOptions, "padding_free" | "pad_to_multiple_of"> = {},
): DataCollator {
  const flatten = new DataCollatorForPackedTexts();
  const multiple = pad_to_multiple_of ? { pad_to_multiple_of } : {};
  const pad = new DataCollatorForLanguageModeling(tokenizer, { mlm: false, ...multiple });
  const alone = (one: Feature): Feature => ({ ...one, seq_lengths: [(one.input_ids as readonly number[]).length] });
  return (features) => {
    if (features.every((one) => one.seq_lengths !== undefined)) return { ...flatten(features) };
    return padding_free ? { ...flatten(features.map(alone)) } : pad(features);
  };
}

/** Fine-tunes a language model on examples of TRL's formats. Texts to evaluate on are not packed. */
export class SFTTrainer extends Trainer {
  /**
   * @param store where checkpoints are, if the options do not say
   * @throws OptionError for unknown and wrong options, and for examples of no format
   */
  constructor(options: SFTTrainerOptions, store?: CheckpointStore) {
    const { options: made, ...kind } = prepared(options);
    super(made, store, kind);
  }
}
