// Classifier-free guidance of texts (Sanchez et al. 2023, "Stay on topic with Classifier-Free Guidance"): beside each text runs
// one without its condition, whose tokens are the same.

import { OptionError } from "../core/errors.js";
import type { GenerationConfig } from "./config.js";
import { type Batch, type Ids, leftPadded, promptsOf, readBatch } from "./inputs.js";
import { logSoftmax } from "./processors/host/base.js";
import type { HostProcessor, HostState } from "./processors/host-processor.js";

interface NegativePrompts {
  readonly negative_prompt_ids?: Ids | undefined;
  readonly negative_prompt_attention_mask?: Ids | undefined;
}

/**
 * The text that takes the place of each prompt where there is no condition: the negative prompts, or the prompts' last tokens;
 * undefined without guidance.
 * @throws OptionError, ShapeError
 */
export function unconditionalOf(
  batch: Batch,
  { mode }: GenerationConfig,
  options: NegativePrompts & { readonly guidance_scale?: unknown },
  vocab: number,
): number[][] | undefined {
  const { negative_prompt_ids: ids, negative_prompt_attention_mask: mask } = options;
  const refuse = (option: keyof NegativePrompts, message: string, hint?: string): never => {
    throw new OptionError(`${option}: ${message}`, { details: { option }, hint });
  };
  if (ids === undefined && mask !== undefined) {
    return refuse("negative_prompt_attention_mask", "there are no negative_prompt_ids");
  }
  if (mode.guidance_scale === undefined) {
    // A scale of 1 is a choice; none is a mistake.
    if (ids === undefined || options.guidance_scale !== undefined) return undefined;
    return refuse("negative_prompt_ids", "without guidance_scale it has no effect", "add guidance_scale: 1.5");
  }
  if (ids === undefined) return promptsOf(batch).map((prompt) => prompt.slice(-1));
  const negative = readBatch(ids, mask, vocab, "negative_prompt_ids");
  if (negative.rows !== batch.rows) {
    refuse("negative_prompt_ids", `${negative.rows} rows, but input_ids have ${batch.rows}: one for each prompt`);
  }
  return promptsOf(leftPadded(negative, "negative_prompt_ids"));
}

/** Leads scores away from those without the condition, both as log-probabilities. */
export class Guidance implements HostProcessor {
  readonly scale: number;

  constructor(scale: number) {
    this.scale = scale;
  }

  process(scores: Float32Array, { unconditional }: HostState): void {
    const without = unconditional!.slice();
    logSoftmax(scores);
    logSoftmax(without);
    for (let id = 0; id < scores.length; id++) {
      scores[id] = without[id]! + this.scale * (scores[id]! - without[id]!);
    }
  }
}
