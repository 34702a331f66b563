// What pipelines put in place of generation options that neither the caller nor the model's files set.

import type { LoadedModel } from "../generate/base.js";
import { GENERATION, type GenerationOptions } from "../generate/config.js";
import type { ConfigJson } from "../nn/architecture.js";
import type { Model } from "../nn/model.js";

type Given = Readonly<Record<string, unknown>>;

/** What config.json says about a task: `prefix`, and options of generate(). */
export function taskParameters(config: ConfigJson, task: string): Given {
  const all = config.task_specific_params as Readonly<Record<string, unknown>> | null | undefined;
  const own = typeof all === "object" && all !== null && Object.hasOwn(all, task) ? all[task] : undefined;
  return typeof own === "object" && own !== null ? (own as Given) : {};
}

/**
 * The options of a call with those of the task behind them, and the pipeline's own last. A length that the pipeline sets leaves room
 * for the prompt.
 * @param room tokens that fit behind the prompt
 */
export function withDefaults(
  model: Pick<LoadedModel<Model>, "generation_config">,
  given: GenerationOptions,
  usual: GenerationOptions,
  task: Given = {},
  room = Number.POSITIVE_INFINITY,
): GenerationOptions {
  const named = Object.entries(task).filter(([name, value]) => Object.hasOwn(GENERATION, name) && value !== null);
  const options: Record<string, unknown> = { ...Object.fromEntries(named), ...given };
  const set = (name: string): boolean => (options[name] ?? model.generation_config[name] ?? undefined) !== undefined;
  for (const [name, value] of Object.entries(usual)) {
    if (set(name) || (name === "max_new_tokens" && set("max_length"))) continue;
    options[name] = name === "max_new_tokens" ? Math.max(1, Math.min(value as number, room)) : value;
  }
  return options as GenerationOptions;
}
