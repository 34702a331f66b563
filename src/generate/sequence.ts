// The host's state of one request in a decode session.

import { OptionError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import type { SamplingConfig } from "./config.js";
import type { Ends } from "./ending.js";

/** Generation options of a session's row. */
export interface RequestConfig extends SamplingConfig {
  readonly max_new_tokens: number;
  /** Ids that end the text. */
  readonly eos_token_ids: readonly number[];
  /** What else does. */
  readonly ends?: Ends | undefined;
}

/** A text for a row of a session. */
export interface RowRequest {
  readonly row: number;
  /** Token ids, without padding. */
  readonly prompt: readonly number[] | Int32Array;
  readonly config: RequestConfig;
  /**
   * Keys the random numbers, with the seed and the step: the same request gives the same tokens in any row of any batch.
   * Default 0.
   */
  readonly sequence?: number;
  /** Random numbers of the sequence that the prompt has used already; default 0. */
  readonly drawn?: number;
}

/**
 * Why a row has ended: a token of `eos_token_ids`, `max_new_tokens`, a stop string or a criterion of the caller's ("stop"), or
 * `max_time`.
 */
export type FinishReason = "eos" | "length" | NonNullable<ReturnType<Ends>>;

/** A token generated for a row. */
export interface RowToken {
  readonly row: number;
  readonly sequence: number;
  readonly id: number;
  readonly finish_reason: FinishReason | undefined;
  /** Log-probability among all tokens, after processors and before the temperature; only if the session keeps scores. */
  readonly score: number | undefined;
  /** True if a drafter guessed it: it needed no pass over the weights. */
  readonly guessed: boolean;
}

export class Sequence {
  row: number;
  readonly sequence: number;
  readonly drawn: number;
  readonly config: RequestConfig;
  /** Prompt and the generated tokens read so far. */
  readonly ids: number[];
  /** Tokens of the prompt. */
  readonly prompt: number;
  /** Tokens in the cache once everything recorded has run. */
  cached = 0;
  /** New tokens once everything recorded has run; those already read are `ids.length - prompt`. */
  asked = 0;
  /** f32[1,vocab]: logits of its first token, until a step uses them. */
  logits: Tensor | undefined;
  /** True when the last piece of its prompt is in flight: steps may include it. */
  ready = false;
  /** True when no later step may include it. */
  ended = false;

  constructor({ row, prompt, config, sequence = 0, drawn = 0 }: RowRequest) {
    this.row = row;
    this.sequence = sequence;
    this.drawn = drawn;
    this.config = config;
    this.ids = [...prompt];
    this.prompt = prompt.length;
  }

  /** Tokens that the model reads at most: all but the last, which is only given out. */
  get reach(): number {
    return Math.max(1, this.prompt + this.config.max_new_tokens - 1);
  }

  /** A copy with the same text, which continues independently. */
  fork(row: number, config: RequestConfig, sequence: number): Sequence {
    const fork = new Sequence({ row, prompt: this.ids.slice(0, this.prompt), config, sequence });
    fork.ids.push(...this.ids.slice(this.prompt));
    fork.cached = this.cached;
    fork.asked = this.asked;
    fork.ready = this.ready;
    fork.logits = this.logits?.alias().keep();
    return fork;
  }

  /** True if all its tokens are in flight or read. */
  get complete(): boolean {
    return this.asked >= this.config.max_new_tokens;
  }

  /** True while it has unread steps. */
  get unread(): boolean {
    return this.asked > this.ids.length - this.prompt;
  }

  /** Appends a token that was read. */
  take(id: number, score: number | undefined, guessed: boolean): RowToken {
    this.ids.push(id);
    const { max_new_tokens, eos_token_ids, ends } = this.config;
    const full = this.ids.length - this.prompt >= max_new_tokens;
    const finish_reason = eos_token_ids.includes(id) ? "eos" : (ends?.(this.ids) ?? (full ? "length" : undefined));
    if (finish_reason) this.ended = true;
    return { row: this.row, sequence: this.sequence, id, finish_reason, score, guessed };
  }

  /**
   * Accepts the model's tokens for the last certain token and for each draft: up to and including the first that differs from
   * its draft. The first of `chosen` belongs to the certain token.
   */
  accept(drafts: readonly number[], chosen: Int32Array, scores: Float32Array | undefined): RowToken[] {
    const tokens: RowToken[] = [];
    for (let i = 0; i <= drafts.length && !this.ended; i++) {
      tokens.push(this.take(chosen[i]!, scores?.[i], i > 0));
      if (chosen[i] !== drafts[i]) break;
    }
    return tokens;
  }
}

/**
 * The sequences of requests for a session's rows.
 * @param session its rows, and the most tokens of each
 * @throws OptionError for a row that is none of them or given twice, and for a text that is empty or does not fit
 */
export function sequencesOf(
  requests: readonly RowRequest[],
  { rows, capacity }: { readonly rows: number; readonly capacity: number },
): Sequence[] {
  for (const { row, prompt, config } of requests) {
    const taken = requests.filter((other) => other.row === row).length > 1;
    if (!(row >= 0 && row < rows) || taken) {
      throw new OptionError(`row ${row} is not one of the session's ${rows}, or given twice`);
    }
    if (prompt.length === 0) throw new OptionError(`the text of row ${row} is empty`);
    const tokens = prompt.length + config.max_new_tokens;
    if (tokens <= capacity) continue;
    throw new OptionError(`a text of ${tokens} tokens does not fit a row of ${capacity}`);
  }
  return requests.map((request) => new Sequence(request));
}
