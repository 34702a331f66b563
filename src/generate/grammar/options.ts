// Options of generate() that say what the new text is, whatever the model finds likely.

import { listOf } from "../../core/checks.js";
import { such } from "../../core/options.js";
import type { SchemaInput } from "./standard-schema.js";

const isText = (value: unknown): value is string => typeof value === "string";
const isChoice = (value: unknown): value is string => isText(value) && value !== "";

/**
 * The new text is always as these say, or, if it ended by its length, the beginning of such a text. At most one of them; they need the
 * `tokenizer`. The end token comes when the text is complete, and other special tokens never.
 */
export const STRUCTURED = {
  /**
   * The text is JSON that is valid by this schema: a JSON Schema as plain data, or a schema of zod, valibot or another validator with the
   * interfaces of Standard Schema. Supported: type, properties, required, additionalProperties, propertyNames, items, prefixItems,
   * minItems, maxItems, enum, const, anyOf, oneOf of schemas that exclude each other, $ref inside the document, minLength, maxLength,
   * pattern, format, the bounds of numbers (which have at most 15 digits before the point), and multipleOf. Properties come in the
   * schema's order; others only if it allows them by name or has no properties. Between members stands nothing, a space, or a line end
   * and at most 20 blanks, so no text is endless by its blanks; behind a colon and at the text's begin at most a space. Any other keyword
   * is refused.
   */
  json_schema: such<SchemaInput>(
    (value) =>
      typeof value === "boolean" || ((typeof value === "object" || typeof value === "function") && value !== null),
    "a JSON Schema, or a validator's schema",
    { value: "<file>", help: "write JSON that is valid by the JSON Schema in this file" },
  ),
  /** The whole text matches this regular expression, in JavaScript's syntax with the flag u; without looking around and references. */
  regex: such<string>(isText, "the source of a regular expression", {
    value: "<pattern>",
    help: "write a text that this regular expression matches as a whole",
  }),
  /** The text is one of this grammar, in llama.cpp's GBNF: rules `name ::= ...`, of which `root` is the whole text. */
  grammar: such<string>(isText, "a grammar in GBNF", {
    value: "<file>",
    help: "write a text of the grammar in this file, in GBNF",
  }),
  /** The text is one of these. */
  choices: such<readonly string[]>(
    (value) => (listOf(value, isChoice)?.length ?? 0) > 0,
    "a list of texts, none empty",
    {
      value: "<a,b>",
      help: "write one of these texts, which commas separate",
    },
  ),
};

export const STRUCTURED_FIELDS = Object.keys(STRUCTURED) as readonly (keyof typeof STRUCTURED)[];
