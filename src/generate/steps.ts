// The steps of a generation in the mode that its options ask for; beams, which have none, are in beams.ts.

import type { Device } from "../core/device.js";
import type { Decoder } from "../nn/decoder.js";
import { contrastiveSteps } from "./contrastive.js";
import type { Batch } from "./inputs.js";
import { generateSteps, type LoopOptions, type Step } from "./loop.js";

/** @throws as `generateSteps` */
export function stepsOf(device: Device, model: Decoder, batch: Batch, options: LoopOptions): AsyncGenerator<Step> {
  const steps = options.config.mode.contrastive ? contrastiveSteps : generateSteps;
  return steps(device, model, batch, options);
}
