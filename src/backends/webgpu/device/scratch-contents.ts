// Remembers what each scratch block was computed from, so that the next call can reuse its contents: rows quantized for
// LLM.int8(), or the cache places of a step's tokens.

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

export class ScratchContents {
  readonly #held = new Map<Block, Held>();

  /**
   * Notes that a block holds `key`, computed from `sources`, and which bytes were marked; valid until one is written again.
   */
  hold(block: Block, key: string, sources: Block | readonly Block[], marked: readonly Mark[] = []): void {
    this.#held.set(block, { key, sources: [sources].flat(), marked });
  }

  /** True if the block still holds `key` and, if `mark` is given, it was marked. */
  holds(block: Block, key: string, mark?: Mark): boolean {
    const held = this.#held.get(block);
    if (held?.key !== key) return false;
    return !mark || held.marked.some((one) => one.block === mark.block && one.byte === mark.byte);
  }

  wrote(block: Block): void {
    for (const [scratch, { sources, marked }] of this.#held) {
      if (scratch === block || sources.includes(block) || marked.some((one) => one.block === block)) {
        this.#held.delete(scratch);
      }
    }
  }

  clear(): void {
    this.#held.clear();
  }
}
