// Checks of what a caller hands to a device. Values are looked at once and shown with `show`, because a caller may pass anything.

import type { Backend } from "./backend.js";
import { OptionError } from "./errors.js";
import { listed, show } from "./show.js";

/** True for a whole number from 0 that JavaScript counts exactly. */
export function isWhole(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** @throws OptionError */
export function checkOperation(operation: unknown): void {
  if (typeof operation === "function") return;
  throw new OptionError(`an operation of a device must be a function, got ${show(operation)}`);
}

/** @throws OptionError */
export function checkPlace(call: string, buffer: unknown, offset: unknown): void {
  if (isWhole(buffer) && isWhole(offset)) return;
  throw new OptionError(`${call}: buffer and offset must be whole numbers, got ${show(buffer)} and ${show(offset)}`);
}

/** Members of a backend without which a device cannot be made or closed. */
const METHODS = ["allocate", "free", "write", "submit", "read", "close"] as const;

/** @throws OptionError */
export function checkBackend(backend: Backend): void {
  try {
    if (METHODS.every((name) => typeof backend[name] === "function") && Array.isArray(backend.kernels)) return;
  } catch {
    // Refused below: nothing with members, or with members that cannot be read.
  }
  throw new OptionError(`a Device is made of a backend, which lacks one of ${listed(METHODS)}: got ${show(backend)}`, {
    hint: 'openDevice("cpu") or await requestDevice("webgpu") opens one by its name',
  });
}
