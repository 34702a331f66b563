// One request in a decode session, as the host knows it.

import type { Tensor } from "../core/tensor.js";
import type { SamplingConfig } from "./config.js";

/** What a row of a session generates by. */
export interface RequestConfig extends SamplingConfig {
  readonly max_new_tokens: number;
  /** Ids that end the text. */
  readonly eos_token_ids: readonly number[];
}

/** A text for a row of a session. */
export interface RowRequest {
  readonly row: number;
  /** Token ids, without padding. */
  readonly prompt: readonly number[] | Int32Array;
  readonly config: RequestConfig;
  /**
   * Keys the random numbers, with the seed and the step: the same request gives the same tokens in any row of any batch.
   * By default 0.
   */
  readonly sequence?: number;
}

/** Why a row has ended: a token of `eos_token_ids`, or `max_new_tokens`. */
export type FinishReason = "eos" | "length";

/** A token that a row was given. */
export interface RowToken {
  readonly row: number;
  readonly sequence: number;
  readonly id: number;
  readonly finish_reason: FinishReason | undefined;
  /** Log-probability among all tokens, after processors and before the temperature; where the session keeps scores. */
  readonly score: number | undefined;
  /** True where a drafter had guessed it: it took no pass over the weights of its own. */
  readonly guessed: boolean;
}

export class Sequence {
  row: number;
  readonly sequence: number;
  readonly config: RequestConfig;
  /** Prompt and tokens that were read. */
  readonly ids: number[];
  /** Tokens of the prompt. */
  readonly prompt: number;
  /** Tokens that the cache holds once everything recorded has run. */
  cached = 0;
  /** New tokens once everything recorded has run; those read are `ids.length - prompt`. */
  asked = 0;
  /** f32[1,vocab]: logits of its first token, until a step takes them. */
  logits: Tensor | undefined;
  /** True when its prompt is under way to the last piece: steps may take part. */
  ready = false;
  /** True when no later step may take part. */
  ended = false;

  constructor({ row, prompt, config, sequence = 0 }: RowRequest) {
    this.row = row;
    this.sequence = sequence;
    this.config = config;
    this.ids = [...prompt];
    this.prompt = prompt.length;
  }

  /** Another one with the same text, which goes on by itself. */
  fork(row: number, config: RequestConfig, sequence: number): Sequence {
    const fork = new Sequence({ row, prompt: this.ids.slice(0, this.prompt), config, sequence });
    fork.ids.push(...this.ids.slice(this.prompt));
    fork.cached = this.cached;
    fork.asked = this.asked;
    fork.ready = this.ready;
    fork.logits = this.logits?.alias().keep();
    return fork;
  }

  /** True if all its tokens are under way. */
  get complete(): boolean {
    return this.asked >= this.config.max_new_tokens;
  }

  /** True while steps are under way that were not read. */
  get unread(): boolean {
    return this.asked > this.ids.length - this.prompt;
  }

  /** Appends a token that was read. */
  take(id: number, score: number | undefined, guessed: boolean): RowToken {
    this.ids.push(id);
    const { max_new_tokens, eos_token_ids } = this.config;
    const full = this.ids.length - this.prompt >= max_new_tokens;
    const finish_reason = eos_token_ids.includes(id) ? "eos" : full ? "length" : undefined;
    if (finish_reason) this.ended = true;
    return { row: this.row, sequence: this.sequence, id, finish_reason, score, guessed };
  }

  /**
   * Takes what the model would have said after the last token that is certain and after each draft: up to and with the
   * first that is no draft. The first of `likeliest` belongs to the certain token.
   */
  accept(drafts: readonly number[], likeliest: Int32Array, scores: Float32Array | undefined): RowToken[] {
    const tokens: RowToken[] = [];
    for (let i = 0; i <= drafts.length && !this.ended; i++) {
      tokens.push(this.take(likeliest[i]!, scores?.[i], i > 0));
      if (likeliest[i] !== drafts[i]) break;
    }
    return tokens;
  }
}
