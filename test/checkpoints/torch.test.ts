// Files that torch.save wrote (test/fixtures/make_torch.py) in both containers, and folders that hold them.

import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import { openCheckpoint as openFrom } from "../../src/checkpoints/checkpoint.js";
import type { StoredTensor } from "../../src/checkpoints/stored.js";
import { STORED_BITS } from "../../src/checkpoints/stored.js";
import { readTorchHeader } from "../../src/checkpoints/torch.js";
import { NotFoundError } from "../../src/core/errors.js";
import { gather } from "../../src/load/read.js";
import { Disk } from "../../src/sources/disk.js";
import { MemorySource } from "../fuzz/support/memory-source.js";
import {
  FIXTURES,
  failure,
  fileOf,
  openCheckpoint,
  put,
  readSafetensorsHeader,
  refusal,
  scratch,
} from "../support/source-tools.js";
import { type TorchTensor, torchFile } from "../support/torch-file.js";

const TORCH = join(FIXTURES, "torch");
const root = scratch();
const read = (file: string) => readTorchHeader(new Disk(dirname(file)), file);

/** The bytes of a tensor, in rows. */
function bytesOf({ file, offset, bytes, dtype, shape, strides }: StoredTensor): Uint8Array {
  const raw = readFileSync(file).subarray(offset, offset + bytes);
  return strides ? gather(raw, STORED_BITS.get(dtype)! / 8, shape, strides) : raw;
}

describe.each(["zip", "legacy"])("a %s file of torch", (container) => {
  const file = join(TORCH, `${container}.bin`);

  test("holds the tensors that torch wrote, bit by bit: types, views, tied and empty ones", async () => {
    const expected = await readSafetensorsHeader(join(TORCH, "expected.safetensors"));
    const { tensors } = await read(file);
    for (const [name, want] of expected.tensors) {
      const got = tensors.get(name)!;
      expect([name, got.dtype, got.shape]).toEqual([name, want.dtype, want.shape]);
      expect(Buffer.from(bytesOf(got)).equals(Buffer.from(bytesOf(want))), name).toBe(true);
    }
    const others = [...tensors.keys()].filter((name) => !expected.tensors.has(name));
    const newer = ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"].map((name) => `newer.${name}`);
    expect(others.sort()).toEqual(container === "zip" ? ["a text", ...newer].sort() : ["a text"]);
    const { offset, strides } = tensors.get("float.float32")!;
    expect(tensors.get("tied")).toMatchObject({ offset });
    expect(strides).toBeUndefined();
    expect(tensors.get("transposed")!.strides).toEqual([1, 10]);
  });

  test("a text is its bytes, and what is no tensor is named", async () => {
    const { tensors, warnings } = await read(file);
    expect(new TextDecoder().decode(bytesOf(tensors.get("a text")!))).toBe("row é");
    expect(warnings).toEqual([`${file}: "a number" (5) and 1 more entries are no tensor, and not read`]);
  });

  test("is the same from a server, where no header in its middle is read", async () => {
    const bytes = readFileSync(file);
    const there = await readTorchHeader(new MemorySource({ "x.bin": bytes }), "model/x.bin");
    const places = (tensors: ReadonlyMap<string, StoredTensor>) =>
      [...tensors.values()].map(({ file: _, ...place }) => place);
    expect(places(there.tensors)).toEqual(places((await read(file)).tensors));
  });

  test("cut anywhere is refused", async () => {
    const bytes = readFileSync(file);
    for (let i = 0; i < 200; i++) {
      const end = Math.floor((i * bytes.length) / 200);
      const error = await refusal(() =>
        readTorchHeader(new MemorySource({ "x.bin": bytes.subarray(0, end) }), "model/x.bin"),
      );
      expect(error.message).toContain("model/x.bin");
    }
  });
});

test("a newer type of torch's", async () => {
  const { tensors } = await read(join(TORCH, "zip.bin"));
  const dtypes = ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"].map(
    (name) => tensors.get(`newer.${name}`)!.dtype,
  );
  expect(dtypes).toEqual(["U16", "U32", "U64", "F8_E4M3", "F8_E5M2"]);
  const { file, offset } = tensors.get("newer.uint32")!;
  expect(readFileSync(file).readUInt32LE(offset + 12)).toBe(3);
});

test("a whole module is refused, with the way to save its weights", async () => {
  const error = await refusal(() => read(join(TORCH, "module.bin")), join(TORCH, "module.bin"));
  expect(error.message).toContain('GLOBAL: the file holds a whole module ("torch.nn.modules.container.Sequential")');
  expect(error.hint).toContain("torch.save(model.state_dict()");
});

describe("which files", () => {
  let count = 0;
  const folderWith = (...names: string[]): string => {
    const folder = join(root, `model-${++count}`);
    mkdirSync(folder);
    for (const name of names) {
      const tensor: TorchTensor = { name, storage: "FloatStorage", shape: [1], bytes: new Uint8Array(4) };
      const header = `{"${name}":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`;
      put(folder, name, name.endsWith(".bin") ? torchFile([tensor], "zip") : fileOf(header, 4));
    }
    return folder;
  };
  const names = async (folder: string, options = {}) => [...(await openCheckpoint(folder, options)).tensors.keys()];
  const index = (folder: string, name: string, map: Record<string, string>, total_size?: number) =>
    put(folder, name, JSON.stringify({ metadata: { total_size }, weight_map: map }));

  test("safetensors before .bin, one file before its index; use_safetensors chooses", async () => {
    const folder = folderWith("model.safetensors", "pytorch_model.bin", "a.safetensors", "a.bin");
    index(folder, "model.safetensors.index.json", { "a.safetensors": "a.safetensors" });
    index(folder, "pytorch_model.bin.index.json", { "a.bin": "a.bin" });
    expect(await names(folder)).toEqual(["model.safetensors"]);
    expect(await names(folder, { use_safetensors: false })).toEqual(["pytorch_model.bin"]);
    rmSync(join(folder, "model.safetensors"));
    expect(await names(folder)).toEqual(["a.safetensors"]);
    rmSync(join(folder, "model.safetensors.index.json"));
    expect(await names(folder)).toEqual(["pytorch_model.bin"]);
    rmSync(join(folder, "pytorch_model.bin"));
    expect(await names(folder)).toEqual(["a.bin"]);
  });

  test("the format that use_safetensors excludes is named", async () => {
    const bins = folderWith("pytorch_model.bin");
    const error = await failure(() => names(bins, { use_safetensors: true }));
    expect(error).toBeInstanceOf(NotFoundError);
    expect(String(error)).toContain(
      "use_safetensors is true, but there is no model.safetensors, only pytorch_model.bin",
    );
    const safe = folderWith("model.safetensors");
    expect(String(await failure(() => names(safe, { use_safetensors: false })))).toContain(
      "use_safetensors is false, but there is no pytorch_model.bin, only model.safetensors",
    );
  });

  test("variants, and the file that config.json names", async () => {
    const folder = folderWith("pytorch_model.bin", "pytorch_model.fp16.bin", "own.bin");
    expect(await names(folder, { variant: "fp16" })).toEqual(["pytorch_model.fp16.bin"]);
    expect(await names(folder, { named: "own.bin" })).toEqual(["own.bin"]);
    index(folder, "own.bin.index.json", { "own.bin": "own.bin" });
    expect(await names(folder, { named: "own.bin.index.json" })).toEqual(["own.bin"]);
    const error = await failure(() => names(folder, { named: "own.bin", use_safetensors: true }));
    expect(String(error)).toContain('transformers_weights names "own.bin", but use_safetensors is true');
  });

  test("an index names files of its own format only", async () => {
    const folder = folderWith("a.bin", "a.safetensors");
    const file = index(folder, "pytorch_model.bin.index.json", { a: "a.safetensors" });
    expect((await refusal(() => names(folder), file)).message).toContain("the name of a .bin file below the folder");
  });

  test("a total size may count tensors that share bytes once or twice", async () => {
    const folder = join(root, "shared");
    mkdirSync(folder);
    cpSync(join(TORCH, "legacy.bin"), join(folder, "a.bin"));
    const { tensors } = await read(join(folder, "a.bin"));
    const map = Object.fromEntries([...tensors.keys()].map((name) => [name, "a.bin"]));
    const { totalBytes } = await openCheckpoint(folder, { named: "a.bin" });
    for (const [total, warned] of [
      [totalBytes, 1],
      [totalBytes + 7, 2],
    ] as const) {
      index(folder, "pytorch_model.bin.index.json", map, total);
      expect((await openCheckpoint(folder)).warnings.length).toBe(warned);
    }
  });

  test("a server is asked for .bin only when there are no safetensors", async () => {
    const asked: string[] = [];
    class Asked extends MemorySource {
      override async names(wanted: readonly string[] = []): Promise<ReadonlySet<string>> {
        asked.push(...wanted);
        return super.names();
      }
    }
    const tensor: TorchTensor = { name: "a", storage: "FloatStorage", shape: [1], bytes: new Uint8Array(4) };
    const { tensors } = await openFrom(new Asked({ "pytorch_model.bin": torchFile([tensor], "legacy") }));
    expect([...tensors.keys()]).toEqual(["a"]);
    expect(asked).toEqual(["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"]);
  });
});

test("a pickle longer than the first read of a legacy file", async () => {
  const tensors = Array.from({ length: 9000 }, (_, i): TorchTensor => {
    return { name: `${"long ".repeat(8)}${i}`, storage: "HalfStorage", shape: [1], bytes: new Uint8Array([i, i >> 8]) };
  });
  for (const container of ["zip", "legacy"] as const) {
    const file = join(root, `many-${container}.bin`);
    writeFileSync(file, torchFile(tensors, container));
    const { tensors: got } = await read(file);
    expect(got.size).toBe(9000);
    const { offset } = got.get(tensors[8765]!.name)!;
    expect(readFileSync(file).readUInt16LE(offset)).toBe(8765);
  }
});
