// Writes weights to an offload file, from which blocks load them (nn/placement.ts). The bytes are in the device's layout,
// panels included: such a file is valid for one run on one machine only.

import { randomUUID } from "node:crypto";
import { mkdir, open, rm, stat } from "node:fs/promises";
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

/**
 * A file of its own in a folder, which is made if it is missing, for the weights of one run.
 * @throws FileError
 */
export async function offloadFolder(folder: string): Promise<OffloadFolder> {
  const path = resolve(folder);
  await writing(path, HINTS, () => mkdir(path, { recursive: true }));
  const file = resolve(path, `octavo-${randomUUID()}.weights`);
  /** The file as it was left by the last write, for all that was ever written. */
  const stamp = { inode: 0n, modified: 0n };
  return {
    write: (tensors) =>
      writing(file, HINTS, async () => {
        const kept = await writeOffload(tensors, file);
        const { ino, mtimeNs } = await stat(file, { bigint: true });
        Object.assign(stamp, { inode: ino, modified: mtimeNs });
        return kept.map((one) => ({ ...one, stamp }));
      }),
    remove: () => writing(file, HINTS, () => rm(file, { force: true })),
  };
}
