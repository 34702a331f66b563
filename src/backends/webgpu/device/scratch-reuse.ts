// The source of each scratch block's contents, so that the next call can use them again: rows quantized by LLM.int8(), say.

import type { Block } from "./buffers.js";

/** Bytes of a block that the computation marks, such as columns that hold outliers. */
interface Mark {
  readonly block: Block;
  readonly byte: number;
}

export class Made {
  #last:
    | { readonly block: Block; readonly key: string; readonly source: Block; readonly marked: readonly Mark[] }
    | undefined;

  /** Notes that a block holds `key` computed from `source`, and what was marked; valid until one of them is written. */
  hold(block: Block, key: string, source: Block, marked: readonly Mark[] = []): void {
    this.#last = { block, key, source, marked };
  }

  /** True if the block still holds what `hold` noted and `mark`, if given, was marked. */
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
