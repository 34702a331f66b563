// A smaller model as a drafter (Leviathan et al. 2023; Chen et al. 2023): it continues all rows greedily for a few tokens, in
// the same passes. Its cache of a text is kept between drafts.

import type { Device } from "../../core/device.js";
import type { CacheDType } from "../../nn/cache.js";
import type { CausalLM } from "../../nn/decoder.js";
import { GREEDY } from "../config.js";
import type { RequestConfig } from "../sequence.js";
import { DecodeSession } from "../session.js";
import type { Drafter, Drafts } from "./drafter.js";

export interface AssistantOptions {
  readonly rows: number;
  /** Most tokens of a text, plus one more than the largest draft; longer texts get no drafts. */
  readonly capacity: number;
  readonly cache_dtype: CacheDType;
  readonly signal?: AbortSignal;
}

export class AssistantDrafter implements Drafter {
  readonly #session: DecodeSession;
  readonly #signal: AbortSignal | undefined;

  /** @throws OutOfMemoryError */
  constructor(device: Device, model: CausalLM, { signal, ...options }: AssistantOptions) {
    this.#session = new DecodeSession(device, model, options);
    this.#signal = signal;
  }

  async propose(texts: readonly (readonly number[] | undefined)[], most: readonly number[]): Promise<Drafts> {
    const session = this.#session;
    const drafts: number[][] = texts.map(() => []);
    texts.forEach((text, row) => {
      if (!text) session.remove(row);
    });
    const longest = Math.max(0, ...most);
    // One more than requested: a row that reached its limit would forget its text.
    const config: RequestConfig = { ...GREEDY, max_new_tokens: longest + 1, eos_token_ids: [] };
    const fits = (text: readonly number[]): boolean => text.length + config.max_new_tokens <= session.capacity;
    const requests = texts.flatMap((prompt, row) =>
      prompt && most[row]! > 0 && fits(prompt) ? [{ row, prompt, config }] : [],
    );
    if (requests.length === 0) return drafts;
    await session.resume(requests, { signal: this.#signal });
    // A step runs while the previous one is read, as in generate().
    let step = session.step();
    for (let n = 1; step; n++) {
      const ahead = n < longest ? session.step() : undefined;
      ahead?.catch(() => {}); // awaited in the next iteration
      for (const { row, id } of await step) if (drafts[row]!.length < most[row]!) drafts[row]!.push(id);
      step = ahead;
    }
    return drafts;
  }

  dispose(): void {
    this.#session.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
