// Facts about characters that the parts of tokenizers share, and how long they may make a text.

/** True for Unicode's White_Space; JavaScript's \s adds U+FEFF and lacks U+0085. All of them are one UTF-16 unit. */
export function isSpace(unit: number): boolean {
  if (unit < 0x80) return unit === 0x20 || (unit >= 0x09 && unit <= 0x0d);
  return (
    unit === 0x85 ||
    unit === 0xa0 ||
    unit === 0x1680 ||
    (unit >= 0x2000 && unit <= 0x200a) ||
    unit === 0x2028 ||
    unit === 0x2029 ||
    unit === 0x202f ||
    unit === 0x205f ||
    unit === 0x3000
  );
}

/** White space as Python's str methods know it: Unicode's, and four separators of ASCII. */
export function isBlank(unit: number): boolean {
  return isSpace(unit) || (unit >= 0x1c && unit <= 0x1f);
}

/** Units of the character at a place of a well-formed text. */
export function sizeAt(text: string, at: number): 1 | 2 {
  return (text.charCodeAt(at) & 0xfc00) === 0xd800 ? 2 : 1;
}

/** Bytes of UTF-8 of the character at a place of a well-formed text. */
export function bytesAt(text: string, at: number): number {
  const unit = text.charCodeAt(at);
  return unit < 0x80 ? 1 : unit < 0x800 ? 2 : (unit & 0xfc00) === 0xd800 ? 4 : 3;
}

/** Replaces lone surrogates, which no UTF-8 can hold, by U+FFFD. */
export function wellFormed(text: string): string {
  let at = 0; // a loop over units is several times faster than the pattern, and most texts are well formed
  for (; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    if ((unit & 0xf800) !== 0xd800) continue;
    if (unit >= 0xdc00 || (text.charCodeAt(at + 1) & 0xfc00) !== 0xdc00) break;
    at++;
  }
  if (at >= text.length) return text;
  return text.replace(/\p{Surrogate}/gu, "\uFFFD");
}

/** Text without Python's white space at its start, its end or both. A pattern for the end would try every run of spaces. */
export function trimmed(text: string, left: boolean, right: boolean): string {
  let start = 0;
  let end = text.length;
  if (left) while (start < end && isBlank(text.charCodeAt(start))) start++;
  if (right) while (end > start && isBlank(text.charCodeAt(end - 1))) end--;
  return text.slice(start, end);
}

/** Characters that may replace one, and a text of any length. NFKC makes 18 of one, which no published tokenizer exceeds. */
const GROWTH = 32;
const ALWAYS = 8192;

/** The most characters that a normalizer or decoder may make of `length`. */
export function longest(length: number): number {
  return GROWTH * length + ALWAYS;
}

/** Thrown by what `replacer` makes; whoever knows the file makes a FormatError of it. */
export class TooLong extends Error {}

/**
 * A function that puts `content` in place of every match. Its text is literal; JavaScript gives `$` a meaning.
 * @throws TooLong from the function before it makes more than `most` characters
 */
export function replacer(pattern: RegExp | string, content: string): (text: string, most: number) => string {
  if (pattern === "") return (text) => text;
  if (content.length <= GROWTH) {
    const escaped = content.replaceAll("$", "$$$$");
    return (text) => text.replaceAll(pattern, escaped);
  }
  return (text, most) => {
    let length = text.length;
    return text.replaceAll(pattern, (found: string) => {
      length += content.length - found.length;
      if (length > most) throw new TooLong();
      return content;
    });
  };
}
