// Whoever hears of calls while they are recorded, with what they write: a check of all numbers. Without one, a call costs the look
// at a variable.

import type { Device } from "../core/device.js";
import type { Tensor } from "../core/tensor.js";

/** Hears of a call: outputs, and operands that it overwrites as a whole. They may be gone once it returns. */
export type Watcher = (op: string, device: Device, written: readonly Tensor[]) => void;

let inner: Watcher | undefined;

export const watchers = {
  get open(): Watcher | undefined {
    return inner;
  },
};

/** Runs `body` with `watcher`, or with none. */
export function watching<T>(watcher: Watcher | undefined, body: () => T): T {
  const before = inner;
  inner = watcher;
  try {
    return body();
  } finally {
    inner = before;
  }
}
