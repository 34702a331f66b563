// Dawn's binding for Node looks whether a GPU has finished by `setImmediate`, again and again, which keeps a core busy. An
// adapter in software wants that core to compute: here Dawn looks once in a millisecond.

import { processWide } from "./process.js";

const MS = 1;

/** Functions of addons have no source text. */
const isNative = (callback: unknown): boolean =>
  typeof callback === "function" && /\{\s*\[native code\]\s*\}$/.test(Function.prototype.toString.call(callback));

/** Makes Dawn, and whatever else gives native functions to `setImmediate`, wait a little between looks. */
export function calmPolling(): void {
  processWide("calm-polling", () => {
    const atOnce = globalThis.setImmediate;
    const calm = (callback: (...args: unknown[]) => void, ...args: unknown[]): unknown =>
      isNative(callback) ? setTimeout(callback, MS, ...args) : atOnce(callback, ...args);
    globalThis.setImmediate = Object.assign(calm, atOnce) as typeof setImmediate;
    return true;
  });
}
