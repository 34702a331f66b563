// Text of files and of standard input, in the encodings that editors and shells write.

import { readFile } from "node:fs/promises";
import { NotFoundError, OptionError } from "../core/errors.js";
import { systemCode } from "../sources/file-errors.js";
import { brokenUtf8 } from "../sources/json-text.js";

const MARKS: readonly (readonly [encoding: string, mark: readonly number[]])[] = [
  ["utf-8", [0xef, 0xbb, 0xbf]],
  ["utf-16le", [0xff, 0xfe]],
  ["utf-16be", [0xfe, 0xff]],
];
const UTF8_HINT = "save it as UTF-8, or convert it: iconv -f LATIN1 -t UTF-8 old.txt > new.txt";

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
  const broken = brokenUtf8(bytes);
  if (broken >= 0) throw new OptionError(`${name}: byte ${broken} is not UTF-8 text`, { hint: UTF8_HINT });
  if (looksWide(bytes)) {
    throw new OptionError(`${name} looks like UTF-16 text without a byte order mark`, { hint: UTF8_HINT });
  }
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

/** @throws NotFoundError for a file that cannot be read; OptionError for one that is no text */
export async function readText(file: string): Promise<string> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(file);
  } catch (error) {
    throw new NotFoundError(`${file}: cannot be read (${systemCode(error)})`, { cause: error });
  }
  return decodeText(bytes, file);
}
