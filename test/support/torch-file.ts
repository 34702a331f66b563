// Files of torch.save made by hand: pickles from a tree of values, and the two containers, each with whatever is wrong with it.

import { crc32 } from "../../src/checkpoints/torch-zip.js";

/** A value of Python's, as a tree. `raw` are opcodes that leave one value on the stack. */
export type Py =
  | null
  | boolean
  | number
  | string
  | { readonly float: number }
  | { readonly long: bigint }
  | { readonly global: string }
  | { readonly tuple: readonly Py[] }
  | { readonly list: readonly Py[] }
  | { readonly dict: readonly (readonly [Py, Py])[] }
  | { readonly call: Py; readonly with: readonly Py[] }
  | { readonly build: Py; readonly state: Py }
  | { readonly id: Py }
  | { readonly raw: Uint8Array };

export const global = (module: string, name: string): Py => ({ global: `${module}\n${name}\n` });
export const tuple = (...items: Py[]): Py => ({ tuple: items });
export const dict = (...entries: (readonly [Py, Py])[]): Py => ({ dict: entries });
export const raw = (...bytes: (number | string)[]): Py => ({ raw: opcodes(...bytes) });

/** Bytes from numbers and texts. */
export const opcodes = (...bytes: (number | string)[]): Buffer =>
  Buffer.concat(bytes.map((one) => (typeof one === "number" ? Buffer.of(one) : Buffer.from(one, "latin1"))));

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
};

/** The bytes of whole numbers: as few as hold them, in two's complement. */
function long(value: bigint): Buffer {
  let count = 1;
  while (BigInt.asIntN(8 * count, value) !== value) count++;
  return Buffer.from(Array.from({ length: count }, (_, i) => Number(BigInt.asUintN(8, value >> BigInt(8 * i)))));
}

/** A pickle of protocol 2. Every tenth value or so goes into the memo, as some are in real files. */
export function pickle(value: Py): Buffer {
  const parts: Buffer[] = [opcodes(0x80, 2)];
  let memo = 0;
  const put = (...bytes: (number | string)[]) => parts.push(opcodes(...bytes));
  const write = (one: Py): void => {
    if (one === null) put("N");
    else if (typeof one === "boolean") put(one ? 0x88 : 0x89);
    else if (typeof one === "number") {
      if (Number.isInteger(one) && one >= 0 && one < 256) put("K", one);
      else if (Number.isInteger(one) && one >= -(2 ** 31) && one < 2 ** 31) parts.push(opcodes("J"), u32(one));
      else write({ long: BigInt(one) });
    } else if (typeof one === "string") {
      const text = Buffer.from(one);
      parts.push(opcodes("X"), u32(text.length), text);
      if (memo < 256 && parts.length % 3 === 0) put("q", memo++);
    } else if ("float" in one) {
      const bytes = Buffer.alloc(8);
      bytes.writeDoubleBE(one.float);
      parts.push(opcodes("G"), bytes);
    } else if ("long" in one) {
      const bytes = long(one.long);
      parts.push(opcodes(0x8a, bytes.length), bytes);
    } else if ("global" in one) put("c", one.global);
    else if ("tuple" in one) {
      if (one.tuple.length > 3) put("(");
      one.tuple.forEach(write);
      put([")", 0x85, 0x86, 0x87][one.tuple.length] ?? "t");
    } else if ("list" in one) {
      put("](");
      one.list.forEach(write);
      put("e");
    } else if ("dict" in one) {
      put("}(");
      one.dict.flat().forEach(write);
      put("u");
    } else if ("call" in one) {
      write(one.call);
      write({ tuple: one.with });
      put("R");
    } else if ("build" in one) {
      write(one.build);
      write(one.state);
      put("b");
    } else if ("id" in one) {
      write(one.id);
      put("Q");
    } else parts.push(Buffer.from(one.raw));
  };
  write(value);
  put(".");
  return Buffer.concat(parts);
}

/** A tensor of a hand-made file. */
export interface TorchTensor {
  readonly name: string;
  /** As in `torch.FloatStorage`. */
  readonly storage: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

const NO_HOOKS: Py = { call: global("collections", "OrderedDict"), with: [] };

/** `torch._utils._rebuild_tensor_v2` of a storage with these arguments. */
export function tensorOf(
  storage: Py,
  shape: readonly number[],
  { offset = 0, strides = rowsOf(shape) }: { offset?: number; strides?: readonly number[] } = {},
): Py {
  const call = global("torch._utils", "_rebuild_tensor_v2");
  return { call, with: [storage, offset, { tuple: shape }, { tuple: strides }, false, NO_HOOKS] };
}

function rowsOf(shape: readonly number[]): number[] {
  return shape.map((_, d) => shape.slice(d + 1).reduce((product, dim) => product * dim, 1));
}

/** The persistent id of a storage; `view` only in the legacy container. */
export const storageOf = (name: string, key: string, numel: Py, view?: Py): Py => ({
  id: tuple("storage", global("torch", name), key, "cpu", numel, ...(view === undefined ? [] : [view])),
});

/** The object of a file: an OrderedDict of tensors, and storages "0", "1", ... */
export function stateDict(tensors: readonly TorchTensor[], legacy = false): Py {
  const entries = tensors.map(({ name, storage, shape, bytes }, i): readonly [Py, Py] => {
    const numel = bytes.length / (WIDTHS[storage] ?? 4);
    return [name, tensorOf(storageOf(storage, String(i), numel, legacy ? null : undefined), shape)];
  });
  return dict(...entries);
}

const WIDTHS: Readonly<Record<string, number>> = {
  ...{ DoubleStorage: 8, LongStorage: 8, ComplexFloatStorage: 8, FloatStorage: 4, IntStorage: 4 },
  ...{ HalfStorage: 2, BFloat16Storage: 2, ShortStorage: 2, ByteStorage: 1, CharStorage: 1, BoolStorage: 1 },
};

/** A record of an archive; what is given beside name and data is written in place of what is right. */
export interface FileRecord {
  readonly name: string;
  readonly data: Uint8Array;
  readonly method?: number;
  readonly flags?: number;
  readonly crc?: number;
  /** Size in the directory; the packed one too, unless it is given. */
  readonly size?: number;
  readonly packed?: number;
  readonly header?: number;
  /** In the local header instead of the directory's. */
  readonly local?: { readonly name?: string; readonly flags?: number; readonly size?: number; readonly crc?: number };
  readonly disk?: number;
}

/** What is wrong with an archive's end. */
export interface Ends {
  readonly zip64?: boolean;
  readonly count?: number;
  readonly comment?: Uint8Array;
  readonly disk?: number;
  /** Bytes between the last record and the directory. */
  readonly gap?: number;
}

/** An archive as torch writes it: aligned records, sizes behind the data, and a zip64 end. */
export function zip(
  records: readonly FileRecord[],
  { zip64 = true, count, comment, disk = 0, gap = 0 }: Ends = {},
): Buffer {
  const parts: Buffer[] = [];
  let at = 0;
  const add = (...more: Uint8Array[]) => {
    for (const part of more) {
      parts.push(Buffer.from(part));
      at += part.length;
    }
  };
  const directory = records.map((record) => {
    const { name, data, method = 0, flags = data.length > 0 ? 0x808 : 0x800, local = {} } = record;
    const crc = record.crc ?? crc32(data);
    const header = record.header ?? at;
    const localName = Buffer.from(local.name ?? name);
    const head = Buffer.alloc(30);
    head.writeUInt32LE(0x04034b50);
    head.writeUInt16LE(local.flags ?? flags, 6);
    head.writeUInt16LE(method, 8);
    head.writeUInt32LE(local.crc ?? 0, 14);
    head.writeUInt32LE(local.size ?? 0, 18);
    head.writeUInt32LE(local.size ?? 0, 22);
    head.writeUInt16LE(localName.length, 26);
    const extra = (64 - ((at + 30 + localName.length + 4) % 64)) % 64;
    head.writeUInt16LE(4 + extra, 28);
    const padding = Buffer.alloc(4 + extra, "Z");
    padding.write("FB", "latin1");
    padding.writeUInt16LE(extra, 2);
    add(head, localName, padding, data);
    if (flags & 8) add(opcodes("PK\x07\x08"), u32(crc), u32(data.length), u32(data.length));
    const entry = Buffer.alloc(46);
    entry.writeUInt32LE(0x02014b50);
    entry.writeUInt16LE(flags, 8);
    entry.writeUInt16LE(method, 10);
    entry.writeUInt32LE(crc, 16);
    entry.writeUInt32LE(record.packed ?? record.size ?? data.length, 20);
    entry.writeUInt32LE(record.size ?? data.length, 24);
    entry.writeUInt16LE(Buffer.byteLength(name), 28);
    entry.writeUInt16LE(record.disk ?? 0, 34);
    entry.writeUInt32LE(header, 42);
    return Buffer.concat([entry, Buffer.from(name)]);
  });
  add(Buffer.alloc(gap));
  const begin = at;
  add(...directory);
  const number = count ?? records.length;
  const length = at - begin;
  if (zip64) {
    const wide = Buffer.alloc(76);
    wide.writeUInt32LE(0x06064b50);
    wide.writeBigUInt64LE(44n, 4);
    for (const [field, value] of [number, number, length, begin].entries()) {
      wide.writeBigUInt64LE(BigInt(value), 24 + 8 * field);
    }
    wide.writeUInt32LE(0x07064b50, 56);
    wide.writeBigUInt64LE(BigInt(at), 64);
    wide.writeUInt32LE(1, 72);
    add(wide);
  }
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50);
  end.writeUInt16LE(disk, 4);
  end.writeUInt16LE(Math.min(number, 0xffff), 8);
  end.writeUInt16LE(Math.min(number, 0xffff), 10);
  end.writeUInt32LE(length, 12);
  end.writeUInt32LE(begin, 16);
  end.writeUInt16LE(comment?.length ?? 0, 20);
  add(end, comment ?? Buffer.alloc(0));
  return Buffer.concat(parts);
}

/** The records of an archive of torch's, in its order. */
export function records(object: Uint8Array, storages: readonly Uint8Array[]): FileRecord[] {
  return [
    { name: "archive/data.pkl", data: object },
    { name: "archive/.format_version", data: Buffer.from("1") },
    { name: "archive/byteorder", data: Buffer.from("little") },
    ...storages.map((data, i) => ({ name: `archive/data/${i}`, data })),
    { name: "archive/version", data: Buffer.from("3\n") },
    { name: "archive/.data/serialization_id", data: Buffer.from("0".repeat(40)) },
  ];
}

const MAGIC = 0x1950a86a20f9469cfc6cn;

/** The pickles before the object of a legacy file. */
export const LEGACY_HEAD: readonly Py[] = [
  { long: MAGIC },
  1001,
  dict(
    ["protocol_version", 1001],
    ["little_endian", true],
    ["type_sizes", dict(["short", 2], ["int", 4], ["long", 4])],
  ),
];

/** A legacy file: its pickles, then each storage with the number of its elements. */
export function legacy(
  object: Py,
  storages: readonly { readonly numel: number; readonly bytes: Uint8Array }[],
  { head = LEGACY_HEAD, keys }: { head?: readonly Py[]; keys?: Py } = {},
): Buffer {
  const order = keys ?? { list: storages.map((_, i) => String(i)) };
  const counted = storages.flatMap(({ numel, bytes }) => {
    const count = Buffer.alloc(8);
    count.writeBigInt64LE(BigInt(numel));
    return [count, Buffer.from(bytes)];
  });
  return Buffer.concat([...[...head, object, order].map(pickle), ...counted]);
}

/** The file of some tensors in either container. */
export function torchFile(tensors: readonly TorchTensor[], container: "zip" | "legacy"): Buffer {
  const object = stateDict(tensors, container === "legacy");
  if (container === "zip") {
    return zip(
      records(
        pickle(object),
        tensors.map(({ bytes }) => bytes),
      ),
    );
  }
  return legacy(
    object,
    tensors.map(({ bytes, storage }) => ({ numel: bytes.length / WIDTHS[storage]!, bytes })),
  );
}
