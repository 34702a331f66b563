// Writes weights to an offload file, from which blocks load them (nn/placement.ts). The bytes are in the device's layout,
// panels included: such a file is valid for one run on one machine only.

import { randomUUID } from "node:crypto";
import { statSync } from "node:fs";
import { mkdir, open, rm } from "node:fs/promises";
import { resolve } from "node:path";
import type { Tensor } from "../core/tensor.js";
import type { Kept } from "../nn/placement.js";
import { type WriteHints, writing } from "../sources/file-errors.js";
import type { OffloadFolder } from "./platform.js";

/** Tensors begin at multiples of this. */
const ALIGN = 4096;

const ELSEWHERE = "choose another offload_folder: weights are kept there while the model runs";
const HINTS: WriteHints = { full: `make room, or ${ELSEWHERE}`, otherwise: ELSEWHERE };

/**
 * Appends tensors to a file, created if missing, and returns where each of them is. Only one is in memory at a time.
 * @throws KernelError (a spoilt tensor), errors of the file system
 */
export async function writeOffload(tensors: readonly Tensor[], file: string): Promise<Kept[]> {
  const handle = await open(file, "a", 0o600);
  try {
    const kept: Kept[] = [];
    let position = Math.ceil((await handle.stat()).size / ALIGN) * ALIGN;
    await handle.truncate(position);
    for (const tensor of tensors) {
      const bytes = await tensor.readBytes();
      await handle.appendFile(bytes);
      kept.push({ tensor, file, position });
      const end = position + bytes.length;
      position = Math.ceil(end / ALIGN) * ALIGN;
      await handle.truncate(position);
    }
    return kept;
  } finally {
    await handle.close();
  }
}

/** Which file it is, and when it was last written to; undefined for one that cannot be asked, which reading it will say. */
function stampOf(file: string): string | undefined {
  try {
    const { dev, ino, mtimeNs } = statSync(file, { bigint: true });
    return [dev, ino, mtimeNs].join();
  } catch {
    return undefined;
  }
}

/**
 * A file of its own in a folder, which is made if it is missing, for the weights of one run.
 * @throws FileError
 */
export async function offloadFolder(folder: string): Promise<OffloadFolder> {
  const path = resolve(folder);
  await writing(path, HINTS, () => mkdir(path, { recursive: true }));
  const file = resolve(path, `octavo-${randomUUID()}.weights`);
  /** The file as it was left by the last write. */
  let written = "";
  const changed = (): string | undefined => {
    const now = stampOf(file);
    return now === written || now === undefined ? undefined : `${file} was changed or replaced while the model uses it`;
  };
  return {
    async write(tensors) {
      const kept = await writing(file, HINTS, () => writeOffload(tensors, file));
      written = stampOf(file) ?? "";
      // Once for each block: its tensors are read one right after the other.
      return kept.map((one, i) => (i === 0 ? { ...one, changed } : one));
    },
    remove: () => writing(file, HINTS, () => rm(file, { force: true })),
  };
}
