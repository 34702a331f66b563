// Pre-tokenizers: normalized text into the pieces that the model sees, as in Python's `tokenizers`.

import type { Form } from "./aligned.js";
import type { Components } from "./components.js";
import type { Json, JsonObject } from "./json-file.js";
import { bounded, literally, patternOf } from "./pattern.js";
import { bytesAt, isSpace, sizeAt } from "./text.js";

const WORD = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\u200C\\u200D"; // \w of Rust's regex crate
const SPACE = "\\p{White_Space}"; // JavaScript's \s adds U+FEFF and lacks U+0085
// U+166D was punctuation when the tables of Python's library were made. What came later is not in them, and is taken for what it is.
const PUNCTUATION = "[\\p{P}\\u166D\\u0021-\\u002F\\u003A-\\u0040\\u005B-\\u0060\\u007B-\\u007E]";
const GPT2 = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${SPACE}\\p{L}\\p{N}]+|${SPACE}+(?!\\P{White_Space})|${SPACE}+`,
  "gu",
);

/** A piece of text. `first`: it begins where the input begins. */
export interface Piece<T> {
  readonly text: T;
  readonly first: boolean;
}
type Cutter = <T>(piece: Piece<T>, form: Form<T>, out: Piece<T>[]) => void;
/** Gives the parts of a text, in order: where each starts and ends. */
type Places = (text: string, give: (start: number, end: number) => void) => void;

/** A cutter that changes nothing. */
function cutAt(places: Places): Cutter {
  return ({ text, first }, form, out) =>
    places(form.text(text), (start, end) => {
      out.push({ text: form.slice(text, start, end), first: first && start === 0 });
    });
}

/** Python's Split: cuts `text` at the matches of `pattern` and treats the matches according to `behavior`. */
function ranges(text: string, pattern: RegExp, behavior: string, invert: boolean): { start: number; end: number }[] {
  const parts: { start: number; end: number; match: boolean }[] = [];
  let at = 0;
  for (const found of text.matchAll(pattern)) {
    const end = found.index + found[0].length;
    if (end === at && found[0] === "") continue; // an empty match cuts, but not where the last one ended
    if (found.index > at) parts.push({ start: at, end: found.index, match: invert });
    parts.push({ start: found.index, end, match: !invert });
    at = end;
  }
  if (at < text.length) parts.push({ start: at, end: text.length, match: invert });
  if (behavior === "Isolated") return parts.filter(({ start, end }) => end > start);

  const kept: { start: number; end: number; match: boolean }[] = [];
  for (const part of parts) {
    const last = kept.at(-1);
    if (behavior === "Removed") {
      if (!part.match) kept.push(part);
    } else if (last === undefined) kept.push(part);
    else if (behavior === "Contiguous" ? last.match === part.match : merges(behavior, last, part)) last.end = part.end;
    else kept.push(part);
    // A piece absorbs only one match: its flag becomes that of the newest part.
    if (kept.length > 0 && behavior !== "Removed") kept.at(-1)!.match = part.match;
  }
  return kept.filter(({ start, end }) => end > start);
}

function merges(behavior: string, last: { match: boolean }, part: { match: boolean }): boolean {
  return behavior === "MergedWithPrevious" ? part.match && !last.match : last.match && !part.match;
}

function splitter(pattern: RegExp, behavior: string, invert = false): Cutter {
  return cutAt((text, give) => {
    for (const { start, end } of ranges(text, pattern, behavior, invert)) give(start, end);
  });
}

const [NOT_LOOKED, SPACE_UNIT, PUNCTUATION_UNIT, OTHER_UNIT] = [0, 1, 2, 3];
/** The kinds of UTF-16 units, as they are asked for; halves of pairs are looked at with their other half. */
const KINDS = new Uint8Array(65536);
const ONE_PUNCTUATION = new RegExp(`^${PUNCTUATION}$`, "u");

function kindAt(text: string, at: number): number {
  const unit = text.charCodeAt(at);
  if ((unit & 0xf800) === 0xd800) {
    const char = String.fromCodePoint(text.codePointAt(at)!);
    return ONE_PUNCTUATION.test(char) ? PUNCTUATION_UNIT : OTHER_UNIT;
  }
  const known = KINDS[unit]!;
  if (known !== NOT_LOOKED) return known;
  const kind = isSpace(unit) ? SPACE_UNIT : ONE_PUNCTUATION.test(text[at]!) ? PUNCTUATION_UNIT : OTHER_UNIT;
  KINDS[unit] = kind;
  return kind;
}

/** Words between white space; with `cuts`, punctuation is a piece for each character. Patterns would make several objects a piece. */
function words(cuts: boolean): Cutter {
  return cutAt((text, give) => {
    let from = 0; // where the word begins
    for (let at = 0; at < text.length; ) {
      const kind = kindAt(text, at);
      const end = at + sizeAt(text, at);
      const mark = cuts && kind === PUNCTUATION_UNIT;
      if (mark || kind === SPACE_UNIT) {
        if (at > from) give(from, at);
        if (mark) give(at, end);
        from = end;
      }
      at = end;
    }
    if (text.length > from) give(from, text.length);
  });
}

/** The 256 characters that represent bytes in byte-level vocabularies. */
const BYTE_CHARS: readonly string[] = (() => {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const visible = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    return String.fromCharCode(visible ? byte : next++);
  });
})();
/** Bytes in the letters that stand for them in byte-level vocabularies. */
export function byteChars(bytes: Uint8Array): string {
  let chars = "";
  for (const byte of bytes) chars += BYTE_CHARS[byte]!;
  return chars;
}

const BYTE_OF = new Int16Array(512).fill(-1);
for (const [byte, char] of BYTE_CHARS.entries()) BYTE_OF[char.charCodeAt(0)] = byte;
const UTF8 = new TextEncoder();

/** Bytes of byte-level tokens; a token with any other character is encoded as UTF-8. */
export function byteLevelBytes(tokens: readonly string[]): Uint8Array {
  let units = 0;
  for (const token of tokens) units += token.length;
  const bytes = new Uint8Array(units);
  let length = 0;
  for (const token of tokens) {
    for (let at = 0; at < token.length; at++) {
      const byte = BYTE_OF[token.charCodeAt(at)] ?? -1;
      if (byte < 0) return mixedBytes(tokens);
      bytes[length++] = byte;
    }
  }
  return bytes;
}

function mixedBytes(tokens: readonly string[]): Uint8Array {
  const parts = tokens.map((token) => {
    const bytes = Array.from(token, (char) => (char.length === 1 ? (BYTE_OF[char.charCodeAt(0)] ?? -1) : -1));
    return bytes.includes(-1) ? UTF8.encode(token) : Uint8Array.from(bytes);
  });
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** The characters of a code point's bytes, for those of the first plane, as they are asked for. */
const UNIT_CHARS: (string | undefined)[] = [];

/** The UTF-8 bytes of a text, each as its character. */
function bytesAsText(text: string): string {
  let chars = "";
  let from = 0; // what stands for itself is taken as a whole
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    if (unit > 0x20 && unit < 0x7f) continue;
    if (at > from) chars += text.slice(from, at);
    if ((unit & 0xf800) === 0xd800) {
      chars += bytesOf(text.slice(at, at + 2));
      at++;
    } else chars += UNIT_CHARS[unit] ??= bytesOf(text[at]!);
    from = at + 1;
  }
  return from === 0 ? text : chars + text.slice(from);
}

function bytesOf(char: string): string {
  return byteChars(UTF8.encode(char));
}

function byteLevel(config: JsonObject): Cutter {
  const [prefix, regex] = [config.add_prefix_space === true, config.use_regex !== false];
  return ({ text, first }, form, out) => {
    const spaced = prefix && !form.text(text).startsWith(" ") ? form.prepend(text, " ") : text;
    const whole = form.text(spaced);
    let from = 0;
    for (const { length } of regex ? (whole.match(GPT2) ?? []) : [whole]) {
      const piece = form.slice(spaced, from, from + length);
      out.push({ text: form.spread(piece, bytesAsText(form.text(piece)), bytesAt), first: first && from === 0 });
      from += length;
    }
  };
}

function metaspace(config: JsonObject): Cutter {
  const mark = String(config.replacement ?? "\u2581");
  const shown = String(config.str_rep || mark);
  // Files from before prepend_scheme say add_prefix_space.
  const scheme = config.prepend_scheme ?? (config.add_prefix_space === false ? "never" : "always");
  const splits = config.split !== false;
  return ({ text, first }, form, out) => {
    const marked = form.mark(text, shown);
    const prepends = !form.text(marked).startsWith(mark) && (scheme === "always" || (scheme === "first" && first));
    const made = prepends ? form.prepend(marked, shown) : marked;
    if (!splits) {
      out.push({ text: made, first });
      return;
    }
    // Each mark begins a piece.
    const whole = form.text(made);
    for (let from = 0; from < whole.length; ) {
      const next = whole.indexOf(mark, from + mark.length * Number(whole.startsWith(mark, from)));
      const end = next < 0 ? whole.length : next;
      if (end > from) out.push({ text: form.slice(made, from, end), first: first && from === 0 });
      from = end;
    }
  };
}

/** Pieces of `length` characters each; the last may be shorter. */
function fixedLength(length: number): Cutter {
  return cutAt((text, give) => {
    let [start, end] = [0, 0];
    for (let count = 0; start < text.length; count = 0) {
      for (; count < length && end < text.length; count++) end += sizeAt(text, end);
      give(start, end);
      start = end;
    }
  });
}

function cutters(file: string, config: JsonObject): Cutter[] {
  const regex = (source: string) => new RegExp(source, "gu");
  const behavior = (value: Json | undefined) => String(value ?? "Isolated");
  switch (config.type) {
    case "ByteLevel":
      return [byteLevel(config)];
    case "Metaspace":
      return [metaspace(config)];
    case "Split": {
      const pattern = patternOf(file, "pre_tokenizer", config.pattern);
      return [splitter(pattern, behavior(config.behavior), config.invert === true)];
    }
    case "Whitespace":
      return [splitter(regex(`[${WORD}]+|[^${WORD}${SPACE}]+`), "Removed", true)];
    case "WhitespaceSplit":
      return [words(false)];
    case "BertPreTokenizer":
      return [words(true)];
    case "Punctuation":
      return [splitter(regex(PUNCTUATION), behavior(config.behavior))];
    case "Digits":
      return [splitter(regex("\\p{N}"), config.individual_digits === true ? "Isolated" : "Contiguous")];
    case "CharDelimiterSplit":
      return [splitter(literally(String(config.delimiter ?? "")), "Removed")];
    default: // FixedLength
      return [fixedLength(Number(config.length ?? 5))];
  }
}

/** Cuts a piece of normalized text into pieces. */
export type PreTokenizer = <T>(piece: Piece<T>, form: Form<T>) => readonly Piece<T>[];

/**
 * Builds the pre-tokenizer of a checked tokenizer.json.
 * @throws FormatError for a pattern that cannot be translated; the pre-tokenizer throws it where a pattern cannot be run
 */
export function buildPreTokenizer(file: string, components: Components | null): PreTokenizer {
  if (components === null) return (piece) => [piece];
  const steps = components.flatMap((config) => cutters(file, config));
  return <T>(piece: Piece<T>, form: Form<T>) =>
    bounded(file, "pre_tokenizer", form.text(piece.text).length, () => {
      let pieces = [piece];
      for (const step of steps) {
        const next: Piece<T>[] = [];
        for (const piece of pieces) step(piece, form, next);
        pieces = next;
      }
      return pieces;
    });
}
