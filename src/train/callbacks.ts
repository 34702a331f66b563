// What a training run tells those who watch it, and how they steer it: transformers' events, state and flags.

import type { Optimizer } from "../bnb/optim/optimizer.js";
import type { TrainingArguments } from "./arguments.js";
import type { LRScheduler } from "./schedules.js";

/** Numbers of a log by name; `epoch` and `step` among them once they are in the history. */
export type Logs = Record<string, number>;

/** Where a run is: what `trainer_state.json` holds. */
export interface TrainerState {
  /** Epochs that are done, with the part of the current one. */
  epoch: number;
  /** Updates that are done. */
  global_step: number;
  /** All updates of the run. */
  max_steps: number;
  num_train_epochs: number;
  /** Updates between two logs, evaluations and checkpoints. */
  logging_steps: number;
  eval_steps: number;
  save_steps: number;
  train_batch_size: number;
  num_input_tokens_seen: number;
  log_history: Logs[];
  best_metric: number | null;
  best_global_step: number | null;
  best_model_checkpoint: string | null;
  /** What callbacks have to remember, by the names of their classes. */
  stateful_callbacks: Record<string, unknown>;
}

/** What happens next; events may set it. */
export interface TrainerControl {
  should_training_stop: boolean;
  should_epoch_stop: boolean;
  should_save: boolean;
  should_evaluate: boolean;
  should_log: boolean;
}

/** What events get beside arguments, state and control. */
export interface CallbackContext {
  readonly model: unknown;
  readonly processing_class: unknown;
  readonly optimizer: Optimizer | undefined;
  readonly lr_scheduler: LRScheduler | undefined;
  /** Of on_log. */
  readonly logs?: Logs;
  /** Of on_evaluate and on_predict. */
  readonly metrics?: Logs;
  /** Of on_save: the folder of the checkpoint. */
  readonly checkpoint?: string;
}

/** The events of a run, in transformers' names. */
export const EVENTS = [
  "on_init_end",
  "on_train_begin",
  "on_train_end",
  "on_epoch_begin",
  "on_epoch_end",
  "on_step_begin",
  "on_substep_end",
  "on_pre_optimizer_step",
  "on_optimizer_step",
  "on_step_end",
  "on_evaluate",
  "on_predict",
  "on_prediction_step",
  "on_save",
  "on_log",
] as const;
export type CallbackEvent = (typeof EVENTS)[number];

type Handler = (
  args: TrainingArguments,
  state: TrainerState,
  control: TrainerControl,
  context: CallbackContext,
) => unknown;

/** Watches and steers a run. Each event may be left out, and may be asynchronous: the run waits for it. */
export type TrainerCallback = { readonly [Event in CallbackEvent]?: Handler } & {
  /** What a checkpoint is to remember: plain JSON. */
  state?(): unknown;
  /** Gets that back when a run is resumed. */
  load_state?(state: unknown): void;
};
