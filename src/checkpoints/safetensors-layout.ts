// What a safetensors file begins with, and the order of its tensors, as the reference writes them. Whoever writes the bytes, to a disk
// or into memory, asks here.

import { OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import { quote } from "../sources/files.js";
import type { TensorToWrite } from "./folder.js";
import { isSafetensorsDType, parseSafetensorsHeader, SAFETENSORS_DTYPES, tensorBits } from "./safetensors-header.js";

const UTF8 = new TextEncoder();

function refuse(file: string, name: string, problem: string): never {
  throw new OptionError(`cannot write ${file}: tensor ${quote(name)} ${problem}`, { details: { file, key: name } });
}

/** Bytes that a tensor takes, after the checks that a caller's value needs. */
function sizeOf(file: string, tensor: TensorToWrite): number {
  const { name, dtype, shape, data } = tensor;
  if (name === "__metadata__") refuse(file, name, "has a name that the format reserves");
  if (!isSafetensorsDType(dtype)) refuse(file, name, `has the unknown dtype ${show(dtype)}`);
  if (!shape.every((dim) => Number.isSafeInteger(dim) && dim >= 0)) refuse(file, name, `has the shape [${shape}]`);
  const bits = tensorBits(dtype, shape);
  if (bits === undefined || bits % 8 !== 0) refuse(file, name, `of ${dtype} [${shape}] is not a whole number of bytes`);
  if (typeof data !== "function") checkLength(file, tensor, bits / 8, data);
  return bits / 8;
}

function checkLength(file: string, { name, dtype, shape }: TensorToWrite, bytes: number, data: Uint8Array): void {
  if (data.byteLength === bytes) return;
  refuse(file, name, `of ${dtype} [${shape}] needs ${bytes} bytes, got ${data.byteLength}`);
}

function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const count = Math.min(a.length, b.length);
  for (let i = 0; i < count; i++) if (a[i] !== b[i]) return a[i]! - b[i]!;
  return a.length - b.length;
}

/** By dtype from the widest to the narrowest, then by name as UTF-8: the reference's order. */
function canonical(tensors: Iterable<TensorToWrite>): TensorToWrite[] {
  const rank = new Map<string, number>(SAFETENSORS_DTYPES.map((dtype, index) => [dtype, index]));
  return [...tensors]
    .map((tensor) => ({ tensor, key: UTF8.encode(tensor.name), rank: rank.get(tensor.dtype) ?? 0 }))
    .sort((a, b) => b.rank - a.rank || compareBytes(a.key, b.key))
    .map(({ tensor }) => tensor);
}

/** A file to be written. */
export interface SafetensorsLayout {
  /** The 8 length bytes and the header, padded with spaces so that the data begins at a multiple of 8. */
  readonly head: Uint8Array;
  /** Bytes of the whole file. */
  readonly size: number;
  /** The bytes of each tensor, in the order of the file; each is asked for when its turn comes. @throws OptionError */
  data(): AsyncIterable<Uint8Array>;
}

/**
 * Lays out a file; equal contents give equal files.
 * @param file its path, for messages
 * @throws OptionError if a tensor's name is repeated or its data does not fit dtype and shape; FormatError if the reader would reject
 * the result
 */
export function safetensorsLayout(
  file: string,
  tensors: Iterable<TensorToWrite>,
  metadata: ReadonlyMap<string, string> | Readonly<Record<string, string>> = {},
): SafetensorsLayout {
  const sorted = canonical(tensors);
  const entries = metadata instanceof Map ? [...metadata] : Object.entries(metadata);
  const parts: string[] = [];
  if (entries.length > 0) {
    const fields = entries
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`);
    parts.push(`"__metadata__":{${fields.join(",")}}`);
  }
  const names = new Set<string>();
  let at = 0;
  for (const tensor of sorted) {
    if (names.has(tensor.name)) refuse(file, tensor.name, "is given twice");
    names.add(tensor.name);
    const end = at + sizeOf(file, tensor);
    const shape = tensor.shape.join(",");
    const entry = `{"dtype":"${tensor.dtype}","shape":[${shape}],"data_offsets":[${at},${end}]}`;
    parts.push(`${JSON.stringify(tensor.name)}:${entry}`);
    at = end;
  }
  const json = UTF8.encode(`{${parts.join(",")}}`);
  const head = new Uint8Array(8 + Math.ceil(json.length / 8) * 8).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(head.length - 8), true);
  head.set(json, 8);
  // Headers that the reader would reject are not written: too many tensors, rank above 64, text that is not Unicode.
  parseSafetensorsHeader(head.subarray(8), head.length + at, file);
  return {
    head,
    size: head.length + at,
    async *data() {
      for (const tensor of sorted) {
        const data = typeof tensor.data === "function" ? await tensor.data() : tensor.data;
        checkLength(file, tensor, sizeOf(file, tensor), data);
        yield data;
      }
    },
  };
}
