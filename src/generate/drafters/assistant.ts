// A smaller model as a drafter (Leviathan et al. 2023; Chen et al. 2023): it continues all rows for a few tokens, in the same
// passes. Where the model draws its tokens, the drafter draws with the same random numbers: the nearer the two distributions, the
// more often the tokens are the same. Its cache of a text is kept between drafts.

import type { Device } from "../../core/device.js";
import type { CacheDType } from "../../nn/cache.js";
import type { CausalLM } from "../../nn/decoder.js";
import { GREEDY } from "../config.js";
import type { RowRequest } from "../sequence.js";
import { DecodeSession } from "../session.js";
import type { Drafter, Drafts, Draws } from "./drafter.js";

export interface AssistantOptions {
  readonly rows: number;
  /** Most tokens of a text, plus one more than the largest draft; longer texts get no drafts. */
  readonly capacity: number;
  readonly cache_dtype: CacheDType;
  readonly signal?: AbortSignal;
  /** A draft ends with a token that is less likely than this; 0, the default, for none. */
  readonly confidence?: number;
}

export class AssistantDrafter implements Drafter {
  readonly #session: DecodeSession;
  readonly #signal: AbortSignal | undefined;
  readonly #confidence: number;

  /** @throws OutOfMemoryError */
  constructor(device: Device, model: CausalLM, { signal, confidence = 0, ...options }: AssistantOptions) {
    this.#session = new DecodeSession(device, model, { ...options, scores: confidence > 0 });
    this.#confidence = confidence;
    this.#signal = signal;
  }

  async propose(
    texts: readonly (readonly number[] | undefined)[],
    most: readonly number[],
    draws: readonly (Draws | undefined)[] = [],
  ): Promise<Drafts> {
    const session = this.#session;
    const drafts: number[][] = texts.map(() => []);
    texts.forEach((text, row) => {
      if (!text) session.remove(row);
    });
    const longest = Math.max(0, ...most);
    // One more than requested: a row that reached its limit would forget its text.
    const length = { max_new_tokens: longest + 1, eos_token_ids: [] };
    const requests = texts.flatMap((prompt, row): RowRequest[] => {
      if (!prompt || most[row] === 0 || prompt.length + length.max_new_tokens > session.capacity) return [];
      const own = draws[row];
      if (!own) return [{ row, prompt, config: { ...GREEDY, ...length } }];
      // What ends texts is asked about chosen tokens only.
      const config = { ...own.config, ...length, ends: undefined };
      return [{ row, prompt, config, sequence: own.sequence, drawn: own.drawn }];
    });
    if (requests.length === 0) return drafts;
    await session.resume(requests, { signal: this.#signal });
    // A step runs while the previous one is read, as in generate().
    const ended = texts.map((_, row) => !requests.some((request) => request.row === row));
    let step = session.step();
    for (let n = 1; step; n++) {
      const ahead = n < longest && !ended.every(Boolean) ? session.step() : undefined;
      ahead?.catch(() => {}); // awaited in the next iteration
      for (const { row, id, score = 0 } of await step) {
        if (ended[row]) continue;
        drafts[row]!.push(id);
        ended[row] = drafts[row]!.length >= most[row]! || Math.exp(score) < this.#confidence;
      }
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
