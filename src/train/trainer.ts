// The Trainer: what transformers' class of that name does in one process. The loop is run.ts; where checkpoints are written is given
// (types.ts: CheckpointStore), so that it runs in a page too.

import type { Optimizer } from "../bnb/optim/optimizer.js";
import { isFunction, isList, isSignal } from "../core/checks.js";
import { entriesOf, OctavoError, OptionError, throwIfAborted } from "../core/errors.js";
import { show } from "../core/show.js";
import { LoadedModel } from "../generate/base.js";
import { argumentsOf, type TrainingArguments } from "./arguments.js";
import { datasetKind, isMap } from "./batches.js";
import type { Logs, TrainerCallback, TrainerControl, TrainerState } from "./callbacks.js";
import { checkpointFor, noStore, writeCheckpoint } from "./checkpoint.js";
import { paddingCollator } from "./collate.js";
import type { DataCollator, Dataset } from "./data/types.js";
import { evaluation } from "./evaluation.js";
import { CallbackHandler, callbacksOf, checkedCallback } from "./handler.js";
import { blankState } from "./length.js";
import { Run } from "./run.js";
import type { LRScheduler } from "./schedules.js";
import { type Objective, Subject } from "./subject.js";
import type {
  CheckpointStore,
  PredictionOutput,
  TrainableModel,
  TrainerOptions,
  TrainOptions,
  TrainOutput,
} from "./types.js";

const NAMES = [
  "model",
  "args",
  "data_collator",
  "train_dataset",
  "eval_dataset",
  "processing_class",
  "tokenizer",
  "compute_metrics",
  "compute_loss_func",
  "callbacks",
  "optimizers",
  "checkpoints",
] as const;

/** @throws OptionError */
function functionOr<T>(name: string, value: unknown): T | undefined {
  if (value === undefined || value === null) return undefined;
  if (isFunction(value)) return value as T;
  throw new OptionError(`Trainer: ${name} must be a function, got ${show(value)}`, { details: { option: name } });
}

/** @throws OptionError */
function pairOf(value: unknown): readonly [Optimizer | undefined, LRScheduler | undefined] {
  if (value === undefined || value === null) return [undefined, undefined];
  const [optimizer, scheduler, more] = shortList(value);
  const fits =
    optional(optimizer, "step", "zero_grad", "load_state_dict") && optional(scheduler, "step", "get_last_lr");
  if (more === undefined && fits && (optimizer || !scheduler)) {
    return [(optimizer ?? undefined) as Optimizer, (scheduler ?? undefined) as LRScheduler];
  }
  throw new OptionError(`Trainer: optimizers must be [optimizer, lr_scheduler], got ${show(value)}`, {
    details: { option: "optimizers" },
    hint: "a schedule is one over the optimizer beside it: get_scheduler(name, optimizer, ...)",
  });
}

/** The first entries of a list; what is none is refused as too long. */
function shortList(value: unknown): readonly unknown[] {
  try {
    if (isList(value)) return [value[0], value[1], value.length > 2 ? value : undefined];
  } catch {
    // a proxy
  }
  return [undefined, undefined, value];
}

/** True for nothing, and for what has these methods. */
function optional(value: unknown, ...methods: readonly string[]): boolean {
  if (value === undefined || value === null) return true;
  try {
    return typeof value === "object" && methods.every((name) => isFunction((value as Record<string, unknown>)[name]));
  } catch {
    return false; // members that cannot be read
  }
}

/** What a trainer of another kind brings. */
export interface TrainerKind {
  /** What it trains by, instead of a loss of the model's outputs. */
  readonly objective?: Objective;
  /** What the model's forward gets beside a batch, for its own loss. */
  readonly inputs?: object;
  /** Called once all options are checked: from then on the model may change. */
  readonly begin?: () => void;
}

export class Trainer {
  readonly model: TrainableModel;
  readonly args: TrainingArguments;
  /** Where the last run is, or was. */
  state: TrainerState = blankState();
  readonly train_dataset: Dataset | undefined;
  readonly eval_dataset: TrainerOptions["eval_dataset"];
  readonly processing_class: unknown;
  readonly data_collator: DataCollator;
  readonly #subject: Subject;
  readonly #handler: CallbackHandler;
  readonly #store: CheckpointStore | undefined;
  readonly #metrics: TrainerOptions["compute_metrics"];
  readonly #optimizers: readonly [Optimizer | undefined, LRScheduler | undefined];
  readonly #ready: Promise<void>;
  #running = false;

  /**
   * @param store where checkpoints are, if the options do not say
   * @param kind what a trainer of another kind brings
   * @throws OptionError for unknown and wrong options, and for what does not fit together
   */
  constructor(options: TrainerOptions, store?: CheckpointStore, kind?: TrainerKind) {
    const given = Object.fromEntries(entriesOf("Trainer", options, NAMES)) as unknown as TrainerOptions;
    this.args = argumentsOf(given.args);
    this.#subject = new Subject(given.model, functionOr("compute_loss_func", given.compute_loss_func), kind);
    this.model = given.model;
    this.#checkDType();
    this.train_dataset = given.train_dataset ?? undefined;
    this.eval_dataset = given.eval_dataset ?? undefined;
    this.processing_class = given.processing_class ?? given.tokenizer;
    const columns = this.args.remove_unused_columns ? this.#subject.columns : undefined;
    this.data_collator =
      functionOr<DataCollator>("data_collator", given.data_collator) ??
      paddingCollator(this.processing_class, (name) => columns === undefined || columns.has(name));
    this.#metrics = functionOr("compute_metrics", given.compute_metrics);
    this.#optimizers = pairOf(given.optimizers);
    this.#store = given.checkpoints ?? store;
    this.#checkDatasets();
    this.#handler = new CallbackHandler(callbacksOf(given.callbacks), {
      model: this.model,
      processing_class: this.processing_class,
      optimizer: this.#optimizers[0],
      lr_scheduler: this.#optimizers[1],
    });
    kind?.begin?.();
    this.#ready = this.#handler.tell("on_init_end", this.args, this.state);
    this.#ready.catch(() => {}); // whoever waits for it gets the error
  }

  #checkDType(): void {
    const { model } = this.#subject;
    if (!this.args.bf16 || !LoadedModel.is(model) || model.dtype === "bf16") return;
    throw new OptionError(`bf16: the model is in ${model.dtype}, and stays in it`, {
      details: { option: "bf16" },
      hint: 'load it with dtype: "bfloat16"; adapters are f32 in any case',
    });
  }

  #checkDatasets(): void {
    const { args, train_dataset, eval_dataset } = this;
    if (train_dataset !== undefined && !isMap("train_dataset", train_dataset)) {
      if (args.train_sampling_strategy === "group_by_length") {
        throw new OptionError("group_by_length needs examples by number, and train_dataset is a stream", {
          details: { option: "train_sampling_strategy" },
        });
      }
    }
    for (const [, dataset] of this.#evaluated(eval_dataset)) isMap("eval_dataset", dataset);
    if ((args.eval_strategy !== "no" || args.eval_on_start) && eval_dataset === undefined) {
      const option = args.eval_on_start ? "eval_on_start: true" : `eval_strategy: ${show(args.eval_strategy)}`;
      throw new OptionError(`${option} needs an eval_dataset`, {
        details: { option: "eval_dataset" },
        hint: "pass one to the Trainer",
      });
    }
    if (!this.#store && args.given.has("save_strategy") && args.save_strategy !== "no") throw noStore("save_strategy");
    if (!this.#store && args.load_best_model_at_end) throw noStore("load_best_model_at_end");
  }

  /** Datasets by the prefix of their metrics. */
  #evaluated(dataset: TrainerOptions["eval_dataset"], prefix = "eval"): [string, Dataset][] {
    if (dataset === undefined || dataset === null) return [];
    if (datasetKind(dataset)) return [[prefix, dataset as Dataset]];
    const named = typeof dataset === "object" ? entriesOf("eval_dataset", dataset) : [];
    if (named.length > 0) return named.map(([name, one]) => [`${prefix}_${name}`, one as Dataset]);
    isMap("eval_dataset", dataset); // throws
    return [];
  }

  get control(): TrainerControl {
    return this.#handler.control;
  }

  /** @throws OptionError for what is no callback */
  add_callback(callback: TrainerCallback): void {
    this.#handler.callbacks.push(checkedCallback(callback));
  }

  /** Takes a callback away, by itself or by its class; false if it is not there. */
  remove_callback(callback: TrainerCallback | (abstract new (...args: never) => TrainerCallback)): boolean {
    const { callbacks } = this.#handler;
    const at = callbacks.findIndex((one) => one === callback || (isFunction(callback) && one.constructor === callback));
    if (at >= 0) callbacks.splice(at, 1);
    return at >= 0;
  }

  /**
   * Trains the parameters that ask for gradients; of a model without adapters, where none does, all of them. The weights change in place.
   * @throws OptionError; NotFoundError, CheckpointError for a checkpoint; OctavoError (ERR_NOT_FINITE) for a loss or a gradient that is no
   * number; AbortError when `signal` fires; OutOfMemoryError, FileError
   */
  async train(options: TrainOptions = {}): Promise<TrainOutput> {
    const given = new Map(entriesOf("train", options, ["resume_from_checkpoint", "signal"]));
    const signal = given.get("signal") ?? undefined;
    if (signal !== undefined && !isSignal(signal)) {
      throw new OptionError(`train: signal must be an AbortSignal, got ${show(signal)}`);
    }
    const { train_dataset, eval_dataset } = this;
    if (train_dataset === undefined) {
      throw new OptionError("train: the Trainer has no train_dataset", { details: { option: "train_dataset" } });
    }
    return this.#alone(async () => {
      throwIfAborted(signal as AbortSignal | undefined, "training");
      const from = await checkpointFor(this.#store, this.args, given.get("resume_from_checkpoint"));
      const run = new Run({
        subject: this.#subject,
        args: this.args,
        dataset: train_dataset,
        collate: this.data_collator,
        handler: this.#handler,
        store: this.#store,
        optimizers: this.#optimizers,
        from,
        signal: signal as AbortSignal | undefined,
        evaluate: eval_dataset === undefined ? undefined : () => this.#evaluate(eval_dataset, "eval"),
        log: (logs) => this.#logged(logs),
        begin: (state, optimizer, lr_scheduler) => {
          this.state = state;
          this.#handler.context = { ...this.#handler.context, optimizer, lr_scheduler };
        },
      });
      return run.run();
    });
  }

  /** @throws OctavoError while this Trainer works */
  async #alone<T>(body: () => Promise<T>): Promise<T> {
    if (this.#running) throw new OctavoError("ERR_IN_USE", "the Trainer is at work already");
    this.#running = true;
    try {
      await this.#ready;
      return await body();
    } finally {
      this.#running = false;
    }
  }

  /**
   * The mean loss over a dataset, and what compute_metrics gives, by names that begin with the prefix ("eval").
   * @param eval_dataset instead of the Trainer's
   * @throws OptionError
   */
  async evaluate(eval_dataset?: TrainerOptions["eval_dataset"], metric_key_prefix = "eval"): Promise<Logs> {
    const dataset = eval_dataset ?? this.eval_dataset;
    if (dataset === undefined) {
      throw new OptionError("evaluate: there is no eval_dataset", { details: { option: "eval_dataset" } });
    }
    if (typeof metric_key_prefix !== "string") {
      throw new OptionError(`evaluate: metric_key_prefix must be text, got ${show(metric_key_prefix)}`);
    }
    return this.#alone(() => this.#held(() => this.#evaluate(dataset, metric_key_prefix)));
  }

  async #held<T>(body: () => Promise<T>): Promise<T> {
    this.#subject.hold();
    try {
      return await body();
    } finally {
      await this.#subject.release();
    }
  }

  async #evaluate(dataset: NonNullable<TrainerOptions["eval_dataset"]>, prefix: string): Promise<Logs> {
    const all: Logs = {};
    for (const [name, one] of this.#evaluated(dataset, prefix)) {
      const { metrics } = await this.#over(one, name, false);
      Object.assign(all, await this.#logged(metrics));
    }
    await this.#handler.tell("on_evaluate", this.args, this.state, { metrics: all });
    return all;
  }

  #over(dataset: Dataset, prefix: string, predicting: boolean) {
    const step = (): Promise<void> => this.#handler.tell("on_prediction_step", this.args, this.state);
    const { args, data_collator: collate } = this;
    return evaluation(
      { subject: this.#subject, args, collate, compute_metrics: this.#metrics, step },
      dataset,
      prefix,
      predicting,
    );
  }

  /** Logits and labels of all examples of a dataset, and its metrics. @throws OptionError */
  async predict(test_dataset: Dataset, metric_key_prefix = "test"): Promise<PredictionOutput> {
    isMap("predict: test_dataset", test_dataset);
    if (typeof metric_key_prefix !== "string") {
      throw new OptionError(`predict: metric_key_prefix must be text, got ${show(metric_key_prefix)}`);
    }
    return this.#alone(() =>
      this.#held(async () => {
        const { metrics, prediction } = await this.#over(test_dataset, metric_key_prefix, true);
        await this.#handler.tell("on_predict", this.args, this.state, { metrics });
        return { ...prediction!, metrics };
      }),
    );
  }

  /** Adds numbers to the history, with epoch and step, and tells callbacks. @throws OptionError */
  async log(logs: Logs): Promise<void> {
    const numbers = Object.fromEntries(entriesOf("log", logs)) as Logs;
    if (this.state.max_steps > 0) numbers.epoch = this.state.epoch;
    const { include_num_input_tokens_seen: counts } = this.args;
    if (counts !== false && counts !== "no") numbers.num_input_tokens_seen = this.state.num_input_tokens_seen;
    this.state.log_history.push({ ...numbers, step: this.state.global_step });
    await this.#handler.tell("on_log", this.args, this.state, { logs: numbers });
  }

  /** Logs numbers; gives them with what `log` has added, as Python's changes what it is given. */
  async #logged(logs: Logs): Promise<Logs> {
    const { log_history: history } = this.state;
    const before = history.length;
    await this.log(logs);
    if (history.length === before) return logs; // a log of the user's own that keeps nothing
    const { step: _, ...numbers } = history.at(-1)!;
    return numbers;
  }

  /**
   * Writes the model, or its adapters alone, and the arguments into a folder, which changes as a whole.
   * @param output_dir default: that of the arguments
   * @throws OptionError, FileError; OctavoError in a page
   */
  async save_model(output_dir: string = this.args.output_dir): Promise<void> {
    if (typeof output_dir !== "string" || output_dir === "") {
      throw new OptionError(`save_model: expected the path of a folder, got ${show(output_dir)}`);
    }
    if (!this.#store) throw noStore("save_model");
    await writeCheckpoint(this.#store, output_dir, this.#subject, this.args, undefined);
  }
}
