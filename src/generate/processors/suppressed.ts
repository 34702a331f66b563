// Tokens that are never generated, or not as the first one: suppress_tokens and begin_suppress_tokens. Each row has a bias for
// every token, 0 or -Infinity; once the first token is chosen, the bias of all later ones takes the place of the first.

import type { Device } from "../../core/device.js";
import { scope, Tensor } from "../../core/tensor.js";
import { add } from "../../ops/add.js";
import { copyInto } from "../../ops/copy.js";
import type { SamplingConfig } from "../config.js";
import type { LogitsProcessor, RowStart } from "./processor.js";
import { copyRow, keptTogether, reorderRows, writeRow } from "./rows.js";

/** True if a request suppresses tokens. */
export function suppresses({ suppress_tokens = [], begin_suppress_tokens = [] }: SamplingConfig): boolean {
  return suppress_tokens.length > 0 || begin_suppress_tokens.length > 0;
}

/**
 * True if a mask (bit i % 32 of word i / 32 is token i) has a token that a request does not suppress.
 * @param first it begins the text
 * @param bans says what else must not come
 */
export function leaves(
  bits: Uint32Array,
  { suppress_tokens = [], begin_suppress_tokens = [] }: SamplingConfig,
  first: boolean,
  bans: (id: number) => boolean,
): boolean {
  const left = (id: number): boolean =>
    !suppress_tokens.includes(id) && !(first && begin_suppress_tokens.includes(id)) && !bans(id);
  return bits.some((word, n) => {
    for (let bit = 0; bit < 32; bit++) if ((word >>> bit) & 1 && left(32 * n + bit)) return true;
    return false;
  });
}

export class Suppressed implements LogitsProcessor {
  readonly #device: Device;
  readonly #rows: number;
  readonly #vocab: number;
  /** f32[R,V] each: the bias of the next token, and that of all after it; made when the first row needs them. */
  #state: readonly [next: Tensor, later: Tensor] | undefined;
  /** Rows whose bias is not zero. */
  readonly #used = new Set<number>();

  constructor(device: Device, rows: number, vocab: number) {
    this.#device = device;
    this.#rows = rows;
    this.#vocab = vocab;
  }

  get idle(): boolean {
    return this.#state === undefined;
  }

  begin({ row, ids, prompt, options }: RowStart): void {
    if (!suppresses(options)) {
      this.end(row);
      return;
    }
    const { suppress_tokens = [], begin_suppress_tokens = [] } = options;
    const bias = new Float32Array(this.#vocab);
    for (const id of suppress_tokens) bias[id] = Number.NEGATIVE_INFINITY;
    const [next, later] = this.#made();
    writeRow(later, row, bias);
    if (ids.length === prompt) for (const id of begin_suppress_tokens) bias[id] = Number.NEGATIVE_INFINITY;
    writeRow(next, row, bias);
    this.#used.add(row);
  }

  end(row: number): void {
    if (!this.#state || !this.#used.delete(row)) return;
    for (const bias of this.#state) writeRow(bias, row, new Float32Array(this.#vocab));
  }

  record(logits: Tensor): void {
    const state = this.#state;
    if (state) scope(() => copyInto(add(logits, state[0]), logits));
  }

  keep(): void {
    if (this.#state) copyInto(this.#state[1], this.#state[0]);
  }

  fork(from: number, to: number): void {
    for (const bias of this.#state ?? []) copyRow(bias, from, to);
    if (this.#used.has(from)) this.#used.add(to);
  }

  reorder(parents: readonly number[]): void {
    for (const bias of this.#state ?? []) reorderRows(bias, parents);
    const before = new Set(this.#used);
    this.#used.clear();
    for (const [row, parent] of parents.entries()) if (before.has(parent)) this.#used.add(row);
  }

  #made(): readonly [Tensor, Tensor] {
    if (this.#state) return this.#state;
    const shape = [this.#rows, this.#vocab];
    const zeros = (): Tensor =>
      Tensor.from(this.#device, new Float32Array(this.#rows * this.#vocab), shape, "f32", "bias");
    this.#state = keptTogether(zeros, zeros);
    return this.#state;
  }

  dispose(): void {
    for (const bias of this.#state ?? []) bias.dispose();
    this.#state = undefined;
  }
}
