// What a decode session is made for, and how prompts are read into it.

import type { RowAdapters } from "../adapters/rows.js";
import type { CacheDType, CrossCache, KVCache } from "../nn/cache.js";
import type { AttentionChoice } from "../nn/pass.js";
import type { TextLengths } from "../nn/text-lengths.js";
import type { TextEdits } from "./processors/edited.js";
import type { HostProcessor } from "./processors/host-processor.js";
import type { TokenMasks } from "./processors/masked.js";

export interface SessionOptions {
  /** Texts at a time. */
  readonly rows: number;
  /** Most tokens of a row's text, prompt and new ones. */
  readonly capacity: number;
  readonly cache_dtype: CacheDType;
  /** Called for each row of each step, in this order. The choice of its token waits for them; its forward pass does not. */
  readonly processors?: readonly HostProcessor[];
  /** Gets the logits f32[R,V] of each step, an array of its own; the choice of tokens does not wait for it. */
  readonly watch?: (logits: Float32Array) => void;
  /**
   * Which tokens may follow each text. A step's forward pass runs while the host makes the masks, for which it needs the tokens of the step
   * before.
   */
  readonly masks?: TokenMasks | undefined;
  /** What texts change in the scores of single tokens; made as masks are. */
  readonly edits?: TextEdits | undefined;
  /** Encoder-decoders: the encoder's output for each row; the caller disposes it after the session. */
  readonly cross?: CrossCache;
  /** How attention is computed; by default as the model has it. */
  readonly attention?: AttentionChoice | undefined;
  /** The adapters of the rows, where they have adapters of their own; the caller disposes them after the session. */
  readonly adapters?: RowAdapters | undefined;
  /** Keep the log-probability of each token. */
  readonly scores?: boolean;
  /** A row that ends keeps its text in the cache, for `resume`; it is free by `remove` alone. */
  readonly keep?: boolean;
  /** A cache of the caller's, with as many rows and as much room, whose texts `resume` goes on from. Rows that end are kept. */
  readonly held?: HeldTexts | undefined;
  /**
   * The second half of the rows are the texts of the first half without their condition: they get the same tokens, end with them,
   * and are seen by processors beside them alone.
   */
  readonly guided?: boolean;
  /** Processors get the last hidden states of each row's tokens, its prompt's too. */
  readonly states?: boolean;
}

/** A cache, and what it holds, between two sessions. */
export interface HeldTexts {
  readonly cache: KVCache;
  readonly lengths: TextLengths;
  /** Of each row, the ids whose keys and values are in the cache. */
  readonly texts: ({ readonly ids: readonly number[] } | undefined)[];
  /** Tokens of each text of the last `resume` that were in the cache. */
  reused: readonly number[];
}

export interface PrefillOptions {
  readonly signal?: AbortSignal;
  /** Tokens of a chunk, for tests. */
  readonly chunk?: number;
  /** Gets the number of tokens that are known to be in the cache, after each chunk but the last. */
  readonly ran?: (tokens: number) => void;
}
