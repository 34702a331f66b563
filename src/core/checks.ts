// Checks of what a caller hands to a device. Values are looked at once and shown with `show`, because a caller may pass anything.

import type { Backend, FileStamp } from "./backend.js";
import { OptionError } from "./errors.js";
import { listed, show } from "./show.js";

/** True for a whole number from 0 that JavaScript counts exactly. */
export function isWhole(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** True for a function that can be called: a class cannot. */
export function isFunction(value: unknown): value is (...args: never) => unknown {
  if (typeof value !== "function") return false;
  try {
    // Of functions that have a prototype, only that of a class cannot be replaced.
    return Object.getOwnPropertyDescriptor(value, "prototype")?.writable !== false;
  } catch {
    return false; // a proxy
  }
}

/** `value instanceof Class`, and false for a proxy whose target is gone or that throws. */
export function isOf<T>(value: unknown, Class: abstract new (...args: never) => T): value is T {
  try {
    return value instanceof Class;
  } catch {
    return false;
  }
}

/** True for what says which file is meant, in numbers that can be read. */
export function isStamp(value: unknown): value is FileStamp {
  try {
    const { inode, modified } = value as FileStamp;
    return typeof inode === "bigint" && typeof modified === "bigint";
  } catch {
    return false;
  }
}

/** True for a signal that can be asked: an object that only inherits from AbortSignal cannot. */
export function isSignal(value: unknown): value is AbortSignal {
  try {
    return value instanceof AbortSignal && typeof value.aborted === "boolean";
  } catch {
    return false;
  }
}

/** True for a list, or a proxy of one. */
export function isList(value: unknown): value is readonly unknown[] {
  try {
    return Array.isArray(value);
  } catch {
    return false; // a proxy whose target is gone
  }
}

/**
 * A copy of a list whose entries all pass; undefined for anything else, whatever it does when it is read. Stops at the first
 * entry that does not pass: a list may claim any length.
 */
export function listOf<T>(value: unknown, passes: (entry: unknown) => entry is T): T[] | undefined {
  try {
    if (!Array.isArray(value)) return undefined;
    const copy: T[] = [];
    for (let i = 0; i < value.length; i++) {
      const entry: unknown = value[i];
      if (!passes(entry)) return undefined;
      copy.push(entry);
    }
    return copy;
  } catch {
    return undefined; // a proxy or a getter
  }
}

/** The same for the numbers of a list or a typed array. */
export function numbersIn(value: unknown, passes: (entry: number) => boolean): number[] | undefined {
  try {
    const typed = ArrayBuffer.isView(value) && !(value instanceof DataView);
    const numbers = typed ? Array.from(value as Int32Array) : value;
    return listOf(numbers, (entry): entry is number => typeof entry === "number" && passes(entry));
  } catch {
    return undefined; // the memory is gone, or its numbers are too large for one
  }
}

/** @throws OptionError */
export function checkOperation(operation: unknown): void {
  if (isFunction(operation)) return;
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

/** Entries of an array that are looked at: one may claim billions, and hold nothing. */
const MOST_ITEMS = 2 ** 20;

/** Key under which an instance of a class lists the tensors that it consists of. */
export const HELD: unique symbol = Symbol("octavo.held");

/**
 * The entries of an array or a plain object, or what is listed under HELD; none of what cannot be read. Getters are not asked: they
 * could make new tensors.
 */
export function itemsOf(value: object): readonly unknown[] {
  try {
    if (Array.isArray(value)) return value.slice(0, MOST_ITEMS);
    const held: unknown = Object.getOwnPropertyDescriptor(value, HELD)?.value;
    if (Array.isArray(held)) return held.slice(0, MOST_ITEMS);
    if (Object.getPrototypeOf(value) !== Object.prototype) return [];
    return Object.values(Object.getOwnPropertyDescriptors(value)).map((property) => property.value as unknown);
  } catch {
    return []; // a proxy
  }
}
