// Tokens that may not come next, which differ from step to step: a bias for every token of each row, 0 or -Infinity, that the host
// writes before a step's choice. It needs no logits, so it is made while the forward pass runs.

import type { Device } from "../../core/device.js";
import { scope, Tensor } from "../../core/tensor.js";
import { add } from "../../ops/add.js";
import { copyInto } from "../../ops/copy.js";
import type { LogitsProcessor } from "./processor.js";
import { keptTogether, writeRow } from "./rows.js";

/** A text, its prompt included. */
export interface RowText {
  /** The list grows with the text; another text has another list. */
  readonly ids: readonly number[];
  /** Tokens of the prompt. */
  readonly prompt: number;
}

/** Which tokens may follow a text. */
export interface TokenMasks {
  /** Bit i % 32 of word i / 32 is 1 if token i may follow. The same object means the same mask. @throws OctavoError if none may */
  of(text: RowText): Uint32Array;
  /** @throws OctavoError always: no token was left */
  nothingLeft(why: string): never;
}

export class Masked implements LogitsProcessor {
  readonly #device: Device;
  readonly #rows: number;
  readonly #vocab: number;
  /** f32[R,V], made when it is first needed. */
  #bias: Tensor | undefined;
  /** The mask that each row's bias holds. */
  readonly #held: (Uint32Array | undefined)[];

  constructor(device: Device, rows: number, vocab: number) {
    this.#device = device;
    this.#rows = rows;
    this.#vocab = vocab;
    this.#held = new Array<undefined>(rows).fill(undefined);
  }

  get idle(): boolean {
    return this.#bias === undefined;
  }

  /** Only the tokens of `bits` may come next in a row. */
  set(row: number, bits: Uint32Array): void {
    if (this.#held[row] === bits) return;
    if (!this.#bias) {
      const zeros = new Float32Array(this.#rows * this.#vocab);
      const shape = [this.#rows, this.#vocab];
      [this.#bias] = keptTogether(() => Tensor.from(this.#device, zeros, shape, "f32", "mask"));
    }
    writeRow(this.#bias, row, biasOf(bits, this.#vocab));
    this.#held[row] = bits;
  }

  /** True if a row's mask has a token. */
  allows(row: number, id: number): boolean {
    const bits = this.#held[row];
    return bits === undefined || ((bits[id >>> 5]! >>> (id & 31)) & 1) === 1;
  }

  begin(): void {}

  end(): void {} // the bias of a row that is not used has no effect

  record(logits: Tensor): void {
    const bias = this.#bias;
    if (bias) scope(() => copyInto(add(logits, bias), logits));
  }

  keep(): void {}

  /** Each step sets the masks of its rows, so a copied state needs none of another row. */
  fork(): void {}

  reorder(): void {}

  dispose(): void {
    this.#bias?.dispose();
    this.#bias = undefined;
  }
}

/** f32[V]: 0 for the tokens of a mask, -Infinity for all others. */
function biasOf(bits: Uint32Array, vocab: number): Float32Array {
  const bias = new Float32Array(vocab).fill(Number.NEGATIVE_INFINITY);
  for (let word = 0; word < bits.length; word++) {
    let left = bits[word]!;
    if (left === 0xffffffff) bias.fill(0, 32 * word, 32 * word + 32);
    else {
      for (; left !== 0; left &= left - 1) bias[32 * word + 31 - Math.clz32(left & -left)] = 0;
    }
  }
  return bias;
}
