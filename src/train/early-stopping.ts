// transformers' EarlyStoppingCallback.

import { entriesOf, OptionError } from "../core/errors.js";
import { number, type Options, readOptions, type Table, whole } from "../core/options.js";
import { show } from "../core/show.js";
import { warnOnce } from "../generate/warn.js";
import type { TrainingArguments } from "./arguments.js";
import type { CallbackContext, TrainerCallback, TrainerControl, TrainerState } from "./callbacks.js";
import { isBetter, metricName } from "./metrics.js";

const EARLY = {
  /** Evaluations in a row that may be no better than the best (default: 1). */
  early_stopping_patience: whole(1),
  /** By how much a metric must be better to count (default: 0). */
  early_stopping_threshold: number((n) => n >= 0 && Number.isFinite(n), "a number of at least 0"),
} satisfies Table;

export interface EarlyStoppingOptions extends Options<typeof EARLY> {}

/** Stops training when `metric_for_best_model` has stopped getting better. */
export class EarlyStoppingCallback implements TrainerCallback {
  readonly early_stopping_patience: number;
  readonly early_stopping_threshold: number;
  #worse = 0;

  /** @throws OptionError */
  constructor(options: EarlyStoppingOptions = {}) {
    const given = readOptions("EarlyStoppingCallback", EARLY, options);
    this.early_stopping_patience = given.early_stopping_patience ?? 1;
    this.early_stopping_threshold = given.early_stopping_threshold ?? 0;
  }

  /** @throws OptionError where nothing is evaluated, or no metric is named */
  on_train_begin(args: TrainingArguments): void {
    if (args.metric_for_best_model === null) {
      throw new OptionError("EarlyStoppingCallback requires metric_for_best_model to be defined", {
        details: { option: "metric_for_best_model" },
      });
    }
    if (args.eval_strategy === "no") {
      throw new OptionError('EarlyStoppingCallback requires eval_strategy: "steps" or "epoch"', {
        details: { option: "eval_strategy" },
      });
    }
    if (!args.load_best_model_at_end) {
      warnOnce("early", "EarlyStoppingCallback without load_best_model_at_end: the last model stays, not the best");
    }
  }

  on_evaluate(
    args: TrainingArguments,
    state: TrainerState,
    control: TrainerControl,
    { metrics }: CallbackContext,
  ): void {
    const name = metricName(args);
    const value = name === undefined ? undefined : metrics?.[name];
    if (value === undefined) {
      warnOnce(`early ${name}`, `early stopping is off: the evaluation has no ${name}`);
      return;
    }
    const { best_metric: best } = state;
    const better =
      best === null || (isBetter(args, value, best) && Math.abs(value - best) > this.early_stopping_threshold);
    this.#worse = better ? 0 : this.#worse + 1;
    if (this.#worse >= this.early_stopping_patience) control.should_training_stop = true;
  }

  state(): { early_stopping_patience_counter: number } {
    return { early_stopping_patience_counter: this.#worse };
  }

  /** @throws OptionError for what is no state */
  load_state(state: unknown): void {
    const counter = new Map(entriesOf("EarlyStoppingCallback", state)).get("early_stopping_patience_counter");
    if (!Number.isSafeInteger(counter)) throw new OptionError(`EarlyStoppingCallback: no state: ${show(state)}`);
    this.#worse = counter as number;
  }
}
