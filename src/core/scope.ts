// The scopes that own tensors: each tensor is enrolled in the innermost open scope when it is made, and disposed at its end
// unless it is part of the result. Knows nothing of tensors but that they can be disposed.

import { isFunction, itemsOf } from "./checks.js";
import { OptionError } from "./errors.js";
import { refusePromise } from "./recording.js";
import { show } from "./show.js";

/** What a scope disposes. */
interface Scoped {
  dispose(): void;
}

interface Kept extends Scoped {
  keep(): unknown;
}

/** What was made in the innermost open scope; null outside of scopes. */
let current: Scoped[] | null = null;

/** Puts a new tensor into the open scope. */
export function enroll(tensor: Scoped): void {
  current?.push(tensor);
}

/** Takes a tensor out of the open scope. */
export function withdraw(tensor: Scoped): void {
  if (!current) return;
  const at = current.lastIndexOf(tensor);
  if (at >= 0) current.splice(at, 1);
}

/**
 * Runs `body` and disposes every tensor made inside except those in its result (a tensor, an array or plain object of tensors, or
 * an object that lists its own under `HELD`), which go to the enclosing scope. Synchronous on purpose: async code must own its tensors.
 * @throws OptionError for a body that is no function or asynchronous; whatever `body` throws
 */
export function scope<T>(body: () => T extends Promise<unknown> ? never : T): T {
  if (!isFunction(body)) throw new OptionError(`scope: body must be a function, got ${show(body)}`);
  const outer = current;
  const mine: Scoped[] = [];
  current = mine;
  let survivors: Survivors = NONE;
  try {
    const result: T = body();
    refusePromise("scope", result);
    if (mine.length > 0 && typeof result === "object" && result !== null) survivors = survivorsOf(result, mine);
    return result;
  } finally {
    current = outer;
    for (const tensor of mine) {
      if (survivors === tensor || (survivors instanceof Set && survivors.has(tensor))) outer?.push(tensor);
      else tensor.dispose();
    }
  }
}

/** Tensors that are made together and outlive every scope: all of them, or none if memory runs out midway. */
export function kept<T extends Readonly<Record<string, Kept>>>(body: () => T): T {
  const made = scope(body as () => never) as T;
  for (const tensor of Object.values(made)) tensor.keep();
  return made;
}

/** Tensors that a scope leaves: one, or several. */
type Survivors = Scoped | ReadonlySet<unknown>;
const NONE: Survivors = new Set();

/** Finds the tensors of a result: itself, as for most scopes, or those in its arrays and plain objects. */
function survivorsOf(result: object, mine: readonly Scoped[]): Survivors {
  if (mine.lastIndexOf(result as Scoped) >= 0) return result as Scoped;
  const waiting: unknown[] = [...itemsOf(result)];
  if (waiting.length === 0) return NONE; // another tensor, or nothing
  const made: ReadonlySet<unknown> = new Set(mine);
  const found = new Set<unknown>();
  const seen = new Set<unknown>([result]);
  while (waiting.length > 0) {
    const value = waiting.pop();
    if (made.has(value)) found.add(value);
    else if (typeof value === "object" && value !== null && !seen.has(value)) {
      seen.add(value);
      for (const item of itemsOf(value)) waiting.push(item);
    }
  }
  return found;
}
