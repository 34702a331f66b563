// Classes whose instances are called like functions, as processors are in Python.

/** An instance: called, it does what its method `run` does. */
type Runs<A extends readonly unknown[], R> = ((...args: A) => R) & {
  /** What a call does. */
  run(...args: A): R;
};

/** The base of such classes, which define `run`. */
export const CallableBase = function (this: object): object {
  const made = (...args: readonly unknown[]): unknown => (made as Runs<readonly unknown[], unknown>).run(...args);
  return Object.setPrototypeOf(made, new.target.prototype) as object;
} as unknown as new <A extends readonly unknown[], R>() => Runs<A, R>;
