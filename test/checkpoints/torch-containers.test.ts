// Hostile containers of torch.save, made by hand: archives that describe themselves wrongly, legacy files, and other kinds.

import { describe, expect, test } from "vitest";
import {
  dict,
  type Ends,
  type FileRecord,
  LEGACY_HEAD,
  legacy,
  opcodes,
  type Py,
  pickle,
  records,
  stateDict,
  storageOf,
  tensorOf,
  torchFile,
  tuple,
  zip,
} from "../support/torch-file.js";
import { FILE, one, open, refused, TENSORS } from "../support/torch-refused.js";

const storage = storageOf("FloatStorage", "0", 4);

describe("archives", () => {
  const good = records(pickle(stateDict(TENSORS)), [one]);
  const but = (name: string, other: Partial<FileRecord>): FileRecord[] =>
    good.map((record) => (record.name === `archive/${name}` ? { ...record, ...other } : record));
  const without = (name: string): FileRecord[] => good.filter((record) => record.name !== `archive/${name}`);
  const and = (name: string, data: Uint8Array = one): FileRecord[] => [...good, { name, data }];
  /** A byte from the end. */
  const patched = (bytes: Buffer, from: number, value: number): Buffer => {
    bytes[bytes.length - from] = value;
    return bytes;
  };
  const edited = (edit: (bytes: Buffer) => Buffer): Buffer => edit(zip(good));

  const cases: [string, FileRecord[], Ends, RegExp][] = [
    ["an encrypted record", but("data/0", { flags: 0x809 }), {}, /is encrypted/],
    ["deflate", but("data/0", { method: 8 }), {}, /compressed \(deflate\)/],
    ["method 99", but("data/0", { method: 99 }), {}, /AES encryption/],
    ["an unknown method", but("data/0", { method: 77 }), {}, /method 77/],
    ["a patched record", but("data/0", { flags: 0x828 }), {}, /unknown flags/],
    ["two sizes", but("data/0", { packed: 15 }), {}, /of 15 bytes instead of 16/],
    ["a size past the next record", but("data/0", { size: 60_000 }), {}, /ends behind|runs into/],
    ["a shorter size", but("data/0", { size: 12 }), {}, /has another size|does not end|12 bytes/],
    ["overlapping records", but("data/0", { header: 0 }), {}, /./],
    ["an offset past the end", but("data/0", { header: 0x7fffffff }), {}, /ends behind/],
    [
      "another name inside",
      but("data/0", { local: { name: "archive/data/9" } }),
      {},
      /its local header is another one/,
    ],
    ["another size inside", but("data/0", { local: { size: 99, crc: 1 } }), {}, /another size or checksum/],
    ["other flags inside", but("data/0", { local: { flags: 0 } }), {}, /its local header is another one/],
    ["a record on another disk", but("data/0", { disk: 1 }), {}, /one of several parts/],
    ["an archive in parts", good, { disk: 1 }, /one of several parts/],
    ["a record twice", and("archive/data/0"), {}, /is there twice/],
    ["a second pickle", and("archive/x/data.pkl"), {}, /another pickle/],
    ["another folder", and("other/data.pkl"), {}, /not in the archive's folder/],
    ["a name that leads up", and("archive/../x"), {}, /has the name "archive\/..\/x"/],
    ["an absolute name", and("/archive/x"), {}, /has the name/],
    ["a drive", and("C:/x"), {}, /has the name/],
    ["a NUL in a name", and("archive/x\0"), {}, /has the name/],
    ["a backslash in a name", and("archive\\x"), {}, /has the name/],
    ["no folder", [{ name: "data.pkl", data: one }], {}, /not in the archive's folder/],
    ["no pickle", without("data.pkl"), {}, /no record data\.pkl/],
    ["no version", without("version"), {}, /no record version/],
    ["version -1", but("version", { data: Buffer.from("-1\n") }), {}, /version "-1"/],
    ["version 999", but("version", { data: Buffer.from("999\n") }), {}, /version "999"/],
    ["a byte order in the middle", but("byteorder", { data: Buffer.from("middle") }), {}, /byte order "middle"/],
    ["big-endian numbers", but("byteorder", { data: Buffer.from("big") }), {}, /big-endian machine/],
    ["TorchScript", and("archive/constants.pkl"), {}, /TorchScript archive/],
    ["code", and("archive/code/__torch__.py"), {}, /TorchScript archive/],
    ["a pickle with another checksum", but("data.pkl", { crc: 1 }), {}, /another checksum/],
    ["a comment", good, { comment: Buffer.alloc(100) }, /100 bytes follow the archive's end/],
    ["a comment of 64 KB", good, { comment: Buffer.alloc(65535) }, /65535 bytes follow/],
    ["a wrong count", good, { count: 3 }, /records instead of 3/],
    ["65535 records that are not there", good, { count: 65535, zip64: false }, /records instead of 65535/],
    ["room before the directory", good, { gap: 100 }, /does not end where/],
    ["no records", [], {}, /an empty|expected a PyTorch checkpoint/],
  ];
  test.each(cases)("%s", async (_, list, ends, message) => {
    await refused(zip(list, ends), message);
    await refused(zip(list, ends), message, true);
  });

  test.each<[string, (bytes: Buffer) => Buffer, RegExp]>([
    ["no end", (bytes) => bytes.subarray(0, -22), /no end: the file is cut short/],
    ["bytes after the end", (bytes) => Buffer.concat([bytes, Buffer.alloc(9)]), /9 bytes follow the archive's end/],
    ["two ends", (bytes) => Buffer.concat([bytes, bytes.subarray(-22)]), /the directory must end at byte/],
    ["bytes before the first record", (bytes) => Buffer.concat([opcodes("PK\x03\x04"), bytes]), /./],
    ["a locator that leads elsewhere", (bytes) => patched(bytes, 34, 5), /not where its locator says/],
    ["ends that disagree", (bytes) => patched(bytes, 12, 3), /disagree/],
    ["a directory past the file", (bytes) => patched(bytes, 58, 255), /./],
  ])("%s", async (_, edit, message) => {
    await refused(edited(edit), message);
  });

  test("checksums of 0 throughout, as torch may write them, are named in a warning", async () => {
    const { warnings } = await open(zip(good.map((record) => ({ ...record, crc: 0 }))));
    expect(warnings).toEqual([`${FILE}: written without checksums`]);
  });

  test("records that torch ignores are ignored, and an archive without zip64 is read", async () => {
    expect((await open(zip(and("archive/.new"), { zip64: false }))).tensors.size).toBe(1);
  });
});

describe("legacy files", () => {
  const object = stateDict(TENSORS, true);
  const storages = [{ numel: 4, bytes: one }];
  const head = (at: number, value: Py): { head: Py[] } => ({
    head: LEGACY_HEAD.map((old, i) => (i === at ? value : old)),
  });
  const view = (of: Py): Py => dict(["a", tensorOf(storageOf("FloatStorage", "0", 4, of), [2])]);

  test.each<[string, Buffer, RegExp]>([
    ["another magic number", legacy(object, storages, head(0, 5)), /expected the magic number of torch.save, got 5/],
    ["another version", legacy(object, storages, head(1, 1002)), /expected version 1001 of the format, got 1002/],
    ["no system", legacy(object, storages, head(2, "x")), /the description of the system is damaged/],
    [
      "a big-endian system",
      legacy(object, storages, head(2, dict(["protocol_version", 1001], ["little_endian", false]))),
      /big-endian/,
    ],
    ["a storage too few", legacy(object, [], { keys: { list: [] } }), /storage "0" is not in the file/],
    [
      "a storage too many",
      legacy(object, storages, { keys: { list: ["0", "1"] } }),
      /storage "1" belongs to no tensor/,
    ],
    ["a storage twice", legacy(object, storages, { keys: { list: ["0", "0"] } }), /listed twice/],
    ["keys that are no list", legacy(object, storages, { keys: "0" }), /expected the list of storages/],
    ["another count", legacy(object, [{ numel: 5, bytes: one }]), /has 4 elements in the object and 5 here/],
    ["missing data", legacy(object, [{ numel: 4, bytes: one.subarray(1) }]), /ends at byte .*, behind the file's end/],
    [
      "data after the last",
      legacy(object, [{ numel: 4, bytes: new Uint8Array(20) }]),
      /4 bytes follow the last storage/,
    ],
    [
      "a claim of exabytes",
      legacy(dict(["a", tensorOf(storageOf("FloatStorage", "0", 2 ** 52, null), [1])]), [
        { numel: 2 ** 52, bytes: one },
      ]),
      /behind the file's end/,
    ],
    ["a view past its storage", legacy(view(tuple("1", 3, 2)), storages), /a view ends at element 5 of a storage of 4/],
    ["a tensor past its view", legacy(view(tuple("1", 3, 1)), storages), /ends at element 2 of a storage of 1/],
    ["a view that is none", legacy(view(tuple("1", 3)), storages), /must be a tuple of 3/],
    ["an id without a view", legacy(stateDict(TENSORS), storages), /5 parts instead of 6/],
    ["a storage in the head", legacy(object, storages, head(1, storage)), /where none can be/],
  ])("%s", async (_, bytes, message) => {
    await refused(bytes, message);
  });

  test("a view of a storage is read from its place", async () => {
    const { tensors } = await open(legacy(view(tuple("1", 1, 2)), storages));
    const whole = await open(torchFile(TENSORS, "legacy"));
    expect(tensors.get("a")!.bytes).toBe(8);
    expect(whole.tensors.get("a")!.bytes).toBe(16);
  });
});

describe("other files", () => {
  const tar = Buffer.alloc(1024);
  tar.write("ustar", 257);
  test.each<[string, Buffer, RegExp]>([
    ["nothing", Buffer.alloc(0), /got an empty file/],
    ["tar", tar, /a tar archive \(torch.save before 0.2\)/],
    ["gzip", opcodes("\x1f\x8b\x08\0\0\0\0\0"), /a gzip archive/],
    ["7z", opcodes("7z\xbc\xaf\x27\x1c\0\0"), /a 7z archive/],
    ["numpy", opcodes("\x93NUMPY\x01\0"), /a numpy array file/],
    ["GGUF", opcodes("GGUF\x03\0\0\0"), /a GGUF file/],
    ["HTML", Buffer.from("<!doctype html>"), /an HTML or XML page/],
    ["a pointer", Buffer.from("version https://git-lfs.github.com/spec/v1"), /a git-lfs pointer/],
    ["safetensors", Buffer.from(`\x10\0\0\0\0\0\0\0{"a":1}`), /a safetensors file/],
    ["text", Buffer.from("weights"), /got something else/],
  ])("%s", async (_, bytes, message) => {
    await refused(bytes, message);
  });
});
