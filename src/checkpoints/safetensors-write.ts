// Writes safetensors files as the reference does, byte for byte. The file appears whole or not at all: it is written to a
// temporary file and renamed. The caller decides what goes into a checkpoint and how it is sharded.

import { randomBytes } from "node:crypto";
import { type FileHandle, open, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { renameOver } from "../sources/rename.js";
import type { TensorToWrite } from "./folder.js";
import { safetensorsLayout } from "./safetensors-layout.js";

export type { TensorToWrite } from "./folder.js";

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
  const { head, data } = safetensorsLayout(file, tensors, metadata);
  const temporary = join(dirname(file), `.${basename(file)}.${randomBytes(6).toString("hex")}.tmp`);
  const handle = await open(temporary, "wx");
  try {
    try {
      await writeAll(handle, head);
      for await (const bytes of data()) await writeAll(handle, bytes);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await renameOver(temporary, file);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncFolder(dirname(file));
}
