// JSON Schemas (2020-12, without what needs more than an automaton) as grammars of JSON texts. Every text of the grammar is valid; not
// every valid text is in it: properties come in the order of the schema, and others only where the schema allows them by name. A keyword
// that is not known here is refused.

import { isList } from "../../core/checks.js";
import { OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import { both, type Expr, either, type Grammar, literal, NOTHING, repeat, seq } from "./expr.js";
import { multiples, NUMBER, numberExpr, WHOLE } from "./json-numbers.js";
import {
  ANY_INTEGER,
  ANY_NUMBER,
  ANY_VALUE,
  BLANKS,
  COLON,
  COMMA,
  list,
  many,
  members,
  ONE_SPACE,
  ROOT,
  STRING,
} from "./json-parts.js";
import { ESCAPE, FORMAT_NAMES, isFree, otherNames, stringExpr } from "./json-strings.js";
import {
  ANNOTATIONS,
  common,
  disjoint,
  isObject,
  type Keywords,
  KNOWN,
  OF_TYPE,
  pointerPart,
  resolve,
  TYPES,
  type Type,
  typeOf,
} from "./json-types.js";

/** A JSON Schema as plain data. */
export type JsonSchema = boolean | { readonly [keyword: string]: unknown };

const OPTION = "json_schema";
const DEEPEST = 100;
const MOST_DIVISOR = 1000;
const MOST_COUNT = 10_000;
/** Of numbers with too many digits (json-numbers.ts) the first; and the sign of those that a bound leaves. */
const FIRST_TOO_LONG = 1e15;
const SIDES = { minimum: 1, exclusiveMinimum: 1, maximum: -1, exclusiveMaximum: -1, multipleOf: 0 } as const;

class Reader {
  readonly #root: JsonSchema;
  readonly #rules: { name: string; body: Expr; apart?: boolean }[] = [];
  readonly #refs = new Map<string, number>();
  readonly #todo: (() => void)[] = [];

  constructor(root: JsonSchema) {
    this.#root = root;
  }

  read(): Grammar {
    const shared = (name: string, body: Expr): void => void this.#rules.push({ name, body, apart: true });
    shared("root", NOTHING);
    shared("space", BLANKS);
    shared("string", stringExpr({}, OPTION));
    shared(
      "value",
      either(
        ...[STRING, ANY_NUMBER, literal("true"), literal("false"), literal("null")],
        list("{", many(seq(STRING, COLON, ANY_VALUE)), true, "}"),
        list("[", many(ANY_VALUE), true, "]"),
      ),
    );
    shared("number", NUMBER);
    shared("integer", WHOLE);
    shared("escape", ESCAPE);
    this.#refs.set("#", ROOT);
    this.#rules[ROOT]!.body = seq(ONE_SPACE, this.#schema(this.#root, "#", TYPES, 0));
    for (const build of this.#todo) build();
    return { rules: this.#rules };
  }

  #refuse(path: string, keyword: string | undefined, what: string, hint?: string): never {
    const at = path.length > 100 ? `${path.slice(0, 50)} ... ${path.slice(-50)}` : path;
    throw new OptionError(`${OPTION}: ${at}: ${what}`, { details: { option: OPTION, path, keyword }, hint });
  }

  #schema(schema: unknown, path: string, within: readonly Type[], depth: number): Expr {
    if (depth > DEEPEST) this.#refuse(path, undefined, `more than ${DEEPEST} schemas inside each other`);
    if (schema === true) return this.#values({}, path, within, depth);
    if (schema === false) return NOTHING;
    if (!isObject(schema)) this.#refuse(path, undefined, `a schema is an object, true or false, got ${show(schema)}`);
    for (const key of Object.keys(schema)) {
      if (KNOWN.has(key) || schema[key] === undefined) continue;
      this.#refuse(
        `${path}/${key}`,
        key,
        `the keyword ${show(key)} is not supported`,
        "leave it out, and check it yourself",
      );
    }
    const types = this.#types(schema, path).flatMap((type) => common(type, within));
    for (const keyword of ["$ref", "anyOf", "oneOf", "allOf"]) {
      if (schema[keyword] === undefined) continue;
      const typed = keyword === "$ref" ? [] : ["type"];
      this.#alone(schema, keyword, path, typed);
      if (keyword === "$ref") return this.#ref(schema.$ref, path, within);
      return this.#branches(schema[keyword], keyword, path, types, depth);
    }
    if (schema.const !== undefined || schema.enum !== undefined) return this.#constants(schema, path, types);
    return this.#values(schema, path, types, depth);
  }

  /** @throws OptionError for keywords beside one that must be alone */
  #alone(schema: Keywords, keyword: string, path: string, also: readonly string[]): void {
    const other = Object.keys(schema).find(
      (key) => key !== keyword && !ANNOTATIONS.has(key) && !also.includes(key) && schema[key] !== undefined,
    );
    if (other === undefined) return;
    this.#refuse(
      `${path}/${other}`,
      other,
      `${show(other)} beside ${keyword} is not supported`,
      `move it into ${keyword}`,
    );
  }

  /** The types that a schema names, or those that its keywords are about. */
  #types(schema: Keywords, path: string): readonly Type[] {
    const { type } = schema;
    if (type === undefined) {
      const about = TYPES.filter((one) =>
        OF_TYPE[one as keyof typeof OF_TYPE]?.some((key) => schema[key] !== undefined),
      );
      return about.length > 0 ? about : TYPES.filter((one) => one !== "integer");
    }
    const named = isList(type) ? [...(type as unknown[])] : [type];
    for (const one of named) {
      if (!TYPES.includes(one as Type)) this.#refuse(`${path}/type`, "type", `there is no type ${show(one)}`);
    }
    return named as Type[];
  }

  /** Where only some types may be, the schema has another rule than elsewhere. */
  #ref(ref: unknown, path: string, within: readonly Type[]): Expr {
    if (typeof ref !== "string" || (ref !== "#" && !ref.startsWith("#/"))) {
      this.#refuse(`${path}/$ref`, "$ref", `$ref must begin with #, got ${show(ref)}`, "put the schema into $defs");
    }
    const all = TYPES.every((type) => common(type, within).length > 0);
    const name = all ? ref : `${ref} ${within.join()}`;
    const known = this.#refs.get(name);
    if (known !== undefined) return { rule: known };
    const found = resolve(this.#root, ref);
    if (found === undefined) this.#refuse(`${path}/$ref`, "$ref", `there is no ${show(ref)}`);
    const rule = this.#rules.push({ name, body: NOTHING }) - 1;
    this.#refs.set(name, rule);
    this.#todo.push(() => {
      this.#rules[rule]!.body = this.#schema(found, ref, all ? TYPES : within, 0);
    });
    return { rule };
  }

  /** What is there more than once is a rule, lest it doubles with each level of the schema. */
  #rule(name: string, body: Expr): Expr {
    return "rule" in body ? body : { rule: this.#rules.push({ name, body }) - 1 };
  }

  #branches(value: unknown, keyword: string, path: string, types: readonly Type[], depth: number): Expr {
    const at = `${path}/${keyword}`;
    if (!isList(value) || (value as unknown[]).length === 0)
      this.#refuse(at, keyword, `${keyword} must be a list of schemas`);
    const schemas = [...(value as unknown[])];
    if (keyword === "allOf" && schemas.length > 1) {
      this.#refuse(at, keyword, "allOf of several schemas is not supported", "write them as one");
    }
    if (keyword === "oneOf") {
      for (const [n, one] of schemas.entries()) {
        const other = schemas.findIndex((two, m) => m > n && !disjoint(one, two, (ref) => resolve(this.#root, ref)));
        if (other < 0) continue;
        this.#refuse(
          at,
          keyword,
          `schemas ${n} and ${other} of oneOf may both be true of a value`,
          "use anyOf, or give each a required property with a const of its own",
        );
      }
    }
    return either(...schemas.map((one, n) => this.#schema(one, `${at}/${n}`, types, depth + 1)));
  }

  #constants(schema: Keywords, path: string, types: readonly Type[]): Expr {
    const keyword = schema.enum !== undefined ? "enum" : "const";
    this.#alone(schema, keyword, path, ["type", "const"]);
    if (schema.enum !== undefined && !isList(schema.enum)) this.#refuse(`${path}/enum`, "enum", "enum must be a list");
    const values = schema.enum === undefined ? [schema.const] : [...(schema.enum as unknown[])];
    const texts = values
      .filter((value) => schema.const === undefined || JSON.stringify(value) === JSON.stringify(schema.const))
      .filter((value) => typeOf(value).some((type) => types.includes(type)))
      .map((value) => JSON.stringify(value));
    return either(...[...new Set(texts)].map(literal));
  }

  #values(schema: Keywords, path: string, types: readonly Type[], depth: number): Expr {
    // Whole numbers are numbers: one of the two is enough.
    const wanted = types.filter((type) => type !== "integer" || !types.includes("number"));
    if (wanted.length === 6 && Object.values(OF_TYPE).every((keys) => keys.every((key) => schema[key] === undefined))) {
      return ANY_VALUE;
    }
    return either(...[...new Set(wanted)].map((type) => this.#value(type, schema, path, depth)));
  }

  #value(type: Type, schema: Keywords, path: string, depth: number): Expr {
    switch (type) {
      case "null":
        return literal("null");
      case "boolean":
        return either(literal("true"), literal("false"));
      case "string":
        return this.#string(schema, path);
      case "object":
        return this.#object(schema, path, depth);
      case "array":
        return this.#array(schema, path, depth);
      default:
        return this.#number(schema, path, type === "integer");
    }
  }

  #count(schema: Keywords, keyword: string, path: string): number | undefined {
    const value = schema[keyword];
    if (value === undefined) return undefined;
    if (typeof value !== "number" || !Number.isInteger(value) || value < 0) {
      this.#refuse(
        `${path}/${keyword}`,
        keyword,
        `${keyword} must be a whole number of at least 0, got ${show(value)}`,
      );
    }
    if (value > MOST_COUNT) {
      this.#refuse(`${path}/${keyword}`, keyword, `${keyword} can be ${MOST_COUNT} at most, got ${value}`);
    }
    return value;
  }

  #string(schema: Keywords, path: string): Expr {
    const { pattern, format } = schema;
    if (pattern !== undefined && typeof pattern !== "string") {
      this.#refuse(`${path}/pattern`, "pattern", `pattern must be text, got ${show(pattern)}`);
    }
    const known = FORMAT_NAMES.includes(format as string);
    if (format !== undefined && !known && pattern === undefined) {
      const names = FORMAT_NAMES.join(", ");
      this.#refuse(
        `${path}/format`,
        "format",
        `the format ${show(format)} is not supported; supported: ${names}`,
        "use pattern",
      );
    }
    const limits = {
      minLength: this.#count(schema, "minLength", path),
      maxLength: this.#count(schema, "maxLength", path),
      pattern,
      format: known ? (format as string) : undefined, // of others the pattern beside them says what they are
    };
    if (isFree(limits)) return STRING;
    try {
      return stringExpr(limits, OPTION);
    } catch (error) {
      if (!(error instanceof OptionError)) throw error;
      const message = error.message.split("\n")[0]!.replace(`${OPTION}: `, "");
      return this.#refuse(`${path}/pattern`, "pattern", message, error.hint);
    }
  }

  #number(schema: Keywords, path: string, whole: boolean): Expr {
    const bounds: Record<string, number> = {};
    for (const keyword of OF_TYPE.number) {
      const value = schema[keyword];
      if (value === undefined) continue;
      if (typeof value !== "number" || !Number.isFinite(value)) {
        this.#refuse(`${path}/${keyword}`, keyword, `${keyword} must be a number, got ${show(value)}`);
      }
      if (SIDES[keyword] * value >= FIRST_TOO_LONG) {
        this.#refuse(`${path}/${keyword}`, keyword, `numbers have at most 15 digits, and ${keyword} is ${value}`);
      }
      bounds[keyword] = value;
    }
    const { multipleOf: by, ...limits } = bounds;
    if (by === undefined && Object.keys(limits).length === 0) return whole ? ANY_INTEGER : ANY_NUMBER;
    if (by === undefined) return numberExpr(limits, whole);
    if (!Number.isInteger(by) || by < 1 || by > MOST_DIVISOR) {
      const allowed = `a whole number from 1 to ${MOST_DIVISOR}`;
      this.#refuse(`${path}/multipleOf`, "multipleOf", `multipleOf can be ${allowed}, got ${by}`);
    }
    return both(numberExpr(limits, true), multiples(by), OPTION);
  }

  #array(schema: Keywords, path: string, depth: number): Expr {
    const { items, prefixItems, uniqueItems } = schema;
    if (uniqueItems !== undefined && uniqueItems !== false) {
      this.#refuse(
        `${path}/uniqueItems`,
        "uniqueItems",
        "uniqueItems is not supported",
        "leave it out, and check it yourself",
      );
    }
    if (prefixItems !== undefined && !isList(prefixItems)) {
      this.#refuse(`${path}/prefixItems`, "prefixItems", "prefixItems must be a list of schemas");
    }
    const first = [...((prefixItems ?? []) as unknown[])];
    const least = this.#count(schema, "minItems", path) ?? 0;
    const most = this.#count(schema, "maxItems", path) ?? Number.POSITIVE_INFINITY;
    if (least > most) return NOTHING;
    // Items of a list of fixed ones are all there, unless there may not be so many.
    const fixed = first.slice(0, most).map((one, n) => this.#schema(one, `${path}/prefixItems/${n}`, TYPES, depth + 1));
    const free = items === undefined && first.length > 0 ? false : (items ?? true);
    const item =
      free === false ? NOTHING : this.#rule(`${path}/items`, this.#schema(free, `${path}/items`, TYPES, depth + 1));
    const [min, max] = [Math.max(0, least - fixed.length), free === false ? 0 : most - fixed.length];
    if (min > max) return NOTHING;
    const rest = (from: number, to: number): Expr => repeat(seq(COMMA, item), from, to);
    if (fixed.length > 0) {
      const [head, ...tail] = fixed;
      return list("[", seq(head!, ...tail.map((one) => seq(COMMA, one)), rest(min, max)), false, "]");
    }
    if (max === 0) return list("[", undefined, true, "]");
    return list("[", seq(item, rest(Math.max(0, min - 1), max - 1)), min === 0, "]");
  }

  #object(schema: Keywords, path: string, depth: number): Expr {
    const { properties = {}, required = [], additionalProperties } = schema;
    if (!isObject(properties))
      this.#refuse(`${path}/properties`, "properties", "properties must be an object of schemas");
    if (!isList(required) || ![...(required as unknown[])].every((name) => typeof name === "string")) {
      this.#refuse(`${path}/required`, "required", "required must be a list of names");
    }
    const names = Object.keys(properties);
    const needed = new Set(required as string[]);
    // A name that is only required may be anything that other properties may be.
    const more = [...needed].filter((name) => !names.includes(name));
    const open = additionalProperties ?? (names.length === 0 && more.length === 0);
    if (more.length > 0 && additionalProperties === false) return NOTHING;
    const others = `${path}/additionalProperties`;
    const other = open === false ? undefined : this.#rule(others, this.#schema(open, others, TYPES, depth + 1));
    const pairs = [
      ...names.map((name) => {
        const value = this.#schema(properties[name], `${path}/properties/${pointerPart(name)}`, TYPES, depth + 1);
        return { name, value };
      }),
      ...more.map((name) => ({ name, value: other ?? ANY_VALUE })),
    ];
    this.#checkCounts(schema, path, pairs.length, needed.size, other !== undefined);
    const all = pairs.map(({ name }) => name);
    const key = this.#key(schema, path, all, depth);
    return members(
      pairs.map(({ name, value }) => ({
        pair: seq(literal(JSON.stringify(name)), COLON, value),
        needed: needed.has(name),
      })),
      other && seq(key, COLON, other),
    );
  }

  /** Names of other properties. */
  #key(schema: Keywords, path: string, names: readonly string[], depth: number): Expr {
    const { propertyNames } = schema;
    if (propertyNames === undefined) return otherNames(names);
    if (names.length > 0) {
      const what = "propertyNames beside properties is not supported";
      this.#refuse(`${path}/propertyNames`, "propertyNames", what, "name all properties, or none");
    }
    return this.#schema(propertyNames, `${path}/propertyNames`, ["string"], depth + 1);
  }

  /** Numbers of properties are not counted: they are refused unless the schema keeps to them anyway. */
  #checkCounts(schema: Keywords, path: string, named: number, needed: number, open: boolean): void {
    const [least, most] = [this.#count(schema, "minProperties", path), this.#count(schema, "maxProperties", path)];
    const hint = "leave it out, and check it yourself";
    if (least !== undefined && least > needed) {
      this.#refuse(
        `${path}/minProperties`,
        "minProperties",
        "minProperties above the required ones is not supported",
        hint,
      );
    }
    if (most !== undefined && (open || named > most)) {
      this.#refuse(
        `${path}/maxProperties`,
        "maxProperties",
        "maxProperties below those that may be is not supported",
        hint,
      );
    }
  }
}

/** @throws OptionError for a keyword that is not supported, with its path, and for what is no schema */
export function schemaGrammar(schema: JsonSchema): Grammar {
  return new Reader(schema).read();
}
