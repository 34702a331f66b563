// The recordings that all steps of a session replay: the forward pass over one token per row, and the choice of the next.

import { captureAll, type Device, type Recording } from "../core/device.js";
import type { Tensor } from "../core/tensor.js";
import type { Choice } from "./choice.js";
import type { RowForward } from "./forward.js";

/** The forward pass over one token per row, and its logits f32[R,vocab]. */
export interface RecordedForward {
  readonly recording: Recording;
  readonly logits: Tensor;
  /** Last hidden states f32[R,hidden], if they are kept. */
  readonly states: Tensor | undefined;
}

export class StepRecordings implements Disposable {
  readonly #device: Device;
  readonly #forward: RowForward;
  readonly #choice: Choice;
  readonly #apart: boolean;
  readonly #keeps: boolean;
  #passing: RecordedForward | undefined;
  #choosing: readonly Recording[] = [];
  /** Processors that `#choosing` was recorded with. */
  #active = 0;

  /**
   * @param apart the logits are changed between the processors and the choice: these are two recordings
   * @param states the last hidden states are kept
   */
  constructor(device: Device, forward: RowForward, choice: Choice, { apart = false, states = false }) {
    this.#device = device;
    this.#forward = forward;
    this.#choice = choice;
    this.#apart = apart;
    this.#keeps = states;
  }

  /** The forward pass, recorded on first use. */
  get forward(): RecordedForward {
    if (this.#passing) return this.#passing;
    const { tokens, lanes } = this.#choice;
    let logits: Tensor | undefined;
    let states: Tensor | undefined;
    const recording = captureAll(this.#forward.devices, () => {
      const step = this.#forward.step(tokens, lanes);
      logits = step.logits.keep();
      if (this.#keeps) states = step.states.keep();
      else step.states.dispose();
    });
    this.#passing = { recording, logits: logits!, states };
    return this.#passing;
  }

  /** The choice, in one part or two; recorded anew when a row first needs another processor. */
  get choice(): readonly Recording[] {
    const { active } = this.#choice;
    if (this.#choosing.length > 0 && this.#active === active) return this.#choosing;
    const { logits } = this.forward;
    this.#forget();
    this.#active = active;
    const process = (): void => this.#choice.process(logits);
    const choose = (): void => this.#choice.choose(logits);
    const together = (): void => {
      process();
      choose();
    };
    const parts = this.#apart ? [process, choose] : [together];
    this.#choosing = parts.map((part) => this.#device.capture(part));
    return this.#choosing;
  }

  #forget(): void {
    for (const recording of this.#choosing) recording.dispose();
    this.#choosing = [];
  }

  dispose(): void {
    this.#forget();
    this.#passing?.recording.dispose();
    this.#passing?.logits.dispose();
    this.#passing?.states?.dispose();
    this.#passing = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
