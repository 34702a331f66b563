// TrainingArguments: the options of a training run with their defaults, checked against each other.

import { isOf } from "../core/checks.js";
import { entriesOf, OptionError } from "../core/errors.js";
import { type Options, pick, readOptions } from "../core/options.js";
import { show } from "../core/show.js";
import { ACCEPTED, TRAINING, type TrainingOptions } from "./options.js";
import { schedulerKwargs } from "./schedules.js";

/** The options that have a value whether they are given or not. */
type Settled = Required<Options<typeof TRAINING>>;

/** Defaults of transformers. */
const DEFAULTS: Settled = {
  output_dir: "trainer_output",
  per_device_train_batch_size: 8,
  per_device_eval_batch_size: 8,
  gradient_accumulation_steps: 1,
  num_train_epochs: 3,
  max_steps: -1,
  learning_rate: 5e-5,
  lr_scheduler_type: "linear",
  lr_scheduler_kwargs: null,
  warmup_steps: 0,
  warmup_ratio: 0,
  optim: "adamw_torch",
  optim_args: null,
  weight_decay: 0,
  adam_beta1: 0.9,
  adam_beta2: 0.999,
  adam_epsilon: 1e-8,
  max_grad_norm: 1,
  label_smoothing_factor: 0,
  logging_strategy: "steps",
  logging_steps: 500,
  logging_first_step: false,
  eval_strategy: "no",
  eval_steps: null,
  eval_delay: 0,
  eval_on_start: false,
  prediction_loss_only: false,
  save_strategy: "steps",
  save_steps: 500,
  save_total_limit: null,
  save_only_model: false,
  load_best_model_at_end: false,
  metric_for_best_model: null,
  greater_is_better: null,
  gradient_checkpointing: false,
  bf16: false,
  seed: 42,
  data_seed: null,
  dataloader_drop_last: false,
  remove_unused_columns: true,
  train_sampling_strategy: "random",
  group_by_length: false,
  length_column_name: "length",
  ignore_data_skip: false,
  include_num_input_tokens_seen: "no",
};

/** Old names of options, which guides still use. */
const OLD_NAMES: Readonly<Record<string, string>> = { evaluation_strategy: "eval_strategy" };

/** The options of a run, each with a value. */
export interface TrainingArguments extends Readonly<Settled> {
  /** The options that were set explicitly. */
  readonly given: ReadonlySet<string>;
  /** Updates of the warm-up, of so many updates in all. */
  get_warmup_steps(num_training_steps: number): number;
  to_dict(): Record<string, unknown>;
  to_json_string(): string;
}

const TABLE = { ...TRAINING, ...ACCEPTED };

/** What the class makes, as TypeScript knows it: its fields are assigned all at once. */
type Made = TrainingArguments;

const Class = class TrainingArguments {
  readonly given: ReadonlySet<string>;

  constructor(options: TrainingOptions = {}) {
    const renamed = entriesOf("TrainingArguments", options).map(([name, value]) => [OLD_NAMES[name] ?? name, value]);
    const read = readOptions("TrainingArguments", TABLE, Object.fromEntries(renamed));
    this.given = new Set(Object.keys(read));
    const settled = { ...DEFAULTS, ...pick(TRAINING, read) };
    Object.assign(this, settled, derived(settled));
    agree(this as unknown as Made);
  }

  get_warmup_steps(num_training_steps: number): number {
    const { warmup_steps, warmup_ratio } = this as unknown as Made;
    if (warmup_steps >= 1) return warmup_steps;
    return Math.ceil(num_training_steps * (warmup_steps || warmup_ratio));
  }

  to_dict(): Record<string, unknown> {
    return Object.fromEntries(Object.entries(this).filter(([name]) => name !== "given"));
  }

  to_json_string(): string {
    return `${JSON.stringify(this.to_dict(), undefined, 2)}\n`;
  }
};

/** Values that follow from others. */
function derived(args: Settled): Partial<Settled> {
  const { group_by_length, load_best_model_at_end, lr_scheduler_type, eval_strategy } = args;
  const compared =
    load_best_model_at_end || lr_scheduler_type === "reduce_lr_on_plateau" || args.save_strategy === "best";
  const { lr_scheduler_kwargs: kwargs } = args;
  const metric = args.metric_for_best_model ?? (compared ? "loss" : null);
  return {
    lr_scheduler_kwargs: kwargs && schedulerKwargs(lr_scheduler_type, kwargs),
    metric_for_best_model: metric,
    greater_is_better: args.greater_is_better ?? (metric === null ? null : !metric.endsWith("loss")),
    eval_steps: args.eval_steps ?? (eval_strategy === "steps" ? args.logging_steps : null),
    ...(group_by_length ? { train_sampling_strategy: "group_by_length" as const } : {}),
  };
}

function refuse(message: string, option: keyof Settled, hint?: string): never {
  throw new OptionError(message, { details: { option }, hint });
}

/** @throws OptionError for options that do not fit together */
function agree(args: TrainingArguments): void {
  const { eval_strategy, save_strategy, eval_steps, save_steps } = args;
  if (args.max_steps === 0) refuse("max_steps must be above 0, or -1 for num_train_epochs", "max_steps");
  if (args.logging_strategy === "steps" && args.logging_steps === 0) {
    refuse('logging_steps must be above 0 with logging_strategy: "steps"', "logging_steps");
  }
  if (eval_strategy === "steps" && !eval_steps) refuse("eval_steps must be above 0", "eval_steps");
  if (save_strategy === "steps" && save_steps === 0) refuse("save_steps must be above 0", "save_steps");
  if (save_strategy === "best" && eval_strategy === "no") {
    refuse('save_strategy: "best" needs an eval_strategy', "save_strategy", 'eval_strategy: "epoch"');
  }
  if (args.lr_scheduler_type === "reduce_lr_on_plateau" && eval_strategy === "no") {
    refuse("lr_scheduler_type reduce_lr_on_plateau requires an eval strategy", "eval_strategy");
  }
  if (!args.load_best_model_at_end || save_strategy === "best") return;
  if (eval_strategy !== save_strategy) {
    refuse(
      `load_best_model_at_end requires the save and eval strategy to match, and they are ${show(save_strategy)} and ${show(eval_strategy)}`,
      "load_best_model_at_end",
    );
  }
  if (eval_strategy !== "steps") return;
  const mixed = save_steps < 1 !== eval_steps! < 1;
  // Shares are compared as whole millionths, as transformers does.
  const scale = save_steps < 1 ? 1_000_000 : 1;
  if (mixed || Math.round(save_steps * scale) % Math.round(eval_steps! * scale) !== 0) {
    refuse(
      `load_best_model_at_end requires save_steps to be a multiple of eval_steps, and they are ${save_steps} and ${eval_steps}`,
      "save_steps",
    );
  }
}

/** The options of a training run. @throws OptionError for unknown and wrong ones, and for what does not fit together */
export const TrainingArguments: new (options?: TrainingOptions) => TrainingArguments = Class as never;

/** @throws OptionError */
export function argumentsOf(given: unknown): TrainingArguments {
  return isOf(given, Class)
    ? (given as unknown as TrainingArguments)
    : new TrainingArguments((given ?? {}) as TrainingOptions);
}

/**
 * What a trainer with a config of its own takes: options, or TrainingArguments as they are. As in TRL these keep transformers' defaults.
 * @param defaults names whose defaults are others in the config
 * @throws OptionError for the config of another trainer
 */
export function optionsOf(call: string, given: unknown, defaults: readonly string[]): TrainingOptions {
  if (!isOf(given, Class)) return (given ?? {}) as TrainingOptions;
  const args = given as unknown as TrainingArguments;
  if (Object.getPrototypeOf(args) !== Class.prototype) {
    throw new OptionError(`${call}: args are the config of another trainer`, { details: { option: "args" } });
  }
  const names = new Set([...defaults, ...args.given]);
  return Object.fromEntries(Object.entries(args).filter(([name]) => name in TRAINING && names.has(name)));
}
