// A plain validator of JSON Schema, for what schemas.test.ts writes: read off the specification's sentences, with nothing shared with
// the grammars.

type Schema = Readonly<Record<string, unknown>>;

const FORMATS: Readonly<Record<string, (text: string) => boolean>> = {
  date: isDate,
  time: (text) =>
    /^\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/.test(text) &&
    !Number.isNaN(Date.parse(`2000-01-01T${text.slice(0, 8)}Z`)),
  "date-time": (text) => !Number.isNaN(Date.parse(text)) && isDate(text.slice(0, 10)),
  email: (text) => /^[^@\s.]+(\.[^@\s.]+)*@[^@\s.]+(\.[^@\s.]+)+$/.test(text),
  ipv4: (text) =>
    text.split(".").length === 4 && text.split(".").every((part) => /^(0|[1-9]\d*)$/.test(part) && Number(part) < 256),
  ipv6: (text) => URL.canParse(`http://[${text}]/`),
  uuid: (text) => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text),
  hostname: (text) =>
    text.length < 254 && text.split(".").every((label) => /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/i.test(label)),
  duration: (text) => /^P(?!$)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?)$/.test(text),
  uri: (text) => URL.canParse(text),
};

function isDate(text: string): boolean {
  const date = new Date(`${text}T00:00:00Z`);
  return !Number.isNaN(date.getTime()) && date.toISOString().slice(0, 10) === text;
}

const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);

function isType(type: unknown, value: unknown): boolean {
  if (type === "null") return value === null;
  if (type === "array") return Array.isArray(value);
  if (type === "object") return typeof value === "object" && value !== null && !Array.isArray(value);
  if (type === "integer") return Number.isInteger(value);
  return typeof value === type;
}

export function valid(given: unknown, value: unknown): boolean {
  if (typeof given === "boolean") return given;
  const schema = given as Schema;
  const number = (key: string): number | undefined => schema[key] as number | undefined;
  if (schema.type !== undefined && ![schema.type].flat().some((type) => isType(type, value))) return false;
  if ("const" in schema && !same(schema.const, value)) return false;
  if (schema.enum && !(schema.enum as unknown[]).some((one) => same(one, value))) return false;
  if (schema.anyOf && !(schema.anyOf as unknown[]).some((one) => valid(one, value))) return false;
  if (typeof value === "string") {
    const length = [...value].length;
    if (length < (number("minLength") ?? 0) || length > (number("maxLength") ?? length)) return false;
    if (schema.pattern !== undefined && !new RegExp(schema.pattern as string, "u").test(value)) return false;
    if (schema.format !== undefined && !FORMATS[schema.format as string]!(value)) return false;
  }
  if (typeof value === "number") {
    if (!Number.isFinite(value)) return false;
    if (value < (number("minimum") ?? value) || value > (number("maximum") ?? value)) return false;
    if (value <= (number("exclusiveMinimum") ?? Number.NEGATIVE_INFINITY)) return false;
    if (value >= (number("exclusiveMaximum") ?? Number.POSITIVE_INFINITY)) return false;
    if (value % (number("multipleOf") ?? value) !== 0 && value !== 0) return false;
  }
  if (Array.isArray(value)) {
    if (value.length < (number("minItems") ?? 0) || value.length > (number("maxItems") ?? value.length)) return false;
    const first = (schema.prefixItems ?? []) as unknown[];
    if (!value.every((item, n) => valid(n < first.length ? first[n] : (schema.items ?? true), item))) return false;
  }
  if (isType("object", value)) {
    const object = value as Schema;
    const own = (schema.properties ?? {}) as Schema;
    if (!((schema.required ?? []) as string[]).every((name) => Object.hasOwn(object, name))) return false;
    for (const [name, item] of Object.entries(object)) {
      if (!valid(schema.propertyNames ?? true, name)) return false;
      if (!valid(Object.hasOwn(own, name) ? own[name] : (schema.additionalProperties ?? true), item)) return false;
    }
  }
  return true;
}
