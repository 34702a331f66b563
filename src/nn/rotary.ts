// Rotary position embedding of a model: its frequencies on the device, and the table of cosines and sines of a pass.

import type { Device } from "../core/device.js";
import type { Tensor } from "../core/tensor.js";
import { ropeTable } from "../ops/rope.js";
import { Buffer } from "./module.js";
import type { Pass } from "./pass.js";
import type { RopeFrequencies } from "./rope.js";

/** The constant is f32[R]. */
export class Rotary extends Buffer {
  readonly #scale: number;

  constructor(frequencies: RopeFrequencies) {
    super(() => frequencies.inverse);
    this.#scale = frequencies.scale;
  }

  /** The table [B,T,2,R] of a pass's tokens, made once per device and pass. */
  table(pass: Pass, device: Device): Tensor {
    return pass.once(this, device, () =>
      ropeTable(pass.at(device, pass.input.positions), this.on(device), this.#scale),
    );
  }
}
