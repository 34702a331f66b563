// The safetensors header: its dtypes and all rules for a valid header. Pure; it opens no files. The rules are those of the
// reference (huggingface/safetensors 0.8) and, marked "stricter", our own. See docs in `parseSafetensorsHeader`.

import { FormatError } from "../core/errors.js";
import { quote } from "../sources/files.js";
import { JsonScanner } from "../sources/json-text.js";
import { STORED_BITS, type StoredDType, type StoredHeader, type StoredTensor } from "./stored.js";

export type SafetensorsDType = StoredDType;

export const SAFETENSORS_DTYPES: readonly SafetensorsDType[] = [...STORED_BITS.keys()];

/** True if `name` is a dtype of the format; case matters. */
export function isSafetensorsDType(name: string): name is SafetensorsDType {
  return (STORED_BITS as ReadonlyMap<string, number>).has(name);
}

export type SafetensorsHeader = StoredHeader;

/** The reference's cap on the header. */
export const MAX_HEADER_BYTES = 100_000_000;
/** Stricter: no checkpoint has more; bounds memory, since a header of legal size could list 1.4 million. */
export const MAX_TENSORS = 1_000_000;
/** Stricter: writers escape nothing but quotes and control characters; bounds the time of a header that is all escapes. */
const MAX_ESCAPES = 1_000_000;
/** Stricter: torch itself stops at 64 dimensions. */
export const MAX_RANK = 64;

const U64_MAX = 2n ** 64n - 1n;

/**
 * Bits that a tensor takes, with the reference's overflow rule: the product is taken from left to right in 64 bits, so
 * [0, big, big] is fine and [big, big, 0] is not. `undefined` on overflow; Infinity if no file can be that large.
 */
export function tensorBits(dtype: SafetensorsDType, shape: readonly number[]): number | undefined {
  const bits = STORED_BITS.get(dtype)!;
  let product = 1;
  for (const dim of shape) product *= dim;
  // Exact while every partial product is: a later zero can hide an earlier overflow, so those take the slow path too.
  if (product > 0 && product * bits <= Number.MAX_SAFE_INTEGER) return product * bits;
  let exact = 1n;
  for (const dim of shape) {
    exact *= BigInt(dim);
    if (exact > U64_MAX) return undefined;
  }
  exact *= BigInt(bits);
  if (exact > U64_MAX) return undefined;
  return exact > BigInt(Number.MAX_SAFE_INTEGER) ? Number.POSITIVE_INFINITY : Number(exact);
}

interface Entry {
  readonly name: string;
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

/**
 * Parses and checks the header of a safetensors file: `header` is the JSON after the 8 length bytes, `fileSize` the size
 * of the whole file, `file` its path for messages and for `StoredTensor.file`.
 *
 * Accepted besides the plain case: white space around the object, `{}`, rank 0, zero dimensions, any name,
 * `__metadata__: null`; further fields of an entry are passed over.
 * Stricter than the reference: repeated names or metadata keys, an entry written as a list, rank above 64, numbers above
 * 2^53-1, more than a million tensors and more than a million escapes are refused.
 * @throws FormatError with `details.file` and `details.offset` (in the file) or `details.key` (the tensor)
 */
export function parseSafetensorsHeader(header: Uint8Array, fileSize: number, file: string): SafetensorsHeader {
  if (header.length > MAX_HEADER_BYTES || header.length + 8 > fileSize) {
    throw new FormatError(`${file}: a header of ${header.length} bytes does not fit a file of ${fileSize}`, {
      details: { file, offset: 0, expected: Math.min(MAX_HEADER_BYTES, fileSize - 8), got: header.length },
    });
  }
  const scanner = new JsonScanner(header, file, 8);
  scanner.escapes = MAX_ESCAPES;
  const entries: Entry[] = [];
  const names = new Set<string>();
  let metadata: Map<string, string> | undefined;
  scanner.expect(0x7b, "a safetensors header, which begins with {");
  if (!scanner.take(0x7d)) {
    do {
      scanner.inside = undefined;
      scanner.peek();
      const start = scanner.at;
      const name = scanner.string("a tensor name in quotes");
      const { size } = names;
      if (names.add(name).size === size) scanner.fail("each name once", start, `${quote(name)} again`);
      scanner.expect(0x3a, '":"');
      scanner.inside = name;
      if (name === "__metadata__") {
        metadata = readMetadata(scanner);
        continue;
      }
      if (entries.length === MAX_TENSORS) scanner.fail(`at most ${MAX_TENSORS} tensors`, start, "one more");
      entries.push(readEntry(scanner, name));
    } while (scanner.more(0x7d));
  }
  scanner.inside = undefined;
  scanner.end();
  return { tensors: place(entries, header.length + 8, fileSize, file), metadata: metadata ?? new Map() };
}

function readMetadata(scanner: JsonScanner): Map<string, string> {
  const metadata = new Map<string, string>();
  if (scanner.peek() === 0x6e) {
    scanner.value(1); // null, which some writers put for none
    return metadata;
  }
  scanner.expect(0x7b, "an object of strings");
  if (scanner.take(0x7d)) return metadata;
  do {
    scanner.peek();
    const start = scanner.at;
    const key = scanner.string("a key in quotes");
    if (metadata.has(key)) scanner.fail("each key once", start, `${quote(key)} again`);
    scanner.expect(0x3a, '":"');
    metadata.set(key, scanner.string("a string"));
  } while (scanner.more(0x7d));
  return metadata;
}

function readEntry(scanner: JsonScanner, name: string): Entry {
  scanner.expect(0x7b, "an object with dtype, shape and data_offsets");
  const start = scanner.at - 1;
  let dtype: SafetensorsDType | undefined;
  let shape: number[] | undefined;
  let begin = -1;
  let end = -1;
  if (!scanner.take(0x7d)) {
    do {
      scanner.peek();
      const at = scanner.at;
      const field = scanner.string("a field name in quotes");
      if (field !== "dtype" && field !== "shape" && field !== "data_offsets") {
        scanner.expect(0x3a, '":"');
        scanner.value(2);
        continue;
      }
      const again = field === "dtype" ? dtype : field === "shape" ? shape : end < 0 ? undefined : end;
      if (again !== undefined) scanner.fail("each field once", at, `${quote(field)} again`);
      scanner.expect(0x3a, '":"');
      if (field === "dtype") dtype = readDType(scanner);
      else if (field === "shape") shape = readShape(scanner);
      else {
        scanner.expect(0x5b, "[begin, end]");
        begin = scanner.integer();
        scanner.expect(0x2c, "two offsets");
        end = scanner.integer();
        scanner.expect(0x5d, "exactly two offsets");
      }
    } while (scanner.more(0x7d));
  }
  if (dtype === undefined || shape === undefined || end < 0) {
    const missing = dtype === undefined ? "dtype" : shape === undefined ? "shape" : "data_offsets";
    scanner.fail("dtype, shape and data_offsets", start, `no ${missing}`);
  }
  if (begin > end) scanner.fail("offsets in ascending order", start, `[${begin}, ${end}]`);
  const bits = tensorBits(dtype, shape);
  if (bits === undefined) scanner.fail("a size below 2^64 bits", start, `shape [${shape.join(", ")}]`);
  if (bits % 8 !== 0) scanner.fail("a whole number of bytes", start, `${bits} bits`);
  if (bits / 8 !== end - begin) {
    const wanted = `${dtype} [${shape.join(", ")}] takes ${bits / 8} bytes`;
    scanner.fail(`offsets that fit the shape (${wanted})`, start, `${end - begin} bytes`);
  }
  return { name, dtype, shape, begin, end };
}

function readDType(scanner: JsonScanner): SafetensorsDType {
  scanner.peek();
  const at = scanner.at;
  const dtype = scanner.string("a dtype in quotes");
  if (!isSafetensorsDType(dtype)) {
    scanner.fail("a safetensors dtype", at, quote(dtype), `dtypes are ${SAFETENSORS_DTYPES.join(", ")}`);
  }
  return dtype;
}

function readShape(scanner: JsonScanner): number[] {
  const shape: number[] = [];
  scanner.expect(0x5b, "a list of dimensions");
  if (scanner.take(0x5d)) return shape;
  do {
    if (shape.length === MAX_RANK) scanner.fail(`at most ${MAX_RANK} dimensions`);
    shape.push(scanner.integer());
  } while (scanner.more(0x5d));
  return shape;
}

/** Checks that the tensors cover the data exactly, without hole or overlap, and makes offsets absolute. */
function place(entries: Entry[], data: number, fileSize: number, file: string): Map<string, StoredTensor> {
  let sorted = true;
  for (let i = 1; i < entries.length && sorted; i++) sorted = entries[i - 1]!.end <= entries[i]!.begin;
  if (!sorted) entries.sort((a, b) => a.begin - b.begin || a.end - b.end);
  const tensors = new Map<string, StoredTensor>();
  let at = 0;
  for (const { name, dtype, shape, begin, end } of entries) {
    if (begin !== at) {
      const wrong = begin > at ? "a hole before it" : "an overlap with the tensor before it";
      throw new FormatError(
        `${file}: expected tensor ${quote(name)} to begin at data byte ${at}, got ${begin}: ${wrong}`,
        {
          details: { file, key: name, offset: data + begin, expected: at, got: begin },
          hint: "the program that wrote this file has a bug; get the checkpoint from its original source",
        },
      );
    }
    at = end;
    tensors.set(name, { name, dtype, shape, file, offset: data + begin, bytes: end - begin });
  }
  if (data + at !== fileSize) {
    const short = fileSize < data + at;
    throw new FormatError(`${file}: expected ${data + at} bytes by its header, got ${fileSize}`, {
      details: { file, offset: Math.min(fileSize, data + at), expected: data + at, got: fileSize },
      hint: short
        ? "the file is cut short; download or copy it again"
        : "bytes follow the last tensor; get the file again",
    });
  }
  return tensors;
}
