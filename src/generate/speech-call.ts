// What a call of a model of sound asks for: the text of one window, or a transcript with times (transcribe.ts). And the rule by which
// its model writes times.

import { ConfigError, OptionError } from "../core/errors.js";
import { type Options, problemWith } from "../core/options.js";
import { show } from "../core/show.js";
import type { ConfigJson } from "../nn/architecture.js";
import type { Seq2SeqLM } from "../nn/seq2seq.js";
import type { LoadedModel } from "./base.js";
import type { GenerationConfig } from "./config.js";
import type { SPEECH_GENERATE } from "./options.js";
import { WhisperTimeStampLogitsProcessor } from "./processors/host/timestamps.js";
import type { HostProcessor } from "./processors/host-processor.js";
import { WINDOWS } from "./speech-options.js";

export type SpeechCall = Options<typeof SPEECH_GENERATE>;

/** An option, or the field of generation_config.json in its place. @throws ConfigError for a field that is no such option */
export function fieldOf<T>(options: SpeechCall, file: ConfigJson, name: keyof typeof WINDOWS): T | undefined {
  if (options[name] !== undefined) return options[name] as T;
  const value = file[name] ?? undefined;
  const problem = value === undefined ? undefined : problemWith(name, WINDOWS[name], value);
  if (problem)
    throw new ConfigError(`generation_config.json: ${problem.message}`, { hint: `pass ${name} to generate()` });
  return value as T | undefined;
}

/** True where a call asks for more than the text of one window, or has more than one. */
export function asksTranscript(options: SpeechCall, file: ConfigJson, frames: number, window: number): boolean {
  const { return_timestamps = file.return_timestamps, temperature, monitor_progress, prompt_condition_type } = options;
  const asked = (Object.keys(WINDOWS) as (keyof typeof WINDOWS)[]).some((name) => {
    const value = fieldOf<unknown>(options, file, name);
    return value !== undefined && value !== false;
  });
  const given = monitor_progress ?? prompt_condition_type;
  return (
    frames > window || Boolean(return_timestamps) || typeof temperature === "object" || asked || given !== undefined
  );
}

/** True if times are to be written. @throws OptionError for false and sound of several windows */
export function writesTimes(options: SpeechCall, file: ConfigJson, frames: number, window: number): boolean {
  const { return_timestamps, return_token_timestamps } = options;
  if (frames > window && return_timestamps === false) {
    throw new OptionError(`${frames} frames are more than the ${window} of a window: longer sound needs times`, {
      details: { option: "return_timestamps" },
      hint: "pass return_timestamps: true, or leave it out",
    });
  }
  const asked = return_timestamps ?? (frames > window || return_token_timestamps || file.return_timestamps);
  return Boolean(asked);
}

/** The token of time 0, by generation_config.json; Infinity if it names none. */
export function firstTime({ no_timestamps_token_id: silent }: ConfigJson, vocab: number): number {
  const named = typeof silent === "number" && Number.isSafeInteger(silent) && silent > 0 && silent < vocab - 1;
  return named ? silent + 1 : Number.POSITIVE_INFINITY;
}

/** The rule about times of a model. @throws ConfigError for one that writes none */
export function timestampRule(
  { generation_config: file, module }: LoadedModel<Seq2SeqLM>,
  { eos_token_ids }: GenerationConfig,
): HostProcessor {
  const begin = firstTime(file, module.geometry.vocab);
  if (begin === Number.POSITIVE_INFINITY) {
    const silent = file.no_timestamps_token_id;
    const given = silent === undefined || silent === null ? "missing" : show(silent);
    throw new ConfigError(`generation_config.json: no_timestamps_token_id is ${given}, so this model writes no times`);
  }
  const { max_initial_timestamp_index: most } = file;
  const eos_token_id = eos_token_ids.length > 0 ? eos_token_ids : [0];
  const max_initial_timestamp_index = most as number | null | undefined;
  const config = { no_timestamps_token_id: begin - 1, eos_token_id, max_initial_timestamp_index };
  return new WhisperTimeStampLogitsProcessor(config, 0);
}
