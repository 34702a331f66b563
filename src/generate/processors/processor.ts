// Changes to logits before a token is chosen, by processors on the device, which a recording replays. Those on the host are in
// host-processor.ts.

import type { Tensor } from "../../core/tensor.js";
import type { SamplingConfig } from "../config.js";

/** A row at its start: its text so far; the first `prompt` tokens were given, the others generated. */
export interface RowStart {
  readonly row: number;
  readonly ids: readonly number[];
  readonly prompt: number;
  readonly options: SamplingConfig;
}

/**
 * Changes logits on the device. `record` and `keep` are captured once and replayed in every step, so all data that varies
 * between rows or steps is in tensors that outlive the recording.
 */
export interface LogitsProcessor {
  /** True while no row needs it; the recording then omits it. */
  readonly idle: boolean;
  /** Changes when it is recorded otherwise than before. */
  readonly version?: number;
  /** Adds a row, by writes from the host. */
  begin(start: RowStart): void;
  /** Ignores a row from now on. */
  end(row: number): void;
  /** Records its change to logits[R,V], in place. */
  record(logits: Tensor): void;
  /** Records the update of its state with the chosen tokens i32[R]. */
  keep(tokens: Tensor): void;
  /** Records that row `to` continues from the state of row `from`. */
  fork(from: number, to: number): void;
  /** Records that each row r continues from the state of row `parents[r]` (beams). */
  reorder(parents: readonly number[]): void;
  dispose(): void;
}
