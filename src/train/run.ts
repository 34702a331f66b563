// One call of Trainer.train: the loop over epochs, updates and batches, as transformers has it. What it does beside the updates (logs,
// evaluations, checkpoints) follows the flags that callbacks set.

import type { Optimizer } from "../bnb/optim/optimizer.js";
import type { Trainable } from "../bnb/optim/parameter.js";
import { AbortError, OctavoError, OptionError } from "../core/errors.js";
import { warnOnce } from "../generate/warn.js";
import { manual_seed } from "../nn/init.js";
import { filled } from "../ops/fill.js";
import type { TrainingArguments } from "./arguments.js";
import { type BatchPlan, batchesOf, trainingPlan } from "./batches.js";
import type { Logs, TrainerState } from "./callbacks.js";
import {
  folderOf,
  keepOnly,
  type Progress,
  readCheckpoint,
  restoreWeights,
  rotate,
  type SavedRun,
  writeCheckpoint,
} from "./checkpoint.js";
import type { Batch, DataCollator, Dataset } from "./data/types.js";
import type { CallbackHandler } from "./handler.js";
import { tokensOf } from "./items.js";
import { type Length, lengthOf, newState } from "./length.js";
import { isBetter, metricName, speedMetrics } from "./metrics.js";
import { scaleGradients, squaredNorms } from "./norm.js";
import { type Named, optimizerOf } from "./optimizers.js";
import { get_scheduler, type LRScheduler, ReduceLROnPlateau } from "./schedules.js";
import { refuseBroken, type Subject } from "./subject.js";
import type { CheckpointStore, TrainOutput } from "./types.js";

/** What a run works with. */
export interface RunInput {
  readonly subject: Subject;
  readonly args: TrainingArguments;
  readonly dataset: Dataset;
  readonly collate: DataCollator;
  readonly handler: CallbackHandler;
  readonly store: CheckpointStore | undefined;
  readonly optimizers: readonly [Optimizer | null | undefined, LRScheduler | null | undefined];
  /** The folder of the checkpoint that it goes on from. */
  readonly from: string | undefined;
  readonly signal: AbortSignal | undefined;
  readonly evaluate: (() => Promise<Logs>) | undefined;
  /** Adds numbers to the history, and tells callbacks. */
  /** @returns the numbers with epoch and tokens */
  log(logs: Logs): Promise<Logs>;
  /** Gets the state that a run begins with. */
  begin(state: TrainerState, optimizer: Optimizer, scheduler: LRScheduler): void;
}

export class Run {
  readonly #input: RunInput;
  readonly #plan: BatchPlan;
  readonly #length: Length;
  #trained: readonly Named[] = [];
  #state!: TrainerState;
  #progress: Progress = {
    ...{ epoch: 0, batches: 0, ended: false },
    ...{ loss: 0, logged_loss: 0, last_logged: 0, learning_rate: 0, grad_norm: 0 },
  };
  #optimizer!: Optimizer;
  #scheduler!: LRScheduler;
  /** The update of the last checkpoint. */
  #saved = -1;

  /** @throws OptionError */
  constructor(input: RunInput) {
    this.#input = input;
    this.#plan = trainingPlan(input.dataset, input.args);
    this.#length = lengthOf(input.dataset, this.#plan, input.args);
  }

  /** @throws what goes wrong; AbortError when the signal fires, after a checkpoint */
  async run(): Promise<TrainOutput> {
    const { subject, store, from, optimizers } = this.#input;
    const saved = from === undefined ? undefined : await readCheckpoint(store!, from);
    subject.check();
    try {
      this.#trained = subject.begin(this.#input.args.gradient_checkpointing);
      await this.#prepare(saved);
      subject.open("train");
      subject.hold();
      try {
        return await this.#loop(saved !== undefined);
      } finally {
        await subject.release();
      }
    } finally {
      subject.train(false);
      subject.end();
      if (this.#optimizer && !optimizers[0]) this.#optimizer.dispose();
    }
  }

  async #prepare(saved: SavedRun | undefined): Promise<void> {
    const { subject, args, optimizers, handler } = this.#input;
    const { max_steps } = this.#length;
    this.#optimizer = optimizers[0] ?? optimizerOf(this.#trained, subject.root, args);
    this.#scheduler =
      optimizers[1] ??
      get_scheduler(args.lr_scheduler_type, this.#optimizer, {
        num_warmup_steps: args.get_warmup_steps(max_steps),
        num_training_steps: max_steps,
        scheduler_specific_kwargs: args.lr_scheduler_kwargs ?? {},
      });
    this.#state = newState(args, this.#length);
    manual_seed(args.seed);
    if (saved) {
      const { max_steps, num_train_epochs, logging_steps, eval_steps, save_steps } = this.#state;
      const now = { max_steps, num_train_epochs, logging_steps, eval_steps, save_steps };
      if (saved.state.train_batch_size !== args.per_device_train_batch_size) {
        warnOnce(
          "batch size",
          "the checkpoint was made with another batch size: its place in the data is not the same",
        );
      }
      Object.assign(this.#state, saved.state, now);
      this.#state.train_batch_size = args.per_device_train_batch_size;
      this.#progress = { ...saved.progress };
      if (args.ignore_data_skip) this.#progress.batches = 0;
      handler.restore(this.#state.stateful_callbacks);
      await saved.restore(subject, { optimizer: this.#optimizer, scheduler: this.#scheduler });
      this.#saved = this.#state.global_step;
    }
    this.#input.begin(this.#state, this.#optimizer, this.#scheduler);
  }

  async #loop(resumed: boolean): Promise<TrainOutput> {
    const { args, handler, evaluate } = this.#input;
    const { control } = handler;
    const start = performance.now();
    await this.#tell("on_train_begin");
    if (args.eval_on_start && !resumed && evaluate) await evaluate();
    const { epochs, max_steps } = this.#length;
    const progress = this.#progress;
    if (resumed && !progress.ended && this.#done(progress.batches)) await this.#endEpoch();
    if (progress.ended) Object.assign(progress, { epoch: progress.epoch + 1, batches: 0, ended: false });
    while (progress.epoch < epochs && this.#state.global_step < max_steps && !control.should_training_stop) {
      await this.#tell("on_epoch_begin");
      await this.#epoch();
      await this.#endEpoch();
      if (control.should_training_stop) break;
      Object.assign(progress, { epoch: progress.epoch + 1, batches: 0, ended: false });
    }
    return this.#finish(start);
  }

  /** True if an epoch of that many batches is over, as far as its length is known. */
  #done(batches: number): boolean {
    return batches > 0 && batches >= this.#length.batches;
  }

  async #endEpoch(): Promise<void> {
    this.#progress.ended = true;
    await this.#tell("on_epoch_end");
    await this.#follow();
  }

  async #epoch(): Promise<void> {
    const { args, dataset, collate, handler, signal } = this.#input;
    const { control } = handler;
    const progress = this.#progress;
    const before = progress.batches;
    const source = batchesOf(dataset, this.#plan, progress.epoch, before);
    let window: Batch[] = [];
    try {
      for (;;) {
        const next = await source.next();
        if (!next.done) window.push(await collate(next.value));
        const full = window.length === args.gradient_accumulation_steps;
        if (window.length > 0 && (full || next.done || this.#done(progress.batches + window.length))) {
          await this.#update(window);
          window = [];
          if (signal?.aborted) await this.#abort(signal);
        }
        if (next.done || control.should_epoch_stop || control.should_training_stop) break;
      }
    } finally {
      await source.return(undefined);
    }
    if (progress.batches === 0) throw new OptionError(`train_dataset has no example in epoch ${progress.epoch + 1}`);
  }

  /** One update of the weights by the batches of a window. */
  async #update(window: readonly Batch[]): Promise<void> {
    const { subject, args } = this.#input;
    const step = this.#state.global_step + 1;
    const items = subject.items(window);
    for (const [i, batch] of window.entries()) {
      if (i === 0) await this.#tell("on_step_begin");
      subject.train(true);
      const loss = await this.#gradients(batch, items, items === undefined ? window.length : 1, step);
      this.#progress.loss += loss;
      if (args.include_num_input_tokens_seen !== false && args.include_num_input_tokens_seen !== "no") {
        this.#state.num_input_tokens_seen += tokensOf(batch, args.include_num_input_tokens_seen === "non_padding");
      }
      if (i < window.length - 1) await this.#tell("on_substep_end");
    }
    await this.#clip(step);
    await this.#tell("on_pre_optimizer_step");
    this.#optimizer.step();
    await this.#tell("on_optimizer_step");
    this.#progress.learning_rate = this.#scheduler.get_last_lr()[0]!;
    if (!(this.#scheduler instanceof ReduceLROnPlateau)) this.#scheduler.step();
    subject.model.zero_grad();
    this.#progress.batches += window.length;
    this.#state.global_step = step;
    this.#state.epoch = this.#progress.epoch + this.#progress.batches / this.#length.batches;
    await this.#tell("on_step_end");
    await this.#follow();
  }

  /** Adds the gradients of a batch. @returns its share of the update's loss */
  async #gradients(batch: Batch, items: number | undefined, parts: number, step: number): Promise<number> {
    const { subject, args } = this.#input;
    const loss = subject.loss(batch, { items, smoothing: args.label_smoothing_factor });
    try {
      if (parts === 1) loss.backward();
      else {
        using part = filled(loss.device, loss.shape, 1 / parts);
        loss.backward(part);
      }
      const [value = 0] = await loss.readFloats();
      await refuseBroken(subject, batch, value, step);
      await subject.objective?.noted("train");
      return value / parts;
    } finally {
      loss.dispose();
      subject.objective?.forget();
    }
  }

  /** Cuts the gradients to max_grad_norm. @throws OctavoError for one that is no number, by the name of its parameter */
  async #clip(step: number): Promise<void> {
    const { max_grad_norm } = this.#input.args;
    const having = this.#trained.filter(([, parameter]) => parameter.grad);
    if (having.length === 0) {
      throw new OptionError("train: the loss depends on no parameter that asks for a gradient", {
        hint: "is an adapter active? model.set_adapter(name)",
      });
    }
    const squares = await squaredNorms(having.map(([, parameter]) => parameter.grad!));
    const odd = squares.findIndex((sum) => !Number.isFinite(sum));
    if (odd >= 0) {
      const [name] = having[odd]!;
      throw new OctavoError(
        "ERR_NOT_FINITE",
        `the gradient of ${name} in update ${step} is too large for f32, or no number`,
        {
          details: { step, module: name },
          hint: "a lower learning_rate; the weights are those of the update before",
        },
      );
    }
    const norm = Math.sqrt(squares.reduce((sum, one) => sum + one, 0));
    this.#progress.grad_norm = norm;
    if (max_grad_norm > 0)
      scaleGradients(
        having.map(([, parameter]) => parameter as Trainable),
        norm,
        max_grad_norm,
      );
  }

  /** Logs, evaluates and saves, as the flags say. */
  async #follow(): Promise<void> {
    const { handler, evaluate, args } = this.#input;
    const { control } = handler;
    const progress = this.#progress;
    const { global_step: step } = this.#state;
    if (control.should_log && step > progress.last_logged) {
      const { grad_norm, learning_rate } = progress;
      const logs: Logs = { loss: progress.loss / (step - progress.last_logged), grad_norm, learning_rate };
      progress.logged_loss += progress.loss;
      progress.loss = 0;
      progress.last_logged = step;
      await this.#input.log(logs);
    }
    if (control.should_evaluate && evaluate) {
      const metrics = await evaluate();
      const best = this.#compare(metrics);
      if (args.save_strategy === "best") control.should_save = best;
    }
    if (control.should_save) await this.#save();
  }

  /** Notes the best evaluation. @returns whether this is one */
  #compare(metrics: Logs): boolean {
    const { args } = this.#input;
    const name = metricName(args);
    if (name === undefined) return false;
    const value = metrics[name];
    if (value === undefined) {
      throw new OptionError(`metric_for_best_model: the evaluation has no ${name}`, {
        details: { option: "metric_for_best_model" },
        hint: `it has ${Object.keys(metrics).join(", ")}`,
      });
    }
    if (this.#scheduler instanceof ReduceLROnPlateau) this.#scheduler.step(value);
    const { best_metric: best } = this.#state;
    if (best !== null && !isBetter(args, value, best)) return false;
    this.#state.best_metric = value;
    if (args.save_strategy !== "no") this.#state.best_global_step = this.#state.global_step;
    return true;
  }

  async #save(): Promise<void> {
    const { store, subject, args, handler } = this.#input;
    const state = this.#state;
    if (!store) return;
    const folder = folderOf(args.output_dir, state.global_step);
    if (args.save_strategy !== "no" && state.best_global_step !== null) {
      const best = folderOf(args.output_dir, state.best_global_step);
      const there = await store.folders(args.output_dir);
      if (best === folder || there.includes(`checkpoint-${state.best_global_step}`)) state.best_model_checkpoint = best;
    }
    state.stateful_callbacks = handler.states();
    const run = { state, progress: this.#progress, optimizer: this.#optimizer, scheduler: this.#scheduler };
    await writeCheckpoint(store, folder, subject, args, run);
    this.#saved = state.global_step;
    await rotate(store, args.output_dir, args.save_total_limit, state.best_model_checkpoint);
    await this.#tell("on_save", folder);
  }

  async #abort(signal: AbortSignal): Promise<never> {
    const { store, args } = this.#input;
    const { global_step: step } = this.#state;
    if (this.#saved !== step) await this.#save();
    const checkpoint = store && folderOf(args.output_dir, step);
    throw new AbortError(`training was aborted after update ${step}`, {
      details: { step, checkpoint },
      hint: checkpoint && "train({ resume_from_checkpoint: true }) goes on from there",
      cause: signal.reason,
    });
  }

  async #finish(start: number): Promise<TrainOutput> {
    const { args, store, subject } = this.#input;
    const { global_step, best_model_checkpoint, max_steps } = this.#state;
    const { loss, logged_loss } = this.#progress;
    const training_loss = (logged_loss + loss) / Math.max(global_step, 0.001);
    const metrics = await this.#input.log({
      ...speedMetrics("train", start, this.#length.samples, max_steps),
      train_loss: training_loss,
    });
    if (args.load_best_model_at_end && best_model_checkpoint !== null && store) {
      await subject.release();
      try {
        await restoreWeights(store, best_model_checkpoint, subject);
      } finally {
        subject.hold();
      }
    }
    // As in Python: of one checkpoint that may stay, it is the best one that does when the run is over.
    if (best_model_checkpoint !== null && store && args.save_total_limit === 1) {
      await keepOnly(store, args.output_dir, best_model_checkpoint);
    }
    await this.#tell("on_train_end");
    return { global_step, training_loss, metrics };
  }

  #tell(event: Parameters<CallbackHandler["tell"]>[0], checkpoint?: string): Promise<void> {
    const { handler, args } = this.#input;
    return handler.tell(event, args, this.#state, checkpoint === undefined ? {} : { checkpoint });
  }
}
