// The writer: byte for byte the reference's files, whole or not at all.

import { link, readdir, readFile, symlink } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type TensorToWrite, writeSafetensors } from "../../src/checkpoints/safetensors-write.js";
import { OptionError } from "../../src/core/errors.js";
import { FIXTURES, FormatError, failure, put, readSafetensorsHeader, scratch } from "../support/source-tools.js";

const folder = scratch();
const file = join(folder, "out.safetensors");
const A: TensorToWrite = { name: "a", dtype: "F32", shape: [1], data: new Uint8Array([1, 2, 3, 4]) };

describe("files of the reference library are written again byte for byte", () => {
  test.each([
    "models/llama/model.safetensors",
    "models/llama/expected.safetensors",
    "checkpoints/llama/safetensors-sharded/model-00002-of-00003.safetensors",
  ])("%s", async (name) => {
    const source = join(FIXTURES, name);
    const bytes = await readFile(source);
    const { tensors, metadata } = await readSafetensorsHeader(source);
    const list = [...tensors.values()].map((info) => ({
      ...info,
      data: () => bytes.subarray(info.offset, info.offset + info.bytes),
    }));
    await writeSafetensors(file, list.reverse(), metadata);
    expect((await readFile(file)).equals(bytes)).toBe(true);
  });
});

test("tensors are ordered from wide to narrow dtypes, then by name; data begins at a multiple of 8", async () => {
  const make = (name: string, dtype: TensorToWrite["dtype"], bytes: number) => {
    return { name, dtype, shape: [2], data: new Uint8Array(bytes).fill(name.charCodeAt(0)) };
  };
  await writeSafetensors(
    file,
    [make("b", "U8", 2), make("z", "F32", 8), make("q", "BF16", 4), make("y", "F32", 8), make("c", "I64", 16)],
    { format: "pt", a: "ü" },
  );
  const { tensors, metadata } = await readSafetensorsHeader(file);
  expect([...tensors.keys()]).toEqual(["c", "y", "z", "q", "b"]);
  expect([...metadata]).toEqual([
    ["a", "ü"],
    ["format", "pt"],
  ]);
  expect(tensors.get("c")!.offset % 8).toBe(0);
  const bytes = await readFile(file);
  for (const info of tensors.values()) {
    const data = bytes.subarray(info.offset, info.offset + info.bytes);
    expect(data.every((byte) => byte === info.name.charCodeAt(0))).toBe(true);
  }
});

test("whatever is written is read back, and the order given does not matter", async () => {
  const tensor = fc.record({
    name: fc.string({ unit: "grapheme", maxLength: 8 }),
    dtype: fc.constantFrom("F32" as const, "U8" as const, "BF16" as const, "F4" as const),
    shape: fc.array(fc.nat({ max: 3 }), { maxLength: 3 }).map((shape) => [2, ...shape]),
  });
  const list = fc.uniqueArray(tensor, { selector: ({ name }) => name, maxLength: 5 });
  await fc.assert(
    fc.asyncProperty(list, async (tensors) => {
      const bits = { F32: 32, U8: 8, BF16: 16, F4: 4 };
      const full = tensors.map((t, i) => {
        const bytes = (t.shape.reduce((a, b) => a * b, 1) * bits[t.dtype]) / 8;
        return { ...t, data: new Uint8Array(bytes).fill(i + 1) };
      });
      await writeSafetensors(file, full);
      const first = await readFile(file);
      await writeSafetensors(file, full.toReversed());
      expect((await readFile(file)).equals(first)).toBe(true);
      const read = (await readSafetensorsHeader(file)).tensors;
      expect(read.size).toBe(full.length);
      for (const { name, dtype, shape, data } of full) {
        const info = read.get(name)!;
        expect(info).toMatchObject({ dtype, shape, bytes: data.length });
        expect(first.subarray(info.offset, info.offset + info.bytes).equals(data)).toBe(true);
      }
    }),
    { numRuns: 40 },
  );
});

describe("refused, and nothing is left behind", () => {
  const bad: [string, TensorToWrite[]][] = [
    ["a name twice", [A, A]],
    ["too few bytes", [{ ...A, shape: [2] }]],
    ["too few bytes from a function", [{ ...A, data: () => new Uint8Array(3) }]],
    ["a negative dimension", [{ ...A, shape: [-1] }]],
    ["a fraction", [{ ...A, shape: [1.5] }]],
    ["an unknown dtype", [{ ...A, dtype: "toString" as "F32" }]],
    ["half a byte", [{ ...A, dtype: "F4", shape: [1] }]],
    ["the name __metadata__", [{ ...A, name: "__metadata__" }]],
  ];
  test.each(bad)("%s", async (_, tensors) => {
    const old = put(folder, "old", "old");
    const before = (await readdir(folder)).sort();
    expect(await failure(() => writeSafetensors(old, tensors))).toBeInstanceOf(OptionError);
    expect((await readdir(folder)).sort()).toEqual(before);
    expect(await readFile(old, "utf8")).toBe("old");
  });

  test("what the reader would refuse", async () => {
    expect(await failure(() => writeSafetensors(file, [{ ...A, name: "\ud800" }]))).toBeInstanceOf(FormatError);
    expect(await failure(() => writeSafetensors(file, [{ ...A, shape: Array(65).fill(1) }]))).toBeInstanceOf(
      FormatError,
    );
  });

  test("an error while the data is made", async () => {
    const old = put(folder, "old", "old");
    const before = (await readdir(folder)).sort();
    const data = () => Promise.reject(new Error("no data"));
    expect(await failure(() => writeSafetensors(old, [A, { ...A, name: "b", data }]))).toMatchObject({
      message: "no data",
    });
    expect((await readdir(folder)).sort()).toEqual(before);
    expect(await readFile(old, "utf8")).toBe("old");
  });
});

test("the old file lives on where it is linked or open: it is replaced, not overwritten", async () => {
  const old = put(folder, "replaced", "old");
  await link(old, join(folder, "second"));
  await symlink("second", join(folder, "link"));
  await writeSafetensors(old, [A]);
  await writeSafetensors(join(folder, "link"), [A]);
  expect(await readFile(join(folder, "second"), "utf8")).toBe("old");
  expect((await readSafetensorsHeader(old)).tensors.size).toBe(1);
  expect((await readSafetensorsHeader(join(folder, "link"))).tensors.size).toBe(1);
});
