// Calls callbacks, and sets the flags of the default flow: when a run logs, evaluates, saves and stops.

import { isFunction, listOf } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import type { TrainingArguments } from "./arguments.js";
import {
  type CallbackContext,
  type CallbackEvent,
  EVENTS,
  type TrainerCallback,
  type TrainerControl,
  type TrainerState,
} from "./callbacks.js";

/** @throws OptionError */
export function checkedCallback(given: unknown): TrainerCallback {
  const made = typeof given === "object" && given !== null ? given : undefined;
  if (!made) {
    throw new OptionError(
      `callbacks are objects with some of ${EVENTS.slice(0, 4).join(", ")} ..., got ${show(given)}`,
      {
        hint: typeof given === "function" ? "make one of it: new Callback()" : undefined,
      },
    );
  }
  for (const event of EVENTS) {
    let handler: unknown;
    try {
      handler = (made as TrainerCallback)[event];
    } catch (cause) {
      throw new OptionError(`a callback's ${event} cannot be read`, { cause });
    }
    if (handler !== undefined && !isFunction(handler)) {
      throw new OptionError(`a callback's ${event} must be a function, got ${show(handler)}`);
    }
  }
  return made;
}

/** @throws OptionError */
export function callbacksOf(given: unknown): TrainerCallback[] {
  if (given === undefined || given === null) return [];
  const list = listOf(given, (one): one is unknown => one !== undefined);
  if (!list) throw new OptionError(`callbacks must be a list, got ${show(given)}`);
  return list.map(checkedCallback);
}

/** A name for what a callback remembers. */
function nameOf(callback: TrainerCallback): string {
  return callback.constructor?.name || "callback";
}

export class CallbackHandler {
  readonly callbacks: TrainerCallback[];
  readonly control: TrainerControl = {
    should_training_stop: false,
    should_epoch_stop: false,
    should_save: false,
    should_evaluate: false,
    should_log: false,
  };
  /** What events get beside arguments, state and control. */
  context: CallbackContext;

  constructor(callbacks: readonly TrainerCallback[], context: CallbackContext) {
    this.callbacks = [...callbacks];
    this.context = context;
  }

  /** Tells all callbacks, in order, and waits for each. */
  async tell(
    event: CallbackEvent,
    args: TrainingArguments,
    state: TrainerState,
    more: Partial<CallbackContext> = {},
  ): Promise<void> {
    const { control } = this;
    if (event === "on_train_begin") control.should_training_stop = false;
    if (event === "on_epoch_begin") control.should_epoch_stop = false;
    if (event === "on_step_begin")
      Object.assign(control, { should_log: false, should_evaluate: false, should_save: false });
    if (event === "on_evaluate") control.should_evaluate = false;
    if (event === "on_save") control.should_save = false;
    if (event === "on_log") control.should_log = false;
    if (event === "on_step_end") afterStep(args, state, control);
    if (event === "on_epoch_end") afterEpoch(args, state, control);
    for (const callback of [...this.callbacks]) {
      await callback[event]?.(args, state, control, { ...this.context, ...more });
    }
  }

  /** What callbacks have to remember, by the names of their classes, in order. */
  states(): Record<string, unknown[]> {
    const states: Record<string, unknown[]> = {};
    for (const callback of this.callbacks) {
      if (isFunction(callback.state)) (states[nameOf(callback)] ??= []).push(callback.state());
    }
    return states;
  }

  /** Gives it back. */
  restore(states: Readonly<Record<string, unknown>>): void {
    const left = new Map(
      Object.entries(states).map(([name, list]) => [name, Array.isArray(list) ? [...list] : [list]]),
    );
    for (const callback of this.callbacks) {
      const own = left.get(nameOf(callback));
      if (isFunction(callback.load_state) && own && own.length > 0) callback.load_state(own.shift());
    }
  }
}

/** transformers' default flow at the end of an update. */
function afterStep(args: TrainingArguments, state: TrainerState, control: TrainerControl): void {
  const { global_step: step } = state;
  if (step === 1 && args.logging_first_step) control.should_log = true;
  if (args.logging_strategy === "steps" && step % state.logging_steps === 0) control.should_log = true;
  const late = args.eval_delay <= step;
  if (args.eval_strategy === "steps" && late && step % state.eval_steps === 0) control.should_evaluate = true;
  if (args.save_strategy === "steps" && step % state.save_steps === 0) control.should_save = true;
  if (step < state.max_steps) return;
  control.should_training_stop = true;
  if (args.eval_strategy === "steps" && late) control.should_evaluate = true;
  if (args.save_strategy === "steps") control.should_save = true;
}

/** The same at the end of an epoch. */
function afterEpoch(args: TrainingArguments, state: TrainerState, control: TrainerControl): void {
  if (args.logging_strategy === "epoch") control.should_log = true;
  if (args.eval_strategy === "epoch" && args.eval_delay <= state.epoch) control.should_evaluate = true;
  if (args.save_strategy === "epoch") control.should_save = true;
}
