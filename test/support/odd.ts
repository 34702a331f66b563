// Arguments that no caller should pass, and some will: the same list in every run, each value made anew.

/** Thrown by the values below when they are called or looked at: an error of the caller's own. */
export class Mine extends Error {}

const throws = (): never => {
  throw new Mine("it was looked at");
};

const HOSTILE: ProxyHandler<object> = {
  get: throws,
  has: throws,
  ownKeys: throws,
  getPrototypeOf: throws,
  getOwnPropertyDescriptor: throws,
};

function revoked(target: object): object {
  const { proxy, revoke } = Proxy.revocable(target, {});
  revoke();
  return proxy;
}

function detached(): Float32Array {
  const values = new Float32Array(4);
  structuredClone(values.buffer, { transfer: [values.buffer] });
  return values;
}

function circle(): unknown[] {
  const list: unknown[] = [1];
  list.push(list);
  return list;
}

function getters(...names: readonly string[]): object {
  const value = {};
  for (const name of names) Object.defineProperty(value, name, { get: throws, enumerable: true });
  return value;
}

/** Values by name. */
export const ODD: Readonly<Record<string, () => unknown>> = {
  undefined: () => undefined,
  null: () => null,
  true: () => true,
  zero: () => 0,
  "minus one": () => -1,
  half: () => 1.5,
  NaN: () => Number.NaN,
  Infinity: () => Number.POSITIVE_INFINITY,
  "2^53": () => 2 ** 53,
  huge: () => 1e308,
  "no text": () => "",
  text: () => "x",
  "long text": () => "y".repeat(100_000),
  "the name of a prototype's field": () => "__proto__",
  bigint: () => 5n,
  symbol: () => Symbol("s"),
  function: () => () => 5,
  "a function that throws": () => throws,
  "an async function": () => async () => 5,
  class: () => class {},
  "an empty object": () => ({}),
  "no prototype": () => Object.create(null),
  "toString that is no function": () => ({ toString: 5, valueOf: null }),
  "toString that throws": () => ({ toString: throws, valueOf: throws, toJSON: throws, [Symbol.toPrimitive]: throws }),
  getters: () => getters("input_ids", "data", "shape", "length", "device", "name", "0", "capacity"),
  "a proxy": () => new Proxy({}, HOSTILE),
  "a proxy of a list": () => new Proxy([1, 2], HOSTILE),
  "a proxy of a function": () => new Proxy(() => {}, HOSTILE),
  "a revoked proxy": () => revoked({}),
  "a revoked proxy of a list": () => revoked([]),
  "an empty list": () => [],
  "a list": () => [1],
  "a ragged list": () => [[1], [2, 3]],
  "a list of nothing": () => [undefined],
  "a list of texts": () => ["a", "b"],
  "a list of bigints": () => [1n],
  "a list of symbols": () => [Symbol("s")],
  "a list of NaN": () => [Number.NaN],
  "a list of proxies": () => [new Proxy({}, HOSTILE)],
  "a sparse list": () => Object.assign(new Array(3), { 0: 1, 2: 3 }),
  "the longest list": () => new Array(2 ** 32 - 1),
  "a list that contains itself": circle,
  "a detached buffer": detached,
  bytes: () => new Uint8Array(4),
  doubles: () => new Float64Array(2),
  bigints: () => new BigInt64Array(2),
  "a view": () => new DataView(new ArrayBuffer(4)),
  "an ArrayBuffer": () => new ArrayBuffer(4),
  "something with a length": () => ({ length: 2 ** 32 }),
  "data without end": () => ({ data: { length: 2 ** 40 }, shape: [1, 2 ** 40] }),
  "data of no rows": () => ({ data: [], shape: [0, 3] }),
  "data with a bigint": () => ({ data: [1], shape: [1n, 1] }),
  "a shape that is a number": () => ({ data: [1], shape: 1 }),
  "a Map": () => new Map([["a", 1]]),
  "a Date": () => new Date(Number.NaN),
  "an error": () => new Error("e"),
  "a promise": () => Promise.resolve(5),
  "what inherits from AbortSignal": () => Object.create(AbortSignal.prototype),
};
