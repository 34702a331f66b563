// Puts weights into an offload file, from where blocks fetch them (nn/placement.ts). The bytes are as the device stores
// them, panels included: such a file is for one run on one machine, and nobody else reads it.

import { open } from "node:fs/promises";
import type { Tensor } from "../core/tensor.js";
import type { Kept } from "../nn/placement.js";

/** Tensors begin at multiples of this. */
const ALIGN = 4096;

/**
 * Appends tensors to a file, made if it is not there, and says where each of them is. One at a time is in memory.
 * @throws KernelError (a tensor that is spoilt), errors of the file system
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
