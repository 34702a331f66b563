// SentencePiece's precompiled rules of normalization, as in Python's `tokenizers`: a double-array trie of what is replaced, and
// the replacements behind it. A grapheme of fewer than six bytes is replaced as a whole, else character by character.
// Facts: the Darts-clone format, and the normalizer `Precompiled`.

import type { Aligned } from "./aligned.js";
import { fail } from "./json-file.js";
import { bytesAt, sizeAt, TooLong } from "./text.js";

const KEY = "normalizer.precompiled_charsmap";
const UTF8 = new TextEncoder();
/** Units of a text that the segmenter sees at once. */
const PART = 256;
/** Bytes of a grapheme that is replaced as a whole. */
const SHORT = 6;

/**
 * Characters that are graphemes of their own between others of the kind: no marks, no jamo, no letters that join. Everything else
 * is left to the segmenter, with the neighbour on each side.
 */
const SIMPLE =
  "\\0-\\t\\n\\v\\f\\x0E-\\u02FF\\u0370-\\u0482\\u048A-\\u0590\\u1E00-\\u1FFF\\u2010-\\u2027\\u2581\\u3041-\\u3096\\u30A1-\\u30FF" +
  "\\u3400-\\u4DBF\\u4E00-\\u9FFF\\uAC00-\\uD7A3\\uFF01-\\uFF9D";
const JOINED = new RegExp(`[${SIMPLE}]?(?:[^${SIMPLE}]+[${SIMPLE}]?)+`, "g");

/** Base64 as bytes. @throws FormatError */
function decoded(file: string, text: string): Uint8Array {
  try {
    const raw = atob(text);
    return Uint8Array.from(raw, (char) => char.charCodeAt(0));
  } catch (cause) {
    return fail(file, KEY, "is not base64", undefined, cause);
  }
}

/** Takes the parts of a text: as they were, or what was made of another. */
type Give = (part: string, replaced?: string) => void;

export class Charsmap {
  readonly #file: string;
  readonly #units: Uint32Array;
  readonly #blob: Uint8Array;
  readonly #known = new Map<string, string | undefined>(); // replacements of what was looked up
  readonly #same = new Uint8Array(65536); // 1 for units that are known to stay as they are
  #segmenter: Intl.Segmenter | undefined; // made on first use: most texts do without

  /** @throws FormatError when the table is malformed */
  constructor(file: string, base64: string) {
    this.#file = file;
    const bytes = decoded(file, base64);
    const view = new DataView(bytes.buffer);
    const size = bytes.length < 4 ? -1 : view.getUint32(0, true);
    if (size < 4 || size % 4 !== 0 || size > bytes.length - 4) {
      fail(file, KEY, `malformed: ${bytes.length} bytes, of which a trie should take ${size}`);
    }
    this.#units = Uint32Array.from({ length: size / 4 }, (_, i) => view.getUint32(4 + 4 * i, true));
    this.#blob = bytes.subarray(4 + size);
  }

  /**
   * The text after all rules.
   * @throws TooLong before it makes more than `most` characters
   * @throws FormatError when a rule points outside of the table
   */
  apply(text: string, most: number): string {
    const parts: string[] = [];
    let made = 0;
    this.#rewrite(text, (part) => {
      made += part.length;
      if (made > most) throw new TooLong();
      parts.push(part);
    });
    return parts.length === 1 ? parts[0]! : parts.join("");
  }

  /** The same of a text whose characters are followed. As in Python, what is removed at the very start shifts what comes after it. */
  align(given: Aligned): Aligned {
    const made = given.changing();
    let changed = false;
    this.#rewrite(given.text, (part, replaced) => {
      if (replaced === undefined) {
        made.keep(part);
        return;
      }
      changed = true;
      const chars = [...part];
      const removed = [...replaced].length - chars.length;
      for (const [i, char] of chars.entries()) made.push(char, i < chars.length + removed ? 0 : 1);
      if (removed > 0) made.remove(removed);
    });
    return changed ? made.done() : given;
  }

  #rewrite(text: string, give: Give): void {
    let done = 0;
    for (const found of text.matchAll(JOINED)) {
      this.#singly(text.slice(done, found.index), give);
      this.#joined(found[0], give);
      done = found.index + found[0].length;
    }
    this.#singly(done === 0 ? text : text.slice(done), give);
  }

  /** Characters that are one unit and one grapheme each. */
  #singly(text: string, give: Give): void {
    const same = this.#same;
    let from = 0;
    for (let at = 0; at < text.length; at++) {
      const unit = text.charCodeAt(at);
      if (same[unit] === 1) continue;
      const replaced = this.#replacement(text[at]!);
      if (replaced === undefined) {
        same[unit] = 1;
        continue;
      }
      if (at > from) give(text.slice(from, at));
      give(replaced, text[at]!);
      from = at + 1;
    }
    if (from < text.length) give(from === 0 ? text : text.slice(from));
  }

  #joined(text: string, give: Give): void {
    this.#segmenter ??= new Intl.Segmenter("und", { granularity: "grapheme" });
    // Engines take far more than linear time for a long text. Of a part, the last grapheme may go on: the next part begins with it.
    for (let from = 0, size = PART; from < text.length; ) {
      const part = text.slice(from, from + size);
      const last = from + size >= text.length;
      let done = 0;
      for (const { segment, index } of this.#segmenter.segment(part)) {
        if (!last && index + segment.length === part.length) break;
        this.#grapheme(segment, give);
        done = index + segment.length;
      }
      from += done;
      size = done === 0 ? 2 * size : PART;
    }
  }

  #grapheme(text: string, give: Give): void {
    const whole = text.length < SHORT && utf8Length(text) < SHORT ? this.#replacement(text) : undefined;
    if (whole !== undefined) {
      give(whole, text);
      return;
    }
    for (const char of text) {
      const replaced = this.#replacement(char);
      if (replaced === undefined) give(char);
      else give(replaced, char);
    }
  }

  /** What a text becomes if a rule's text begins it; undefined for no rule. */
  #replacement(text: string): string | undefined {
    const known = this.#known.get(text);
    if (known !== undefined || this.#known.has(text)) return known;
    const found = this.#look(UTF8.encode(text));
    if (this.#known.size < 65536) this.#known.set(text, found);
    return found;
  }

  #look(key: Uint8Array): string | undefined {
    const units = this.#units;
    let node = offset(units[0]!);
    for (const byte of key) {
      if (byte === 0) return undefined;
      node = (node ^ byte) >>> 0;
      const unit = units[node];
      if (unit === undefined || (unit & 0x800000ff) >>> 0 !== byte) return undefined;
      node = (node ^ offset(unit)) >>> 0;
      if ((unit >>> 8) & 1) return this.#text((units[node] ?? 0x7fffffff) & 0x7fffffff); // the shortest rule counts
    }
    return undefined;
  }

  #text(from: number): string {
    const end = this.#blob.indexOf(0, from);
    try {
      if (from <= this.#blob.length) {
        const bytes = this.#blob.subarray(from, end < 0 ? undefined : end);
        return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
      }
    } catch {
      // Refused below.
    }
    return fail(this.#file, KEY, `malformed: a rule points to byte ${from} of ${this.#blob.length}, which is no text`);
  }
}

function offset(unit: number): number {
  return ((unit >>> 10) << ((unit & 0x200) >>> 6)) >>> 0;
}

function utf8Length(text: string): number {
  let bytes = 0;
  for (let at = 0; at < text.length; at += sizeAt(text, at)) bytes += bytesAt(text, at);
  return bytes;
}
