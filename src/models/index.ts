// The list of architectures by `config.model_type`, imported when asked for.

import { ConfigError, suggestion, UnsupportedModelError } from "../core/errors.js";
import type { Architecture, ConfigJson } from "../nn/decoder.js";

const ARCHITECTURES: ReadonlyMap<string, () => Promise<Architecture>> = new Map([
  ["bloom", async () => (await import("./bloom.js")).bloom],
  ["gpt2", async () => (await import("./gpt2.js")).gpt2],
  ["llama", async () => (await import("./llama.js")).llama],
  ["opt", async () => (await import("./opt.js")).opt],
]);

/** The `model_type`s that Octavo knows. */
export const MODEL_TYPES: readonly string[] = [...ARCHITECTURES.keys()];

/**
 * The architecture that a config.json names.
 * @throws ConfigError without `model_type`, UnsupportedModelError for one that is not known
 */
export async function architectureOf(config: ConfigJson): Promise<Architecture> {
  const type = config.model_type;
  if (typeof type !== "string") {
    throw new ConfigError(`config.json has no "model_type" (got ${JSON.stringify(type) ?? "nothing"})`, {
      hint: "is this the folder of a transformers model?",
    });
  }
  const load = ARCHITECTURES.get(type);
  if (!load) {
    const near = suggestion(type, MODEL_TYPES);
    throw new UnsupportedModelError(
      `architecture "${type}" is not supported${near ? `; did you mean "${near}"?` : ""}`,
      { hint: `supported: ${MODEL_TYPES.join(", ")}`, details: { model_type: type } },
    );
  }
  return load();
}
