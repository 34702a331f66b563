// Finds tests that forget to await a read: such a test passes although the read rejects. Vitest runs this before each file
// (vitest.config.ts). Only reads that are called in files of test/ count.

import { afterEach, expect } from "vitest";
import { Tensor } from "../../src/core/tensor.js";
import { processWide } from "./process.js";

const forgotten = processWide("forgotten-reads", () => new Set<string>());

/** Places of reads that have not been awaited, since the last call. */
export function forgottenReads(): string[] {
  const places = [...forgotten];
  forgotten.clear();
  return places;
}

/** `await` calls `then` only if the promise's constructor is not Promise; the result of `then` is a plain Promise again. */
const WATCHED = { [Symbol.species]: Promise };

function watch<T>(promise: Promise<T>, place: string): Promise<T> {
  forgotten.add(place);
  const then: Promise<T>["then"] = (done, failed) => {
    forgotten.delete(place);
    return Promise.prototype.then.call(promise, done, failed) as ReturnType<typeof promise.then<never, never>>;
  };
  // biome-ignore lint/suspicious/noThenProperty: replaces the promise's own, to notice the call
  Object.defineProperty(promise, "then", { value: then });
  return Object.defineProperty(promise, "constructor", { value: WATCHED });
}

let reads = 0;
/** A class that is watched already: files of one process may share it. */
const watched = processWide("watched-tensors", () => new WeakSet<typeof Tensor>());
// Not `ready`: loading awaits hundreds of tensors at once, and a stack trace for each would delay the event loop.
for (const name of watched.has(Tensor) ? [] : (["read", "readBytes", "readFloats"] as const)) {
  const original = Tensor.prototype[name] as () => Promise<never>;
  Tensor.prototype[name] = function (this: Tensor) {
    const caller = new Error().stack?.split("\n")[2] ?? "";
    const promise = original.call(this);
    const [, place] = /([^(\s]*[/\\]test[/\\][^)]*)\)?$/.exec(caller) ?? [];
    return place === undefined ? promise : watch(promise, `${name}() at ${place} (read ${++reads})`);
  };
}

watched.add(Tensor);

afterEach(() => expect(forgottenReads(), "reads that the test does not await").toEqual([]));
