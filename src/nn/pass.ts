// One forward pass: the state that all its layers share. `runBlocks` is the only loop over the blocks of a model, so it is
// the one place that moves between devices, keeps weights resident and captures hidden states.

import type { Device } from "../core/device.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Compute } from "../ops/linear.js";
import { tapes } from "../ops/tape.js";
import { transfer } from "../ops/transfer.js";
import type { Cache, CrossCache } from "./cache.js";
import { recomputed, recomputedByRows } from "./checkpoint.js";
import { type Module, within } from "./module.js";
import type { TextLengths } from "./text-lengths.js";

/** How attention is computed. */
export interface AttentionChoice {
  /** Compute type allowed where keys and values are in bf16. */
  readonly compute: Compute;
  /** A token gets the same bits from the kernels for few tokens and for many. */
  readonly deterministic?: boolean;
}

export const EXACT_ATTENTION: AttentionChoice = { compute: "f32" };

/** What the layers read besides hidden states. */
export interface PassInput {
  /** i32[B,T]: position of each token in its own text (padding not counted). */
  readonly positions: Tensor;
  /** u8[B,T]: 0 hides a key. Absent: every key is real. Not with a cache, whose lanes leave padding out. */
  readonly mask?: Tensor;
  /** i32[B,S]: packed texts in a row; a token sees the tokens with its own number. Absent: one text per row. */
  readonly segments?: Tensor;
  /** The cache that the tokens are appended to, which has room for them (`Cache.extend`). */
  readonly cache?: Cache;
  /** i32[2,B,T], with a cache: row (-1: the token is padding) and position in that row's cache of each token. */
  readonly lanes?: Tensor;
  /** The lengths of the texts, for models whose positions depend on them: one for each row of the cache, or of the pass. */
  readonly lengths?: TextLengths;
  /** i32[B,T], without a cache: which of `lengths` is each token's, where rows hold several texts. */
  readonly texts?: Tensor;
  /** i32[B,T]: which of a pair of texts a token belongs to (BERT). Absent: all belong to the first. */
  readonly token_types?: Tensor;
  /** The encoder's output for the decoder's cross-attention, where it is not cached. */
  readonly encoded?: Encoded;
  /** Keys and values of the encoder's output for each row of the lanes. */
  readonly cross?: CrossCache;
  /** What a judge of texts needs to know of their ids (`EncoderModel.beside`). */
  readonly judged?: Judged;
}

/** Of a batch of texts that are judged as wholes. */
interface Judged {
  /** i32[B,T]: the input of an encoder-decoder's decoder. */
  readonly decoder_ids?: Tensor;
  /** i32[B]: which of all B*T tokens says it, for each row. */
  readonly chosen?: Tensor;
}

/** The output of an encoder for a decoder. */
interface Encoded {
  /** f32[B,S,hidden] */
  readonly hidden: Tensor;
  /** u8[B,S]: 0 hides a position. */
  readonly mask?: Tensor;
}

/** Where the blocks of a model run, and how their weights come there. */
interface Placement {
  /** Called before block `index` runs. Returns `h` on the device of that block, whose weights are then resident. */
  enter(blocks: readonly Module[], index: number, h: Tensor): Tensor;
  /** Called when the whole block is recorded. */
  leave(blocks: readonly Module[], index: number): void;
  /** Called after the last block. Returns `h` on the device of what comes next. */
  exit(h: Tensor): Tensor;
  /** Called instead, when the pass fails: nothing of it stays. */
  abandon?(): void;
}

/** The placement of a whole model: where each of its blocks runs. */
export interface ModelPlacement extends Placement {
  readonly devices: readonly Device[];
  deviceOf(block: Module): Device;
  /** Runs `body` while some weights of blocks are on their devices, wherever they lie; no pass can be recorded meanwhile. */
  visit?<T>(tensors: readonly Tensor[], body: () => Promise<T>): Promise<T>;
  /** Refuses passes until the function that it gives is called: for calls that visit more than once. */
  reading?(): () => void;
}

/** All blocks run where their input is. */
export const HERE: Placement = { enter: (_blocks, _index, h) => h, leave: () => {}, exit: (h) => h };

export interface PassOptions {
  readonly attention?: AttentionChoice;
  readonly place?: Placement;
  /** Capture the input of every block; see `Pass.hidden_states`. */
  readonly capture?: boolean;
  /** Keep the weights of attention (`take_attentions`). */
  readonly capture_attentions?: boolean;
  /** Keep the scores of experts (`take_router_logits`). */
  readonly capture_routers?: boolean;
  /** Under a tape, keep only the inputs of blocks. The pass owns its `lengths` then. */
  readonly checkpoint?: boolean;
  /** Nothing can be computed again after the pass: its weights, or what is set for it, are gone then. */
  readonly once?: boolean;
}

/** Attention of tokens to their own sequence, or to an encoder's output. */
export type AttentionKind = "self" | "cross";

export class Pass implements Disposable {
  #input: PassInput;
  readonly attention: AttentionChoice;
  readonly place: Placement;
  readonly #captured: Tensor[] | undefined;
  readonly #attentions: Readonly<Record<AttentionKind, Tensor[]>> | undefined;
  readonly #routers: Tensor[] | undefined;
  /** Scores of experts of the block that is recorded. */
  #scores: Tensor[] = [];
  readonly #shared = new Map<object, Map<Device, Tensor>>();
  /** True if blocks are computed once more in the backward pass. */
  readonly checkpoint: boolean;
  readonly #once: boolean;
  /** Blocks and parts of blocks that are still to be computed once more. */
  #holders = 0;
  #disposed = false;
  /** Its own handles on its inputs, for those. */
  #kept: readonly Tensor[] = [];

  constructor(input: PassInput, options: PassOptions = {}) {
    this.#input = input;
    this.checkpoint = options.checkpoint === true;
    this.#once = options.once === true || input.cache !== undefined;
    this.attention = options.attention ?? EXACT_ATTENTION;
    this.place = options.place ?? HERE;
    this.#captured = options.capture ? [] : undefined;
    this.#routers = options.capture_routers ? [] : undefined;
    this.#attentions = options.capture_attentions ? { self: [], cross: [] } : undefined;
  }

  get input(): PassInput {
    return this.#input;
  }

  /** Keeps what the pass holds, and its inputs, until the function that it gives is called. */
  hold(): () => void {
    if (this.#holders++ === 0 && this.#kept.length === 0) {
      const entries = Object.entries(this.#input).map(([name, value]) => {
        return [name, Tensor.is(value) ? value.alias().keep() : value] as const;
      });
      this.#input = Object.fromEntries(entries) as unknown as PassInput;
      this.#kept = entries.flatMap(([, value]) => (Tensor.is(value) ? [value] : []));
    }
    return () => {
      if (--this.#holders === 0 && this.#disposed) this.#free();
    };
  }

  /** The result of `make` for `key`, made once per device and pass (rope tables, bias tables) and freed with the pass. */
  once(key: object, device: Device, make: () => Tensor): Tensor {
    let made = this.#shared.get(key);
    if (!made) {
      made = new Map();
      this.#shared.set(key, made);
    }
    let tensor = made.get(device);
    if (!tensor) {
      tensor = scope(make).keep();
      made.set(device, tensor);
    }
    return tensor;
  }

  /** `x` (usually an input of the pass) on `device`: itself, or a copy made once per device and pass. */
  at<T extends Tensor | undefined>(device: Device, x: T): T | Tensor {
    return x === undefined || x.device === device ? x : this.once(x, device, () => transfer(x, device));
  }

  /**
   * Records `body(x)`, which gives what a later op keeps for its gradient: queries, keys and values. Under a tape they are not kept; the
   * backward pass computes them again.
   */
  again<T extends readonly Tensor[]>(x: Tensor, body: (x: Tensor) => T): T {
    // What is computed again itself keeps what it reads: it does so for a moment.
    if (this.#once || !tapes.open || tapes.open.later) return body(x);
    return recomputed(x, body, { hold: () => this.hold(), outputs: true }) as T;
  }

  /**
   * Records `body(x)`, [..,K] -> [..,N], of which each row depends on that row of `x` alone. Under a tape nothing inside is kept; the
   * backward pass computes it again, by pieces of rows.
   * @param width features of the widest activation inside
   */
  byRows(x: Tensor, width: number, body: (x: Tensor) => Tensor): Tensor {
    if (this.#once || !tapes.open) return body(x);
    return recomputedByRows(x, width, body, () => this.hold());
  }

  /** Adds one hidden state, if they are captured. */
  capture(h: Tensor): void {
    this.#captured?.push(h.alias().keep());
  }

  /**
   * The captured hidden states, [B,T,hidden] each: the embeddings, then the output of each block, the last of them after the
   * final norm. The caller disposes them. Empty unless the pass was made with `capture`.
   */
  take_hidden_states(): Tensor[] {
    return this.#captured?.splice(0) ?? [];
  }

  /** True if weights of attention are captured. */
  get captures_attentions(): boolean {
    return this.#attentions !== undefined;
  }

  /** Adds the weights of one layer's attention, [B,H,T,S], which `make` records, if they are captured. */
  capture_attention(kind: AttentionKind, make: () => Tensor): void {
    this.#attentions?.[kind].push(scope(make).keep());
  }

  /** The weights of each layer, [B,H,T,S]. The caller disposes them. Empty unless the pass was made with `capture_attentions`. */
  take_attentions(kind: AttentionKind): Tensor[] {
    return this.#attentions?.[kind].splice(0) ?? [];
  }

  /** True if scores of experts are captured. */
  get captures_routers(): boolean {
    return this.#routers !== undefined;
  }

  /** Adds the scores of one layer's experts, [..,E]. */
  capture_router(scores: Tensor): void {
    this.#scores.push(scores);
  }

  /** Records `body`, a block. @returns its output, and the scores of experts that it has captured */
  withScores(body: () => Tensor): readonly [Tensor, ...Tensor[]] {
    const before = this.#scores;
    this.#scores = [];
    try {
      return [body(), ...this.#scores];
    } finally {
      this.#scores = before;
    }
  }

  /** Keeps the scores of a block. */
  keepScores(scores: readonly Tensor[]): void {
    for (const one of scores) this.#routers?.push(one.keep());
  }

  /** The scores of the experts of each layer that has some, [B,T,E]. The caller disposes them. */
  take_router_logits(): Tensor[] {
    return this.#routers?.splice(0) ?? [];
  }

  dispose(): void {
    for (const one of this.take_router_logits()) one.dispose();
    for (const weights of [...this.take_attentions("self"), ...this.take_attentions("cross")]) weights.dispose();
    for (const h of this.take_hidden_states()) h.dispose();
    this.#disposed = true;
    if (this.#holders === 0) this.#free();
  }

  #free(): void {
    for (const made of this.#shared.values()) for (const tensor of made.values()) tensor.dispose();
    this.#shared.clear();
    for (const tensor of this.#kept) tensor.dispose();
    if (this.checkpoint) this.#input.lengths?.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Runs `blocks` in order: `run(block, h, index)` records one and returns its output. Each block's scratch memory, and the
 * hidden states between blocks, are released as soon as the next block is recorded.
 * @returns the last block's output, in the caller's scope
 */
export function runBlocks<B extends Module>(
  blocks: readonly B[],
  h: Tensor,
  pass: Pass,
  run: (block: B, h: Tensor, index: number) => Tensor,
): Tensor {
  let current = h;
  try {
    for (const [index, block] of blocks.entries()) {
      pass.capture(current);
      const record = (): readonly Tensor[] => {
        const x = pass.place.enter(blocks, index, current);
        const body = (h: Tensor): readonly Tensor[] =>
          pass.withScores(() => within(h.device, block.path, () => run(block, h, index)));
        return pass.checkpoint ? recomputed(x, body, { hold: () => pass.hold() }) : body(x);
      };
      const [next, ...scores] = scope(record as () => never) as readonly [Tensor, ...Tensor[]];
      pass.keepScores(scores);
      pass.place.leave(blocks, index);
      // The first input belongs to the caller.
      if (index > 0 && next !== current) current.dispose();
      current = next;
    }
  } catch (error) {
    pass.place.abandon?.();
    throw error;
  }
  const last = pass.place.exit(current);
  if (last !== current && current !== h) current.dispose();
  return last;
}
