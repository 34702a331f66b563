// Mutants of safetensors files: headers that say something else, lengths, files laid out properly with other tensors, and
// data of any bits.

import type { StoredDType } from "../../src/checkpoints/stored.js";
import { STORED_BITS } from "../../src/checkpoints/stored.js";
import { mutateBytes } from "./support/bytes.js";
import type { Chance } from "./support/chance.js";
import { fuzz } from "./support/fuzz.js";
import { mutateJson, texts, type Words } from "./support/json.js";
import { device, type Folder, left, load, tinyOf, WAYS } from "./support/models.js";
import { json, layOut, safetensors, TINY, type TinyTensor, tinyFiles, tinyTensors } from "./support/tiny.js";

const DTYPES = [...STORED_BITS.keys()];
const WORDS: Words = {
  values: [
    ...texts(...DTYPES, "f32", "F33", ""),
    "[8,8]",
    "[8]",
    "[]",
    "[0,8]",
    "[2305843009213693952,8]",
    "[0,256]",
    "[256,0]",
  ],
  keys: texts("dtype", "shape", "data_offsets", "__metadata__", "format", "lm_head.weight", "model.norm.weight"),
};
const NAMES = ["__proto__", "constructor", "", "../x", "a\0b", "\u001b[2J", "é", "model.layers.0", "y".repeat(5000)];
const LENGTHS = [
  0n,
  1n,
  7n,
  8n,
  100_000_000n,
  100_000_001n,
  2n ** 31n,
  2n ** 32n,
  2n ** 53n + 1n,
  2n ** 63n,
  2n ** 64n - 8n,
  2n ** 64n - 1n,
];
/** Bits of floats that are no usual numbers. */
const FLOATS = [0x7fc00000, 0x7f800000, 0xff800000, 0x7fa00001, 0x7f7fffff, 0x80000000, 1, 0xffffffff];

/** Widths of the tensors' own files: the data keep their places. */
const bases = await Promise.all(
  ["llama", "gpt2", "mixtral", "opt"].map(async (type) => {
    const at = tinyOf(type);
    const tensors = await tinyTensors(device, at);
    return { task: TINY[at]!.task, tensors, files: tinyFiles(at, tensors), ...layOut(tensors) };
  }),
);

/** A file that is laid out properly and holds something else. */
function otherTensors(chance: Chance, from: readonly TinyTensor[]): Buffer {
  const tensors = from.map((tensor) => ({ ...tensor, shape: [...tensor.shape] }));
  for (let left = chance.few(); left > 0 && tensors.length > 0; left--) {
    const at = chance.below(tensors.length);
    const tensor = tensors[at]!;
    const kind = chance.below(7);
    if (kind === 0) tensors.splice(at, 1);
    else if (kind === 1)
      tensors.push({ ...tensor, name: `${tensor.name}.${chance.one(["bias", "SCB", "absmax", "0", "extra"])}` });
    else if (kind === 2)
      tensor.name = chance.one([
        ...NAMES,
        `model.${tensor.name}`,
        tensor.name.replace(/^[^.]*\./, ""),
        tensors[0]!.name,
      ]);
    else if (kind === 3)
      tensor.shape = chance.one([
        [...tensor.shape].reverse(),
        [...tensor.shape, 1],
        [1, ...tensor.shape],
        [tensor.bytes.length / 4],
      ]);
    else {
      if (kind < 6) tensor.dtype = chance.one<StoredDType>(DTYPES);
      else tensor.shape[chance.below(tensor.shape.length)] = chance.one([0, 1, 2, 7, 9, 16, 1000]);
      const bits = tensor.shape.reduce((n, dim) => n * dim, STORED_BITS.get(tensor.dtype)!);
      const bytes = Buffer.alloc(Math.floor(bits / 8));
      bytes.set(tensor.bytes.subarray(0, bytes.length));
      tensor.bytes = bytes;
    }
  }
  const { header, data } = layOut(tensors);
  return safetensors(json(header), data);
}

/** The same file with other bits in its data. */
function otherData(chance: Chance, data: Buffer): Buffer {
  const out = Buffer.from(data);
  for (let left = chance.one([1, 4, 64]); left > 0; left--) {
    if (chance.is(0.5)) out[chance.below(out.length)] = chance.below(256);
    else out.writeUInt32LE(chance.one(FLOATS), 4 * chance.below(out.length / 4));
  }
  return out;
}

function mutate(chance: Chance, { tensors, header, data, files }: (typeof bases)[number]): Buffer {
  const kind = chance.below(10);
  if (kind < 4) {
    const text = mutateJson(chance, header, WORDS);
    const length = chance.is(0.95) ? BigInt(text.length) : BigInt(text.length + chance.below(40) - 20);
    return safetensors(text, data, length);
  }
  if (kind < 5) return safetensors(json(header), data, chance.one(LENGTHS));
  if (kind < 8) return otherTensors(chance, tensors);
  if (kind < 9) return safetensors(json(header), otherData(chance, data));
  return mutateBytes(chance, files["model.safetensors"]!);
}

fuzz<Folder>({
  name: "safetensors",
  make(chance) {
    const base = chance.one(bases);
    return {
      files: { ...base.files, "model.safetensors": mutate(chance, base) },
      task: base.task,
      options: chance.one(WAYS),
    };
  },
  read: (folder, chance) => load(folder, chance),
  left,
});
