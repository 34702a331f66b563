// Which characters of a text each token stands for, found by walking over the text with the tokens' own bytes. Only BPE tokenizers
// keep every byte of a text; for others, and where a normalizer changed the text, there is no answer here.

import { byteLevelBytes } from "./pre-tokenize.js";

/** From a character up to another, in UTF-16 units. */
export type TokenSpan = readonly [start: number, end: number];

const UTF8 = new TextEncoder();
const MARK = "\u2581";

/** How a vocabulary writes bytes. */
export type Writing = "byte-level" | "marks";

/** The bytes of a token of the model. */
function bytesOf(token: string, writing: Writing): Uint8Array {
  if (writing === "byte-level") return byteLevelBytes([token]);
  const byte = /^<0x([0-9A-F]{2})>$/.exec(token);
  return byte ? Uint8Array.of(Number.parseInt(byte[1]!, 16)) : UTF8.encode(token.replaceAll(MARK, " "));
}

/** For each byte of a text its character, by the place where that begins; at the end the text's length. */
function placesOf(text: string): { readonly bytes: Uint8Array; readonly places: Int32Array } {
  const bytes = UTF8.encode(text);
  const places = new Int32Array(bytes.length + 1);
  let at = 0;
  for (let unit = 0; unit < text.length; ) {
    const code = text.codePointAt(unit)!;
    const count = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    places.fill(unit, at, at + count);
    at += count;
    unit += code > 0xffff ? 2 : 1;
  }
  places[bytes.length] = text.length;
  return { bytes, places };
}

/**
 * The spans of a text's tokens, in order; undefined if the tokens' bytes are not the text's. A token of a part of a character has
 * the span of the whole.
 * @param text well-formed text
 * @param tokens each with whether it was cut out of the text as an added token
 */
export function spansOf(
  text: string,
  tokens: readonly (readonly [token: string, added: boolean])[],
  writing: Writing,
): TokenSpan[] | undefined {
  const { bytes, places } = placesOf(text);
  const spans: TokenSpan[] = [];
  const blank = (at: number) =>
    at < bytes.length && (bytes[at]! === 0x20 || (bytes[at]! >= 0x09 && bytes[at]! <= 0x0d));
  const matches = (from: number, wanted: Uint8Array, first: number) => {
    for (let i = first; i < wanted.length; i++) if (bytes[from + i - first] !== wanted[i]) return false;
    return true;
  };
  let at = 0;
  for (const [token, added] of tokens) {
    const wanted = added ? UTF8.encode(token) : bytesOf(token, writing);
    let first = 0;
    // Added tokens may take the white space around them; a space before the text, or before a part of it, may be the tokenizer's own.
    if (!matches(at, wanted, 0)) {
      let skipped = at;
      while (blank(skipped) && !matches(skipped, wanted, 0)) skipped++;
      if (matches(skipped, wanted, 0) && skipped > at) at = skipped;
      else if (!added && wanted[0] === 0x20 && matches(at, wanted, 1)) first = 1;
      else return undefined;
    }
    const end = at + wanted.length - first;
    const last = end > at ? end - 1 : at;
    const next = end > at ? followed(places, last) : places[at]!;
    spans.push([places[at]!, next]);
    at = end;
  }
  while (blank(at)) at++;
  return at === bytes.length ? spans : undefined;
}

/** Where the character of a byte ends. */
function followed(places: Int32Array, byte: number): number {
  let next = byte + 1;
  while (next < places.length - 1 && places[next] === places[byte]) next++;
  return places[next]!;
}
