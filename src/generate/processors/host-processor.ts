// Processors on the host, as generate() takes them from its callers.

import { listOf } from "../../core/checks.js";
import { OptionError } from "../../core/errors.js";
import { warnOnce } from "../warn.js";

/** The state of a row when a host processor is called. */
export interface HostState {
  readonly row: number;
  /** Prompt and generated tokens so far. */
  readonly ids: readonly number[];
  /** Tokens of the prompt, padding not counted. */
  readonly prompt: number;
  /** Tokens generated so far. */
  readonly step: number;
  /** With guidance: logits f32[V] of the same text after its negative prompt. */
  readonly unconditional?: Float32Array | undefined;
  /** Of sessions that keep them: last hidden states f32[n,hidden] of the n tokens read since the step before. */
  readonly states?: Float32Array | undefined;
}

/**
 * Changes logits on the host: constraints, and the caller's own rules. The choice of each step waits for the logits of all rows to be
 * read from the device and written back, and for the tokens of the step before; its forward pass does not.
 */
export interface HostProcessor {
  /** Changes the logits f32[V] of one row in place. Penalties have been applied, the temperature has not. */
  process(logits: Float32Array, at: HostState): void | Promise<void>;
}

/** Gives the ids that may follow a text of a prompt. */
export type PrefixAllowedTokens = (batch_id: number, input_ids: readonly number[]) => readonly number[];

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
