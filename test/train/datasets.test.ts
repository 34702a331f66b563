// Data sets: readers of files, what is refused with its line, and the transforms of datasets in memory and of streams.

import { mkdirSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, test, vi } from "vitest";
import { FormatError, NotFoundError, type OctavoError, OptionError } from "../../src/index.js";
import { Dataset } from "../../src/train/data/dataset.js";
import { IterableDataset } from "../../src/train/data/iterable-dataset.js";
import type { Feature } from "../../src/train/data/types.js";
import { load_dataset } from "../../src/train.js";
import { FIXTURES } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

const folder = temporary("data");
mkdirSync(folder, { recursive: true });
const put = (name: string, content: string | Uint8Array): string => {
  const file = join(folder, name);
  writeFileSync(file, content);
  return file;
};
const rowsOf = async (file: string, options: object = {}): Promise<Feature[]> =>
  (await load_dataset(file, { ...options, split: "train" })).to_list();
const refused = async (work: Promise<unknown>): Promise<OctavoError> => {
  const error = await work.then(
    () => undefined,
    (error: unknown) => error,
  );
  return error as OctavoError;
};
async function all(examples: AsyncIterable<Feature>): Promise<Feature[]> {
  const rows: Feature[] = [];
  for await (const one of examples) rows.push(one);
  return rows;
}
const numbers = (count: number): Dataset => Dataset.from_dict({ n: Array.from({ length: count }, (_, i) => i) });
const ns = (rows: Iterable<Feature>): number[] => [...rows].map(({ n }) => n as number);

describe("JSON", () => {
  test("lines, in UTF-8 or UTF-16 with a mark, and a list", async () => {
    const text = '{"text":"Größe"}\r\n\n{"text":"b","n":[1,{"c":null}]}\n';
    const rows = [{ text: "Größe" }, { text: "b", n: [1, { c: null }] }];
    expect(await rowsOf(put("a.jsonl", text))).toEqual(rows);
    expect(await rowsOf(put("mark.jsonl", `\ufeff${text}`))).toEqual(rows);
    expect(await rowsOf(put("wide.jsonl", Buffer.from(`\ufeff${text}`, "utf16le")))).toEqual(rows);
    const swapped = Buffer.from(`\ufeff${text}`, "utf16le").swap16();
    expect(await rowsOf(put("swapped.jsonl", swapped))).toEqual(rows);
    expect(await rowsOf(put("list.json", JSON.stringify(rows, undefined, 2)))).toEqual(rows);
    expect(await rowsOf(put("lines.json", text))).toEqual(rows);
    const field = put("field.json", JSON.stringify({ version: 1, data: rows }));
    expect(await rowsOf("json", { data_files: field, field: "data" })).toEqual(rows);
    expect(await rowsOf(put("empty.jsonl", ""))).toEqual([]);
  });

  test.each<[name: string, content: string | Uint8Array, message: RegExp]>([
    ["no-json.jsonl", '{"a":1}\n{"a":\n', /no-json\.jsonl, line 2: no JSON/],
    ["number.jsonl", '{"a":1}\n\n3\n', /number\.jsonl, line 3: expected an object, got 3/],
    ["pretty.jsonl", '{\n"a":1}\n', /line 1: no JSON[\s\S]*one object stands on one line/],
    [
      "latin.jsonl",
      Buffer.from('{"a":"x"}\n{"a":"\xfc"}\n', "latin1"),
      /latin\.jsonl, line 2: bytes that are not UTF-8/,
    ],
    ["zero.jsonl", Buffer.from('{"a":1}\n', "utf16le"), /line 1: a zero byte/],
    ["list.json", '[{"a":1}, 2]', /list\.json: entry 1 is no object, but 2/],
    ["zip.jsonl", "PK\x03\x04....", /expected text, got a zip archive/],
  ])("%s is refused", async (name, content, message) => {
    const error = await refused(rowsOf(put(name, content)));
    expect(error).toBeInstanceOf(FormatError);
    expect(error.message).toMatch(message);
  });
});

describe("CSV", () => {
  test("quotes, line ends in fields, tabs, types", async () => {
    const csv = 'prompt,label\r\n"a ""b"", c",1\r\n"two\nlines",-2\r\n\r\nplain,';
    expect(await rowsOf(put("a.csv", csv), {})).toEqual([
      { prompt: 'a "b", c', label: "1" },
      { prompt: "two\nlines", label: "-2" },
      { prompt: "plain", label: "" },
    ]);
    const typed = await rowsOf("csv", { data_files: join(folder, "a.csv"), features: { label: "int64" } });
    expect(typed.map(({ label }) => label)).toEqual([1, -2, null]);
    expect(await rowsOf(put("a.tsv", "a\tb\n1,2\t3\n"))).toEqual([{ a: "1,2", b: "3" }]);
    const bare = { data_files: put("bare.csv", "1;true\n2.5;0\n"), delimiter: ";", column_names: ["x", "y"] };
    expect(await rowsOf("csv", { ...bare, features: { x: "float64", y: "bool" } })).toEqual([
      { x: 1, y: true },
      { x: 2.5, y: false },
    ]);
  });

  test.each<[name: string, content: string, options: object, message: RegExp]>([
    ["short.csv", "a,b\n1,2\n\n3\n", {}, /short\.csv, line 4: 1 fields, and there are 2 columns/],
    ["open.csv", 'a,b\n1,"2\n3,4\n', {}, /open\.csv, line 2: a quote that nothing ends/],
    ["inside.csv", 'a,b\n1,x"y"\n', {}, /line 2: a quote inside a field/],
    ["behind.csv", 'a,b\n"1\n"x,2\n', {}, /line 3: text behind the quote/],
    ["twice.csv", "a,a\n", {}, /two columns are called "a"/],
    ["type.csv", "a\n1.5\n", { features: { a: "int64" } }, /line 2: "1.5" in column a is no int64/],
    ["column.csv", "a\n1\n", { features: { b: "int64" } }, /no column "b", only a/],
  ])("%s is refused", async (name, content, options, message) => {
    const error = await refused(rowsOf(put(name, content), options));
    expect(error).toBeInstanceOf(FormatError);
    expect(error.message).toMatch(message);
  });
});

test("text by lines, paragraphs and whole", async () => {
  const file = put("a.txt", "one\ntwo\n\n\nthree");
  expect(await rowsOf(file)).toEqual(["one", "two", "", "", "three"].map((text) => ({ text })));
  expect(await rowsOf(file, { sample_by: "paragraph" })).toEqual([{ text: "one\ntwo" }, { text: "three" }]);
  expect(await rowsOf(file, { sample_by: "document" })).toEqual([{ text: "one\ntwo\n\n\nthree" }]);
});

test("Parquet as pyarrow writes it, and what is missing without the package", async () => {
  const rows = await rowsOf(join(FIXTURES, "training", "rows.parquet"));
  expect(rows).toEqual([
    {
      prompt: "The king said: ",
      label: 1,
      messages: [
        { content: "Who lived in the wood?", role: "user" },
        { content: "A fox.", role: "assistant" },
      ],
      ids: [1, 2],
    },
    { prompt: "Größe", label: 2, messages: [{ content: "Who lived in the wood?", role: "user" }], ids: [] },
    { prompt: null, label: 2 ** 40, messages: [], ids: [3] },
  ]);
  expect((await rowsOf(join(FIXTURES, "training", "zstd.parquet"))).length).toBe(3);
  const broken = await refused(rowsOf(put("broken.parquet", "PAR1 and nothing")));
  expect(broken).toBeInstanceOf(FormatError);
  vi.doMock("hyparquet", () => {
    throw new Error("not here");
  });
  const error = await refused(rowsOf(join(FIXTURES, "training", "rows.parquet")));
  vi.doUnmock("hyparquet");
  expect(error.message).toMatch(/Parquet needs the package hyparquet[\s\S]*npm install hyparquet/);
});

describe("load_dataset", () => {
  test("splits of a folder, of names, and parts of them", async () => {
    const place = join(folder, "parts");
    mkdirSync(join(place, "more"), { recursive: true });
    const lines = (from: number, count: number): string =>
      Array.from({ length: count }, (_, i) => `{"n":${from + i}}\n`).join("");
    writeFileSync(join(place, "train-00.jsonl"), lines(0, 3));
    writeFileSync(join(place, "more", "train-01.jsonl"), lines(3, 2));
    writeFileSync(join(place, "test.jsonl"), lines(10, 1));
    writeFileSync(join(place, "README.md"), "nothing");
    const { train, test } = await load_dataset(place);
    expect([ns(train!), ns(test!)]).toEqual([[3, 4, 0, 1, 2], [10]]);
    const dotted = relative(".", place);
    expect(Object.keys(await load_dataset(`./${dotted}/`))).toEqual(["train", "test"]);
    expect(Object.keys(await load_dataset(pathToFileURL(place)))).toEqual(["train", "test"]);
    const part = async (split: string): Promise<number[]> => ns(await load_dataset(place, { split }));
    expect(await part("train[1:3]")).toEqual([4, 0]);
    expect(await part("train[-2:]")).toEqual([1, 2]);
    expect(await part("train[:40%]")).toEqual([3, 4]);
    const files = { train: [join(place, "train-00.jsonl")], later: join(place, "test.jsonl") };
    expect(Object.keys(await load_dataset("json", { data_files: files }))).toEqual(["train", "later"]);
    const stream = await load_dataset(place, { split: "train[1:3]", streaming: true });
    expect(ns(await all(stream))).toEqual([4, 0]);
    expect(ns(await all(stream))).toEqual([4, 0]);
    const bytes = new TextEncoder().encode(lines(5, 2));
    expect(ns(await load_dataset("json", { data_files: bytes, split: "train" }))).toEqual([5, 6]);
    expect(ns(await load_dataset("json", { data_files: new Blob([bytes]), split: "train" }))).toEqual([5, 6]);
  });

  test.each<[path: unknown, options: object, kind: new (message: string) => Error, message: RegExp]>([
    ["nowhere.jsonl", {}, NotFoundError, /no such file or folder/],
    ["json", {}, OptionError, /of which files/],
    [join(folder, "a.csv"), { field: "data" }, OptionError, /field is for files of json/],
    [join(folder, "a.csv"), { split: "test" }, OptionError, /no split "test", only train/],
    [join(folder, "a.csv"), { split: "train[a]" }, OptionError, /no name of a split/],
    [join(folder, "a.csv"), { split: "train[:10%]", streaming: true }, OptionError, /length of a stream/],
    [join(folder, "a.csv"), { data_files: "x" }, OptionError, /needs the name of a format/],
    [join(FIXTURES, "training"), {}, OptionError, /several formats/],
    [join(FIXTURES, "README.md"), {}, OptionError, /format of .* is not known/],
    [3, {}, OptionError, /a path, an address or bytes/],
  ])("%s, %o", async (path, options, kind, message) => {
    const error = await refused(load_dataset(path as string, options));
    expect(error).toBeInstanceOf(kind);
    expect(error.message).toMatch(message);
  });

  test("a stream reads a file only as far as it is asked for", async () => {
    const good = '{"n":1}\n'.repeat(150_000); // more than a piece
    const stream = await load_dataset(put("long.jsonl", `${good}no JSON\n`), { split: "train", streaming: true });
    expect((await all(stream.take(10))).length).toBe(10);
    const error = await refused(all(stream));
    expect(error.message).toMatch(/line 150001: no JSON/);
  });
});

describe("Dataset", () => {
  test("map, filter, select, columns", () => {
    const data = numbers(5);
    expect(data.map(({ n }, i) => ({ m: (n as number) * 10 + i })).at(2)).toEqual({ n: 2, m: 22 });
    expect(data.map(({ n }) => ({ n: -(n as number) }), { remove_columns: "n" }).at(-1)).toEqual({ n: -4 });
    const pairs = data.map(({ n }) => ({ k: (n as number[]).flatMap((one) => [one, one]) }), {
      batched: true,
      batch_size: 2,
      remove_columns: ["n"],
    });
    expect(pairs.column("k")).toEqual([0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
    expect(ns(data.filter(({ n }) => (n as number) % 2 === 1))).toEqual([1, 3]);
    expect(ns(data.select([4, 0, 4]))).toEqual([4, 0, 4]);
    expect(data.rename_column("n", "x").column_names).toEqual(["x"]);
    expect([0, 1].map((index) => ns(data.shard({ num_shards: 2, index })))).toEqual([
      [0, 1, 2],
      [3, 4],
    ]);
  });

  test("shuffle and split are the same for the same seed, and lose nothing", () => {
    const data = numbers(100);
    const order = ns(data.shuffle({ seed: 7 }));
    expect(order).toEqual(ns(data.shuffle({ seed: 7 })));
    expect(order).not.toEqual(ns(data.shuffle({ seed: 8 })));
    expect([...order].sort((a, b) => a - b)).toEqual(ns(data));
    const { train, test } = data.train_test_split({ test_size: 0.101, seed: 3 });
    expect([train.length, test.length]).toEqual([89, 11]);
    expect(new Set([...ns(train), ...ns(test)]).size).toBe(100);
    const plain = data.train_test_split({ test_size: 3, shuffle: false });
    expect(ns(plain.test)).toEqual([97, 98, 99]);
  });

  test("what is wrong is refused", () => {
    const data = numbers(3);
    const wrong: [() => unknown, RegExp][] = [
      [() => data.at(3), /there are 3 examples, and none has the number 3/],
      [() => data.select([0, -1]), /number -1/],
      [() => data.map((async () => ({})) as never), /gave a promise/],
      [() => data.map(() => 3 as never), /object of fields, got 3/],
      [() => data.map(() => ({ k: [1] }), { batched: true }), /3 examples became 1, and n did not/],
      [() => data.remove_columns("m"), /no column "m"; there are n/],
      [() => data.train_test_split({ test_size: 3 }), /cannot be split into 0 and 3/],
      [() => data.shuffle({ seed: -1 }), /whole number below/],
      [() => Dataset.from_dict({ a: [1], b: [] }), /column a has 1 entries, and b has 0/],
      [() => Dataset.from_list([1] as never), /list of objects/],
    ];
    for (const [work, message] of wrong) expect(work).toThrow(message);
  });
});

describe("IterableDataset", () => {
  const stream = IterableDataset.from_generator(() => numbers(20));

  test("map, filter, take and skip work as examples come", async () => {
    const made = stream
      .map(async ({ n }) => ({ m: (n as number) * 2 }))
      .filter(async ({ m }) => (m as number) % 4 === 0)
      .skip(1)
      .take(3);
    expect(await all(made)).toEqual([2, 4, 6].map((n) => ({ n, m: 2 * n })));
    const batched = stream.map(({ n }) => ({ n: (n as number[]).slice(1) }), { batched: true, batch_size: 8 });
    expect((await all(batched)).length).toBe(17);
  });

  test("shuffle has a buffer, a seed and an epoch", async () => {
    const mixed = stream.shuffle({ seed: 5, buffer_size: 4 });
    const first = ns(await all(mixed));
    expect(ns(await all(mixed))).toEqual(first);
    expect([...first].sort((a, b) => a - b)).toEqual(ns(numbers(20)));
    // No example comes before the buffer holds it.
    expect(first.every((n, at) => n < at + 4 + 1)).toBe(true);
    const mapped = mixed.map(() => null);
    mapped.set_epoch(1);
    expect(ns(await all(mapped))).not.toEqual(first);
  });
});
