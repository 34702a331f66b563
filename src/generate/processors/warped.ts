// Scores as they are drawn from, of rows that drop tokens by typical_p, epsilon_cutoff or eta_cutoff, or whose scores change after tokens
// were dropped.

import type { Device } from "../../core/device.js";
import { Tensor } from "../../core/tensor.js";
import { warp } from "../../ops/warp.js";
import type { SamplingConfig } from "../config.js";
import type { RowStart } from "./processor.js";
import { copyRow, keptTogether, reorderRows, writeRow } from "./rows.js";

/** A row whose scores stay as they are. */
const UNCHANGED = -1;

/** True if a request needs more than `sample` does, or needs it before scores are marked. */
export function warps(config: SamplingConfig): boolean {
  const { do_sample, temperature, top_k, top_p, min_p, marked } = config;
  const { typical_p = 1, epsilon_cutoff = 0, eta_cutoff = 0 } = config;
  const early = temperature !== 1 || top_k > 0 || top_p < 1 || min_p > 0;
  return do_sample && (typical_p < 1 || epsilon_cutoff > 0 || eta_cutoff > 0 || (marked === true && early));
}

export class Warped {
  readonly #device: Device;
  readonly #rows: number;
  /** f32[R,7]: the operand of `warp`; made when the first row needs it. */
  #params: Tensor | undefined;

  constructor(device: Device, rows: number) {
    this.#device = device;
    this.#rows = rows;
  }

  get idle(): boolean {
    return this.#params === undefined;
  }

  begin({ row, options }: RowStart): void {
    if (!warps(options)) {
      this.end(row);
      return;
    }
    const { temperature, top_k, top_p, min_p, typical_p = 1, epsilon_cutoff = 0, eta_cutoff = 0 } = options;
    if (!this.#params) {
      const none = new Float32Array(7 * this.#rows).fill(UNCHANGED);
      [this.#params] = keptTogether(() => Tensor.from(this.#device, none, [this.#rows, 7], "f32", "warping"));
    }
    const own = Float32Array.of(temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff);
    writeRow(this.#params, row, own);
  }

  end(row: number): void {
    if (this.#params) writeRow(this.#params, row, Float32Array.of(UNCHANGED));
  }

  /** The scores f32[R,V] that are left. */
  left(logits: Tensor): Tensor {
    return this.#params ? warp(logits, this.#params) : logits;
  }

  fork(from: number, to: number): void {
    if (this.#params) copyRow(this.#params, from, to);
  }

  reorder(parents: readonly number[]): void {
    if (this.#params) reorderRows(this.#params, parents);
  }

  dispose(): void {
    this.#params?.dispose();
    this.#params = undefined;
  }
}
