// Random and half-broken headers: nothing but a FormatError ever comes out, and what is accepted is what JSON.parse reads
// and covers the file exactly. fast-check prints the seed when it fails.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parseSafetensorsHeader } from "../../src/checkpoints/safetensors.js";
import { JsonScanner } from "../../src/sources/json-text.js";
import { FormatError } from "../support/source-tools.js";

const BYTES: Record<string, number> = { F32: 4, F16: 2, BF16: 2, I8: 1, U8: 1, I64: 8, BOOL: 1, F8_E4M3: 1, C64: 8 };

/** Parses; true if accepted, after checking that acceptance was right. Anything but a FormatError gets out. */
function decide(header: Uint8Array, size: number): boolean {
  let parsed: ReturnType<typeof parseSafetensorsHeader>;
  try {
    parsed = parseSafetensorsHeader(header, size, "x");
  } catch (error) {
    if (error instanceof FormatError) return false;
    throw error;
  }
  const json = JSON.parse(Buffer.from(header).toString("utf8"));
  const names = Object.keys(json).filter((name) => name !== "__metadata__");
  expect([...parsed.tensors.keys()].sort()).toEqual(names.sort());
  let at = 8 + header.length;
  for (const [name, info] of parsed.tensors) {
    const written = Object.getOwnPropertyDescriptor(json, name)!.value;
    expect(info.shape).toEqual(written.shape);
    expect(info.dtype).toBe(written.dtype);
    expect(info.offset).toBe(at);
    const width = BYTES[info.dtype];
    if (width) expect(info.bytes).toBe(info.shape.reduce((product, dim) => product * dim, width));
    at += info.bytes;
  }
  expect(at).toBe(size);
  expect(Object.fromEntries(parsed.metadata)).toEqual(json.__metadata__ ?? {});
  return true;
}

const names = fc.oneof(
  fc.string({ unit: "grapheme", maxLength: 12 }),
  fc.constantFrom("__proto__", "constructor", "toString", "model.layers.0.weight", "", "../x"),
);

/** A valid header and the size of its data. */
const valid = fc
  .record({
    tensors: fc.uniqueArray(
      fc.record({
        name: names.filter((name) => name !== "__metadata__" && Buffer.from(name).toString() === name),
        dtype: fc.constantFrom(...Object.keys(BYTES)),
        shape: fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 4 }),
      }),
      { selector: ({ name }) => name, maxLength: 6 },
    ),
    metadata: fc.option(
      fc.dictionary(fc.string({ maxLength: 5 }), fc.string({ maxLength: 5 }), { noNullPrototype: true }),
    ),
    spaces: fc.nat({ max: 3 }),
  })
  .map(({ tensors, metadata, spaces }) => {
    let at = 0;
    const parts = tensors.map(({ name, dtype, shape }) => {
      const end = at + shape.reduce((product, dim) => product * dim, BYTES[dtype]!);
      const text = `${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [at, end] })}`;
      at = end;
      return text;
    });
    if (metadata) parts.push(`"__metadata__":${JSON.stringify(metadata)}`);
    return { text: `{${parts.join(",")}}${" ".repeat(spaces)}`, data: at };
  });

const tokens = [
  "{",
  "}",
  "[",
  "]",
  ",",
  ":",
  '"',
  "null",
  "-0",
  "4e0",
  "1.0",
  "0",
  "18446744073709551616",
  "9007199254740993",
  '"dtype"',
  '"shape"',
  '"data_offsets"',
  '"__metadata__"',
  '"__proto__"',
  "\\ud800",
  "\\u0000",
  "\ufeff",
  "\0",
  "NaN",
  "//",
];
const where = fc.double({ min: 0, max: 1, noNaN: true });
const mutation = fc.oneof(
  fc.record({ kind: fc.constant("insert" as const), at: where, text: fc.constantFrom(...tokens) }),
  fc.record({ kind: fc.constant("delete" as const), at: where, count: fc.integer({ min: 1, max: 20 }) }),
  fc.record({ kind: fc.constant("byte" as const), at: where, byte: fc.nat({ max: 255 }) }),
  fc.record({ kind: fc.constant("repeat" as const), at: where, count: fc.integer({ min: 1, max: 60 }) }),
  fc.record({
    kind: fc.constant("number" as const),
    at: where,
    text: fc.constantFrom(...tokens.slice(7, 14), "1", "8"),
  }),
);

function mutate(bytes: Buffer, m: typeof mutation extends fc.Arbitrary<infer T> ? T : never): Buffer {
  const at = Math.floor(m.at * bytes.length);
  const [before, after] = [bytes.subarray(0, at), bytes.subarray(at)];
  if (m.kind === "insert") return Buffer.concat([before, Buffer.from(m.text), after]);
  if (m.kind === "delete") return Buffer.concat([before, after.subarray(m.count)]);
  if (m.kind === "repeat") return Buffer.concat([before, after.subarray(0, m.count), after]);
  if (m.kind === "byte") return Buffer.concat([before, Buffer.from([m.byte]), after.subarray(1)]);
  // Latin-1 keeps every byte as it is.
  return Buffer.from(before.toString("latin1") + after.toString("latin1").replace(/[0-9]+/, m.text), "latin1");
}

describe("the header parser", () => {
  test("accepts every valid header", () => {
    fc.assert(
      fc.property(valid, ({ text, data }) => {
        const header = Buffer.from(text);
        expect(decide(header, 8 + header.length + data)).toBe(true);
      }),
      { numRuns: 500 },
    );
  });

  test("refuses or rightly accepts headers with one to four mutations", () => {
    let accepted = 0;
    let refused = 0;
    fc.assert(
      fc.property(valid, fc.array(mutation, { minLength: 1, maxLength: 4 }), ({ text, data }, mutations) => {
        let header: Buffer = Buffer.from(text);
        for (const m of mutations) header = mutate(header, m);
        if (decide(header, 8 + header.length + data)) accepted++;
        else refused++;
      }),
      { numRuns: 4000 },
    );
    // Both ways must have been tried, or the mutations are of no use.
    expect(refused).toBeGreaterThan(500);
    expect(accepted).toBeGreaterThan(50);
  });

  test("refuses random bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat({ max: 100 }), (header, data) => {
        decide(header, 8 + header.length + data);
      }),
      { numRuns: 2000 },
    );
  });
});

describe("the JSON reader", () => {
  const plain = (value: unknown): unknown =>
    Array.isArray(value)
      ? value.map(plain)
      : typeof value === "object" && value !== null
        ? Object.entries(value).map(([key, inner]) => [key, plain(inner)])
        : value;

  test("reads what JSON.stringify writes", () => {
    fc.assert(
      fc.property(fc.json({ stringUnit: "binary" }), (text) => {
        expect(plain(new JsonScanner(Buffer.from(text), "x").document())).toEqual(plain(JSON.parse(text)));
      }),
      { numRuns: 1000 },
    );
  });

  test("never accepts what JSON.parse refuses, and reads the same where both accept", () => {
    fc.assert(
      fc.property(fc.json({ maxDepth: 3 }), fc.array(mutation, { minLength: 1, maxLength: 3 }), (text, mutations) => {
        let bytes: Buffer = Buffer.from(text);
        for (const m of mutations) bytes = mutate(bytes, m);
        let value: unknown;
        try {
          value = new JsonScanner(bytes, "x").document();
        } catch (error) {
          if (error instanceof FormatError) return;
          throw error;
        }
        expect(plain(value)).toEqual(plain(JSON.parse(bytes.toString("utf8"))));
      }),
      { numRuns: 3000 },
    );
  });
});
