// What a scratch block was made of last, so that the next call does not make it again: rows that LLM.int8() quantized, say.

import type { Block } from "./buffers.js";

/** A place in a block that was marked while something was made: columns that held outliers. */
interface Mark {
  readonly block: Block;
  readonly byte: number;
}

export class Made {
  #last:
    | { readonly block: Block; readonly key: string; readonly source: Block; readonly marked: readonly Mark[] }
    | undefined;

  /** Notes what a block was made of: `key`, from `source`, and what was marked. Holds until one of them is written again. */
  hold(block: Block, key: string, source: Block, marked: readonly Mark[] = []): void {
    this.#last = { block, key, source, marked };
  }

  /** True if the block still is what `hold` was told, and `mark`, where it is given, was marked. */
  holds(block: Block, key: string, mark?: Mark): boolean {
    const last = this.#last;
    if (last?.block !== block || last.key !== key) return false;
    return !mark || last.marked.some((one) => one.block === mark.block && one.byte === mark.byte);
  }

  wrote(block: Block): void {
    const last = this.#last;
    const marked = last?.marked.some((one) => one.block === block);
    if (last?.block === block || last?.source === block || marked) this.clear();
  }

  clear(): void {
    this.#last = undefined;
  }
}
