// Writes weights to an offload file, from which blocks load them (nn/placement.ts). The bytes are in the device's layout,
// panels included: such a file is valid for one run on one machine only.

import { open } from "node:fs/promises";
import type { Tensor } from "../core/tensor.js";
import type { Kept } from "../nn/placement.js";

/** Tensors begin at multiples of this. */
const ALIGN = 4096;

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
