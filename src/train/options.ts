// The options of TrainingArguments, in transformers' names and with its defaults (5.x; of 4.x those that guides still use). Options of
// Python that would do nothing here, or whose work is not done, are in the second table: they take the value that asks for nothing.

import { listOf } from "../core/checks.js";
import {
  choice,
  type EntryFacts,
  flag,
  number,
  type Options,
  option,
  such,
  type Table,
  text,
  whole,
} from "../core/options.js";
import * as z from "../core/schema.js";
import { SCHEDULER_TYPES } from "./schedules.js";

const finite = (n: unknown): n is number => typeof n === "number" && Number.isFinite(n);
const least0 = (facts?: EntryFacts) => number((n) => n >= 0 && finite(n), "a number of at least 0", facts);
const beta = (facts: EntryFacts) => number((n) => n >= 0 && n < 1, "a number from 0 to below 1", facts);
const steps = (facts?: EntryFacts) =>
  number(
    (n) => (n >= 1 && Number.isSafeInteger(n)) || (n >= 0 && n < 1),
    "a whole number of updates, or a share of all below 1",
    { value: "<n>", ...facts },
  );
const orNull = <T>(check: (value: unknown) => boolean, wanted: string, facts?: EntryFacts) =>
  such<T | null>((value) => value === null || check(value), `${wanted}, or null`, facts);
const INTERVALS = ["no", "steps", "epoch"] as const;

/** Optimizers by transformers' names. */
export const OPTIM_NAMES = [
  "adamw_torch",
  "adamw_torch_fused",
  "adamw_bnb_8bit",
  "adamw_8bit",
  "adafactor",
  "sgd",
  "adagrad",
  "rmsprop",
  "rmsprop_bnb",
  "rmsprop_bnb_8bit",
  "rmsprop_bnb_32bit",
  "lion_32bit",
  "lion_8bit",
  "ademamix",
  "ademamix_8bit",
  "paged_adamw",
  "paged_adamw_32bit",
  "paged_adamw_8bit",
  "paged_lion_32bit",
  "paged_lion_8bit",
  "paged_ademamix_32bit",
  "paged_ademamix_8bit",
] as const;
export type OptimName = (typeof OPTIM_NAMES)[number];

const LOW_RANK =
  "gradients are not projected to lower ranks: an adapter trains few numbers, and adafactor keeps few states";
const AVERAGES = "its averages of weights are not here; adamw_torch with a schedule is near";

/** Optimizers of transformers that are not here: why, and what is instead. */
const OTHER_OPTIMS: Readonly<Record<string, string>> = {
  adamw_hf: "transformers 5 has it no more either: adamw_torch",
  adamw_torch_xla: "it is adamw_torch for TPUs: adamw_torch",
  adamw_torch_npu_fused: "it is adamw_torch for NPUs: adamw_torch",
  adamw_apex_fused: "it is adamw_torch by apex: adamw_torch",
  adamw_anyprecision: "states are f32 or 8-bit codes: adamw_torch or adamw_8bit",
  adamw_torch_4bit: "torchao's states in 4 bits are not here: adamw_8bit",
  adamw_torch_8bit: "torchao's states in 8 bits are not here, bitsandbytes' are: adamw_8bit",
  lomo: "gradients are not consumed while they are computed: adafactor keeps few states",
  adalomo: "gradients are not consumed while they are computed: adafactor keeps few states",
  grokadamw: "of another library; adamw_torch is the nearest",
  stable_adamw: "of another library; adafactor limits its updates, too",
  schedule_free_radam: AVERAGES,
  schedule_free_adamw: AVERAGES,
  schedule_free_sgd: AVERAGES,
  ...Object.fromEntries(
    ["galore_adamw", "galore_adamw_8bit", "galore_adafactor", "apollo_adamw"].flatMap((name) => [
      [name, LOW_RANK],
      [`${name}_layerwise`, LOW_RANK],
    ]),
  ),
};

export const TRAINING = {
  /** Folder of the checkpoints (default: "trainer_output"). */
  output_dir: such<string>((value) => typeof value === "string" && value !== "", "the path of a folder"),
  /** Examples of a batch (default: 8). */
  per_device_train_batch_size: whole(1, { value: "<n>", help: "examples of a batch (default: 8)" }),
  /** Examples of a batch when evaluating (default: 8). */
  per_device_eval_batch_size: whole(1, { value: "<n>", help: "examples of a batch when evaluating (default: 8)" }),
  /** Batches whose gradients are summed for one update (default: 1). */
  gradient_accumulation_steps: whole(1, {
    value: "<n>",
    help: "batches whose gradients are summed for one update (default: 1)",
  }),
  /** Walks through the dataset; the last may be a part (default: 3). */
  num_train_epochs: number((n) => n > 0 && finite(n), "a number above 0", {
    help: "walks through the data (default: 3)",
  }),
  /** Updates; above 0 it is used instead of num_train_epochs (default: -1). */
  max_steps: number((n) => Number.isSafeInteger(n) && n >= -1, "a whole number above 0, or -1", {
    value: "<n>",
    help: "updates, instead of --num-train-epochs",
  }),
  /** The first learning rate, after the warm-up (default: 5e-5). */
  learning_rate: least0({ help: "the first learning rate (default: 2e-4 for adapters, 2e-5 for all weights)" }),
  /** How the learning rate changes (default: "linear"). */
  lr_scheduler_type: choice(SCHEDULER_TYPES, { value: "<name>", help: "how the rate changes (default: linear)" }),
  /** What the schedule takes beside its steps. */
  lr_scheduler_kwargs: orNull<Readonly<Record<string, unknown>>>((value) => typeof value === "object", "an object"),
  /** Updates over which the rate grows from 0; below 1 a share of all (default: 0). */
  warmup_steps: steps({ help: "updates over which the rate grows from 0, or a share of all below 1 (default: 0)" }),
  /** The same as a share, as 4.x has it; it counts where warmup_steps is 0. */
  warmup_ratio: number((n) => n >= 0 && n <= 1, "a number from 0 to 1"),
  /** The optimizer (default: "adamw_torch"). Those of bitsandbytes keep states in 8 bits, but of embeddings in 32. */
  optim: choice(OPTIM_NAMES, {
    value: "<name>",
    help: "the optimizer (default: adamw_torch)",
    hint: (value) =>
      typeof value === "string" && Object.hasOwn(OTHER_OPTIMS, value) ? OTHER_OPTIMS[value] : undefined,
  }),
  /** What the optimizer takes beside: "key=value,key=value". */
  optim_args: orNull<string>((value) => typeof value === "string", 'text such as "momentum=0.9"', {
    value: "<list>",
    help: "what the optimizer takes beside, such as momentum=0.9",
  }),
  /** Of all parameters but biases and norms (default: 0). */
  weight_decay: least0({ help: "of all but biases and norms (default: 0)" }),
  /** Default: 0.9. */
  adam_beta1: beta({ help: "default: 0.9" }),
  /** Default: 0.999. */
  adam_beta2: beta({ help: "default: 0.999" }),
  /** Default: 1e-8. */
  adam_epsilon: least0({ help: "default: 1e-8" }),
  /** The longest gradient, all parameters together; 0 for any (default: 1). */
  max_grad_norm: least0({ help: "the longest gradient; 0 for any (default: 1)" }),
  /** Share of each label that is spread over the whole vocabulary (default: 0). */
  label_smoothing_factor: number((n) => n >= 0 && n < 1, "a number of at least 0, below 1", {
    help: "share of each label that is spread over the vocabulary (default: 0)",
  }),
  /** When numbers are logged (default: "steps"). */
  logging_strategy: choice(INTERVALS),
  /** Updates between two logs; below 1 a share of all (default: 500). */
  logging_steps: steps({ help: "updates between two lines of metrics.jsonl (default: 1)" }),
  /** Log the first update as well. */
  logging_first_step: flag(),
  /** When the eval_dataset is evaluated (default: "no"). */
  eval_strategy: choice(INTERVALS, { value: "<when>", help: "when to evaluate (default: epoch, with data for it)" }),
  /** Updates between two evaluations (default: logging_steps). */
  eval_steps: orNull<number>(
    (n) => finite(n) && n > 0 && (n < 1 || Number.isSafeInteger(n)),
    "a whole number of updates, or a share of all below 1",
    { value: "<n>", help: "updates between two evaluations, with --eval-strategy steps" },
  ),
  /** Epochs or updates before the first evaluation. */
  eval_delay: least0(),
  /** Evaluate before the first update. */
  eval_on_start: flag(),
  /** Evaluate the loss alone, also where there is a compute_metrics. */
  prediction_loss_only: flag(),
  /** When a checkpoint is saved; "best" whenever the metric is better than ever (default: "steps", or "no" where there are no files). */
  save_strategy: choice([...INTERVALS, "best"], {
    value: "<when>",
    help: "when to save a checkpoint (default: steps)",
  }),
  /** Updates between two checkpoints; below 1 a share of all (default: 500). */
  save_steps: steps({ help: "updates between two checkpoints (default: 500)" }),
  /** Checkpoints that are kept; the oldest go first, and the best stays. */
  save_total_limit: orNull<number>((n) => Number.isSafeInteger(n) && (n as number) > 0, "a whole number above 0", {
    value: "<n>",
    help: "checkpoints that are kept (default: all)",
  }),
  /** Checkpoints hold the model alone, and cannot be resumed. */
  save_only_model: flag(),
  /** When training ends, take the weights of the best checkpoint. */
  load_best_model_at_end: flag({ help: "write what the best checkpoint has" }),
  /** The metric by which checkpoints are compared, with or without "eval_" (default with load_best_model_at_end: "loss"). */
  metric_for_best_model: orNull<string>((value) => typeof value === "string" && value !== "", "the name of a metric"),
  /** Whether more of it is better (default: unless its name ends in "loss"). */
  greater_is_better: orNull<boolean>((value) => typeof value === "boolean", "true or false"),
  /** Keep only the inputs of blocks for the backward pass, which computes the rest again: less memory, a third more time. */
  gradient_checkpointing: flag({ help: "keep only the inputs of blocks: less memory, a third more time" }),
  /** The model is in bf16: its products round there, sums and what is trained beside it are f32. Other models are refused. */
  bf16: flag(),
  /** Of dropout, and of the data's order (default: 42). */
  seed: number((n) => Number.isInteger(n) && n >= 0 && n < 2 ** 32, "a whole number below 2^32", {
    value: "<n>",
    help: "of dropout, first values and the order of the data (default: 42)",
  }),
  /** Of the data's order (default: seed). */
  data_seed: orNull<number>(
    (n) => Number.isInteger(n) && (n as number) >= 0 && (n as number) < 2 ** 32,
    "a whole number below 2^32",
  ),
  /** Leave out the last examples of an epoch where they do not fill a batch. */
  dataloader_drop_last: flag({ help: "leave out the last examples of an epoch where they do not fill a batch" }),
  /** Without a data_collator: columns that the model does not take are left out (default: true). */
  remove_unused_columns: flag(),
  /** The order of the examples: by chance, as they come, or those of like lengths together (default: "random"). */
  train_sampling_strategy: choice(["random", "sequential", "group_by_length"], {
    value: "<name>",
    help: "the order of the examples (default: random)",
  }),
  /** "group_by_length", as 4.x has it. */
  group_by_length: flag(),
  /** A column with the lengths, to group by (default: "length"; without it the number of input_ids). */
  length_column_name: text(),
  /** A resumed run begins the epoch's data anew instead of where the first one stopped. */
  ignore_data_skip: flag(),
  /** Count input tokens: all, or without padding (default: "no"). */
  include_num_input_tokens_seen: such<boolean | "no" | "all" | "non_padding">(
    (value) => [true, false, "no", "all", "non_padding"].includes(value as string),
    'true, false, "no", "all" or "non_padding"',
  ),
} satisfies Table;

/** An option that only has a value at which it does nothing. */
function only<T extends boolean | number | string | null>(values: readonly T[], hint: string) {
  return option<T>(
    z.literal(values as readonly [T, ...T[]]) as unknown as z.Schema<T>,
    values.map(String).join(" or "),
    {
      hint,
    },
  );
}

const none = (hint: string) => only([null, ""], hint);

/** Options that say nothing here, and those whose work is not done. */
export const ACCEPTED = {
  // These are so in any case.
  full_determinism: flag(),
  average_tokens_across_devices: flag(),
  disable_tqdm: such<boolean | null>((value) => value === null || typeof value === "boolean", "true, false or null"),
  run_name: orNull<string>((value) => typeof value === "string", "text"),
  log_level: text(),
  do_train: flag(),
  do_eval: flag(),
  do_predict: flag(),
  dataloader_pin_memory: flag(),
  eval_accumulation_steps: orNull<number>((n) => Number.isSafeInteger(n), "a whole number"),
  save_safetensors: only([true], "weights are written as safetensors alone"),
  use_cache: only([false], "there is no cache while training"),
  dataloader_num_workers: only([0], "batches are made where the program runs"),
  report_to: such<string | readonly string[] | null>(
    (value) => value === null || value === "none" || listOf(value, (one) => one === "none") !== undefined,
    '"none"',
    { hint: "a callback with on_log gets all numbers" },
  ),
  // Mixed precision is the model's dtype.
  fp16: only([false], "the loss is not scaled: sums are f32, and products round where the weights do"),
  tf32: only([false, null], "products of f32 weights are exact"),
  bf16_full_eval: only([false], "the model keeps its dtype"),
  fp16_full_eval: only([false], "the model keeps its dtype"),
  // What is not done.
  logging_nan_inf_filter: only([false], "a loss that is no number ends the run with an error that names the step"),
  gradient_checkpointing_kwargs: orNull<object>((value) => typeof value === "object", "an object"),
  neftune_noise_alpha: only([null], "no noise is added to embeddings"),
  torch_compile: only([false], "there is nothing to compile"),
  use_liger_kernel: only([false], "the loss never holds all logits in any case"),
  auto_find_batch_size: only([false], "set per_device_train_batch_size and gradient_accumulation_steps"),
  push_to_hub: only([false], "model.push_to_hub() uploads what was trained"),
  deepspeed: none("training runs in one process"),
  fsdp: none("training runs in one process"),
} satisfies Table;

/** What TrainingArguments take. */
export interface TrainingOptions extends Options<typeof TRAINING>, Options<typeof ACCEPTED> {}
