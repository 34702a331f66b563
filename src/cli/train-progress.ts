// What octavo train tells while it works: a line on a terminal, or lines, and metrics.jsonl in the folder.

import { appendFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { line, ProgressLine, remaining } from "../hub/bar.js";
import type { Logs, TrainerCallback, TrainerState } from "../train/callbacks.js";
import type { Curve } from "./chart-curve.js";
import { isInteractive, note } from "./output.js";
import { sparkline } from "./sparkline.js";

export const METRICS = "metrics.jsonl";

/** Seconds between two lines where there is no terminal. */
const SECONDS = 5;
/** Updates whose speed is the current one. */
const RECENT = 20;
const SPARKS = 16;

/** A line of metrics.jsonl. */
export type Metrics = Readonly<Record<string, number>>;

/** How far a run is. */
export interface Progress {
  readonly step: number;
  readonly steps: number;
  readonly losses: readonly number[];
  readonly tokens_per_second: number | undefined;
  /** Seconds that are left. */
  readonly left: number | undefined;
}

/** The end of an update: when, in ms, and how many tokens had been seen. */
interface Moment {
  readonly at: number;
  readonly step: number;
  readonly tokens: number;
}

const speed = (tokens: number): string => `${Math.round(tokens).toLocaleString("en-US")} tokens/s`;

/** The line on a terminal. */
export function trainingLine({ step, steps, losses, tokens_per_second, left }: Progress, columns: number): string {
  const last = losses.at(-1);
  return line(columns, `training ${step}/${steps}`, steps > 0 ? step / steps : 0, [
    ...(last === undefined ? [] : [`loss ${last.toFixed(3)}`]),
    ...(left === undefined ? [] : [remaining(left)]),
    ...(tokens_per_second === undefined ? [] : [speed(tokens_per_second)]),
    ...(losses.length > 1 ? [sparkline(losses, SPARKS)] : []),
  ]);
}

export class TrainProgress implements TrainerCallback {
  readonly #folder: string;
  readonly #bar: ProgressLine<Progress> | undefined;
  readonly #quiet: boolean;
  /** All lines of metrics.jsonl, those of a run that goes on included. */
  readonly metrics: Metrics[] = [];
  readonly #losses: number[] = [];
  /** The last updates. */
  readonly #times: Moment[] = [];
  #told = 0;
  #begun: Moment = { at: 0, step: 0, tokens: 0 };
  #ended: Moment = { at: 0, step: 0, tokens: 0 };

  constructor(folder: string, quiet: boolean) {
    this.#folder = folder;
    this.#quiet = quiet;
    this.#bar = !quiet && isInteractive() ? new ProgressLine(trainingLine) : undefined;
  }

  /** The last update, and seconds and tokens of this run: of one that went on, without what came before. */
  get work(): { readonly step: number; readonly seconds: number; readonly tokens: number } {
    const { at, step, tokens } = this.#ended;
    const begun = this.#begun;
    return { step, seconds: (at - begun.at) / 1000, tokens: tokens - begun.tokens };
  }

  on_train_begin(_: unknown, state: TrainerState): void {
    this.#begun = this.#moment(state);
    this.#ended = this.#begun;
    this.#times.push(this.#begun);
    const file = join(this.#folder, METRICS);
    for (const entry of existsSync(file) ? readFileSync(file, "utf8").split("\n") : []) {
      if (entry === "") continue;
      const one = JSON.parse(entry) as Metrics;
      if (one.step! <= state.global_step) this.metrics.push(one);
    }
    for (const { loss } of this.metrics) if (loss !== undefined) this.#losses.push(loss);
    writeFileSync(file, this.metrics.map((one) => `${JSON.stringify(one)}\n`).join(""));
  }

  on_step_end(_: unknown, state: TrainerState): void {
    this.#ended = this.#moment(state);
    this.#times.push(this.#ended);
    if (this.#times.length > RECENT) this.#times.shift();
  }

  on_log(_: unknown, state: TrainerState, __: unknown, { logs = {} }: { readonly logs?: Logs }): void {
    if (logs.train_runtime !== undefined) return; // the sums at the end
    const { tokens_per_second } = this.#progress(state);
    const own: Metrics = logs.loss === undefined || tokens_per_second === undefined ? {} : { tokens_per_second };
    const entry: Metrics = { step: state.global_step, ...logs, ...own };
    this.metrics.push(entry);
    appendFileSync(join(this.#folder, METRICS), `${JSON.stringify(entry)}\n`);
    if (logs.eval_loss !== undefined) this.tell(`step ${state.global_step}: eval loss ${logs.eval_loss.toFixed(3)}`);
    if (logs.loss === undefined) return;
    this.#losses.push(logs.loss);
    this.#show(state);
  }

  on_save(_: unknown, __: unknown, ___: unknown, { checkpoint }: { readonly checkpoint?: string }): void {
    if (checkpoint !== undefined) this.tell(`saved ${checkpoint}`);
  }

  /** A line of its own. */
  tell(text: string): void {
    if (this.#quiet) return;
    this.#bar?.stop();
    note(text);
  }

  stop(): void {
    this.#bar?.stop();
  }

  #moment({ global_step: step, num_input_tokens_seen: tokens }: TrainerState): Moment {
    return { at: performance.now(), step, tokens };
  }

  #progress(state: TrainerState): Progress {
    const [first, last] = [this.#times[0]!, this.#times.at(-1)!];
    const seconds = (last.at - first.at) / 1000;
    const known = last.step > first.step && seconds > 0;
    return {
      step: state.global_step,
      steps: state.max_steps,
      losses: this.#losses,
      tokens_per_second: known ? (last.tokens - first.tokens) / seconds : undefined,
      left: known ? ((state.max_steps - state.global_step) * seconds) / (last.step - first.step) : undefined,
    };
  }

  #show(state: TrainerState): void {
    if (this.#quiet) return;
    const progress = this.#progress(state);
    if (this.#bar) {
      this.#bar.show(progress, progress.step, progress.steps);
      return;
    }
    const now = performance.now();
    const due = this.#told === 0 || now - this.#told > 1000 * SECONDS || progress.step >= progress.steps;
    const loss = progress.losses.at(-1);
    if (!due || loss === undefined) return;
    this.#told = now;
    const { left, tokens_per_second } = progress;
    const parts = [
      `step ${progress.step}/${progress.steps}`,
      `loss ${loss.toFixed(3)}`,
      ...(tokens_per_second === undefined ? [] : [speed(tokens_per_second)]),
      ...(left === undefined || progress.step >= progress.steps ? [] : [remaining(left)]),
    ];
    note(parts.join("  "));
  }
}

/** The curves of a run's numbers. */
export function curvesOf(metrics: readonly Metrics[]): Curve[] {
  const curve = (name: string, key: string): Curve => ({
    name,
    points: metrics.flatMap((one) => (one[key] === undefined ? [] : [{ step: one.step!, value: one[key] }])),
  });
  return [curve("loss", "loss"), curve("eval loss", "eval_loss")].filter(({ points }) => points.length > 0);
}
