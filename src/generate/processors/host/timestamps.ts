// Times between Whisper's words (Radford et al. 2022, section 2.3, and the reference decoder): which tokens may come where.

import { isList } from "../../../core/checks.js";
import { OptionError } from "../../../core/errors.js";
import { show } from "../../../core/show.js";
import type { HostState } from "../host-processor.js";
import { idsOf, RowProcessor, wholeOf } from "./base.js";

const NEVER = Number.NEGATIVE_INFINITY;

/** What it reads of a generation_config.json. */
export interface TimestampConfig {
  /** The token before the first time. */
  readonly no_timestamps_token_id: number;
  readonly eos_token_id: number | readonly number[];
  /** The latest first time, in steps after 0; undefined or null for any. */
  readonly max_initial_timestamp_index?: number | null | undefined;
}

/** A config's fields, each read once. @throws OptionError */
function read(config: TimestampConfig): TimestampConfig {
  try {
    const { no_timestamps_token_id, eos_token_id, max_initial_timestamp_index } = config;
    return { no_timestamps_token_id, eos_token_id, max_initial_timestamp_index };
  } catch (cause) {
    throw new OptionError(`generate_config must be an object, got ${show(config)}`, { cause });
  }
}

/**
 * Times come in pairs, except before the end, never decrease, and come first. Where all times together are likelier than any other
 * token, one of them comes.
 */
export class WhisperTimeStampLogitsProcessor extends RowProcessor {
  /** The token of time 0. */
  readonly timestamp_begin: number;
  readonly eos_token_id: number;
  readonly max_initial_timestamp_index: number | undefined;
  readonly begin_index: number;

  /** @param begin_index tokens before the first new one @throws OptionError */
  constructor(generate_config: TimestampConfig, begin_index: number) {
    super();
    const { no_timestamps_token_id, eos_token_id, max_initial_timestamp_index: latest } = read(generate_config);
    this.timestamp_begin = wholeOf("no_timestamps_token_id", no_timestamps_token_id, 0) + 1;
    const ends = idsOf("eos_token_id", isList(eos_token_id) ? eos_token_id : [eos_token_id]);
    this.eos_token_id = ends.reduce((least, id) => Math.min(least, id), Number.POSITIVE_INFINITY);
    this.max_initial_timestamp_index =
      latest === undefined || latest === null ? undefined : wholeOf("max_initial_timestamp_index", latest, 0);
    this.begin_index = wholeOf("begin_index", begin_index, 0);
  }

  /** In generate(), each row has a prompt of its own length. */
  override process(logits: Float32Array, { ids, prompt }: HostState): void {
    this.#change(logits, ids.slice(prompt));
  }

  change(scores: Float32Array, ids: readonly number[]): void {
    this.#change(scores, ids.slice(this.begin_index));
  }

  /** @param written the tokens after the prompt */
  #change(scores: Float32Array, written: readonly number[]): void {
    const begin = this.timestamp_begin;
    const isTime = (id: number | undefined): boolean => id !== undefined && id >= begin;
    scores[begin - 1] = NEVER;
    const last = isTime(written.at(-1));
    const open = last && written.length >= 2 && !isTime(written.at(-2)); // its partner, or the end, comes next
    if (open) scores.fill(NEVER, 0, this.eos_token_id);
    else if (last) scores.fill(NEVER, begin);
    const latest = written.findLast(isTime);
    if (latest !== undefined) scores.fill(NEVER, begin, open ? latest : latest + 1);
    if (written.length === 0) {
      scores.fill(NEVER, 0, begin);
      const most = this.max_initial_timestamp_index;
      if (most !== undefined) scores.fill(NEVER, begin + most + 1);
    }
    const times = logSum(scores.subarray(begin));
    const others = scores.subarray(0, begin).reduce((most, one) => Math.max(most, one), NEVER);
    if (times > others) scores.fill(NEVER, 0, begin);
  }
}

/** log of the sum of exp. */
function logSum(scores: Float32Array): number {
  const most = scores.reduce((all, one) => Math.max(all, one), NEVER);
  if (most === NEVER) return NEVER;
  return most + Math.log(scores.reduce((sum, score) => sum + Math.exp(score - most), 0));
}
