// Strings of JSON: their characters as JSON writes them, and the formats that are known.

import { ANY, type CharSet, charSet, charsOf, intersection, inverted } from "./chars.js";
import { both, type Edge, type Expr, either, literal, repeat, seq, spelled } from "./expr.js";
import { ANY_ESCAPE } from "./json-parts.js";
import { regexExpr, searchExpr } from "./regex.js";

const CONTROLS = charSet([[0, 0x1f]]);
/** Characters that a string of JSON holds as they are. */
const PLAIN = inverted(charSet([...CONTROLS, ...charsOf('"\\')]));
/** Those that have a letter behind the backslash. */
const LETTERS: Readonly<Record<string, string>> = {
  ...{ '"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t" },
};
const oneOf = (chars: string): Expr => ({ set: charsOf(chars) });
const HEX = oneOf("0123456789abcdefABCDEF");

/** What may stand behind a backslash: a letter, or the code of a character, of some as a pair. */
export const ESCAPE = either(
  oneOf('"\\/bfnrt'),
  seq(literal("u"), oneOf("0123456789abcefABCEF"), HEX, HEX, HEX),
  seq(literal("u"), oneOf("dD"), oneOf("01234567"), HEX, HEX),
  seq(literal("u"), oneOf("dD"), oneOf("89abAB"), HEX, HEX, literal("\\u"), oneOf("dD"), oneOf("cdefCDEF"), HEX, HEX),
);

/** Any character of a string; ESCAPE is a rule of the grammar, since strings have many places for it. */
const CHAR = either({ set: PLAIN }, seq(literal("\\"), ANY_ESCAPE));

/** A character of a set, in the one way that is usual. */
function spell(set: CharSet): Expr {
  const options: Expr[] = [];
  const plain = intersection(set, PLAIN);
  if (plain.length > 0) options.push({ set: plain });
  for (const [char, letter] of Object.entries(LETTERS)) {
    if (intersection(set, charsOf(char)).length > 0) options.push(literal(`\\${letter}`));
  }
  for (const [first, last] of intersection(set, CONTROLS)) {
    for (let code = first; code <= last; code++) {
      if (LETTERS[String.fromCharCode(code)]) continue;
      options.push(literal(`\\u${code.toString(16).padStart(4, "0")}`));
    }
  }
  return options.length === 1 ? options[0]! : { oneOf: options };
}

const DATE =
  "\\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))";
const TIME = "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,9})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)";
const LABEL = "[A-Za-z0-9]{1,24}(?:-[A-Za-z0-9]{1,12}){0,2}";
const HOST = `(?:${LABEL}\\.){0,3}[A-Za-z][A-Za-z0-9]{0,23}`;
const CLOCK = "T(?:\\d{1,4}H(?:\\d{1,4}M(?:\\d{1,4}S)?)?|\\d{1,4}M(?:\\d{1,4}S)?|\\d{1,4}S)";
const GROUP = "[0-9a-fA-F]{1,4}";
const BYTE = "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
const PATH = "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})";

/** Texts of a format, or fewer: each is valid by the format's own definition (RFC 3339, 5321, 1123, 2673, 4291, 4122, 3986). */
const FORMATS: Readonly<Record<string, string>> = {
  date: DATE,
  time: TIME,
  "date-time": `${DATE}T${TIME}`,
  duration: `P(?:\\d{1,4}W|(?:\\d{1,4}Y(?:\\d{1,4}M(?:\\d{1,4}D)?)?|\\d{1,4}M(?:\\d{1,4}D)?|\\d{1,4}D)(?:${CLOCK})?|${CLOCK})`,
  email: `[A-Za-z0-9_+-]{1,30}(?:\\.[A-Za-z0-9_+-]{1,15}){0,2}@(?:${LABEL}\\.){1,3}[A-Za-z]{2,24}`,
  hostname: HOST,
  ipv4: `(?:${BYTE}\\.){3}${BYTE}`,
  ipv6: [
    `(?:${GROUP}:){7}${GROUP}`,
    ...[1, 2, 3, 4, 5, 6].map((n) => `(?:${GROUP}:){${n}}(?::${GROUP}){1,${7 - n}}`),
    `(?:${GROUP}:){1,7}:`,
    `:(?:(?::${GROUP}){1,7}|:)`,
  ].join("|"),
  uuid: "[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}",
  uri: `[a-z][a-z0-9+.-]{1,15}://${HOST}(?::[1-9]\\d{0,3})?(?:/${PATH}*)*(?:\\?(?:${PATH}|[/?])*)?(?:#(?:${PATH}|[/?])*)?`,
};

export const FORMAT_NAMES = Object.keys(FORMATS);

interface StringLimits {
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly pattern?: string;
  /** One of FORMAT_NAMES. */
  readonly format?: string;
}

/** True if a string may be any. */
export function isFree(limits: StringLimits): boolean {
  return limits.minLength === undefined && limits.maxLength === undefined && !limits.pattern && !limits.format;
}

/** @throws OptionError for a pattern that cannot be read */
export function stringExpr({ minLength = 0, maxLength, pattern, format }: StringLimits, option: string): Expr {
  const most = maxLength ?? Number.POSITIVE_INFINITY;
  const parts = [
    ...(pattern === undefined ? [] : [searchExpr(pattern, option)]),
    ...(format === undefined ? [] : [regexExpr(FORMATS[format]!, option)]),
  ];
  const quoted = (body: Expr): Expr => seq(literal('"'), body, literal('"'));
  if (minLength > most) return { oneOf: [] };
  if (parts.length === 0) return quoted(repeat(CHAR, minLength, most));
  if (minLength > 0 || maxLength !== undefined) parts.push(repeat({ set: ANY }, minLength, most));
  return quoted(
    spelled(
      parts.reduce((all, part) => both(all, part, option)),
      spell,
    ),
  );
}

/** Strings of plain characters other than some. */
export function otherNames(names: readonly string[]): Expr {
  const edges: Edge[] = [];
  const children = [new Map<string, number>()];
  const barred = new Set<number>();
  for (const name of names) {
    let at = 0;
    for (const char of name) {
      let next = children[at]!.get(char);
      if (next === undefined) {
        next = children.push(new Map()) - 1;
        children[at]!.set(char, next);
      }
      at = next;
    }
    barred.add(at);
  }
  const free = children.length;
  children.forEach((own, from) => {
    for (const [char, to] of own) {
      const set = intersection(charsOf(char), PLAIN);
      if (set.length > 0) edges.push({ from, to, by: { set } });
    }
    const others = intersection(PLAIN, inverted(charsOf([...own.keys()].join(""))));
    edges.push({ from, to: free, by: { set: others } });
  });
  edges.push({ from: free, to: free, by: { set: PLAIN } });
  const ends = new Set(Array.from({ length: free + 1 }, (_, n) => n).filter((n) => !barred.has(n)));
  return seq(literal('"'), { graph: { states: free + 1, edges, ends } }, literal('"'));
}
