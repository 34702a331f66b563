// Writes safetensors files as the reference does, byte for byte. The file appears whole or not at all: it is written to a
// temporary file and renamed. The caller decides what goes into a checkpoint and how it is sharded.

import { randomBytes } from "node:crypto";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import { quote } from "../sources/files.js";
import type { TensorToWrite } from "./folder.js";
import { isSafetensorsDType, parseSafetensorsHeader, SAFETENSORS_DTYPES, tensorBits } from "./safetensors-header.js";

function refuse(file: string, name: string, problem: string): never {
  throw new OptionError(`cannot write ${file}: tensor ${quote(name)} ${problem}`, { details: { file, key: name } });
}

export type { TensorToWrite } from "./folder.js";

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

/** By dtype from the widest to the narrowest, then by name as UTF-8: the reference's order. */
function canonical(tensors: Iterable<TensorToWrite>): TensorToWrite[] {
  const rank = new Map<string, number>(SAFETENSORS_DTYPES.map((dtype, index) => [dtype, index]));
  return [...tensors]
    .map((tensor) => ({ tensor, key: Buffer.from(tensor.name), rank: rank.get(tensor.dtype) ?? 0 }))
    .sort((a, b) => b.rank - a.rank || Buffer.compare(a.key, b.key))
    .map(({ tensor }) => tensor);
}

/** The 8 length bytes and the header, padded with spaces so that the data begins at a multiple of 8. */
function headerOf(file: string, tensors: readonly TensorToWrite[], metadata: ReadonlyMap<string, string>) {
  const parts: string[] = [];
  if (metadata.size > 0) {
    const sorted = [...metadata].sort(([a], [b]) => (a < b ? -1 : 1));
    const fields = sorted.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`);
    parts.push(`"__metadata__":{${fields.join(",")}}`);
  }
  const names = new Set<string>();
  let at = 0;
  for (const tensor of tensors) {
    if (names.has(tensor.name)) refuse(file, tensor.name, "is given twice");
    names.add(tensor.name);
    const end = at + sizeOf(file, tensor);
    const shape = tensor.shape.join(",");
    const entry = `{"dtype":"${tensor.dtype}","shape":[${shape}],"data_offsets":[${at},${end}]}`;
    parts.push(`${JSON.stringify(tensor.name)}:${entry}`);
    at = end;
  }
  const json = Buffer.from(`{${parts.join(",")}}`);
  const head = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, " ");
  head.writeBigUInt64LE(BigInt(head.length - 8));
  json.copy(head, 8);
  // Headers that the reader would reject are not written: too many tensors, rank above 64, text that is not Unicode.
  parseSafetensorsHeader(head.subarray(8), head.length + at, file);
  return head;
}

async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.byteLength; ) {
    // One call writes at most 2^31-1 bytes; larger tensors go in pieces.
    const count = Math.min(bytes.byteLength - done, 2 ** 30);
    done += (await handle.write(bytes, done, count)).bytesWritten;
  }
}

/** Makes renames in a folder survive a power cut. Windows cannot open folders and does not need it. */
export async function syncFolder(folder: string): Promise<void> {
  if (process.platform === "win32") return;
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * Writes a safetensors file. Tensors are sorted as in the reference, so equal contents give equal files. The bytes go to a
 * new file in the same folder, are synced to disk and renamed over `file`; programs that have the old file mapped keep it,
 * and a failed attempt leaves nothing behind.
 * @throws OptionError if a tensor's name is repeated or its data does not fit dtype and shape; FormatError if the reader
 * would reject the result; FileError
 */
export async function writeSafetensors(
  file: string,
  tensors: Iterable<TensorToWrite>,
  metadata?: ReadonlyMap<string, string> | Readonly<Record<string, string>>,
): Promise<void> {
  const sorted = canonical(tensors);
  const entries = metadata instanceof Map ? metadata : new Map(Object.entries(metadata ?? {}));
  const head = headerOf(file, sorted, entries);
  const temporary = join(dirname(file), `.${basename(file)}.${randomBytes(6).toString("hex")}.tmp`);
  const handle = await open(temporary, "wx");
  try {
    try {
      await writeAll(handle, head);
      for (const tensor of sorted) {
        const data = typeof tensor.data === "function" ? await tensor.data() : tensor.data;
        checkLength(file, tensor, sizeOf(file, tensor), data);
        await writeAll(handle, data);
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, file);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncFolder(dirname(file));
}
