// Repetition, presence and frequency penalties as one processor: they need the same history. Rows have their own penalties and
// history lengths; a row without penalties keeps no history.

import type { Device } from "../../core/device.js";
import { Tensor } from "../../core/tensor.js";
import { appendToken } from "../../ops/append-token.js";
import { penalize } from "../../ops/penalize.js";
import type { SamplingConfig } from "../config.js";
import type { LogitsProcessor, RowStart } from "./processor.js";
import { copyRow, keptTogether, reorderRows, writeRow } from "./rows.js";

/** Lengths of a row whose history is skipped. */
const UNUSED = Int32Array.of(-1, -1);

function penaltiesOf(config: SamplingConfig): Float32Array {
  const { repetition_penalty, presence_penalty = 0, frequency_penalty = 0 } = config;
  return Float32Array.of(repetition_penalty, presence_penalty, frequency_penalty);
}

/** True if a request has any of these penalties. */
export function hasPenalties(config: SamplingConfig): boolean {
  const [repetition, presence, frequency] = penaltiesOf(config);
  return repetition !== 1 || presence !== 0 || frequency !== 0;
}

export class Penalties implements LogitsProcessor {
  readonly #device: Device;
  readonly #rows: number;
  readonly #capacity: number;
  /** i32[R,capacity], i32[R,2] and f32[R,3]: operands of `penalize`; made when the first row needs them. */
  #state: readonly [history: Tensor, lengths: Tensor, penalties: Tensor] | undefined;

  /** @param capacity most tokens of a row's text */
  constructor(device: Device, rows: number, capacity: number) {
    this.#device = device;
    this.#rows = rows;
    this.#capacity = capacity;
  }

  get idle(): boolean {
    return this.#state === undefined;
  }

  begin({ row, ids, prompt, options }: RowStart): void {
    if (!hasPenalties(options)) {
      this.end(row);
      return;
    }
    const [history, lengths, penalties] = this.#made();
    writeRow(history, row, Int32Array.from(ids));
    writeRow(lengths, row, Int32Array.of(prompt, ids.length));
    writeRow(penalties, row, penaltiesOf(options));
  }

  end(row: number): void {
    if (this.#state) writeRow(this.#state[1], row, UNUSED);
  }

  record(logits: Tensor): void {
    if (this.#state) penalize(logits, ...this.#state);
  }

  keep(tokens: Tensor): void {
    if (this.#state) appendToken(tokens, this.#state[0], this.#state[1]);
  }

  fork(from: number, to: number): void {
    for (const tensor of this.#state ?? []) copyRow(tensor, from, to);
  }

  reorder(parents: readonly number[]): void {
    for (const tensor of this.#state ?? []) reorderRows(tensor, parents);
  }

  #made(): readonly [Tensor, Tensor, Tensor] {
    if (this.#state) return this.#state;
    const rows = this.#rows;
    this.#state = keptTogether(
      () => Tensor.empty(this.#device, [rows, this.#capacity], "i32", "history"),
      () => Tensor.from(this.#device, new Int32Array(2 * rows).fill(-1), [rows, 2], "i32", "lengths"),
      () => Tensor.from(this.#device, new Float32Array(3 * rows), [rows, 3], "f32", "penalties"),
    );
    return this.#state;
  }

  dispose(): void {
    for (const tensor of this.#state ?? []) tensor.dispose();
    this.#state = undefined;
  }
}
