// Opening files by range, and telling what a file is that is not what it should be. Every open of this room goes
// through `withFile`, so that "regular files only" holds everywhere. No format is parsed here.

import { constants } from "node:fs";
import { type FileHandle, open, stat } from "node:fs/promises";
import { FormatError, NotFoundError, type OctavoError } from "../core/errors.js";

/** A name or path as error text: quoted, control characters escaped, cut when long. */
export function quote(text: string): string {
  return JSON.stringify(text.length > 120 ? `${text.slice(0, 117)}...` : text);
}

/** The system's error code ("ENOENT"), or the error's text when it has none. */
export function systemCode(cause: unknown): string {
  if (typeof cause === "object" && cause !== null && "code" in cause && typeof cause.code === "string") {
    return cause.code;
  }
  return String(cause);
}

function cannotOpen(file: string, what: string, cause: unknown): OctavoError {
  const code = systemCode(cause);
  const absent = code === "ENOENT" || code === "ENOTDIR";
  return new NotFoundError(absent ? `${file}: no such ${what}` : `${file}: the ${what} cannot be opened (${code})`, {
    details: { file, expected: what, got: code },
    hint: absent ? "is the download complete, and is this the right folder?" : "check the permissions of this file",
    cause,
  });
}

/**
 * Opens a regular file for reading, hands it to `use` and closes it whatever happens.
 * `what` names the file's role in messages ("safetensors file").
 * @throws NotFoundError if it does not exist or may not be opened; FormatError if it is a folder, pipe or device.
 */
export async function withFile<T>(
  file: string,
  what: string,
  use: (handle: FileHandle, size: number) => Promise<T>,
): Promise<T> {
  let handle: FileHandle;
  try {
    // Looked at before it is opened: opening a device can have effects, and opening a pipe waits for a writer.
    if (!(await stat(file)).isFile()) throw notRegular(file, what);
    handle = await open(file, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  } catch (cause) {
    throw cause instanceof FormatError ? cause : cannotOpen(file, what, cause);
  }
  try {
    const info = await handle.stat();
    if (!info.isFile()) throw notRegular(file, what);
    return await use(handle, info.size);
  } finally {
    await handle.close();
  }
}

function notRegular(file: string, what: string): FormatError {
  return new FormatError(`${file}: expected a ${what}, got something that is not a regular file`, {
    details: { file, expected: "a regular file", got: "a folder, pipe or device" },
  });
}

/**
 * Reads exactly `count` bytes at `position`.
 * @throws FormatError if the file ends earlier, which happens when it shrinks after its size was read.
 */
export async function readRange(handle: FileHandle, file: string, position: number, count: number) {
  const buffer = new Uint8Array(count);
  let done = 0;
  while (done < count) {
    const { bytesRead } = await handle.read(buffer, done, count - done, position + done);
    if (bytesRead === 0) {
      throw new FormatError(`${file}: ended at byte ${position + done} while it was read`, {
        details: { file, offset: position + done, expected: count, got: done },
        hint: "another program is changing this file; wait for it to finish and try again",
      });
    }
    done += bytesRead;
  }
  return buffer;
}

/** What a file turns out to be, with the next thing to try. */
export interface Kind {
  readonly name: string;
  readonly hint: string;
}

const TO_SAFETENSORS =
  "convert it with Python: from transformers import AutoModelForCausalLM as M; " +
  'M.from_pretrained("FOLDER").save_pretrained("OUT", safe_serialization=True)';
const AGAIN = "the download went wrong; delete the file and download it again";

const MAGIC: readonly (readonly [string, Kind])[] = [
  ["PK\x03\x04", { name: "a zip archive (torch.save writes these as .bin or .pt)", hint: TO_SAFETENSORS }],
  ["GGUF", { name: "a GGUF file", hint: "use the original safetensors checkpoint of this model" }],
  ["\x1f\x8b", { name: "a gzip archive", hint: "unpack it first" }],
  ["\x93NUMPY", { name: "a numpy array file", hint: "save the arrays with safetensors.numpy.save_file" }],
  ["\x89HDF", { name: "an HDF5 file (TensorFlow weights)", hint: "use the safetensors checkpoint of this model" }],
  [
    "version https://git-lfs",
    { name: "a git-lfs pointer, not the file itself", hint: "run `git lfs pull` in that folder" },
  ],
];

/** Enough bytes for `foreignKind` to decide. */
export const HEAD_BYTES = 64;

/** Recognises well-known files by their first bytes; `undefined` if they say nothing. */
export function foreignKind(head: Uint8Array): Kind | undefined {
  const text = Buffer.from(head.subarray(0, HEAD_BYTES)).toString("latin1");
  for (const [magic, kind] of MAGIC) if (text.startsWith(magic)) return kind;
  // Pickle protocols 2 to 5 begin with PROTO and their number.
  if (text.charCodeAt(0) === 0x80 && text.charCodeAt(1) >= 2 && text.charCodeAt(1) <= 5) {
    return { name: "a Python pickle (an old torch.save file)", hint: TO_SAFETENSORS };
  }
  if (/^\s*<(!doctype|html|head|body|\?xml)/i.test(text)) return { name: "an HTML or XML page", hint: AGAIN };
  return undefined;
}

/** How to turn a PyTorch `.bin` checkpoint into safetensors; for hints. */
export const CONVERT_HINT = TO_SAFETENSORS;
