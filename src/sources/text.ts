// Text in the encodings that editors and shells write. This file reads no files.

import { OptionError } from "../core/errors.js";
import { brokenUtf8 } from "./json-text.js";

const MARKS: readonly (readonly [encoding: string, mark: readonly number[]])[] = [
  ["utf-8", [0xef, 0xbb, 0xbf]],
  ["utf-16le", [0xff, 0xfe]],
  ["utf-16be", [0xfe, 0xff]],
];
/** The hint for text in another encoding. */
export const UTF8_HINT = "save it as UTF-8, or convert it: iconv -f LATIN1 -t UTF-8 old.txt > new.txt";

/**
 * The text of UTF-8, or of UTF-16 that begins with a byte order mark; the mark itself is no text.
 * @param name of the source, for messages
 * @throws OptionError for other bytes
 */
export function decodeText(bytes: Uint8Array, name: string): string {
  const [encoding] = MARKS.find(([, mark]) => mark.every((byte, i) => bytes[i] === byte)) ?? ["utf-8"];
  if (encoding !== "utf-8") {
    try {
      return new TextDecoder(encoding, { fatal: true }).decode(bytes);
    } catch (cause) {
      throw new OptionError(`${name} begins like ${encoding.toUpperCase()} text but is not`, {
        hint: UTF8_HINT,
        cause,
      });
    }
  }
  if (looksWide(bytes)) {
    throw new OptionError(`${name} looks like UTF-16 text without a byte order mark`, { hint: UTF8_HINT });
  }
  const broken = brokenUtf8(bytes);
  if (broken >= 0) throw new OptionError(`${name}: byte ${broken} is not UTF-8 text`, { hint: UTF8_HINT });
  return new TextDecoder().decode(bytes);
}

/** Every other byte is zero, as in UTF-16 of Latin letters. */
function looksWide(bytes: Uint8Array): boolean {
  const some = bytes.subarray(0, 1024);
  const zeros = [0, 0];
  for (let i = 0; i < some.length; i++) if (some[i] === 0) zeros[i % 2]!++;
  const half = some.length / 2;
  return half >= 2 && Math.max(...zeros) > half * 0.9 && Math.min(...zeros) < half * 0.1;
}

/** What bytes that should be UTF-8 are instead, for messages. */
export function encodingOf(bytes: Uint8Array): string {
  const [marked] = MARKS.find(([, mark]) => mark.every((byte, i) => bytes[i] === byte)) ?? ["utf-8"];
  if (marked !== "utf-8" || looksWide(bytes)) return "UTF-16 text";
  return `other text from byte ${brokenUtf8(bytes)} on`;
}
