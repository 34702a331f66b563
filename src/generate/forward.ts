// Forward passes over tokens of a cache's rows: any tokens of any rows in one flat pass, or the next token of each row.

import type { RowAdapters } from "../adapters/rows.js";
import type { Device } from "../core/device.js";
import { scope, Tensor } from "../core/tensor.js";
import { type CacheDType, type CrossCache, KVCache } from "../nn/cache.js";
import type { Decoder } from "../nn/decoder.js";
import type { AttentionChoice, PassInput, PassOptions } from "../nn/pass.js";
import { layerDevices } from "../nn/placement.js";
import { TextLengths } from "../nn/text-lengths.js";
import { copyInto } from "../ops/copy.js";
import { taping } from "../ops/tape.js";
import { cacheShape } from "./cache-options.js";
import type { FlatChunk } from "./prefill.js";
import type { HeldTexts } from "./session-options.js";
import { ShortPasses } from "./short-passes.js";

export interface RowOptions {
  readonly rows: number;
  /** Tokens of a row. */
  readonly capacity: number;
  readonly cache_dtype: CacheDType;
  /** The encoder's output for the rows of an encoder-decoder. */
  readonly cross?: CrossCache;
  /** How attention is computed; by default as the model has it. */
  readonly attention?: AttentionChoice | undefined;
  /** The adapters of the rows, where they have adapters of their own. */
  readonly adapters?: RowAdapters | undefined;
  /** The caller's cache, instead of one of its own. */
  readonly held?: Pick<HeldTexts, "cache" | "lengths"> | undefined;
}

/** Generation is not differentiated, whatever asks for gradients: it writes into caches. */
function plain<T extends object>(body: () => T): T {
  return taping(undefined, () => scope(body as () => never));
}

export class RowForward implements Disposable {
  readonly device: Device;
  readonly cache: KVCache;
  /** The longest text that each row's request can reach. */
  readonly lengths: TextLengths;
  readonly #model: Decoder;
  readonly #shared: Pick<PassInput, "cross">;
  readonly #how: Pick<PassOptions, "attention">;
  readonly #owns: boolean;
  readonly #adapters: RowAdapters | undefined;
  readonly #short = new ShortPasses(
    () => this.devices,
    (ids, lanes) => plain(() => this.#run(ids, lanes)),
  );

  /** @throws OutOfMemoryError */
  constructor(device: Device, model: Decoder, options: RowOptions) {
    const { rows, capacity, cache_dtype, cross, attention, held, adapters } = options;
    this.device = device;
    this.#model = model;
    this.#shared = { cross };
    this.#how = attention ? { attention } : {};
    this.#owns = held === undefined;
    this.#adapters = adapters;
    this.lengths = held?.lengths ?? new TextLengths(new Array<number>(rows).fill(1));
    this.cache =
      held?.cache ?? new KVCache(layerDevices(model, device), cacheShape(model, rows, capacity, cache_dtype));
  }

  /** The devices that a pass runs on. */
  get devices(): readonly Device[] {
    return this.#model.placement?.devices ?? [this.device];
  }

  /**
   * Records the hidden states [1,N,hidden] of a chunk, which the next pass may overwrite. Here and below, its room in the cache must be
   * reserved.
   */
  hidden({ ids, lanes }: FlatChunk): Tensor {
    return this.#recorded(lanes.subarray(0, ids.length), () => {
      // Adapters of rows depend on whose the tokens are.
      const kept = this.#adapters ? undefined : this.#short.run(this.device, ids, lanes);
      if (kept) return kept;
      const shape = [1, ids.length];
      return this.#run(Tensor.from(this.device, ids, shape), Tensor.from(this.device, lanes, [2, ...shape], "i32"));
    });
  }

  get vocab(): number {
    return this.#model.geometry.vocab;
  }

  /** Records the logits [n,vocab] of hidden states [n,hidden]. */
  head(states: Tensor): Tensor {
    return plain(() => this.#model.head(states));
  }

  /** Records the logits [N,vocab] of all tokens of a chunk. */
  logits(chunk: FlatChunk): Tensor {
    const { ids, lanes } = chunk;
    return this.#recorded(lanes.subarray(0, ids.length), () =>
      this.#model.head(this.hidden(chunk).view(ids.length, -1)),
    );
  }

  /** Records the logits [n,vocab] of the last token of each text that ends in a chunk, from the chunk's hidden states. */
  lastLogits(chunk: FlatChunk, hidden: Tensor): Tensor {
    const ends = chunk.ends.map(([, lane]) => chunk.lanes[lane]!);
    return this.#recorded(ends, () => {
      const rows = hidden.view(chunk.ids.length, -1);
      const last = Tensor.empty(this.device, [chunk.ends.length, rows.shape[1]!], "f32", "last hidden states");
      chunk.ends.forEach(([, lane], n) => {
        copyInto(rows.narrow(0, lane, 1), last.narrow(0, n, 1));
      });
      return this.#model.head(last);
    });
  }

  /** Records the last hidden states [R,hidden] and the logits [R,vocab] of the tokens i32[R] at `lanes` i32[2,R,1]. */
  step(tokens: Tensor, lanes: Tensor): { states: Tensor; logits: Tensor } {
    const body = (): { states: Tensor; logits: Tensor } => {
      const rows = tokens.shape[0]!;
      const states = this.#run(tokens.view(rows, 1), lanes).view(rows, -1);
      return { states, logits: this.#model.head(states) };
    };
    return plain(() => (this.#adapters ? this.#adapters.all(body) : body()));
  }

  /** @param rows of the tokens that `body` records */
  #recorded(rows: ArrayLike<number>, body: () => Tensor): Tensor {
    return plain(() => (this.#adapters ? this.#adapters.of(rows, body) : body()));
  }

  #run(ids: Tensor, lanes: Tensor): Tensor {
    const { cache, lengths } = this;
    const input = { positions: lanes.select(0, 1), lanes, cache, lengths, ...this.#shared };
    using pass = this.#model.pass(input, this.#how);
    return this.#model.hidden(pass, ids);
  }

  dispose(): void {
    this.#short.dispose();
    if (!this.#owns) return;
    this.cache.dispose();
    this.lengths.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
