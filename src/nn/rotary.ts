// Rotary position embedding of a model: its frequencies on the device, and the table of cosines and sines of a pass.

import type { Device } from "../core/device.js";
import { ShapeError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import { ropeTable } from "../ops/rope.js";
import { Buffer } from "./module.js";
import type { Pass } from "./pass.js";
import type { RopeFrequencies } from "./rope.js";

/** The constant is f32[R]: the frequencies of short texts. */
export class Rotary extends Buffer {
  readonly #frequencies: RopeFrequencies;

  constructor(frequencies: RopeFrequencies) {
    super(() => frequencies.inverse);
    this.#frequencies = frequencies;
  }

  /**
   * The table [B,T,2,R] of a pass's tokens, made once per device and pass.
   * @throws ShapeError if frequencies depend on the length of a text, and the pass does not say it
   */
  table(pass: Pass, device: Device): Tensor {
    return pass.once(this, device, () => {
      const { scale, ofLength } = this.#frequencies;
      const positions = pass.at(device, pass.input.positions);
      if (!ofLength) return ropeTable(positions, this.on(device), scale);
      const { lengths, texts, lanes } = pass.input;
      if (!lengths) throw new ShapeError("rotary frequencies of this model depend on a text's length: give `lengths`");
      const rows = texts ? pass.at(device, texts) : lanes && pass.at(device, lanes).select(0, 0);
      return ropeTable(positions, lengths.table(ofLength, device), scale, rows);
    });
  }
}
