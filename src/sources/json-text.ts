// A strict JSON reader over bytes. JSON.parse hides ambiguities that a hostile file can use: repeated keys, `4e0` for 4,
// integers past 2^53, lone surrogates, a BOM. This file reads no files and knows no format's fields.

import { FormatError } from "../core/errors.js";
import { quote } from "./files.js";

export type JsonValue = string | number | boolean | null | readonly JsonValue[] | JsonObject;
/** An object without a prototype, so that `__proto__` is an ordinary key. */
export interface JsonObject {
  readonly [key: string]: JsonValue;
}

/** The hint for a JSON file that cannot be read. */
export const JSON_HINT = "compare it with the model's original file; an edit or the download has damaged it";
/** serde_json's limit, which the reference safetensors reader has; Python's own is about 1,000. */
export const MAX_DEPTH = 128;

const NUMBER = /^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$/;
const ESCAPES = new Map([
  [0x22, '"'],
  [0x5c, "\\"],
  [0x2f, "/"],
  [0x62, "\b"],
  [0x66, "\f"],
  [0x6e, "\n"],
  [0x72, "\r"],
  [0x74, "\t"],
]);

/** Offset of the first byte that is not UTF-8; -1 if there is none. */
export function brokenUtf8(bytes: Uint8Array): number {
  // Four bytes at a time where they are aligned: nearly all of most files is ASCII.
  const shift = -bytes.byteOffset & 3;
  const aligned = bytes.length > shift + 3;
  const words = aligned
    ? new Uint32Array(bytes.buffer, bytes.byteOffset + shift, (bytes.length - shift) >> 2)
    : new Uint32Array(0);
  for (let at = 0; at < bytes.length; at++) {
    if (aligned && ((at - shift) & 3) === 0 && at >= shift) {
      let word = (at - shift) >> 2;
      while (word < words.length && (words[word]! & 0x80808080) === 0) word++;
      at = shift + 4 * word;
      if (at >= bytes.length) return -1;
    }
    const first = bytes[at]!;
    if (first < 0x80) continue;
    if (first < 0xc2 || first > 0xf4) return at;
    const more = first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
    // The second byte may not make an overlong form, a surrogate or a code point past U+10FFFF.
    let low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
    let high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
    for (let i = 1; i <= more; i++) {
      const byte = bytes[at + i] ?? 0;
      if (byte < low || byte > high) return at;
      low = 0x80;
      high = 0xbf;
    }
    at += more;
  }
  return -1;
}

/** Up to this length, joining characters is faster than a call of the decoder. */
const SHORT = 12;
const UTF8 = new TextDecoder("utf-8", { ignoreBOM: true });

function utf8(bytes: Uint8Array, start: number, end: number): string {
  return UTF8.decode(bytes.subarray(start, end));
}

/** Bytes as characters of the same number; for short pieces. */
function latin1(bytes: Uint8Array, start: number, end: number): string {
  let text = "";
  for (let at = start; at < end && at < bytes.length; at++) text += String.fromCharCode(bytes[at]!);
  return text;
}

/**
 * A cursor over JSON text. The safetensors header is read with `expect`, `string` and `integer`, and `value` where its content
 * does not matter; other files with `document`. Every failure is a FormatError with the file, the byte offset in the file and the text found there.
 */
export class JsonScanner {
  at = 0;
  /** The key whose value is being read, for messages; the names of hostile files are quoted there. */
  inside: string | undefined;
  private readonly bytes: Uint8Array;
  private readonly file: string;
  private readonly base: number;
  private python = false;
  /** Escapes that strings may still hold: they take a hundred times as long to read as other text. */
  escapes = Number.POSITIVE_INFINITY;

  /**
   * @param base offset of the first of these bytes in the file
   * @throws FormatError if the bytes are not UTF-8 or begin with a byte order mark
   */
  constructor(bytes: Uint8Array, file: string, base = 0) {
    this.bytes = bytes;
    this.file = file;
    this.base = base;
    if (bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) {
      this.fail("JSON text", 0, "a byte order mark", "save the file as UTF-8 without BOM");
    }
    const broken = brokenUtf8(bytes);
    if (broken >= 0) this.fail("UTF-8 text", broken, "bytes that are not UTF-8");
  }

  /** @throws FormatError always */
  fail(expected: string, at = this.at, got = this.describe(at), hint?: string): never {
    const offset = this.base + at;
    const inside = this.inside === undefined ? "" : ` in ${quote(this.inside)}`;
    throw new FormatError(`${this.file}: expected ${expected}${inside} at byte ${offset}, got ${got}`, {
      details: { file: this.file, offset, key: this.inside, expected, got },
      hint: hint ?? JSON_HINT,
    });
  }

  /** The text at a position, cut for a message. */
  private describe(at: number): string {
    if (at >= this.bytes.length) return "the end of the text";
    const rest = latin1(this.bytes, at, at + 24);
    const token = /^[A-Za-z0-9+\-.]+/.exec(rest)?.[0];
    return token ?? JSON.stringify(rest.slice(0, 12));
  }

  /** Skips white space and gives the byte that follows, -1 at the end. */
  peek(): number {
    const { bytes } = this;
    let at = this.at;
    while (at < bytes.length) {
      const byte = bytes[at]!;
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) break;
      at++;
    }
    this.at = at;
    return at < bytes.length ? bytes[at]! : -1;
  }

  /** Takes one punctuation byte. */
  expect(byte: number, expected: string): void {
    if (this.peek() !== byte) this.fail(expected);
    this.at++;
  }

  /** Takes the byte if it is next. */
  take(byte: number): boolean {
    if (this.peek() !== byte) return false;
    this.at++;
    return true;
  }

  /** After an element: true if another follows, false if the closing byte came. */
  more(close: number): boolean {
    const byte = this.peek();
    if (byte !== 0x2c && byte !== close) this.fail(`"," or "${String.fromCharCode(close)}"`);
    this.at++;
    return byte === 0x2c;
  }

  /** Checks that only white space is left. */
  end(): void {
    if (this.peek() !== -1) this.fail("nothing more");
  }

  /** A whole number from 0 to 2^53-1, written with digits only: no sign, fraction, exponent or leading zero. */
  integer(): number {
    const { bytes } = this;
    this.peek();
    const start = this.at;
    let at = start;
    let value = 0;
    while (at < bytes.length) {
      const digit = bytes[at]! - 0x30;
      if (digit < 0 || digit > 9) break;
      value = value * 10 + digit;
      if (value > Number.MAX_SAFE_INTEGER) break;
      at++;
    }
    // Only a separator may follow; anything else ("." "e" "x" or a digit too many) makes it another kind of number.
    const next = bytes[at] ?? 0x20;
    const longer = next > 0x20 && next !== 0x2c && next !== 0x5d && next !== 0x7d;
    if (at === start || longer || (bytes[start] === 0x30 && at > start + 1)) {
      this.fail("a whole number from 0 to 2^53-1", start);
    }
    this.at = at;
    return value;
  }

  string(expected = "a string"): string {
    if (this.peek() !== 0x22) this.fail(expected);
    const { bytes } = this;
    const start = this.at + 1;
    let at = start;
    let wide = 0;
    for (; at < bytes.length; at++) {
      const byte = bytes[at]!;
      if (byte === 0x22) {
        this.at = at + 1;
        return wide > 127 || at - start > SHORT ? utf8(bytes, start, at) : latin1(bytes, start, at);
      }
      if (byte === 0x5c) return this.escaped(start, at);
      if (byte < 0x20) this.fail("no control character inside a string", at);
      wide |= byte;
    }
    return this.fail('the closing "', at);
  }

  /** `string` where it is likely the one that is given: then it is not made again. */
  again(text: string | undefined): string {
    const { bytes } = this;
    if (text === undefined || this.peek() !== 0x22) return this.string();
    const start = this.at + 1;
    let i = 0;
    // Only of plain characters: those that are one byte, and stand for themselves.
    for (; i < text.length; i++) {
      const unit = text.charCodeAt(i);
      if (bytes[start + i] !== unit || unit > 127 || unit < 0x20 || unit === 0x5c || unit === 0x22)
        return this.string();
    }
    if (bytes[start + i] !== 0x22) return this.string();
    this.at = start + i + 1;
    return text;
  }

  /** The rest of a string whose first backslash is at `at`. */
  private escaped(start: number, at: number): string {
    const { bytes } = this;
    let out = "";
    let from = start;
    while (at < bytes.length) {
      const byte = bytes[at]!;
      if (byte === 0x22) {
        this.at = at + 1;
        return out + utf8(bytes, from, at);
      }
      if (byte < 0x20) this.fail("no control character inside a string", at);
      if (byte !== 0x5c) {
        at++;
        continue;
      }
      if (--this.escapes < 0) this.fail("fewer escapes in all", at);
      out += utf8(bytes, from, at);
      if (bytes[at + 1] === 0x75) {
        const unit = this.hex(at);
        if (unit < 0xd800 || unit > 0xdfff) {
          out += String.fromCharCode(unit);
          at += 6;
        } else {
          // A code point past U+FFFF needs two escapes; one alone is not text and could not be written back.
          const low = unit < 0xdc00 && bytes[at + 6] === 0x5c && bytes[at + 7] === 0x75 ? this.hex(at + 6) : 0;
          if (low < 0xdc00 || low > 0xdfff) this.fail("a pair of surrogates", at);
          out += String.fromCharCode(unit, low);
          at += 12;
        }
      } else {
        const char = ESCAPES.get(bytes[at + 1] ?? 0);
        if (char === undefined) this.fail("an escape that JSON knows", at);
        out += char;
        at += 2;
      }
      from = at;
    }
    return this.fail('the closing "', at);
  }

  private hex(at: number): number {
    const digits = latin1(this.bytes, at + 2, at + 6);
    if (!/^[0-9a-fA-F]{4}$/.test(digits)) this.fail("four hex digits after \\u", at);
    return Number.parseInt(digits, 16);
  }

  /**
   * The whole text as one value. Objects have no prototype. Nesting past `MAX_DEPTH` is a FormatError; so are a repeated key,
   * NaN, Infinity and a number too large for a double, except for `python`: its json module writes and reads the numbers,
   * and takes the last of repeated keys.
   */
  document(python = false): JsonValue {
    this.python = python;
    const value = this.value(0);
    this.end();
    return value;
  }

  /** Any value, which stands at `depth`. */
  value(depth: number): JsonValue {
    const byte = this.peek();
    if (byte === 0x22) return this.string();
    if (byte !== 0x7b && byte !== 0x5b) return this.word();
    if (depth >= MAX_DEPTH) this.fail(`at most ${MAX_DEPTH} levels of nesting`);
    this.at++;
    if (byte === 0x5b) {
      const list: JsonValue[] = [];
      if (this.take(0x5d)) return list;
      do list.push(this.value(depth + 1));
      while (this.more(0x5d));
      return list;
    }
    const object: Record<string, JsonValue> = Object.create(null);
    if (this.take(0x7d)) return object;
    do {
      this.peek();
      const start = this.at;
      const key = this.string("a key in quotes");
      if (key in object && !this.python) this.fail("each key once", start, `${quote(key)} again`);
      this.expect(0x3a, '":"');
      object[key] = this.value(depth + 1);
    } while (this.more(0x7d));
    return object;
  }

  /** A number, true, false or null. */
  private word(): JsonValue {
    const { bytes } = this;
    const start = this.at;
    let at = start;
    while (at < bytes.length && !' \t\r\n,:]}[{"'.includes(String.fromCharCode(bytes[at]!))) at++;
    const word = utf8(bytes, start, at);
    if (word === "NaN" || word === "Infinity" || word === "-Infinity") {
      this.at = at;
      if (this.python) return Number(word);
      this.fail("JSON", start, word, "Python writes this, but it is not JSON; replace it by a number or null");
    }
    this.at = at;
    if (word === "true") return true;
    if (word === "false") return false;
    if (word === "null") return null;
    if (!NUMBER.test(word)) this.fail("a JSON value", start);
    const value = Number(word);
    if (!Number.isFinite(value) && !this.python) this.fail("a number that a double can hold", start);
    return value;
  }
}
