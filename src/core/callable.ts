// Objects that can be called, as Python's with __call__.

/** A constructor of functions that pass their arguments to their own `_call`. */
export const Callable = function Callable(this: object): object {
  const call = (...args: unknown[]): unknown => (call as unknown as { _call(...a: unknown[]): unknown })._call(...args);
  return Object.setPrototypeOf(call, new.target.prototype) as object;
} as unknown as new () => unknown;
