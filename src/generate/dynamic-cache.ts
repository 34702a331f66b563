// Keys and values that stay from one call to the next, as users hold them. A call that gets one reads only what its texts do not
// share with those that the cache holds.

import type { Device } from "../core/device.js";
import { AbortError, OctavoError, OptionError } from "../core/errors.js";
import { readOptions, whole } from "../core/options.js";
import { show } from "../core/show.js";
import { type CacheDType, cacheBytes, cacheName, KVCache } from "../nn/cache.js";
import type { CausalLM } from "../nn/decoder.js";
import { layerDevices } from "../nn/placement.js";
import { TextLengths } from "../nn/text-lengths.js";
import { cacheShape } from "./cache-options.js";
import type { GenerationConfig } from "./config.js";
import { modeOption } from "./mode-options.js";
import type { HeldTexts } from "./session-options.js";

const OPTIONS = {
  /** Tokens of a text for which there is room at first; by default what the first call needs, and at least 1,024. */
  max_cache_len: whole(1),
};

/** What a call needs of a cache. */
export interface CacheNeeds {
  readonly device: Device;
  readonly model: CausalLM;
  readonly rows: number;
  /** Tokens of the longest text, prompt and new ones. */
  readonly tokens: number;
  readonly dtype: CacheDType;
  /** What works beside the model's weights: keys and values that others made are void. */
  readonly by: string;
}

interface Held extends HeldTexts {
  readonly model: CausalLM;
  /** Where the model was: keys and values stay there, and texts are read anew where it is now. */
  readonly device: Device;
  readonly by: string;
}

/** Tokens for which there is room at first. */
const FIRST = 1024;

/** What calls of models do with a cache; users have no use for it. */
interface Keeping {
  /** True while a call uses it. */
  busy(cache: DynamicCache): boolean;
  /** Bytes that a call will take beside those that are held. @throws as `during` */
  missing(cache: DynamicCache, needs: CacheNeeds): number;
  /**
   * A call, which has the cache for itself. After a failure its texts are forgotten; what was read before an abort stays.
   * @throws OptionError for another model, other texts, or another dtype; OutOfMemoryError; OctavoError while another call uses it
   */
  during<T>(cache: DynamicCache, needs: CacheNeeds, call: (held: HeldTexts) => AsyncGenerator<T>): AsyncGenerator<T>;
  /** Forgets the texts of a model that is disposed. A call that uses them fails, and forgets them then. */
  abandon(cache: DynamicCache, model: CausalLM): void;
}

export let keptTexts: Keeping;

/**
 * The keys and values of one model's texts, to be passed as `past_key_values` of `generate` and `stream`. The first call makes them
 * for its batch; a later one passes its whole texts, of which it reads what is new. A text that outgrows the cache moves it to one of
 * twice the room, for which it is read anew, as for a model that has moved. Its model frees it with itself.
 */
export class DynamicCache implements Disposable {
  readonly #room: number;
  #held: Held | undefined;
  #busy = false;
  #reused: readonly number[] = [];

  /** @throws OptionError */
  constructor(options: { readonly max_cache_len?: number } = {}) {
    this.#room = readOptions("DynamicCache", OPTIONS, options).max_cache_len ?? FIRST;
  }

  static is(value: unknown): value is DynamicCache {
    return typeof value === "object" && value !== null && #held in value;
  }

  /** Tokens that the cache holds of a text. */
  get_seq_length(row = 0): number {
    return this.#held?.texts[row]?.ids.length ?? 0;
  }

  /** Texts that it has room for; 0 before its first call. */
  get batch_size(): number {
    return this.#held?.cache.rows ?? 0;
  }

  /** Bytes on the device. */
  get nbytes(): number {
    return this.#held?.cache.nbytes ?? 0;
  }

  /** Tokens of each prompt of the last call that it held already. */
  get reused(): readonly number[] {
    return this.#reused;
  }

  /**
   * Forgets the end of each text: its last `-tokens` tokens, or, as in transformers before 5, all but its first `tokens`. Texts that are
   * shorter stay, or are forgotten.
   * @throws OptionError; ShapeError where a window keeps no beginning to go on from; OctavoError while a call uses it
   */
  crop(tokens: number): void {
    if (!Number.isSafeInteger(tokens)) {
      throw new OptionError(`crop: tokens must be a whole number, got ${show(tokens)}`);
    }
    this.#checkIdle("crop");
    for (const [row, text] of this.#held?.texts.entries() ?? []) {
      if (!text) continue;
      const { ids } = text;
      const left = tokens > 0 ? Math.min(tokens, ids.length) : Math.max(0, ids.length + tokens);
      this.#held!.cache.rewind(row, ids.length - left);
      this.#held!.texts[row] = { ...text, ids: ids.slice(0, left) };
    }
  }

  /** Forgets all texts, and frees their memory. @throws OctavoError while a call uses it */
  reset(): void {
    this.#checkIdle("reset");
    this.#forget();
  }

  #missing(needs: CacheNeeds): number {
    this.#check(needs);
    return this.#fits(needs) ? 0 : cacheBytes(this.#shape(needs));
  }

  async *#during<T>(needs: CacheNeeds, call: (held: HeldTexts) => AsyncGenerator<T>): AsyncGenerator<T> {
    const held = this.#begin(needs);
    let failed = false;
    try {
      yield* call(held);
    } catch (error) {
      failed = !(error instanceof AbortError || error instanceof OptionError);
      throw error;
    } finally {
      this.#busy = false;
      this.#reused = held.reused;
      if (failed) this.#forget();
    }
  }

  #begin(needs: CacheNeeds): Held {
    this.#check(needs);
    if (!this.#fits(needs)) {
      this.#forget();
      const { device, model, rows, by } = needs;
      const cache = new KVCache(layerDevices(model, device), this.#shape(needs));
      const lengths = new TextLengths(new Array<number>(rows).fill(1));
      this.#held = { model, device, by, cache, lengths, texts: new Array<undefined>(rows).fill(undefined), reused: [] };
    }
    this.#busy = true;
    this.#held!.reused = [];
    return this.#held!;
  }

  #shape({ model, rows, tokens, dtype }: CacheNeeds) {
    const { max_positions } = model.geometry;
    const room = Math.max(this.#room, tokens, this.#held ? Math.min(max_positions, 2 * tokens) : 0);
    return cacheShape(model, rows, room, dtype);
  }

  #fits({ device, tokens, by }: CacheNeeds): boolean {
    const held = this.#held;
    return held !== undefined && held.device === device && held.cache.capacity >= tokens && held.by === by;
  }

  #check({ model, rows, dtype }: CacheNeeds): void {
    this.#checkIdle("generate");
    if (!this.#held) return;
    const { model: own, cache } = this.#held;
    const refuse = (what: string, hint: string): never => {
      throw new OptionError(`past_key_values: ${what}`, { details: { option: "past_key_values" }, hint });
    };
    const another = "pass a new DynamicCache, or reset() this one";
    if (own !== model) refuse("the cache is that of another model", another);
    if (cache.rows !== rows) refuse(`the cache holds ${cache.rows} texts, and the batch has ${rows}`, another);
    if (cache.dtype !== dtype) {
      refuse(`the cache is in ${cacheName(cache.dtype)}, and ${cacheName(dtype)} is asked for`, another);
    }
  }

  #checkIdle(method: string): void {
    if (!this.#busy) return;
    throw new OctavoError("ERR_IN_USE", `${method}: another call uses the cache`, { hint: "wait until it has ended" });
  }

  #forget(): void {
    this.#held?.cache.dispose();
    this.#held?.lengths.dispose();
    this.#held = undefined;
  }

  static {
    keptTexts = {
      busy: (cache) => cache.#busy,
      missing: (cache, needs) => cache.#missing(needs),
      during: (cache, needs, call) => cache.#during(needs, call),
      abandon(cache, model) {
        if (!cache.#busy && cache.#held?.model === model) cache.#forget();
      },
    };
  }

  /** @throws OctavoError while a call uses it */
  dispose(): void {
    this.reset();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** @throws OptionError for several texts of a prompt, whose rows change places */
export function checkKept({ beams, mode }: Pick<GenerationConfig, "beams" | "mode">): void {
  const other = modeOption(mode);
  const option = other ?? (beams.num_beams > 1 ? "num_beams" : "num_return_sequences");
  if (!other && beams.num_beams === 1 && beams.num_return_sequences === 1) return;
  throw new OptionError(`past_key_values holds one text of each prompt, without ${option}`, {
    details: { option: "past_key_values" },
    hint: "leave one of the two out",
  });
}
