// Schemas of validators (zod, valibot, ArkType) by the interfaces that they share: Standard Schema and Standard JSON Schema
// (standardschema.dev). Written here as far as it is used, so that no validator is needed.

import { OptionError } from "../../core/errors.js";
import { kindOf, show } from "../../core/show.js";
import type { JsonSchema } from "./json-schema.js";

type Outcome<T> = { readonly value: T; readonly issues?: undefined } | { readonly issues: readonly unknown[] };

/** A validator's schema, whose values have the type T. */
export interface StandardSchema<T = unknown> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    validate(value: unknown): Outcome<T> | Promise<Outcome<T>>;
    readonly types?: { readonly input: unknown; readonly output: T } | undefined;
    /** The JSON Schema of what it takes; zod has it from 4.2 on. */
    readonly jsonSchema?: { input(options: { readonly target: string }): Record<string, unknown> };
  };
}

/** What `json_schema` may be: a JSON Schema, or a validator's schema. */
export type SchemaInput = JsonSchema | StandardSchema;

/** The type of the values of a schema: of a validator's its own, of a JSON Schema unknown. */
export type SchemaValue<S> = S extends StandardSchema<infer T> ? T : unknown;

const OPTION = "json_schema";

/** The schema itself if it is a validator's. */
function standardOf(schema: unknown): StandardSchema["~standard"] | undefined {
  if ((typeof schema !== "object" && typeof schema !== "function") || schema === null) return undefined;
  const standard = (schema as Partial<StandardSchema>)["~standard"];
  return typeof standard?.validate === "function" ? standard : undefined;
}

/**
 * The JSON Schema of what a text must hold, as a copy.
 * @throws OptionError for a schema that has none, and for one that is no JSON
 */
export function jsonSchemaOf(schema: unknown): JsonSchema {
  let cause: unknown;
  try {
    const standard = standardOf(schema);
    if (standard && typeof standard.jsonSchema?.input !== "function") {
      throw new OptionError(`${OPTION}: this schema of ${standard.vendor} does not give its JSON Schema`, {
        details: { option: OPTION },
        hint: "pass the JSON Schema itself, as from z.toJSONSchema(schema) or toJsonSchema(schema)",
      });
    }
    const given = standard?.jsonSchema ? standard.jsonSchema.input({ target: "draft-2020-12" }) : schema;
    const text = JSON.stringify(given);
    const copy: unknown = text === undefined ? undefined : JSON.parse(text);
    if (typeof copy === "boolean" || (typeof copy === "object" && copy !== null)) return copy as JsonSchema;
  } catch (error) {
    if (error instanceof OptionError) throw error;
    cause = error;
  }
  const why = cause instanceof Error ? `: ${cause.message}` : "";
  throw new OptionError(`${OPTION} must be a JSON Schema or a validator's schema, got ${kindOf(schema)}${why}`, {
    details: { option: OPTION },
    cause,
  });
}

/**
 * The value of a text that was generated with `json_schema`: parsed, and of a validator's schema as its `validate` gives it, with its
 * type. The text alone, decoded with `skip_special_tokens` and without `clean_up_tokenization_spaces`.
 * @returns null for a text that is not whole, as one that ended by its length, and for a value that the validator refuses: it may know
 * rules that no JSON Schema has
 * @throws OptionError for what is no schema or no text; what the validator throws
 */
export async function parseOutput<const S extends SchemaInput>(
  schema: S,
  text: string,
): Promise<SchemaValue<S> | null> {
  if (typeof text !== "string") throw new OptionError(`parseOutput: expected a text, got ${show(text)}`);
  let standard: StandardSchema["~standard"] | undefined;
  try {
    standard = standardOf(schema);
  } catch (cause) {
    throw new OptionError("parseOutput: the schema cannot be read", { cause });
  }
  if (!standard) jsonSchemaOf(schema);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (!standard) return value as SchemaValue<S>;
  const outcome = await standard.validate(value);
  return outcome.issues ? null : (outcome.value as SchemaValue<S>);
}
