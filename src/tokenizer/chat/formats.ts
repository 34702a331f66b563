// Python's two ways to put values into a text: `"%s" % x` and `"{}".format(x)`, with their specifications.

import type { Budget } from "./limits.js";
import { refuse } from "./limits.js";
import { codePoints } from "./search.js";
import { fixedText, repr, textOf } from "./text-of.js";
import {
  type Arguments,
  Dict,
  exactOf,
  Float,
  isList,
  keyOf,
  listOf,
  numberOf,
  Tuple,
  typeOf,
  type Value,
  wholeNumber,
} from "./values.js";

/** What exact decimals take, in characters. */
export const DECIMALS = 512;
/** Widest field. */
const WIDEST = 100_000;

/** Counts the parts of a text that a format makes, each before the text is there. */
export function counted(budget: Budget): (part: string) => string {
  let length = 0;
  return (part) => {
    budget.output(length, part.length);
    length += part.length;
    return part;
  };
}

interface Spec {
  readonly fill: string;
  readonly align: string;
  readonly sign: string;
  readonly alternate: boolean;
  readonly width: number;
  readonly grouping: string;
  readonly precision: number | undefined;
  readonly kind: string;
}

const SPEC = /^(?:(.)?([<>=^]))?([-+ ])?(#)?(0)?(\d{1,6})?([,_])?(?:\.(\d{1,2}))?([a-zA-Z%])?$/su;

function specOf(text: string): Spec {
  const found = SPEC.exec(text) ?? refuse(`format: the specification ${JSON.stringify(text)} is not supported`);
  const [, fill, align, sign = "", alternate, zero, width = "0", grouping = "", precision, kind = ""] = found;
  if (Number(width) > WIDEST) refuse(`format: a field of ${width} characters is too wide`);
  return {
    fill: fill ?? (zero && align === undefined ? "0" : " "),
    align: align ?? (zero ? "=" : ""),
    sign,
    alternate: alternate !== undefined,
    width: Number(width),
    grouping,
    precision: precision === undefined ? undefined : Number(precision),
    kind,
  };
}

function exponential(size: number, precision: number): string {
  return size.toExponential(precision).replace(/e([+-])(\d)$/, "e$10$2");
}

/** The notation `g`: so many digits that count, without zeros at the end. */
function general(size: number, precision: number, keeps: boolean): string {
  const digits = precision === 0 ? 1 : precision;
  if (size === 0) return keeps ? `0.${"0".repeat(digits - 1)}` : "0";
  const exponent = Number(size.toExponential(digits - 1).split("e")[1]);
  const small = exponent < -4 || exponent >= digits;
  const text = small ? exponential(size, digits - 1) : fixedText(size, Math.max(0, digits - 1 - exponent));
  return keeps ? text : text.replace(/(\.\d*?)0+(?=e|$)/, "$1").replace(/\.(?=e|$)/, "");
}

/** A number without its sign. @throws FormatError for kinds that are not known */
function digitsOf(value: number | bigint, float: boolean, { kind, precision, alternate }: Spec): string {
  const whole = typeof value === "bigint" ? (value < 0n ? -value : value) : undefined;
  const size = whole === undefined ? Math.abs(value as number) : numberOf(/^[bBoxXdn]?$/.test(kind) ? 0 : whole)!;
  if (!Number.isFinite(size) && (float || /[eEfFgG%]/.test(kind))) {
    const text = Number.isNaN(size) ? "nan" : "inf";
    return (/[EFG]/.test(kind) ? text.toUpperCase() : text) + (kind === "%" ? "%" : "");
  }
  const radix = ({ b: 2, o: 8, x: 16, X: 16 } as Readonly<Record<string, number>>)[kind];
  if (radix !== undefined && !float) {
    const text = (alternate ? `0${kind}` : "") + (whole ?? size).toString(radix);
    return kind === "X" ? text.toUpperCase() : text;
  }
  switch (kind) {
    case "d":
    case "n":
    case "":
      if (!float && precision === undefined) return whole === undefined ? fixedText(size, 0) : whole.toString();
      if (kind === "") return precision === undefined ? textOfFloat(size) : general(size, precision, false);
      break;
    case "c":
      if (!float && size <= 0x10ffff) return String.fromCodePoint(size);
      break;
    case "e":
      return exponential(size, precision ?? 6);
    case "E":
      return exponential(size, precision ?? 6).toUpperCase();
    case "f":
    case "F":
      return fixedText(size, precision ?? 6);
    case "g":
      return general(size, precision ?? 6, alternate);
    case "G":
      return general(size, precision ?? 6, alternate).toUpperCase();
    case "%":
      return `${fixedText(size * 100, precision ?? 6)}%`;
  }
  return refuse(`the format code ${JSON.stringify(kind)} of ${float ? "a float" : "an int"} is not supported`);
}

function textOfFloat(size: number): string {
  const text = String(size);
  return /[.e]/.test(text) ? text : `${text}.0`;
}

/** Separators between groups of digits. */
function grouped(digits: string, separator: string): string {
  const whole = /^\d+/.exec(digits)?.[0] ?? "";
  return whole.replace(/\B(?=(?:\d{3})+$)/g, separator) + digits.slice(whole.length);
}

function fielded(text: string, sign: string, spec: Spec, usual: string, budget: Budget): string {
  const missing = spec.width - codePoints(text, budget) - sign.length;
  if (missing <= 0) return sign + text;
  budget.text(missing);
  const align = spec.align === "" ? usual : spec.align;
  if (align === "=") return sign + spec.fill.repeat(missing) + text;
  const before = align === ">" ? missing : align === "^" ? missing >> 1 : 0;
  return spec.fill.repeat(before) + sign + text + spec.fill.repeat(missing - before);
}

/** Python's format(value, spec). @throws FormatError for specifications that do not fit the value */
export function formattedBy(value: Value, text: string, budget: Budget): string {
  if (text === "") return textOf(value, budget);
  const spec = specOf(text);
  const number = exactOf(value);
  if (number === undefined || (typeof value === "boolean" && spec.kind === "s")) {
    if (typeof value !== "string") return refuse(`format: a specification does not fit ${typeOf(value)}`);
    if (!["", "s"].includes(spec.kind) || spec.sign !== "" || spec.align === "=") {
      return refuse(`format: ${JSON.stringify(text)} does not fit a text`);
    }
    const cut = spec.precision === undefined ? value : Array.from(value).slice(0, spec.precision).join("");
    return fielded(cut, "", spec, "<", budget);
  }
  budget.step(DECIMALS);
  const float = value instanceof Float;
  const digits = digitsOf(number, float, spec);
  const negative = number < 0 || (float && Object.is(number, -0));
  const sign = negative ? "-" : spec.sign === "-" ? "" : spec.sign;
  return fielded(spec.grouping === "" ? digits : grouped(digits, spec.grouping), sign, spec, ">", budget);
}

/** What a field's path leads to: `.name` and `[key]` behind a value. */
function reached(value: Value, path: string): Value {
  let found = value;
  for (const [, name, key] of path.matchAll(/\.(\w+)|\[([^\]]*)\]/g)) {
    if (name !== undefined) return refuse(`format: attributes such as .${name} are not supported`);
    const items = listOf(found);
    if (items !== undefined && /^\d{1,9}$/.test(key!)) found = items[Number(key)];
    else if (found instanceof Dict) found = found.entries.get(/^\d{1,9}$/.test(key!) ? Number(key) : key!);
    else found = undefined;
    if (found === undefined) return refuse(`format: there is no item ${JSON.stringify(key)}`);
  }
  return found;
}

const FIELD = /\{\{|\}\}|\{(\w*)((?:\.\w+|\[[^\][{}]*\])*)(?:!([rsa]))?(?::([^{}]*))?\}|[{}]/g;

/** Python's text.format(...). @throws FormatError where Python fails, and for fields within specifications */
export function formatOf(text: string, { args, named }: Arguments, budget: Budget): string {
  let next = 0;
  let numbered = false;
  const parts = counted(budget);
  return text.replace(FIELD, (found: string, name?: string, path = "", change?: string, spec = "") => {
    if (found === "{{" || found === "}}") return parts(found[0]!);
    if (name === undefined) return refuse("format: a brace stands alone");
    const place = name === "" ? next++ : /^\d{1,4}$/.test(name) ? Number(name) : undefined;
    numbered ||= name !== "" && place !== undefined;
    if (numbered && next > 0) return refuse("format: fields with numbers and without cannot stand in one text");
    const there = place === undefined ? named.has(name) : place < args.length;
    if (!there) return refuse(`format: there is no value ${name || place}`);
    const value = reached(place === undefined ? named.get(name) : args[place], path);
    const shown = change === undefined ? value : change === "s" ? textOf(value, budget) : repr(value, budget);
    return parts(formattedBy(shown, spec, budget));
  });
}

const CONVERSION = /%(?:\(([^()]*)\))?([-+ #0]*)(\*|\d{1,6})?(?:\.(\*|\d{1,2})?)?[hlL]?([a-zA-Z%])/g;

/** Python's `%` on texts. @param right a dictionary, a tuple of values, or one value. @throws FormatError where Python fails */
export function formatted(format: string, right: Value, budget: Budget): string {
  budget.text(format.length);
  const dict = right instanceof Dict ? right : undefined;
  const values = right instanceof Tuple ? right.items : [right];
  let next = 0;
  const take = (): Value => (next < values.length ? values[next++] : refuse("not enough values for a format"));
  const parts = counted(budget);
  let last = 0;
  const made: string[] = [];
  const literal = (to: number): void => {
    const text = format.slice(last, to);
    if (text.includes("%")) refuse("a format has a % that is none");
    made.push(parts(text));
  };
  for (const found of format.matchAll(CONVERSION)) {
    const [whole, key, flags = "", width, precision, kind] = found as unknown as [
      string,
      string?,
      string?,
      string?,
      string?,
      string?,
    ];
    literal(found.index);
    last = found.index + whole.length;
    if (kind === "%" && key === undefined) {
      made.push(parts("%"));
      continue;
    }
    const own = (given: string | undefined): number | undefined => {
      if (given === "*") return numberOf(take());
      return given === undefined ? undefined : Number(given);
    };
    const [wide, digits] = [own(width), whole.includes(".") ? (own(precision) ?? 0) : undefined];
    let value: Value;
    if (key === undefined) value = take();
    else {
      const known = dict?.entries.get(keyOf(key));
      if (known === undefined) refuse(`a format has no value ${JSON.stringify(key)}`);
      value = known;
    }
    made.push(parts(converted(value, kind!, flags, wide ?? 0, digits, budget)));
  }
  literal(format.length);
  // What can have items may be left over, as in Python.
  const spare = dict !== undefined || isList(right) || right === undefined;
  if (next < values.length && !spare) refuse("not all values were used by a format");
  return made.join("");
}

function converted(
  value: Value,
  kind: string,
  flags: string,
  width: number,
  precision: number | undefined,
  budget: Budget,
): string {
  if (width > WIDEST) refuse(`a field of ${width} characters is too wide`);
  const left = flags.includes("-");
  const spec = { fill: " ", align: left ? "<" : ">", sign: "", alternate: flags.includes("#"), width, grouping: "" };
  if (/^[sra]$/.test(kind)) {
    const text = kind === "s" ? textOf(value, budget) : repr(value, budget);
    const cut = precision === undefined ? text : Array.from(text).slice(0, precision).join("");
    return fielded(cut, "", { ...spec, precision, kind }, ">", budget);
  }
  if (kind === "c" && typeof value === "string" && codePoints(value, budget) === 1) {
    return fielded(value, "", { ...spec, precision, kind }, ">", budget);
  }
  const number = exactOf(value);
  if (number === undefined || !/^[diueEfFgGxXoc]$/.test(kind)) {
    return refuse(`the format %${kind} of ${typeOf(value)} is not supported`);
  }
  budget.step(DECIMALS);
  const whole = /^[diuxXoc]$/.test(kind);
  if (
    whole &&
    ((typeof number === "number" && !Number.isFinite(number)) || (/^[xXo]$/.test(kind) && value instanceof Float))
  ) {
    return refuse(`the format %${kind} of ${typeOf(value)} is not possible`);
  }
  const zero = flags.includes("0") && !left;
  const as = { ...spec, kind: /^[diu]$/.test(kind) ? "d" : kind, precision: whole ? undefined : precision };
  const used = typeof number === "bigint" ? number : whole ? wholeNumber(BigInt(Math.trunc(number))) : number;
  const digits = digitsOf(used, !whole, as).padStart(whole ? (precision ?? 0) : 0, "0");
  const sign =
    used < 0 || Object.is(used, -0)
      ? whole && used === 0
        ? ""
        : "-"
      : flags.includes("+")
        ? "+"
        : flags.includes(" ")
          ? " "
          : "";
  return fielded(digits, sign, { ...as, ...(zero ? { fill: "0", align: "=" } : {}) }, ">", budget);
}
