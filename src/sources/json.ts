// Reads JSON files such as config.json and index files: size cap, strict text, must be an object. It does not know what
// any key means.

import { FormatError } from "../core/errors.js";
import { foreignKind } from "./files.js";
import { JSON_HINT, type JsonObject, JsonScanner, type JsonValue } from "./json-text.js";
import { type Source, withFile } from "./source.js";

export type { JsonObject, JsonValue } from "./json-text.js";

/** Cap for config.json and its like; the largest in the wild (id2label of 21,841 classes) is under 2 MB. */
const MAX_CONFIG_BYTES = 4 * 1024 * 1024;

export interface JsonFileOptions {
  /** Refuse larger files before reading them. Default: `MAX_CONFIG_BYTES`. */
  readonly maxBytes?: number;
  /** The file's role in messages, such as "model configuration". */
  readonly what?: string;
  /** Read what Python's json module reads beside JSON: NaN, Infinity, and the last of repeated keys. */
  readonly python?: boolean;
}

/** True for a JSON object (not null, not a list). */
export function isJsonObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The kind of a JSON value, for messages. */
export function jsonKind(value: JsonValue | undefined): string {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}

/**
 * Parses the bytes of a JSON file that must hold one object. Objects have no prototype, so `__proto__` is an ordinary
 * key. `file` is for messages.
 * @param python also what Python's json module reads: NaN, Infinity, and the last of repeated keys
 * @throws FormatError with file and byte offset: bad UTF-8, BOM, syntax, NaN or Infinity, repeated key, nesting past 128,
 * or something that is not an object.
 */
export function parseJsonObject(bytes: Uint8Array, file: string, what = "JSON file", python = false): JsonObject {
  const value = scannerOf(bytes, file, what, 0x7b).document(python);
  if (isJsonObject(value)) return value;
  throw otherKind(value, file, what, "an object");
}

/** The same for a file that must hold one list. */
export function parseJsonList(bytes: Uint8Array, file: string, what = "JSON file", python = false): JsonValue[] {
  const value = scannerOf(bytes, file, what, 0x5b).document(python);
  if (Array.isArray(value)) return value;
  throw otherKind(value, file, what, "a list");
}

/**
 * A scanner of JSON text that should begin with the byte `opening`, before it.
 * @throws FormatError for a file of another kind, and for bytes that are no text
 */
export function scannerOf(bytes: Uint8Array, file: string, what: string, opening: number): JsonScanner {
  const kind = bytes[0] === opening ? undefined : foreignKind(bytes);
  if (kind) {
    throw new FormatError(`${file}: expected a ${what}, got ${kind.name}`, {
      details: { file, offset: 0, expected: `a JSON ${opening === 0x7b ? "object" : "list"}`, got: kind.name },
      hint: kind.hint,
    });
  }
  return new JsonScanner(bytes, file);
}

function otherKind(value: JsonValue, file: string, what: string, expected: string): FormatError {
  return new FormatError(`${file}: expected a ${what} to hold ${expected}, got ${jsonKind(value)}`, {
    details: { file, offset: 0, expected, got: jsonKind(value) },
    hint: JSON_HINT,
  });
}

/** The bytes of a small file. @throws FormatError for more than `maxBytes`; NotFoundError, NetworkError, AbortError */
export async function readSmall(source: Source, path: string, what: string, maxBytes: number): Promise<Uint8Array> {
  return withFile(source, path, what, async (file) => {
    if (file.size > maxBytes) {
      throw new FormatError(`${path}: a ${what} may have ${maxBytes} bytes, this one has ${file.size}`, {
        details: { file: path, expected: `at most ${maxBytes} bytes`, got: file.size },
      });
    }
    return file.read(0, file.size);
  });
}

/**
 * Reads a JSON file that holds one object (see `parseJsonObject`).
 * @throws NotFoundError if there is no such file; FormatError if it is too large, not a regular file or not such JSON;
 * NetworkError, AbortError.
 */
export async function readJsonFile(source: Source, path: string, options: JsonFileOptions = {}): Promise<JsonObject> {
  const { maxBytes = MAX_CONFIG_BYTES, what = "JSON file", python = false } = options;
  return parseJsonObject(await readSmall(source, path, what, maxBytes), path, what, python);
}

/** The same, with the text. */
export async function readJsonText(
  source: Source,
  path: string,
  options: JsonFileOptions = {},
): Promise<{ readonly json: JsonObject; readonly text: string }> {
  const { maxBytes = MAX_CONFIG_BYTES, what = "JSON file", python = false } = options;
  const bytes = await readSmall(source, path, what, maxBytes);
  return { json: parseJsonObject(bytes, path, what, python), text: new TextDecoder().decode(bytes) };
}

/** The same for a file that holds a list. */
export async function readJsonList(
  source: Source,
  path: string,
  options: JsonFileOptions = {},
): Promise<readonly JsonValue[]> {
  const { maxBytes = MAX_CONFIG_BYTES, what = "JSON file", python = false } = options;
  return parseJsonList(await readSmall(source, path, what, maxBytes), path, what, python);
}
