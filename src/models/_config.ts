// Checks of config.json for the model files: schemas, with the alternative field names of older files.

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { show } from "../core/show.js";
import type { ConfigJson } from "../nn/architecture.js";
import type { Act } from "../ops/activation.js";

/** A count of at least 1; absurd sizes are rejected before anything is planned with them. */
export const count: z.NumberSchema = z.int().min(1).max(16_777_216);
export const epsilon: z.NumberSchema = z.number().positive().max(1);

/** Wrong fields that an error names. */
const MOST_PROBLEMS = 4;

/** Activation names of config.json, and the ops' names for them. */
const ACTIVATIONS: Readonly<Record<string, Act>> = {
  relu: "relu",
  gelu: "gelu",
  gelu_new: "gelu_tanh",
  gelu_fast: "gelu_tanh",
  gelu_pytorch_tanh: "gelu_tanh",
  silu: "silu",
  swish: "silu",
  quick_gelu: "quick_gelu",
  tanh: "tanh",
};

export const activationName: z.Schema<Act> = z.string().transform((name, reading): Act => {
  const act = Object.hasOwn(ACTIVATIONS, name) ? ACTIVATIONS[name] : undefined;
  if (act) return act;
  reading.add(`unknown activation ${show(name)} (known: ${Object.keys(ACTIVATIONS).join(", ")})`);
  return "none";
});

/**
 * Checks a config.json against a schema. `aliases` maps a field to its names in other files; the first one present is used.
 * @throws ConfigError naming each wrong field with the expected and the actual value
 */
export function readConfig<S extends z.ObjectSchema>(
  config: ConfigJson,
  schema: S,
  aliases: Readonly<Record<string, readonly string[]>> = {},
): z.infer<S> {
  const fields = new Map<string, unknown>();
  // Only what the schema has is read: the loader reports the other keys.
  for (const field of Object.keys(schema.shape)) {
    const values = [field, ...(aliases[field] ?? [])].map((name) => config[name]);
    const value = values.find((one) => one !== undefined);
    if (value !== undefined) fields.set(field, value);
  }
  const result = schema.safeParse(Object.fromEntries(fields));
  if (result.success) return result.data;
  const problems = result.issues.map((issue) => {
    const path = issue.path.join(".");
    const got = issue.path.reduce<unknown>(
      (at, key) => (at && typeof at === "object" ? (at as Record<PropertyKey, unknown>)[key] : undefined),
      Object.fromEntries(fields),
    );
    return `${path || "config"}: ${issue.message}${got === undefined ? "" : ` (got ${show(got)})`}`;
  });
  const some = problems.slice(0, MOST_PROBLEMS).join("; ");
  const more = problems.length - MOST_PROBLEMS;
  throw new ConfigError(
    `config.json of a ${show(config.model_type)} model: ${some}${more > 0 ? `; and ${more} more` : ""}`,
    {
      details: { fields: result.issues.map((issue) => issue.path.join(".")) },
      hint: CONFIG_HINT,
    },
  );
}

/** @throws ConfigError unless `heads` divides `hidden` */
export function headSize(hidden: number, heads: number): number {
  if (hidden % heads !== 0) {
    throw new ConfigError(`config.json: hidden size ${hidden} is not a multiple of ${heads} attention heads`, {
      hint: CONFIG_HINT,
    });
  }
  return hidden / heads;
}

/** Number of labels of a classifier, from `id2label` or `num_labels`; 2 if config.json has neither. @throws ConfigError */
export function labelCount(config: ConfigJson): number {
  const { id2label, num_labels } = config;
  const names = id2label !== null && typeof id2label === "object" ? Object.keys(id2label).length : undefined;
  const labels = names ?? num_labels ?? 2;
  const result = count.safeParse(labels);
  if (result.success) return result.data;
  throw new ConfigError(`config.json: a classifier needs at least one label, got ${show(labels)}`, {
    hint: CONFIG_HINT,
  });
}
