// What may change logits before a token is chosen: processors on the device, which a recording replays, and processors on
// the host, which cost the pipelining.

import { OptionError } from "../../core/errors.js";
import type { Tensor } from "../../core/tensor.js";
import type { SamplingConfig } from "../config.js";

/** A row as it begins: its text so far, of which the first `prompt` tokens were given and the others generated. */
export interface RowStart {
  readonly row: number;
  readonly ids: readonly number[];
  readonly prompt: number;
  readonly options: SamplingConfig;
}

/**
 * Changes logits on the device. `record` and `keep` are captured once and replayed in every step, so all that differs
 * between rows or steps is data in tensors that outlive the recording.
 */
export interface LogitsProcessor {
  /** True while no row needs it; it is then left out of the recording. */
  readonly idle: boolean;
  /** Takes a row in, by writes from the host. */
  begin(start: RowStart): void;
  /** Leaves a row alone from now on. */
  end(row: number): void;
  /** Records what it does to logits[R,V], in place. */
  record(logits: Tensor): void;
  /** Records what it keeps of the tokens i32[R] that were chosen. */
  keep(tokens: Tensor): void;
  /** Records that row `to` goes on from the state of row `from`. */
  fork(from: number, to: number): void;
  /** Records that each row r goes on from the state of row `parents[r]` (beams). */
  reorder(parents: readonly number[]): void;
  dispose(): void;
}

/** Where a row stands when a host processor is called. */
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
 * Changes logits on the host: constraints, and rules of the caller's own. It costs the pipelining: each step waits until the
 * logits of all rows have come from the device and gone back, and no step begins before the one before was read.
 */
export interface HostProcessor {
  /** Changes the logits f32[V] of one row in place. They have been through the penalties, not through the temperature. */
  process(logits: Float32Array, at: HostState): void | Promise<void>;
}

let warned = false;

/** Says once that host processors cost the pipelining. */
export function warnOfHostProcessors(): void {
  if (warned) return;
  warned = true;
  console.warn("octavo: logits_processor runs on the host; each step now waits for the logits to come and go back");
}

/** @throws OptionError for what is no list of host processors */
export function checkProcessors(processors: unknown): void {
  if (processors === undefined) return;
  const all = Array.isArray(processors) ? processors : [undefined];
  if (all.every((processor) => typeof processor?.process === "function")) return;
  throw new OptionError("logits_processor must be a list of objects with a method `process(logits, at)`", {
    details: { option: "logits_processor" },
  });
}
