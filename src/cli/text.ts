// Text of files that a command is given.

import { readFile } from "node:fs/promises";
import { NotFoundError } from "../core/errors.js";
import { systemCode } from "../sources/file-errors.js";
import { decodeText } from "../sources/text.js";

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
