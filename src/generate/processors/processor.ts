// Changes to logits before a token is chosen: by processors on the device, which a recording replays, or on the host, which
// disable pipelining.

import { listOf } from "../../core/checks.js";
import { OptionError } from "../../core/errors.js";
import type { Tensor } from "../../core/tensor.js";
import type { SamplingConfig } from "../config.js";
import { warnOnce } from "../warn.js";

/** A row at its start: its text so far; the first `prompt` tokens were given, the others generated. */
export interface RowStart {
  readonly row: number;
  readonly ids: readonly number[];
  readonly prompt: number;
  readonly options: SamplingConfig;
}

/**
 * Changes logits on the device. `record` and `keep` are captured once and replayed in every step, so all data that varies
 * between rows or steps is in tensors that outlive the recording.
 */
export interface LogitsProcessor {
  /** True while no row needs it; the recording then omits it. */
  readonly idle: boolean;
  /** Adds a row, by writes from the host. */
  begin(start: RowStart): void;
  /** Ignores a row from now on. */
  end(row: number): void;
  /** Records its change to logits[R,V], in place. */
  record(logits: Tensor): void;
  /** Records the update of its state with the chosen tokens i32[R]. */
  keep(tokens: Tensor): void;
  /** Records that row `to` continues from the state of row `from`. */
  fork(from: number, to: number): void;
  /** Records that each row r continues from the state of row `parents[r]` (beams). */
  reorder(parents: readonly number[]): void;
  dispose(): void;
}

/** The state of a row when a host processor is called. */
export interface HostState {
  readonly row: number;
  /** Prompt and generated tokens so far. */
  readonly ids: readonly number[];
  /** Tokens of the prompt, padding not counted. */
  readonly prompt: number;
  /** Tokens generated so far. */
  readonly step: number;
}

/**
 * Changes logits on the host: constraints, and the caller's own rules. It disables pipelining: each step waits for the logits
 * of all rows to be read from the device and written back, and starts only after the previous step was read.
 */
export interface HostProcessor {
  /** Changes the logits f32[V] of one row in place. Penalties have been applied, the temperature has not. */
  process(logits: Float32Array, at: HostState): void | Promise<void>;
}

/** Warns once that host processors disable pipelining. */
export function warnOfHostProcessors(): void {
  warnOnce(
    "logits_processor",
    "logits_processor runs on the host; each step now waits for the logits to come and go back",
  );
}

/** @throws OptionError unless the value is a list of host processors */
export function checkProcessors(processors: unknown): void {
  if (processors === undefined) return;
  const isOne = (one: unknown): one is HostProcessor => typeof (one as HostProcessor).process === "function";
  if (listOf(processors, isOne)) return;
  throw new OptionError("logits_processor must be a list of objects with a method `process(logits, at)`", {
    details: { option: "logits_processor" },
  });
}
