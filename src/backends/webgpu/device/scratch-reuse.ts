// The sources of each scratch block's contents, so that the next call can use them again: rows quantized by LLM.int8(), or
// the places in a cache of the tokens of a step.

import type { Block } from "./buffers.js";

/** Bytes of a block that the computation marks, such as columns that hold outliers. */
interface Mark {
  readonly block: Block;
  readonly byte: number;
}

interface Held {
  readonly key: string;
  readonly sources: readonly Block[];
  readonly marked: readonly Mark[];
}

export class Made {
  readonly #held = new Map<Block, Held>();

  /** Notes what a block was made of: `key`, from `sources`, and what was marked. Holds until one of them is written again. */
  hold(block: Block, key: string, sources: Block | readonly Block[], marked: readonly Mark[] = []): void {
    this.#held.set(block, { key, sources: [sources].flat(), marked });
  }

  /** True if the block still holds what `hold` noted and `mark`, if given, was marked. */
  holds(block: Block, key: string, mark?: Mark): boolean {
    const held = this.#held.get(block);
    if (held?.key !== key) return false;
    return !mark || held.marked.some((one) => one.block === mark.block && one.byte === mark.byte);
  }

  wrote(block: Block): void {
    for (const [made, { sources, marked }] of this.#held) {
      if (made === block || sources.includes(block) || marked.some((one) => one.block === block)) {
        this.#held.delete(made);
      }
    }
  }

  clear(): void {
    this.#held.clear();
  }
}
