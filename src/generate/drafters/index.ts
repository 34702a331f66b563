// Chooses the drafter of a generate() call, and rejects options that drafters do not support.

import type { Device } from "../../core/device.js";
import { OptionError } from "../../core/errors.js";
import type { Options } from "../../core/options.js";
import { cacheDType } from "../../nn/cache.js";
import type { CausalLM } from "../../nn/decoder.js";
import type { FloatDType } from "../../nn/weight.js";
import { LoadedModel } from "../base.js";
import { rowsPerPrompt } from "../beam-config.js";
import type { GenerationConfig } from "../config.js";
import type { STRUCTURED } from "../grammar/options.js";
import { structuredOption } from "../grammar/structured.js";
import type { Batch } from "../inputs.js";
import { modeOption } from "../mode-options.js";
import { AssistantDrafter } from "./assistant.js";
import type { Drafter } from "./drafter.js";
import { NgramDrafter } from "./ngram.js";

/** What an assistant must have: a `PreTrainedModel` qualifies. */
interface Assistant {
  readonly device: Device;
  readonly dtype: FloatDType;
  readonly module: CausalLM;
}

interface DraftOptions extends Options<typeof STRUCTURED> {
  readonly assistant_model?: Assistant;
}

/** Most tokens guessed at a time; 0 without a drafter. */
export function draftsOf(config: GenerationConfig, { assistant_model }: DraftOptions): number {
  return assistant_model ? config.num_assistant_tokens : config.prompt_lookup_num_tokens;
}

/** @throws OptionError for a search that takes no guesses, or for an assistant that does not suit this model */
export function checkDrafting(model: Assistant, config: GenerationConfig, options: DraftOptions): void {
  const { assistant_model: assistant } = options;
  if (assistant !== undefined) checkAssistant(model, assistant);
  if (draftsOf(config, options) === 0) return;
  const name = assistant ? "assistant_model" : "prompt_lookup_num_tokens";
  const problem =
    assistant && config.prompt_lookup_num_tokens > 0
      ? "prompt_lookup_num_tokens"
      : (modeOption(config.mode) ?? structuredOption(options));
  if (problem) throw new OptionError(`${name} cannot be combined with ${problem}`, { details: { option: name } });
}

function checkAssistant(model: Assistant, assistant: Assistant): void {
  const { vocab } = model.module.geometry;
  const own = vocabOf(assistant);
  if (own === vocab) return;
  const message = own
    ? `assistant_model has a vocabulary of ${own} tokens, the model one of ${vocab}: their tokenizers must agree`
    : "assistant_model must be a model from from_pretrained()";
  throw new OptionError(message, { details: { option: "assistant_model" } });
}

/** The size of an assistant's vocabulary; undefined for what is no model. */
function vocabOf(assistant: unknown): number | undefined {
  return LoadedModel.is(assistant) ? (assistant.module as Partial<CausalLM>).geometry?.vocab : undefined;
}

/**
 * The drafter that the options select.
 * @throws OutOfMemoryError
 */
export function openDrafter(
  batch: Batch,
  config: GenerationConfig,
  { assistant, signal }: { assistant: Assistant | undefined; signal: AbortSignal | undefined },
): Drafter | undefined {
  if (assistant) {
    const { max_positions } = assistant.module.geometry;
    const capacity = Math.min(max_positions, batch.steps + config.max_new_tokens + config.num_assistant_tokens + 1);
    const cache_dtype = config.cache_dtype ?? cacheDType(assistant.dtype);
    return new AssistantDrafter(assistant.device, assistant.module, {
      rows: batch.rows * rowsPerPrompt(config.beams),
      capacity,
      cache_dtype,
      signal,
      confidence: config.assistant_confidence_threshold,
    });
  }
  return config.prompt_lookup_num_tokens > 0 ? new NgramDrafter() : undefined;
}
