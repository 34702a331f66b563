// How long a run is: batches, updates and epochs, counted as transformers counts them.

import { OptionError } from "../core/errors.js";
import type { TrainingArguments } from "./arguments.js";
import { type BatchPlan, batchCount } from "./batches.js";
import type { TrainerState } from "./callbacks.js";
import type { Dataset } from "./data/types.js";

/** How long a run is. */
export interface Length {
  /** Batches and updates of an epoch. */
  readonly batches: number;
  readonly updates: number;
  readonly max_steps: number;
  readonly epochs: number;
  readonly samples: number;
}

/** @throws OptionError for a stream without max_steps, and for a dataset without a batch */
export function lengthOf(dataset: Dataset, plan: BatchPlan, args: TrainingArguments): Length {
  const { gradient_accumulation_steps: window, max_steps, num_train_epochs } = args;
  const batches = batchCount(dataset, plan);
  if (batches === undefined) {
    if (max_steps > 0) {
      const samples = max_steps * window * plan.size;
      return { batches: max_steps * window, updates: max_steps, max_steps, epochs: Number.MAX_SAFE_INTEGER, samples };
    }
    throw new OptionError("max_steps must be above 0 for a stream of examples, whose length nobody knows", {
      details: { option: "max_steps" },
    });
  }
  if (batches === 0) throw new OptionError("train_dataset has no example, or too few for a batch");
  const updates = Math.max(1, Math.ceil(batches / window));
  if (max_steps > 0) {
    const samples = max_steps * window * plan.size;
    return { batches, updates, max_steps, epochs: Math.ceil(max_steps / updates), samples };
  }
  const steps = Math.ceil(num_train_epochs * updates);
  const samples = (dataset as { length: number }).length * num_train_epochs;
  return { batches, updates, max_steps: steps, epochs: Math.ceil(num_train_epochs), samples };
}

/** Shares of all updates as numbers of them. */
const stepsFrom = (value: number, all: number): number => (value < 1 ? Math.ceil(all * value) : value);

/** The state of a trainer that has not run. */
export function blankState(): TrainerState {
  return {
    ...{ epoch: 0, global_step: 0, max_steps: 0, num_train_epochs: 0 },
    ...{ logging_steps: 500, eval_steps: 500, save_steps: 500, train_batch_size: 0, num_input_tokens_seen: 0 },
    ...{ best_metric: null, best_global_step: null, best_model_checkpoint: null },
    log_history: [],
    stateful_callbacks: {},
  };
}

/** The state that a run begins with. */
export function newState(args: TrainingArguments, { max_steps, epochs }: Length): TrainerState {
  return {
    ...blankState(),
    max_steps,
    num_train_epochs: epochs,
    logging_steps: stepsFrom(args.logging_steps, max_steps),
    eval_steps: stepsFrom(args.eval_steps ?? args.logging_steps, max_steps),
    save_steps: stepsFrom(args.save_steps, max_steps),
    train_batch_size: args.per_device_train_batch_size,
  };
}
