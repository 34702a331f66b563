// The steps of a generation in the mode that its options ask for; beams, which have none, are in beams.ts.

import type { Device } from "../core/device.js";
import type { Decoder } from "../nn/decoder.js";
import { contrastiveSteps } from "./contrastive.js";
import { layeredDecoder, narrowed } from "./dola.js";
import type { Batch } from "./inputs.js";
import { generateSteps, type LoopOptions, type Step } from "./loop.js";

/** @throws as `generateSteps` */
export function stepsOf(device: Device, model: Decoder, batch: Batch, options: LoopOptions): AsyncGenerator<Step> {
  const { contrastive, dola } = options.config.mode;
  if (contrastive) return contrastiveSteps(device, model, batch, options);
  if (!dola) return generateSteps(device, model, batch, options);
  const processors = options.processors?.map((one) => narrowed(one, model.geometry.vocab)) ?? [];
  return generateSteps(device, layeredDecoder(model, dola), batch, { ...options, processors });
}
