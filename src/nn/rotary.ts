// The rotation table that the layers of a decoder share: made once for each device and pass, from the positions of the tokens.

import type { Device } from "../core/device.js";
import type { Tensor } from "../core/tensor.js";
import { ropeTable } from "../ops/rope.js";
import { Buffer, Module } from "./module.js";
import type { Pass } from "./pass.js";
import type { RopeFrequencies } from "./rope.js";

export class RotaryEmbedding extends Module {
  readonly inverse_frequencies: Buffer;
  readonly scale: number;

  constructor({ inverse, scale }: RopeFrequencies) {
    super();
    this.inverse_frequencies = new Buffer(() => inverse);
    this.scale = scale;
  }

  /** cos and sin for the pass's tokens on `device`, [B,T,2,R]; freed with the pass. */
  table(pass: Pass, device: Device): Tensor {
    return pass.once(this, device, () =>
      ropeTable(pass.at(device, pass.input.positions), this.inverse_frequencies.on(device), this.scale),
    );
  }
}
