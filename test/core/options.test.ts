// Tables of options: what is read, what is refused and in which words, and values in messages whatever they are.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { WORKER_GENERATE } from "../../src/browser/call-options.js";
import { WORKER_LOAD } from "../../src/browser/options.js";
import { OptionError } from "../../src/core/errors.js";
import {
  choice,
  flag,
  number,
  type Options,
  option,
  pick,
  readOptions,
  signal,
  such,
  text,
  whole,
} from "../../src/core/options.js";
import * as z from "../../src/core/schema.js";
import { show } from "../../src/core/show.js";
import { FROM_PRETRAINED, TOKENIZER_FROM_PRETRAINED } from "../../src/generate/loading-options.js";
import { FORWARD, GENERATE } from "../../src/generate/options.js";
import { BITS_AND_BYTES } from "../../src/quant/config.js";
import { CALL, DECODE } from "../../src/tokenizer/options.js";

const TABLE = {
  tokens: whole(1, { hint: "try 5" }),
  share: number((n) => n <= 1, "at most 1"),
  side: choice(["left", "right"]),
  size: choice([32, 64, 128]),
  fast: flag(),
  key: text({ secret: true }),
  names: option(z.array(z.string()), "a list of names"),
  write: such<() => void>((value) => typeof value === "function", "a function"),
  signal: signal(),
};

function refusal(options: unknown): OptionError {
  try {
    readOptions("call", TABLE, options);
  } catch (error) {
    expect(error).toBeInstanceOf(OptionError);
    return error as OptionError;
  }
  throw new Error("nothing was refused");
}

test("what is right is given as it came, and what is undefined is left out", () => {
  const write = (): void => {};
  const given = { tokens: 3, share: 0.5, side: "left", size: 64, fast: false, key: "k", names: ["a"], write } as const;
  const read: Options<typeof TABLE> = readOptions("call", TABLE, { ...given, signal: undefined });
  expect(read).toEqual(given);
  expect("signal" in read).toBe(false);
  expect(readOptions("call", TABLE, undefined)).toEqual({});
  expect(pick({ side: TABLE.side, fast: TABLE.fast }, read)).toEqual({ side: "left", fast: false });
});

test.each<[object, string]>([
  [{ tokens: 0 }, "tokens must be a whole number above 0, got 0"],
  [{ tokens: 1.5 }, "tokens must be a whole number above 0, got 1.5"],
  [{ tokens: 5n }, "tokens must be a whole number above 0, got 5n"],
  [{ tokens: null }, "tokens must be a whole number above 0, got null"],
  [{ share: Number.NaN }, "share must be at most 1, got NaN"],
  [{ share: Number.NEGATIVE_INFINITY }, "share must be at most 1, got -Infinity"],
  [{ side: "lefy" }, 'side must be "left" or "right", got "lefy"; did you mean "left"?'],
  [{ side: "down there" }, 'side must be "left" or "right", got "down there"'],
  [{ size: 48 }, "size must be one of 32, 64, 128, got 48"],
  [{ fast: "yes" }, 'fast must be true or false, got "yes"'],
  [{ key: 5 }, "key must be text, got number"],
  [{ names: ["a", 1] }, 'names must be a list of names, got ["a",1]'],
  [{ write: "stdout" }, 'write must be a function, got "stdout"'],
  [{ signal: {} }, "signal must be an AbortSignal, got {}"],
])("%o is refused", (options, words) => {
  const error = refusal(options);
  expect(error.message.split("\n")[0]).toBe(words);
  expect(error.details.option).toBe(Object.keys(options)[0]);
});

test("a hint is the entry's", () => expect(refusal({ tokens: -1 }).hint).toBe("try 5"));

test("an unknown name is refused before any value, and a name of any length makes a short message", () => {
  expect(refusal({ tokens: 0, sidee: 1 }).message).toBe("call: unknown option `sidee`; did you mean `side`?");
  expect(refusal({ ["x".repeat(1e6)]: 1 }).message.length).toBeLessThan(250);
  // Names of Object.prototype are not options.
  expect(refusal({ toString: 1 }).message).toContain("unknown option `toString`");
  expect(refusal(JSON.parse('{"__proto__": 1}')).message).toContain("unknown option `__proto__`");
  for (const options of [null, 5, "x"]) expect(refusal(options).message).toContain("options must be an object");
});

test("the value of a secret is in no message", () => {
  const token = ["hf_secret"];
  for (const table of [FROM_PRETRAINED, TOKENIZER_FROM_PRETRAINED, WORKER_LOAD]) {
    expect(() => readOptions("load", table, { token })).toThrow(/^token must be text[^"]*, got object$/);
  }
});

describe("show", () => {
  const throws = (): never => {
    throw new Error("it was called");
  };
  const HOSTILE: readonly [string, unknown, RegExp][] = [
    ["a toJSON that throws", { toJSON: throws }, /^\{"toJSON":a function\}$/],
    ["a toString that throws", { toString: throws, [Symbol.toPrimitive]: throws }, /a function/],
    ["a getter", Object.defineProperty({}, "a", { get: throws, enumerable: true }), /^\{"a":a getter\}$/],
    ["a getter in a list", Object.defineProperty([1], "0", { get: throws }), /^\[a getter\]$/],
    ["a proxy", new Proxy({}, { getPrototypeOf: throws, ownKeys: throws }), /cannot be read/],
    ["a revoked proxy", revoked(), /cannot be read/],
    ["a class with a hostile name", new (hostileClass())(), /^an object of class no name$/],
    ["a class", new Map(), /^an object of class Map$/],
    ["no prototype", Object.create(null), /^\{\}$/],
    ["a circle", circle(), /^\{"self":\{"self":\{\.\.\.\}\}\}$/],
    ["a bigint of a million digits", 10n ** 1000000n, /^a bigint of more than 64 bits$/],
    ["a symbol", Symbol("x".repeat(1e6)), /^a symbol$/],
    ["a function", throws, /^a function$/],
    ["a long text", "ü".repeat(1e7), /^"ü{80}\.\.\."$/],
    ["half a surrogate", "\ud800", /^"\\ud800"$/],
    ["a huge list", new Array(1e9), /^\[undefined(,undefined){7},\.\.\.\]$/],
    ["minus zero", -0, /^-0$/],
    ["NaN", Number.NaN, /^NaN$/],
    ["undefined", undefined, /^undefined$/],
    ["bytes", new Uint8Array(1e6), /^an object of class Uint8Array$/],
  ];

  test.each(HOSTILE)("%s", (_, value, words) => {
    expect(show(value)).toMatch(words);
    expect(show(value).length).toBeLessThanOrEqual(160);
    // As an option, too, and inside of others.
    expect(refusal({ tokens: value ?? null }).message.length).toBeLessThan(300);
    expect(show({ a: [value] }).length).toBeLessThanOrEqual(160);
  });

  test("any value of JSON is shown as JSON, as far as there is room", () => {
    expect(show({ a: [1, "x", null], b: true })).toBe('{"a":[1,"x",null],"b":true}');
    fc.assert(
      fc.property(fc.anything({ withBigInt: true, withTypedArray: true, withNullPrototype: true }), (value) => {
        expect(show(value).length).toBeLessThanOrEqual(160);
      }),
    );
  });

  function revoked(): object {
    const { proxy, revoke } = Proxy.revocable([], {});
    revoke();
    return proxy;
  }
  function hostileClass(): new () => object {
    return Object.defineProperty(class {}, "name", { get: throws });
  }
  function circle(): object {
    const one: Record<string, unknown> = {};
    one.self = one;
    return one;
  }
});

test("every option of every call refuses hostile values with a typed error, or takes them", () => {
  const values = [
    Symbol("x"),
    10n ** 100n,
    Number.NaN,
    { toJSON: null, toString: null },
    Object.create(null),
    [],
    () => 1,
  ];
  const tables = {
    FROM_PRETRAINED,
    TOKENIZER_FROM_PRETRAINED,
    FORWARD,
    GENERATE,
    BITS_AND_BYTES,
    CALL,
    DECODE,
    WORKER_LOAD,
    WORKER_GENERATE,
  };
  let refused = 0;
  for (const [place, table] of Object.entries(tables)) {
    for (const name of Object.keys(table)) {
      for (const value of values) {
        try {
          readOptions(place, table, { [name]: value });
        } catch (error) {
          expect(error, `${place} ${name}`).toBeInstanceOf(OptionError);
          expect((error as OptionError).message).toMatch(new RegExp(`^${name} must be .+, got .+`));
          refused++;
        }
      }
    }
  }
  expect(refused).toBeGreaterThan(300);
});
