// Finds tests that forget to await a read: such a test passes although the read rejects. Vitest runs this before each file
// (vitest.config.ts). Only reads that are called in files of test/ count.

import { afterEach, expect } from "vitest";
import { Tensor } from "../../src/core/tensor.js";
import { processWide } from "./process.js";

/** A read whose promise nobody has waited for yet. Its stack becomes text only if it is asked for: that takes long. */
interface Read {
  readonly call: string;
  readonly number: number;
  readonly at: { readonly stack?: string };
}
const forgotten = processWide("forgotten-reads", () => new Set<Read>());

/** Calls in files of test/ that have not been awaited, since the last call, with their places. */
export function forgottenReads(): string[] {
  const reads = [...forgotten];
  forgotten.clear();
  return reads.flatMap(({ call, number, at }) => {
    const [, place] = /([^(\s]*[/\\]test[/\\][^)]*)\)?$/.exec(at.stack?.split("\n")[1] ?? "") ?? [];
    return place === undefined ? [] : [`${call} at ${place} (read ${number})`];
  });
}

/** `await` calls `then` only if the promise's constructor is not Promise; the result of `then` is a plain Promise again. */
const WATCHED = { [Symbol.species]: Promise };

function watch<T>(promise: Promise<T>, read: Read): Promise<T> {
  forgotten.add(read);
  const then: Promise<T>["then"] = (done, failed) => {
    forgotten.delete(read);
    return Promise.prototype.then.call(promise, done, failed) as ReturnType<typeof promise.then<never, never>>;
  };
  // biome-ignore lint/suspicious/noThenProperty: replaces the promise's own, to notice the call
  Object.defineProperty(promise, "then", { value: then });
  return Object.defineProperty(promise, "constructor", { value: WATCHED });
}

let reads = 0;
/** A class that is watched already: files of one process may share it. */
const watched = processWide("watched-tensors", () => new WeakSet<typeof Tensor>());
// Not `ready`: loading awaits hundreds of tensors at once.
for (const name of watched.has(Tensor) ? [] : (["read", "readBytes", "readFloats"] as const)) {
  const original = Tensor.prototype[name] as () => Promise<never>;
  Tensor.prototype[name] = function watchedRead(this: Tensor) {
    const at: { stack?: string } = {};
    Error.captureStackTrace(at, watchedRead);
    return watch(original.call(this), { call: `${name}()`, number: ++reads, at });
  };
}

watched.add(Tensor);

afterEach(() => expect(forgottenReads(), "reads that the test does not await").toEqual([]));
