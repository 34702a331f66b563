// Models from pytorch_model.bin: the same numbers as from safetensors, in both containers, from disk and from a server; and the
// options that say which files are read.

import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { StoredDType } from "../../src/checkpoints/stored.js";
import type { Device } from "../../src/core/device.js";
import { FormatError, NotFoundError, OctavoError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, AutoTokenizer, type FromPretrainedOptions } from "../../src/generate/auto.js";
import { surveyModel } from "../../src/load/survey.js";
import { Disk } from "../../src/sources/disk.js";
import { copyOf } from "../support/checkpoints.js";
import { expectNoLeaks, openTestDevice } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";
import { FileServer } from "../support/server.js";
import { failure, readSafetensorsHeader } from "../support/source-tools.js";
import { temporary } from "../support/temporary.js";
import {
  dict,
  type Py,
  pickle,
  records,
  storageOf,
  type TorchTensor,
  tensorOf,
  torchFile,
  zip,
} from "../support/torch-file.js";

const root = temporary("torch");
const server = new FileServer(root);
let device: Device;
beforeAll(async () => {
  await server.start();
  device = openTestDevice("reference");
});
afterEach(() => {
  server.reset();
  expectNoLeaks(device);
});
afterAll(async () => {
  await device.close();
  await server.stop();
});

async function logitsOf(model: string, options: FromPretrainedOptions = {}): Promise<number[]> {
  const loaded = await AutoModelForCausalLM.from_pretrained(model, { device, ...options });
  try {
    using logits = loaded.forward({ input_ids: [[1, 5, 9, 2]] }).logits;
    return [...(await logits.readFloats())];
  } finally {
    loaded.dispose();
  }
}

const STORAGES = new Map<StoredDType, string>([
  ["F32", "FloatStorage"],
  ["I8", "CharStorage"],
  ["U8", "ByteStorage"],
]);

/** The tensors of a safetensors file. */
async function tensorsOf(file: string): Promise<TorchTensor[]> {
  const whole = readFileSync(file);
  return [...(await readSafetensorsHeader(file)).tensors.values()].map(({ name, dtype, shape, offset, bytes }) => ({
    ...{ name, shape, storage: STORAGES.get(dtype)! },
    bytes: whole.subarray(offset, offset + bytes),
  }));
}

/** A folder like a fixture's, with another weight file in place of its own. */
function folderLike(fixture: string, name: string, files: Readonly<Record<string, Uint8Array>>): string {
  const folder = join(root, name);
  mkdirSync(folder, { recursive: true });
  cpSync(join(FIXTURES, fixture, "config.json"), join(folder, "config.json"));
  for (const [path, bytes] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), bytes);
  }
  return folder;
}

const LLAMA = join(FIXTURES, "models/llama");

test.each(["zip", "legacy"] as const)("a %s file, from disk and from a server", async (container) => {
  const tensors = await tensorsOf(join(LLAMA, "model.safetensors"));
  const folder = folderLike("models/llama", container, { "pytorch_model.bin": torchFile(tensors, container) });
  for (const options of [{}, { load_in_8bit: true }]) {
    const wanted = await logitsOf(LLAMA, options);
    expect(await logitsOf(folder, options)).toEqual(wanted);
    for (const ranges of [true, false]) {
      server.ranges = ranges;
      expect(await logitsOf(`${server.address}/${container}`, options)).toEqual(wanted);
    }
  }
  const { files, checkpoint_bytes } = await surveyModel(new Disk(folder));
  expect(files.map(({ file }) => file)).toEqual([join(folder, "pytorch_model.bin")]);
  expect(checkpoint_bytes).toBe(tensors.reduce((sum, { bytes }) => sum + bytes.length, 0));
});

test("all tensors as views of one storage, transposed and with gaps; the head is the embedding's own bytes", async () => {
  const tensors = (await tensorsOf(join(LLAMA, "model.safetensors"))).filter(({ name }) => name !== "lm_head.weight");
  const embedding = tensors.find(({ name }) => name === "model.embed_tokens.weight")!;
  const plain = [...tensors, { ...embedding, name: "lm_head.weight" }];
  const reference = folderLike("models/llama", "plain", { "pytorch_model.bin": torchFile(plain, "zip") });
  const places: { tensor: TorchTensor; offset: number; strides: number[] }[] = [];
  let end = 0;
  for (const [i, tensor] of tensors.entries()) {
    const [rows = 1, columns = 1] = tensor.shape;
    const two = tensor.shape.length === 2;
    const strides = !two ? [3] : i % 3 === 0 ? [1, rows] : i % 3 === 1 ? [columns + 5, 1] : [1, rows + 2];
    places.push({ tensor, offset: end, strides });
    end += two ? (rows + 2) * (columns + 5) : 3 * rows;
  }
  const storage = new Float32Array(end);
  for (const { tensor, offset, strides } of places) {
    const values = new Float32Array(new Uint8Array(tensor.bytes).buffer);
    const columns = tensor.shape[1] ?? 1;
    for (const [i, value] of values.entries()) {
      storage[offset + Math.floor(i / columns) * strides[0]! + (i % columns) * (strides[1] ?? 0)] = value;
    }
  }
  const entry = (name: string, { tensor, ...place }: (typeof places)[number]): [string, Py] => [
    name,
    tensorOf(storageOf("FloatStorage", "0", end), tensor.shape, place),
  ];
  const object = dict(
    ...places.map((place) => entry(place.tensor.name, place)),
    entry("lm_head.weight", places.find(({ tensor }) => tensor === embedding)!),
  );
  const file = zip(records(pickle(object), [new Uint8Array(storage.buffer)]));
  const folder = folderLike("models/llama", "views", { "pytorch_model.bin": file });
  for (const options of [{}, { load_in_4bit: true }]) {
    expect(await logitsOf(folder, options)).toEqual(await logitsOf(reference, options));
  }
});

describe("LLM.int8() with a text as weight_format", () => {
  const folderOf = async (text: string, turned = false): Promise<string> => {
    const tensors = await tensorsOf(join(FIXTURES, "checkpoints/llama/bnb-int8/model.safetensors"));
    const entries = tensors.map(({ name, storage, shape, bytes }, i): [string, Py] => {
      const numel = bytes.length / (storage === "FloatStorage" ? 4 : 1);
      if (name.endsWith("weight_format")) return [name, text];
      const strides = turned && storage === "CharStorage" ? { strides: [1, shape[0]!] } : {};
      return [name, tensorOf(storageOf(storage, String(i), numel), shape, strides)];
    });
    const data = tensors.map(({ bytes }) => bytes);
    const file = zip(records(pickle(dict(...entries)), data));
    return folderLike("checkpoints/llama/bnb-int8", `text-${text}-${turned}`, { "pytorch_model.bin": file });
  };

  test("is read as the number is", async () => {
    const wanted = await logitsOf(join(FIXTURES, "checkpoints/llama/bnb-int8"));
    expect(await logitsOf(await folderOf("row"))).toEqual(wanted);
  });

  test("codes that lie transposed in the file are refused, not read as they lie", async () => {
    const folder = await folderOf("row", true);
    const error = await failure(() => logitsOf(folder));
    expect(error).toBeInstanceOf(FormatError);
    expect(String(error)).toContain("codes that do not lie together in the file cannot be read");
  });

  test("of another layout is refused by its name", async () => {
    const error = await failure(async () => logitsOf(await folderOf("col_turing")));
    expect(error).toBeInstanceOf(FormatError);
    expect(String(error)).toContain('codes in the layout "col_turing" of a GPU cannot be read');
  });
});

describe("which files", () => {
  test("variant and use_safetensors, from from_pretrained to the files", async () => {
    const tensors = await tensorsOf(join(LLAMA, "model.safetensors"));
    const doubled = tensors.map((one) =>
      one.name === "model.norm.weight" ? { ...one, bytes: new Uint8Array(one.bytes.length) } : one,
    );
    const folder = copyOf("models", "llama");
    writeFileSync(join(folder, "pytorch_model.bin"), torchFile(doubled, "zip"));
    writeFileSync(join(folder, "pytorch_model.fp16.bin"), torchFile(tensors, "legacy"));
    const [plain, bin, variant] = await Promise.all([
      logitsOf(folder),
      logitsOf(folder, { use_safetensors: false }),
      logitsOf(folder, { variant: "fp16" }),
    ]);
    expect(bin).not.toEqual(plain); // its last norm is 0
    expect(variant).toEqual(plain);
    const error = await failure(() => logitsOf(folder, { variant: "fp16", use_safetensors: true }));
    expect(error).toBeInstanceOf(NotFoundError);
    expect(String(error)).toContain("no model.fp16.safetensors, only pytorch_model.fp16.bin");
  });

  test("subfolder, of models and tokenizers, on disk and on a server", async () => {
    cpSync(LLAMA, join(root, "whole/unet/inner"), { recursive: true });
    const wanted = await logitsOf(LLAMA);
    for (const place of [join(root, "whole"), `${server.address}/whole`]) {
      expect(await logitsOf(place, { subfolder: "unet/inner" })).toEqual(wanted);
      const error = await failure(() => logitsOf(place, { subfolder: "vae" }));
      expect(error).toBeInstanceOf(NotFoundError);
      expect(String(error)).toContain("vae");
      for (const subfolder of ["..", "a/../..", "/etc", "C:\\x", ".", "a/.", "x\0"]) {
        const wrong = await failure(() => AutoTokenizer.from_pretrained(place, { subfolder }));
        expect(wrong).toBeInstanceOf(OctavoError);
        expect(String(wrong)).toContain("subfolder must be the name of a folder inside the model");
      }
    }
  });
});
