// Mutants of pytorch_model.bin in both containers: pickles whose opcodes are taken out, exchanged or given other arguments,
// archives that describe themselves wrongly, and any bytes.

import { openCheckpoint } from "../../src/checkpoints/checkpoint.js";
import { crc32 } from "../../src/checkpoints/torch-zip.js";
import {
  type Ends,
  type FileRecord,
  LEGACY_HEAD,
  pickle,
  records,
  stateDict,
  type TorchTensor,
  zip,
} from "../support/torch-file.js";
import { mutateBytes } from "./support/bytes.js";
import type { Chance } from "./support/chance.js";
import { fuzz } from "./support/fuzz.js";
import { MemorySource } from "./support/memory-source.js";
import { device, type Folder, left, load, tinyOf, WAYS } from "./support/models.js";
import { mutatePickle } from "./support/pickle.js";
import { json, TINY, tinyTensors } from "./support/tiny.js";

const bases = await Promise.all(
  ["llama", "gpt2", "opt"].map(async (type) => {
    const at = tinyOf(type);
    const { config, task } = TINY[at]!;
    const tensors = (await tinyTensors(device, at)).map(
      ({ name, shape, bytes }): TorchTensor => ({ name, storage: "FloatStorage", shape, bytes }),
    );
    const object = pickle(stateDict(tensors));
    const whole = records(
      object,
      tensors.map(({ bytes }) => bytes),
    ).map((record) => ({ ...record, crc: crc32(record.data) }));
    const heads = [...LEGACY_HEAD, stateDict(tensors, true), { list: tensors.map((_, i) => String(i)) }].map(pickle);
    return { task, config: json(config), tensors, object, whole, heads };
  }),
);

const SIZES = [0, 1, 4, 63, 64, 65, 255, 4096, 65535, 65536, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 2, 2 ** 32 - 1];
const NAMES = [
  "archive/data.pkl",
  "archive/data/0",
  "archive/data/99",
  "other/x",
  "archive/../x",
  "/x",
  "x",
  "",
  "archive/code/x.py",
];

/** Records of an archive, some of which describe themselves wrongly. */
function otherRecords(chance: Chance, list: FileRecord[]): FileRecord[] {
  const out = [...list];
  for (let left = chance.few(); left > 0 && out.length > 0; left--) {
    const at = chance.below(out.length);
    const record = out[at]!;
    const number = chance.one([...SIZES, record.data.length - 1, record.data.length + 1]);
    const size = Math.max(0, number);
    switch (chance.below(12)) {
      case 0:
        out.splice(at, 1);
        break;
      case 1:
        out.splice(at, 0, record);
        break;
      case 2:
        out[at] = { ...record, name: chance.one(NAMES) };
        break;
      case 3:
        out[at] = { ...record, method: chance.one([1, 8, 9, 12, 14, 93, 99, 65535]) };
        break;
      case 4:
        out[at] = { ...record, flags: chance.one([0, 1, 8, 9, 0x20, 0x40, 0x800, 0x2000, 0xffff]) };
        break;
      case 5:
        out[at] = { ...record, size };
        break;
      case 6:
        out[at] = { ...record, packed: size };
        break;
      case 7:
        out[at] = { ...record, header: size };
        break;
      case 8:
        out[at] = { ...record, crc: chance.one(SIZES) };
        break;
      case 9:
        out[at] = { ...record, local: { name: chance.one(NAMES), size, crc: chance.one(SIZES) } };
        break;
      case 10:
        out[at] = { ...record, data: mutateBytes(chance, record.data) };
        break;
      default:
        out.push(out.splice(at, 1)[0]!);
    }
  }
  return out;
}

function otherEnds(chance: Chance): Ends {
  const ends: { -readonly [Key in keyof Ends]: Ends[Key] } = {};
  const kind = chance.below(5);
  if (kind === 0) ends.zip64 = false;
  if (kind === 1) ends.count = chance.one(SIZES);
  if (kind === 2) ends.comment = new Uint8Array(chance.one([1, 22, 65535]));
  if (kind === 3) ends.disk = chance.one([1, 65535]);
  if (kind === 4) ends.gap = chance.one([1, 16, 24, 64]);
  return ends;
}

/** One field of a file's last bytes, where an archive's directory and end are, overwritten. */
function otherField(chance: Chance, bytes: Buffer): Buffer {
  const at = bytes.length - 1 - chance.below(Math.min(bytes.length - 8, chance.one([22, 98, 2000])));
  for (let left = chance.one([1, 2, 4, 8]), i = 0; left > 0 && at + i < bytes.length; left--, i++) {
    bytes[at + i] = chance.one([0, 0xff, 1, chance.below(256)]);
  }
  return bytes;
}

type Base = (typeof bases)[number];

function zipMutant(chance: Chance, { object, whole: list }: Base): Buffer {
  const kind = chance.below(10);
  if (kind < 6) {
    const data = mutatePickle(chance, object);
    return zip(
      list.map((record) => (record.name.endsWith("data.pkl") ? { ...record, data, crc: crc32(data) } : record)),
    );
  }
  if (kind < 8) return zip(otherRecords(chance, list), chance.is(0.2) ? otherEnds(chance) : {});
  if (kind < 9) return chance.is(0.3) ? zip(list, otherEnds(chance)) : otherField(chance, zip(list));
  return mutateBytes(chance, zip(list));
}

function legacyMutant(chance: Chance, { tensors, heads }: Base): Buffer {
  const parts = [...heads];
  const data = tensors.flatMap(({ bytes }) => {
    const count = Buffer.alloc(8);
    count.writeBigInt64LE(BigInt(bytes.length / 4));
    return [count, Buffer.from(bytes)];
  });
  const kind = chance.below(10);
  if (kind < 8) {
    // Mostly the object, which is long.
    const at = chance.is(0.8) ? 3 : chance.below(parts.length);
    parts[at] = mutatePickle(chance, parts[at]!);
  } else if (kind < 9) {
    const at = 2 * chance.below(data.length / 2);
    if (chance.is(0.5)) data[at]!.writeBigInt64LE(BigInt(chance.one([-1, 0, ...SIZES])));
    else data.splice(at, chance.one([1, 2]));
  } else return mutateBytes(chance, Buffer.concat([...parts, ...data]));
  return Buffer.concat([...parts, ...data]);
}

/** After the last mutant. */
let open_files = 0;

for (const [name, mutate] of [
  ["pickle-zip", zipMutant],
  ["pickle-legacy", legacyMutant],
] as const) {
  fuzz<Folder>({
    name,
    make(chance) {
      const base = chance.one(bases);
      return {
        files: { "config.json": base.config, "pytorch_model.bin": mutate(chance, base) },
        task: base.task,
        options: chance.one(WAYS),
        local: chance.is(0.7),
      };
    },
    async read(folder, chance) {
      // Most are refused here, without a tree of modules.
      const source = new MemorySource(folder.files, folder.local);
      try {
        await openCheckpoint(source);
      } finally {
        open_files = source.open_files;
      }
      return load(folder, chance);
    },
    left: () => (open_files > 0 ? `${open_files} files are open` : left()),
  });
}
