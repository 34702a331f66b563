// Checkpoint folders: which file is taken, what an index may say, and that no file outside the folder is ever opened.

import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { cp } from "node:fs/promises";
import { join, resolve, sep } from "node:path";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { FormatError, NotFoundError, OptionError } from "../../src/core/errors.js";
import { entry, FIXTURES, failure, fileOf, openCheckpoint, put, refusal, scratch } from "../support/source-tools.js";

const opened: string[] = vi.hoisted(() => []);
vi.mock("node:fs/promises", async (original) => {
  const fs = await original<typeof import("node:fs/promises")>();
  const spy =
    (work: (path: string, ...rest: unknown[]) => unknown) =>
    (path: string, ...rest: unknown[]) => {
      opened.push(path);
      return work(path, ...rest);
    };
  const open = fs.open as unknown as (path: string) => unknown;
  const readFile = fs.readFile as unknown as (path: string) => unknown;
  return { ...fs, open: spy(open), readFile: spy(readFile) };
});

const root = scratch();
let folder = "";
let count = 0;
beforeEach(() => {
  opened.length = 0;
  folder = join(root, `model-${++count}`);
  mkdirSync(folder);
});

const tensor = (...names: string[]) =>
  fileOf(
    `{${names.map((name, i) => `"${name}":${entry('"F32"', "[1]", `[${i * 4},${i * 4 + 4}]`)}`).join(",")}}`,
    names.length * 4,
  );
const INDEX = "model.safetensors.index.json";
const index = (text: string) => put(folder, INDEX, text);
const map = (entries: Record<string, string>, total?: unknown) =>
  index(JSON.stringify({ metadata: { total_size: total }, weight_map: entries }));

function openedInside(): void {
  const outside = opened.filter((path) => !resolve(path).startsWith(folder + sep));
  expect(outside).toEqual([]);
}

describe("which files", () => {
  test("one file of the reference library, and its shards, hold the same tensors", async () => {
    const one = await openCheckpoint(join(FIXTURES, "models/llama"));
    const three = await openCheckpoint(join(FIXTURES, "checkpoints/llama/safetensors-sharded"));
    expect(one.files).toEqual([join(FIXTURES, "models/llama/model.safetensors")]);
    expect(three.files.length).toBe(3);
    expect(three.warnings).toEqual([]);
    expect(three.totalBytes).toBe(353536);
    expect(one.totalBytes).toBe(353536);
    expect(one.metadata.get("format")).toBe("pt");
    expect([...three.tensors.keys()].sort()).toEqual([...one.tensors.keys()].sort());
    for (const [name, a] of one.tensors) {
      const b = three.tensors.get(name)!;
      expect([b.dtype, b.shape]).toEqual([a.dtype, a.shape]);
      const [left, right] = [a, b].map((t) => readFileSync(t.file).subarray(t.offset, t.offset + t.bytes));
      expect(left!.equals(right!)).toBe(true);
    }
  });

  test("model.safetensors wins over an index, safetensors over .bin", async () => {
    put(folder, "model.safetensors", tensor("a"));
    put(folder, "pytorch_model.bin", "x");
    index("not even JSON");
    expect([...(await openCheckpoint(folder)).tensors.keys()]).toEqual(["a"]);
  });

  test("the file that config.json names is taken, and no other", async () => {
    put(folder, "model.safetensors", tensor("decoy"));
    put(folder, "real.safetensors", tensor("real"));
    put(folder, "real.safetensors.index.json", '{"weight_map":{"real":"real.safetensors"}}');
    mkdirSync(join(folder, "below"), { recursive: true });
    put(folder, "below/other.safetensors", tensor("other"));
    const names = async (named: unknown) => [...(await openCheckpoint(folder, { named })).tensors.keys()];
    expect(await names("real.safetensors")).toEqual(["real"]);
    expect(await names("real.safetensors.index.json")).toEqual(["real"]);
    expect(await names("below/other.safetensors")).toEqual(["other"]);
    expect(await names(null)).toEqual(["decoy"]);
    const absent = await failure(() => names("none.safetensors"));
    expect(absent).toBeInstanceOf(NotFoundError);
    expect(String(absent)).toContain('transformers_weights names "none.safetensors", which is not there');
    const wrong = [
      "../x.safetensors",
      "/x.safetensors",
      "http://x/x.safetensors",
      "../x.bin",
      "x.pt",
      "",
      "..",
      4,
      {},
      ["x.safetensors"],
    ];
    for (const named of wrong) {
      const error = await failure(() => names(named));
      expect(error, JSON.stringify(named)).toBeInstanceOf(FormatError);
      expect(String(error)).toContain("config.json: transformers_weights must name a .safetensors or .bin file");
    }
  });

  test("a variant takes its own files only", async () => {
    put(folder, "model.safetensors", tensor("plain"));
    put(folder, "model.fp16.safetensors", tensor("half"));
    put(folder, "shard.safetensors", tensor("eight"));
    put(folder, "model.safetensors.index.int8.json", '{"weight_map":{"eight":"shard.safetensors"}}');
    expect([...(await openCheckpoint(folder, { variant: "fp16" })).tensors.keys()]).toEqual(["half"]);
    expect([...(await openCheckpoint(folder, { variant: "int8" })).tensors.keys()]).toEqual(["eight"]);
    const error = await failure(() => openCheckpoint(folder, { variant: "bf16" }));
    expect(error).toBeInstanceOf(NotFoundError);
    expect(String(error)).toMatch(/model\.bf16\.safetensors.*\n.*leave `variant` out/);
    for (const variant of ["../x", "", "a/b", ".."]) {
      expect(await failure(() => openCheckpoint(folder, { variant }))).toBeInstanceOf(OptionError);
    }
    expect(await failure(() => openCheckpoint(folder, { varient: "x" } as object))).toBeInstanceOf(OptionError);
  });

  test.each(["pytorch_model.bin", "pytorch_model.bin.index.json"])("only %s, which is damaged", async (name) => {
    const file = put(folder, name, "x");
    await refusal(() => openCheckpoint(folder), file);
  });

  test("nothing: names every candidate", async () => {
    const error = await failure(() => openCheckpoint(folder));
    expect(error).toBeInstanceOf(NotFoundError);
    for (const name of ["model.safetensors,", INDEX, "pytorch_model.bin,", "pytorch_model.bin.index.json"]) {
      expect(String(error)).toContain(name);
    }
    put(folder, "tf_model.h5", "x");
    expect(String(await failure(() => openCheckpoint(folder)))).toContain("tf_model.h5");
    expect(await failure(() => openCheckpoint(join(folder, "none")))).toBeInstanceOf(NotFoundError);
    expect(await failure(() => openCheckpoint(join(folder, "tf_model.h5")))).toBeInstanceOf(NotFoundError);
  });

  test("an unknown format in the metadata is a warning", async () => {
    put(folder, "model.safetensors", fileOf('{"__metadata__":{"format":"xyz"}}'));
    expect((await openCheckpoint(folder)).warnings.join()).toContain("xyz");
  });
});

describe("an index that is refused before any shard is opened", () => {
  const long = "a".repeat(5000);
  const names: string[] = [
    "..",
    "../x.safetensors",
    "a/../../b.safetensors",
    "a/../b.safetensors",
    "/etc/passwd",
    "/x.safetensors",
    "C:\\x.safetensors",
    "C:/x.safetensors",
    "D:x.safetensors",
    "\\\\h\\s\\x.safetensors",
    "..\\x.safetensors",
    "a\\b.safetensors",
    "a\0.safetensors",
    "a.safetensors\0.png",
    "",
    ".",
    "./x.safetensors",
    "a//b.safetensors",
    "a/",
    long,
    `${long}.safetensors`,
    `${"é".repeat(140)}.safetensors`,
    "https://host/x.safetensors",
    "file:///etc/passwd",
    "x.safetensors:stream",
    "x.bin",
    "pytorch_model-00001.bin",
    "x",
    "../../../../../../etc/passwd",
    "~/../x.safetensors",
    "... /x.safetensors",
    "x\n.safetensors",
    "x.SAFETENSORS ",
  ];
  test.each(names.map((name) => [JSON.stringify(name).slice(0, 40), name]))("name %s", async (_, name) => {
    const file = map({ good: "good.safetensors", bad: name });
    put(folder, "good.safetensors", tensor("good"));
    const error = await refusal(() => openCheckpoint(folder), file);
    expect(error.details.key).toBe("bad");
    expect(error.message.length).toBeLessThan(700);
    expect(opened).toEqual([file]);
  });

  const texts: [string, string][] = [
    ["a list", "[]"],
    ["a string", '"x"'],
    ["empty file", ""],
    ["no weight_map", '{"metadata":{}}'],
    ["a flat map", '{"a":"x.safetensors"}'],
    ["weight_map list", '{"weight_map":[]}'],
    ["weight_map null", '{"weight_map":null}'],
    ["weight_map empty", '{"weight_map":{}}'],
    ["value number", '{"weight_map":{"a":1}}'],
    ["value null", '{"weight_map":{"a":null}}'],
    ["value list", '{"weight_map":{"a":["x.safetensors"]}}'],
    ["tensor twice", '{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}'],
    ["weight_map twice", '{"weight_map":{"a":"x.safetensors"},"weight_map":{"a":"y.safetensors"}}'],
    ["total_size negative", '{"metadata":{"total_size":-1},"weight_map":{"a":"x.safetensors"}}'],
    ["total_size 1e400", '{"metadata":{"total_size":1e400},"weight_map":{"a":"x.safetensors"}}'],
    ["total_size NaN", '{"metadata":{"total_size":NaN},"weight_map":{"a":"x.safetensors"}}'],
    ["total_size string", '{"metadata":{"total_size":"4"},"weight_map":{"a":"x.safetensors"}}'],
    ["metadata list", '{"metadata":[],"weight_map":{"a":"x.safetensors"}}'],
    ["git-lfs pointer", "version https://git-lfs.github.com/spec/v1\n"],
  ];
  test.each(texts)("%s", async (_, text) => {
    const file = index(text);
    put(folder, "x.safetensors", tensor("a"));
    await refusal(() => openCheckpoint(folder), file);
    expect(opened).toEqual([file]);
  });
});

describe("index and shards", () => {
  test("agree, with a shard in a folder below and total_size right", async () => {
    mkdirSync(join(folder, "part"));
    put(folder, "part/1.safetensors", tensor("b", "c"));
    put(folder, "0.safetensors", tensor("a"));
    map({ c: "part/1.safetensors", a: "0.safetensors", b: "part/1.safetensors" }, 12);
    const { files, tensors, warnings } = await openCheckpoint(folder);
    expect(files).toEqual([join(folder, "0.safetensors"), join(folder, "part/1.safetensors")]);
    expect([...tensors.keys()]).toEqual(["a", "b", "c"]);
    expect(warnings).toEqual([]);
    openedInside();
  });

  test.each([3, 5, 4.5, 1e300])("total_size %d instead of 4 is a warning", async (total) => {
    put(folder, "x.safetensors", tensor("a"));
    map({ a: "x.safetensors" }, total);
    expect((await openCheckpoint(folder)).warnings).toEqual([expect.stringContaining("total_size")]);
  });

  test("a tensor called __proto__", async () => {
    put(folder, "x.safetensors", tensor("__proto__"));
    index('{"weight_map":{"__proto__":"x.safetensors"}}');
    expect([...(await openCheckpoint(folder)).tensors.keys()]).toEqual(["__proto__"]);
    expect(Object.getPrototypeOf({})).toBe(Object.prototype);
  });

  test("shards missing: names them and counts their tensors, before any shard is read", async () => {
    put(folder, "x.safetensors", tensor("a"));
    const file = map({ a: "x.safetensors", b: "y.safetensors", c: "y.safetensors", d: "z.safetensors" });
    const error = await failure(() => openCheckpoint(folder));
    expect(error).toBeInstanceOf(NotFoundError);
    expect(error).toMatchObject({ details: { missing: ["y.safetensors", "z.safetensors"], tensors: 3 } });
    expect(String(error)).toMatch(
      /2 shards are missing: y\.safetensors, z\.safetensors, with 3 tensors \("b", "c", "d"\)/,
    );
    expect(opened).toEqual([file]);
  });

  test("a tensor of the index that no shard has is a warning", async () => {
    put(folder, "x.safetensors", tensor("a"));
    map({ a: "x.safetensors", b: "x.safetensors" });
    const { tensors, warnings } = await openCheckpoint(folder);
    expect([...tensors.keys()]).toEqual(["a"]);
    expect(warnings).toEqual([expect.stringMatching(/tensor "b" is in weight_map and in no shard$/)]);
  });

  test("tensors of a shard that the index lacks are read, with a warning", async () => {
    put(folder, "x.safetensors", tensor("a", "b", "c"));
    map({ a: "x.safetensors" });
    const { tensors, warnings } = await openCheckpoint(folder);
    expect([...tensors.keys()]).toEqual(["a", "b", "c"]);
    expect(warnings).toEqual([expect.stringMatching(/"b" is in a shard and not in weight_map.*\(and 1 more such\)$/)]);
  });

  test("a tensor in another shard than the index says is read from there, with a warning", async () => {
    put(folder, "x.safetensors", tensor("a"));
    put(folder, "y.safetensors", tensor("b"));
    map({ a: "x.safetensors", b: "x.safetensors", c: "y.safetensors" });
    const { tensors, warnings } = await openCheckpoint(folder);
    expect(tensors.get("b")!.file).toBe(join(folder, "y.safetensors"));
    expect(warnings).toEqual([
      expect.stringMatching(/"c" is in weight_map and in no shard$/),
      expect.stringMatching(/"b" is in another shard than weight_map says/),
    ]);
  });

  test("of a tensor in two shards the last is read, as in Python, with a warning", async () => {
    put(folder, "x.safetensors", tensor("a", "b"));
    put(folder, "y.safetensors", tensor("b", "c"));
    map({ a: "x.safetensors", b: "x.safetensors", c: "y.safetensors" });
    const { tensors, warnings } = await openCheckpoint(folder);
    expect([...tensors].map(([name, { file }]) => [name, file])).toEqual([
      ["a", join(folder, "x.safetensors")],
      ["b", join(folder, "y.safetensors")],
      ["c", join(folder, "y.safetensors")],
    ]);
    expect(warnings).toEqual([expect.stringMatching(/"b" is in several shards; that of "y\.safetensors" is read$/)]);
  });

  test("of several broken shards the first is reported, each time", async () => {
    const names = Array.from({ length: 20 }, (_, i) => `${String(i).padStart(2, "0")}.safetensors`);
    for (const [i, name] of names.entries()) put(folder, name, i < 3 ? tensor(name) : "broken!!");
    map(Object.fromEntries(names.map((name) => [name, name])));
    for (let i = 0; i < 5; i++) await refusal(() => openCheckpoint(folder), join(folder, "03.safetensors"));
  });

  test("a folder and an empty file as shard", async () => {
    mkdirSync(join(folder, "x.safetensors"));
    map({ a: "x.safetensors" });
    await refusal(() => openCheckpoint(folder), join(folder, "x.safetensors"));
    put(folder, "model.safetensors", "");
    await refusal(() => openCheckpoint(folder), join(folder, "model.safetensors"));
  });

  test("a large index", async () => {
    const names = Array.from({ length: 50_000 }, (_, i) => `t${i}`);
    put(folder, "x.safetensors", fileOf(`{${names.map((n) => `"${n}":${entry('"U8"', "[0]", "[0,0]")}`).join(",")}}`));
    map(Object.fromEntries(names.map((name) => [name, "x.safetensors"])));
    expect((await openCheckpoint(folder)).tensors.size).toBe(50_000);
  });
});

// Links need rights on Windows that tests do not have there.
describe.skipIf(process.platform === "win32")("links", () => {
  test.each(["x.safetensors", "sub/x.safetensors", "model.safetensors"])(
    "%s that links out of the folder is followed",
    async (name) => {
      mkdirSync(join(folder, "sub"));
      symlinkSync(put(root, `elsewhere-${count}.safetensors`, tensor("a")), join(folder, name));
      if (name !== "model.safetensors") map({ a: name });
      expect([...(await openCheckpoint(folder)).tensors.keys()]).toEqual(["a"]);
    },
  );

  test("so are links to a folder and to the index; one to a device is refused", async () => {
    const other = join(root, `other-${count}`);
    mkdirSync(other);
    put(other, "x.safetensors", tensor("a"));
    symlinkSync(other, join(folder, "out"));
    symlinkSync(put(other, "index.json", '{"weight_map":{"a":"out/x.safetensors"}}'), join(folder, INDEX));
    expect([...(await openCheckpoint(folder)).tensors.keys()]).toEqual(["a"]);
    symlinkSync("/dev/zero", join(folder, "model.safetensors"));
    await refusal(() => openCheckpoint(folder), join(folder, "model.safetensors"));
  });

  test("a circle, and a link to nothing", async () => {
    symlinkSync("b.safetensors", join(folder, "a.safetensors"));
    symlinkSync("a.safetensors", join(folder, "b.safetensors"));
    map({ a: "a.safetensors" });
    await refusal(() => openCheckpoint(folder), join(folder, "a.safetensors"));
    symlinkSync("/nowhere/at/all", join(folder, "c.safetensors"));
    map({ a: "c.safetensors" });
    expect(await failure(() => openCheckpoint(folder))).toBeInstanceOf(NotFoundError);
  });

  test("a pipe is refused at once", async () => {
    execFileSync("mkfifo", [join(folder, "model.safetensors")]);
    await refusal(() => openCheckpoint(folder), join(folder, "model.safetensors"));
    expect(opened).toEqual([]);
  });

  test("a link whose file is gone is named; other weights beside it are read, as in Python", async () => {
    symlinkSync(join(root, "gone"), join(folder, "model.safetensors"));
    const said = await failure(() => openCheckpoint(folder));
    expect(said).toBeInstanceOf(NotFoundError);
    expect((said as Error).message).toContain("model.safetensors is a link to a file that is not there");
    put(folder, "a.safetensors", tensor("a"));
    put(folder, INDEX, '{"weight_map":{"a":"a.safetensors"}}');
    expect((await openCheckpoint(folder)).tensors.size).toBe(1);
    symlinkSync("nowhere", join(folder, "config.json"));
    const { Disk } = await import("../../src/sources/disk.js");
    await expect(new Disk(folder).open(join(folder, "config.json"), "config.json")).rejects.toThrow(
      "config.json: this link leads to nowhere, where no config.json is",
    );
  });

  test("a link inside the folder, and a folder that is a link, are fine", async () => {
    put(folder, "real.safetensors", tensor("a"));
    symlinkSync("real.safetensors", join(folder, "model.safetensors"));
    symlinkSync(folder, join(root, `link-${count}`));
    expect((await openCheckpoint(join(root, `link-${count}`))).tensors.size).toBe(1);
  });

  test("the layout of the Hugging Face cache, its blobs on another disk included", async () => {
    const model = join(folder, "models--org--name");
    const snapshot = join(model, "snapshots", "0".repeat(40));
    const blobs = join(root, `blobs-${count}`);
    mkdirSync(snapshot, { recursive: true });
    await cp(join(FIXTURES, "checkpoints/llama/safetensors-sharded"), blobs, { recursive: true });
    symlinkSync(blobs, join(model, "blobs"));
    for (const name of [INDEX, ...[1, 2, 3].map((i) => `model-0000${i}-of-00003.safetensors`)]) {
      symlinkSync(join("../../blobs", name), join(snapshot, name));
    }
    expect((await openCheckpoint(snapshot)).tensors.size).toBe(21);
  });
});
