// Passes over few tokens, recorded: those that check drafts, and those that a drafter catches up with, come with every few tokens of a text.
// Recording one anew takes milliseconds, in which a thread of a small machine does not compute.

import { captureAll, type Device, type Recording } from "../core/device.js";
import { Tensor } from "../core/tensor.js";

/** Most tokens of a pass that is kept: prompts of so few cost little either way. */
const MOST = 16;

interface KeptPass {
  readonly ids: Tensor;
  readonly lanes: Tensor;
  readonly states: Tensor;
  readonly recording: Recording;
}

export class ShortPasses implements Disposable {
  readonly #devices: () => readonly Device[];
  readonly #record: (ids: Tensor, lanes: Tensor) => Tensor;
  readonly #kept = new Map<number, KeptPass>();
  /** Numbers of tokens that came once. */
  readonly #once = new Set<number>();

  /** @param record records the hidden states [1,N,hidden] of the tokens i32[1,N] at lanes i32[2,1,N], whatever these are */
  constructor(devices: () => readonly Device[], record: (ids: Tensor, lanes: Tensor) => Tensor) {
    this.#devices = devices;
    this.#record = record;
  }

  /**
   * The hidden states of tokens at `lanes` [2,N], which the next pass of as many tokens overwrites; undefined for many tokens, and for a
   * number of them that comes for the first time: many passes come once.
   * @throws OutOfMemoryError
   */
  run(device: Device, ids: Int32Array, lanes: Int32Array): Tensor | undefined {
    const { length } = ids;
    if (length > MOST) return undefined;
    let kept = this.#kept.get(length);
    if (!kept) {
      if (!this.#once.has(length)) {
        this.#once.add(length);
        return undefined;
      }
      kept = this.#capture(device, ids, lanes);
      this.#kept.set(length, kept);
    } else {
      kept.ids.write(ids);
      kept.lanes.write(lanes);
    }
    kept.recording.replay();
    return kept.states.alias();
  }

  #capture(device: Device, ids: Int32Array, lanes: Int32Array): KeptPass {
    const shape = [1, ids.length];
    const made: Tensor[] = [];
    try {
      made.push(Tensor.from(device, ids, shape, "i32", "tokens").keep());
      made.push(Tensor.from(device, lanes, [2, ...shape], "i32", "lanes").keep());
      const [tokens, places] = made as [Tensor, Tensor];
      const recording = captureAll(this.#devices(), () => made.push(this.#record(tokens, places).keep()));
      return { ids: tokens, lanes: places, states: made[2]!, recording };
    } catch (error) {
      for (const tensor of made) tensor.dispose();
      throw error;
    }
  }

  dispose(): void {
    for (const { ids, lanes, states, recording } of this.#kept.values()) {
      recording.dispose();
      for (const tensor of [ids, lanes, states]) tensor.dispose();
    }
    this.#kept.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
