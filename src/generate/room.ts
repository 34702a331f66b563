// Whether the cache of a call fits, before it starts.

import type { Device } from "../core/device.js";
import { OptionError } from "../core/errors.js";
import { trainedContext } from "../nn/architecture.js";
import type { Model } from "../nn/model.js";
import { layerDevices } from "../nn/placement.js";
import type { LoadedModel } from "./base.js";

/**
 * Checks that a cache fits into the memory of a model's devices, before anything starts.
 * @param tokens of one text, prompt included
 * @throws OutOfMemoryError; OptionError if the text is longer than the model reads, which then is the reason
 */
export function checkRoom(
  { config, device, module }: LoadedModel<Model>,
  bytes: number,
  tokens: number,
  what: string,
): void {
  const context = trainedContext(config);
  // Each layer's part is on the device of its block.
  const layers = module.blocks.at(-1)?.length ?? 0;
  const deviceOf = layerDevices(module, device);
  const counts = new Map<Device, number>();
  for (let i = 0; i < layers; i++) counts.set(deviceOf(i), (counts.get(deviceOf(i)) ?? 0) + 1);
  for (const [one, count] of counts) {
    const part = Math.ceil((bytes * count) / layers);
    const { live, budget } = one.memory;
    if (context !== undefined && tokens > context && live + part > budget) {
      const [reads, asked] = [context, tokens].map((n) => n.toLocaleString("en-US"));
      throw new OptionError(`the model reads ${reads} tokens; ${asked} were asked for, the prompt included`, {
        details: { option: "max_new_tokens", context, tokens },
        hint: "lower max_new_tokens",
      });
    }
    one.arena.checkRoom(part, what);
  }
}
