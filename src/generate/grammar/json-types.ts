// Types of JSON values, keywords about them, places in a schema, and which schemas cannot both be true of a value.

import { isList, listOf } from "../../core/checks.js";

export const TYPES = ["null", "boolean", "string", "number", "integer", "object", "array"] as const;
export type Type = (typeof TYPES)[number];

export type Keywords = Readonly<Record<string, unknown>>;

/** Keywords that say nothing about a value. */
export const ANNOTATIONS = new Set([
  ...["title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$comment"],
  ...["$schema", "$id", "$defs", "definitions", "contentEncoding", "contentMediaType"],
]);
export const OF_TYPE = {
  string: ["minLength", "maxLength", "pattern", "format"],
  number: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"],
  object: ["properties", "required", "additionalProperties", "propertyNames", "minProperties", "maxProperties"],
  array: ["items", "prefixItems", "minItems", "maxItems", "uniqueItems"],
} as const;
export const KNOWN = new Set<string>([
  ...ANNOTATIONS,
  ...["type", "const", "enum", "anyOf", "oneOf", "allOf", "$ref"],
  ...Object.values(OF_TYPE).flat(),
]);

export const isObject = (value: unknown): value is Keywords =>
  typeof value === "object" && value !== null && !isList(value);

/** The types of a value. */
export function typeOf(value: unknown): readonly Type[] {
  if (value === null) return ["null"];
  if (isList(value)) return ["array"];
  if (typeof value === "number") return Number.isInteger(value) ? ["integer", "number"] : ["number"];
  if (typeof value === "object") return ["object"];
  return TYPES.includes(typeof value as Type) ? [typeof value as Type] : [];
}

interface Known {
  readonly types: readonly Type[];
  /** The only values, as JSON. */
  readonly values: readonly string[] | undefined;
  readonly needed: ReadonlyMap<string, unknown>;
}

const DEEPEST = 20;

/** What a schema says for certain; undefined if that is not known. */
function known(schema: unknown, resolve: (ref: string) => unknown, depth: number): Known | undefined {
  if (typeof schema !== "object" || schema === null || depth > DEEPEST) return undefined;
  const { $ref, type, const: only, enum: some, properties, required } = schema as Record<string, unknown>;
  if (typeof $ref === "string") return known(resolve($ref), resolve, depth + 1);
  const list =
    some === undefined ? (only === undefined ? undefined : [only]) : isList(some) ? [...(some as unknown[])] : [];
  const named = type === undefined ? undefined : isList(type) ? [...(type as unknown[])] : [type];
  const types = (named as Type[] | undefined) ?? list?.flatMap(typeOf) ?? TYPES;
  const own = (typeof properties === "object" && properties !== null ? properties : {}) as Record<string, unknown>;
  const names = listOf(required, (name): name is string => typeof name === "string") ?? [];
  return {
    types: types.includes("number") ? [...types, "integer"] : types,
    values: list?.map((value) => JSON.stringify(value)),
    needed: new Map(names.filter((name) => Object.hasOwn(own, name)).map((name) => [name, own[name]])),
  };
}

/** True if no value can be valid by both schemas; false where that is not certain. */
export function disjoint(a: unknown, b: unknown, resolve: (ref: string) => unknown, depth = 0): boolean {
  const [one, two] = [known(a, resolve, depth), known(b, resolve, depth)];
  if (!one || !two) return false;
  if (!one.types.some((type) => two.types.includes(type))) return true;
  if (one.values && two.values) return !one.values.some((value) => two.values!.includes(value));
  if (one.types.some((type) => type !== "object") || two.types.some((type) => type !== "object")) return false;
  return [...one.needed].some(
    ([name, schema]) => two.needed.has(name) && disjoint(schema, two.needed.get(name), resolve, depth + 1),
  );
}

/** What a type and those around it have in common. */
export function common(type: Type, within: readonly Type[]): Type[] {
  if (within.includes(type)) return [type];
  if (type === "integer" && within.includes("number")) return ["integer"];
  if (type === "number" && within.includes("integer")) return ["integer"];
  return [];
}

/** A name as a part of a JSON pointer. */
export const pointerPart = (name: string): string => name.replaceAll("~", "~0").replaceAll("/", "~1");

/** What a reference inside a document points to. */
export function resolve(root: unknown, ref: string): unknown {
  let at: unknown = root;
  for (const part of ref.split("/").slice(1)) {
    let name: string;
    try {
      name = decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~");
    } catch {
      return undefined;
    }
    const holder = isList(at) || isObject(at) ? (at as Keywords) : {};
    at = Object.hasOwn(holder, name) ? holder[name] : undefined;
  }
  return at;
}
