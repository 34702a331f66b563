// Arrow files, as Python's datasets and pyarrow write them (test/fixtures/make_arrow.py), and what save_to_disk makes of them.

import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test, vi } from "vitest";
import { FormatError, NotFoundError, OptionError } from "../../src/index.js";
import { Dataset } from "../../src/train/data/dataset.js";
import { load_dataset, load_from_disk } from "../../src/train.js";
import { FIXTURES } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

const ARROW = join(FIXTURES, "arrow");

/** The rows of expected.json; what JSON has no form for stands there as an object of one field. */
const EXPECTED = JSON.parse(readFileSync(join(ARROW, "expected.json"), "utf8"), (_, value) => {
  const { $bytes, $date, $bigint } = (value ?? {}) as Record<string, string | undefined>;
  if ($bytes !== undefined) return new Uint8Array(Buffer.from($bytes, "base64"));
  if ($date !== undefined) return new Date($date);
  return $bigint === undefined ? value : BigInt($bigint);
}) as Readonly<Record<"train" | "test" | "shards" | "file" | "deltas", readonly object[]>>;

const rowsOf = async (file: string): Promise<object[]> => [...(await load_dataset(file, { split: "train" }))];

describe("files", () => {
  test("streams, files, dictionaries with codes that come later, and none at all", async () => {
    expect(await rowsOf(join(ARROW, "splits", "train", "data-00000-of-00001.arrow"))).toEqual(EXPECTED.train);
    expect(await rowsOf(join(ARROW, "file.arrow"))).toEqual(EXPECTED.file);
    expect(await rowsOf(join(ARROW, "deltas.arrow"))).toEqual(EXPECTED.deltas);
    expect(await rowsOf(join(ARROW, "none.arrow"))).toEqual([]);
    const streamed = await load_dataset("arrow", {
      data_files: [0, 1, 2].map((i) => join(ARROW, "shards", `data-0000${i}-of-00003.arrow`)),
      split: "train",
      streaming: true,
    });
    const rows: object[] = [];
    for await (const row of streamed) rows.push(row);
    expect(rows).toEqual(EXPECTED.shards);
    const bytes = readFileSync(join(ARROW, "file.arrow"));
    const odd = new Uint8Array(bytes.length + 3).subarray(3);
    odd.set(bytes);
    expect([...(await load_dataset("arrow", { data_files: odd, split: "train" }))]).toEqual(EXPECTED.file);
  });

  test("compressed batches are refused by name, and so is a machine without the package", async () => {
    const packed = join(ARROW, "packed.arrow");
    await expect(rowsOf(packed)).rejects.toThrow(FormatError);
    await expect(rowsOf(packed)).rejects.toThrow(/packed\.arrow.*LZ4/i);
    vi.doMock("@uwdata/flechette", () => {
      throw new Error("not here");
    });
    const missing = /Arrow needs the package @uwdata\/flechette[\s\S]*npm install @uwdata\/flechette/;
    await expect(rowsOf(join(ARROW, "file.arrow"))).rejects.toThrow(missing);
    vi.doUnmock("@uwdata/flechette");
  });

  test("files that are cut, or whose bytes are others, give rows or a FormatError with their name", async () => {
    const file = `${temporary("broken")}-data.arrow`;
    const bytes = readFileSync(join(ARROW, "splits", "train", "data-00000-of-00001.arrow"));
    let state = 7;
    const below = (n: number): number => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
      return (state >>> 8) % n;
    };
    const tried: (string | undefined)[] = [];
    for (let n = 0; n < 200; n++) {
      const copy = Buffer.from(n % 4 === 0 ? bytes.subarray(0, below(bytes.length)) : bytes);
      for (let i = 0; n % 4 !== 0 && i <= n % 3; i++) copy[below(n % 2 ? 1500 : copy.length)] = below(256);
      writeFileSync(file, copy);
      const error = await rowsOf(file).then(
        () => undefined,
        (cause: unknown) => cause as Error,
      );
      if (error) expect(error).toBeInstanceOf(FormatError);
      if (error) expect(error.message).toContain("data.arrow");
      tried.push(error?.message);
    }
    expect(tried.filter((message) => message !== undefined).length).toBeGreaterThan(60);
    for (const [content, message] of [
      ["", /no schema/],
      ["ARROW1\0\0", /no schema/],
      ["abc", /ends within the message at byte 0/],
      [new Uint8Array([255, 255, 255, 255, 255, 255, 255, 127]), /ends within the message at byte 0/],
      [
        new Uint8Array([255, 255, 255, 255, 8, 0, 0, 0, 99, 99, 99, 99, 0, 0, 0, 0]),
        /message at byte 0: it points beyond its end/,
      ],
    ] as const) {
      writeFileSync(file, content);
      await expect(rowsOf(file)).rejects.toThrow(message);
    }
  });
});

describe("save_to_disk", () => {
  test("data sets and splits are loaded, by load_dataset too", async () => {
    const splits = (await load_from_disk(join(ARROW, "splits"))) as Record<string, Dataset>;
    expect(Object.keys(splits)).toEqual(["train", "test"]);
    expect(splits.train).toBeInstanceOf(Dataset);
    expect([...splits.train!]).toEqual(EXPECTED.train);
    expect([...splits.test!]).toEqual(EXPECTED.test);
    const one = (await load_from_disk(join(ARROW, "shards"))) as Dataset;
    expect([...one]).toEqual(EXPECTED.shards);
    expect([...(await load_dataset(join(ARROW, "splits"), { split: "test" }))]).toEqual(EXPECTED.test);
    expect([...(await load_dataset(join(ARROW, "shards"), { split: "train[1:3]" }))]).toEqual(
      EXPECTED.shards.slice(1, 3),
    );
  });

  test("other folders and damaged ones are refused", async () => {
    await expect(load_from_disk("")).rejects.toThrow(OptionError);
    await expect(load_from_disk(7 as never)).rejects.toThrow(OptionError);
    await expect(load_from_disk(join(ARROW, "nowhere"))).rejects.toThrow(NotFoundError);
    await expect(load_from_disk(join(FIXTURES, "training"))).rejects.toThrow(/no folder that save_to_disk wrote/);
    const folder = join(temporary("saved"), "data");
    cpSync(join(ARROW, "splits"), folder, { recursive: true });
    const state = join(folder, "test", "state.json");
    for (const [content, message] of [
      ["{", /state\.json/],
      ["null", /"_data_files" must be a list of names, got undefined/],
      ['{"_data_files": [{"filename": 7}]}', /must be a list of names/],
      ['{"_data_files": ["../train/data-00000-of-00001.arrow"]}', /there is no file/],
      ['{"_data_files": [], "_indices_files": [{"filename": "i.arrow"}]}', /save it again/],
    ] as const) {
      writeFileSync(state, content);
      await expect(load_from_disk(folder)).rejects.toThrow(message);
      await expect(load_from_disk(folder)).rejects.toThrow(FormatError);
    }
    rmSync(state);
    await expect(load_from_disk(folder)).rejects.toThrow(/the split "test" has no state\.json/);
  });
});
