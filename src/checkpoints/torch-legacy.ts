// The container of torch.save before 1.6: five pickles (magic number, protocol, system, object, keys of storages), then for each
// key a count of elements and their bytes. Only the pickles are read, and the counts.

import { FormatError } from "../core/errors.js";
import { quote } from "../sources/files.js";
import { type SourceFile, windowed } from "../sources/source.js";
import { MAX_PICKLE_BYTES, MoreBytes, type PickleContext, type Pickled, readPickle } from "./pickle.js";
import { Dict, kindOfValue, List, type PickleValue } from "./pickle-values.js";
import { widthOf } from "./torch-globals.js";
import { LegacyStorages } from "./torch-storages.js";

const MAGIC = 0x1950a86a20f9469cfc6cn;
const PROTOCOL = 1001;
/** Bytes of the first read. Most files' pickles are shorter, and a server sends a piece of this size anyway. */
const FIRST = 1 << 20;
const AGAIN = "the file is not complete; download or copy it again";

/**
 * The object of a file, with every storage settled in its place.
 * The count before each storage is read too, except from a server, where each would cost a piece of a megabyte: there they follow
 * from the object and the file's size.
 * @throws FormatError naming the offset
 */
export async function readLegacy(opened: SourceFile): Promise<Pickled> {
  const { path: file, size } = opened;
  const refuse = (offset: number, problem: string, hint?: string): never => {
    throw new FormatError(`${file}: byte ${offset}: ${problem}`, { details: { file, offset, got: problem }, hint });
  };
  const most = Math.min(size, MAX_PICKLE_BYTES);
  let bytes = await opened.read(0, Math.min(FIRST, most));
  /** Reads one pickle; if it goes on behind the bytes that are here, again with twice as many. */
  const read = async (at: number, storage?: () => PickleContext["storage"]): Promise<Pickled> => {
    for (;;) {
      const more = bytes.length < most;
      try {
        return readPickle(bytes, at, { file, base: 0, more, storage: storage?.() });
      } catch (error) {
        if (!(error instanceof MoreBytes)) throw error;
        bytes = await opened.read(0, Math.min(2 * bytes.length, most));
      }
    }
  };
  const magic = await read(0);
  if (magic.value !== MAGIC) {
    return refuse(
      0,
      `expected the magic number of torch.save, got ${kindOfValue(magic.value)}`,
      "this pickle is no file of weights",
    );
  }
  const protocol = await read(magic.end);
  if (protocol.value !== PROTOCOL)
    return refuse(magic.end, `expected version ${PROTOCOL} of the format, got ${kindOfValue(protocol.value)}`);
  const system = await read(protocol.end);
  const info = system.value instanceof Dict ? system.value.entries : undefined;
  if (info?.get("protocol_version") !== PROTOCOL)
    return refuse(protocol.end, "the description of the system is damaged", AGAIN);
  if (info.get("little_endian") !== true) {
    return refuse(protocol.end, "written on a big-endian machine", "load and save it again with torch");
  }
  let storages = new LegacyStorages();
  const object = await read(system.end, () => {
    storages = new LegacyStorages();
    return storages.find;
  });
  const keys = await read(object.end);
  const order = storagesOf(keys.value, storages, (problem) => refuse(object.end, problem, AGAIN));
  const bytesAt = windowed(opened, size);
  let at = keys.end;
  for (const { key, type, numel } of order.map((key) => storages.all.get(key)!)) {
    if (!opened.far && at + 8 <= size) {
      const head = await bytesAt(at, 8);
      const said = new DataView(head.buffer, head.byteOffset).getBigInt64(0, true);
      if (said !== BigInt(numel))
        return refuse(at, `storage ${quote(key)} has ${numel} elements in the object and ${said} here`);
    }
    storages.all.get(key)!.begin = at + 8;
    at += 8 + numel * widthOf(type.dtype);
    if (at > size) return refuse(size, `storage ${quote(key)} ends at byte ${at}, behind the file's end`, AGAIN);
  }
  if (at < size) return refuse(at, `${size - at} bytes follow the last storage`);
  return object;
}

/** The keys in the order of the file: each of the object's once, and no other. */
function storagesOf(value: PickleValue, { all }: LegacyStorages, refuse: (problem: string) => never): string[] {
  if (!(value instanceof List)) return refuse(`expected the list of storages, got ${kindOfValue(value)}`);
  const keys = new Set<string>();
  for (const key of value.items) {
    if (typeof key !== "string" || !all.has(key))
      return refuse(`storage ${typeof key === "string" ? quote(key) : kindOfValue(key)} belongs to no tensor`);
    if (keys.has(key)) return refuse(`storage ${quote(key)} is listed twice`);
    keys.add(key);
  }
  for (const key of all.keys()) if (!keys.has(key)) return refuse(`storage ${quote(key)} is not in the file`);
  return [...keys];
}
