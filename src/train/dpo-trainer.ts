// DPOTrainer: direct preference optimization, in TRL's words.

import type { DrawnLora } from "../adapters/config.js";
import { copyAdapter } from "../adapters/read.js";
import { isOf } from "../core/checks.js";
import { entriesOf, OptionError } from "../core/errors.js";
import { pick, readOptions } from "../core/options.js";
import { show } from "../core/show.js";
import { PreTrainedModel } from "../generate/model.js";
import { PreTrainedTokenizer } from "../tokenizer/api.js";
import { adapting } from "./adapt.js";
import { optionsOf, TrainingArguments } from "./arguments.js";
import type { Logs } from "./callbacks.js";
import { DataCollatorForPreference, prepare_preference_dataset } from "./data/preference.js";
import { type Examples, longestText, preparedSets } from "./data/prepared-sets.js";
import { Preferences, REFERENCE } from "./dpo-loss.js";
import { DPO, type DPOOptions } from "./dpo-options.js";
import type { TrainingOptions } from "./options.js";
import { ROUTER_AUX_LOSS_COEF } from "./router-options.js";
import { Trainer } from "./trainer.js";
import type { CheckpointStore, TrainerOptions } from "./types.js";

/** TRL's defaults, where they are not transformers'. */
const DEFAULTS: TrainingOptions = { learning_rate: 1e-6, logging_steps: 10 };

export interface DPOConfigOptions extends TrainingOptions, DPOOptions {}

/** The options of direct preference optimization: those of TrainingArguments, and its own. */
export class DPOConfig extends TrainingArguments {
  readonly dpo: DPOOptions;

  /** @throws OptionError for unknown names and wrong values, and for options that contradict each other */
  constructor(options: DPOConfigOptions = {}) {
    const all = Object.fromEntries(entriesOf("DPOConfig", options));
    const others = Object.entries(all).filter(([name]) => !(name in DPO));
    super({ ...DEFAULTS, ...Object.fromEntries(others) });
    this.dpo = readOptions("DPOConfig", DPO, pick(DPO, all));
    if (this.label_smoothing_factor > 0) {
      throw new OptionError("DPOConfig: label_smoothing_factor is for losses of labels, and preferences have none", {
        details: { option: "label_smoothing_factor" },
        hint: "label_smoothing is the share of preferences that are taken to be wrong",
      });
    }
    const { label_smoothing = 0 } = this.dpo;
    const loss = lossOf(this.dpo);
    if (label_smoothing > 0 && loss !== "sigmoid" && loss !== "robust") {
      throw new OptionError(`DPOConfig: label_smoothing is for the losses "sigmoid" and "robust", not ${show(loss)}`, {
        details: { option: "label_smoothing" },
      });
    }
  }
}

function lossOf({ loss_type = "sigmoid" }: DPOOptions) {
  return typeof loss_type === "string" ? loss_type : loss_type[0];
}

/** Examples of preferences. */
export type DPODataset = Examples;

export interface DPOTrainerOptions
  extends Omit<
    TrainerOptions,
    | "model"
    | "args"
    | "train_dataset"
    | "eval_dataset"
    | "processing_class"
    | "tokenizer"
    | "compute_loss_func"
    | "compute_metrics"
  > {
  readonly model: PreTrainedModel;
  /**
   * What the model is compared to, on the same device; by default the model without the adapter of `peft_config`. Of a model that has an
   * adapter already, a copy of it is kept as the adapter "ref", unless there is one of that name.
   */
  readonly ref_model?: PreTrainedModel | null;
  readonly args?: DPOConfig | DPOConfigOptions | TrainingArguments;
  readonly train_dataset?: DPODataset;
  readonly eval_dataset?: DPODataset | Readonly<Record<string, DPODataset>>;
  /** The tokenizer. */
  readonly processing_class: PreTrainedTokenizer;
  /** An adapter that the model gets. */
  readonly peft_config?: DrawnLora | null;
}

const CALL = "DPOTrainer";

function wrong(option: string, message: string, hint?: string): OptionError {
  return new OptionError(`${CALL}: ${message}`, { details: { option }, hint });
}

/**
 * An adapter that the model has already is compared to a copy of what it is now, as in TRL; to the model without it if it has biases, of
 * which a model has one set, or works beside others.
 */
function keepReference({ adapters }: PreTrainedModel): void {
  if (!adapters || adapters.names.includes(REFERENCE)) return;
  const [name, ...more] = adapters.choice.active;
  if (name === undefined || more.length > 0 || adapters.choice.merged.size > 0) return;
  const own = adapters.get(name);
  if (own.biases.length === 0) copyAdapter(adapters, own, REFERENCE);
}

/** What a Trainer gets for it. @throws OptionError */
function prepared(options: DPOTrainerOptions): {
  readonly options: TrainerOptions;
  readonly objective: Preferences;
  readonly begin?: () => void;
} {
  const given = Object.fromEntries(entriesOf(CALL, options)) as unknown as DPOTrainerOptions;
  const { args, peft_config, ref_model, ...rest } = given;
  const { model, processing_class: tokenizer, train_dataset, eval_dataset } = rest;
  if (!isOf(model, PreTrainedModel)) throw wrong("model", `expected a language model, got ${show(model)}`);
  if (!isOf(tokenizer, PreTrainedTokenizer)) {
    throw wrong("processing_class", `processing_class must be the tokenizer, got ${show(tokenizer)}`);
  }
  for (const option of ["compute_loss_func", "compute_metrics"] as const) {
    if (((rest as TrainerOptions)[option] ?? undefined) === undefined) continue;
    throw wrong(option, `${option} is for models whose outputs have labels, not for preferences`);
  }
  const reference = ref_model ?? undefined;
  if (reference !== undefined) {
    if (!isOf(reference, PreTrainedModel) || reference === model) {
      const got = reference === model ? "the model itself, which changes" : show(reference);
      throw wrong(
        "ref_model",
        `ref_model must be another language model, got ${got}`,
        "leave it out for a model with adapters",
      );
    }
    if (reference.device !== model.device) {
      throw wrong("ref_model", "ref_model is on another device", "load both with the same device: { device }");
    }
    if (reference.module.geometry.vocab !== model.module.geometry.vocab) {
      throw wrong("ref_model", "ref_model has another vocabulary");
    }
  } else if (!model.adapters && !peft_config) {
    throw wrong(
      "ref_model",
      "there is nothing to compare the model to",
      "pass peft_config, so that only an adapter is trained, or load the model once more as ref_model",
    );
  }
  const config = isOf(args, DPOConfig) ? args : new DPOConfig(optionsOf(CALL, args, Object.keys(DEFAULTS)));
  const begin = adapting(model, peft_config) ?? (reference ? undefined : () => keepReference(model));
  const { beta = 0.1, label_smoothing = 0, disable_dropout = true, ...others } = config.dpo;
  const { router_aux_loss_coef = ROUTER_AUX_LOSS_COEF } = config.dpo;
  const {
    max_length = longestText(model.config),
    truncation_mode,
    eos_token,
    chat_template,
    pad_to_multiple_of,
  } = others;
  const how = pickGiven({ max_length, truncation_mode, eos_token, chat_template });
  const pad_token_id = tokenizer.pad_token_id ?? tokenizer.eos_token_id ?? 0;
  const made: TrainerOptions = {
    data_collator: new DataCollatorForPreference(
      pickGiven({ pad_token_id, max_length, truncation_mode, pad_to_multiple_of }),
    ),
    ...rest,
    args: config,
    ...preparedSets(CALL, { train_dataset, eval_dataset }, (set) => prepare_preference_dataset(set, tokenizer, how)),
  };
  const loss = { beta, loss_type: lossOf(config.dpo), label_smoothing, router_aux_loss_coef };
  return { options: made, objective: new Preferences(reference, loss, !disable_dropout), ...(begin ? { begin } : {}) };
}

/** The entries that are there. */
function pickGiven<T extends object>(all: T): T {
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined)) as T;
}

/**
 * Trains a language model on preferences (Rafailov et al. 2023). Its logs have the means of rewards/chosen, rewards/rejected,
 * rewards/accuracies, rewards/margins, logps/chosen and logps/rejected; those of evaluations begin with eval_.
 */
export class DPOTrainer extends Trainer {
  readonly #objective: Preferences;

  /**
   * @param store where checkpoints are, if the options do not say
   * @throws OptionError for unknown and wrong options, and for examples of no format
   */
  constructor(options: DPOTrainerOptions, store?: CheckpointStore) {
    const { options: made, ...kind } = prepared(options);
    super(made, store, kind);
    this.#objective = kind.objective;
  }

  /** @throws OptionError */
  override async log(logs: Logs): Promise<void> {
    const numbers = Object.fromEntries(entriesOf("log", logs)) as Logs;
    const loss = Object.keys(numbers).find((name) => name === "loss" || name.endsWith("_loss"));
    if (loss === undefined || loss === "train_loss") return super.log(numbers);
    const prefix = loss.slice(0, -"loss".length);
    const own = Object.entries(this.#objective.take(prefix === "" ? "train" : "eval")).map(([name, value]) => [
      prefix + name,
      value,
    ]);
    Object.assign(numbers, Object.fromEntries(own));
    return super.log(numbers);
  }
}
