// The zip container of torch.save: the central directory says where each record is, and the local headers must agree. Records
// are stored as they are; what compresses or encrypts them, or describes them twice, is refused. Only ranges of the file are read.

import { isWhole } from "../core/checks.js";
import { FormatError } from "../core/errors.js";
import { quote } from "../sources/files.js";
import { type SourceFile, windowed } from "../sources/source.js";
import { MAX_HEADER_BYTES, MAX_TENSORS } from "./safetensors-header.js";

/** One record: a run of bytes of the file. */
export interface ZipRecord {
  readonly name: string;
  /** Offset of its bytes in the file; settled by `placeRecords`. */
  begin: number;
  readonly size: number;
  /** 0 if the archive was written without checksums. */
  readonly crc: number;
}

interface Entry extends ZipRecord {
  readonly flags: number;
  /** Offset of the local header, and bytes of the name there. */
  readonly header: number;
  readonly nameBytes: Uint8Array;
}

const END = 0x06054b50;
const END64 = 0x06064b50;
const LOCATOR64 = 0x07064b50;
const CENTRAL = 0x02014b50;
const LOCAL = 0x04034b50;
const U16 = 0xffff;
const U32 = 0xffffffff;
/** Flags that mean nothing bad: sizes follow the data, and names are UTF-8. */
const SIZES_FOLLOW = 0x08;
const UTF8_NAMES = 0x800;
/** Bytes of the ends of an archive: of the plain one, and all three. */
const END_BYTES = 22;
const ENDS_BYTES = END_BYTES + 20 + 56;
const LOCAL_BYTES = 30;
/** Records beside those of storages. */
const OTHERS = 64;
/** torch begins each record's bytes at a multiple of this. */
const ALIGNMENT = 64;
const METHODS = new Map([
  [8, "deflate"],
  [9, "deflate64"],
  [12, "bzip2"],
  [14, "LZMA"],
  [93, "zstd"],
  [99, "AES encryption"],
]);

/** How the archive ends the reading of it. */
type Refuse = (offset: number, problem: string, hint?: string) => never;

const AGAIN =
  "the file is not complete or not as torch.save writes it; download it again, or save it again with torch.save";

/**
 * The records of an archive, by their names below its one folder.
 * Every local header is read too, except from a server, where each would cost a piece of a megabyte: there their lengths follow
 * from the directory, where torch's alignment leaves no choice.
 * @throws FormatError naming the offset
 */
export async function readZip(opened: SourceFile): Promise<Map<string, ZipRecord>> {
  const { path: file, size } = opened;
  const refuse: Refuse = (offset, problem, hint = AGAIN) => {
    throw new FormatError(`${file}: byte ${offset}: ${problem}`, { details: { file, offset, got: problem }, hint });
  };
  const { begin, end, count } = await readEnds(opened, size, refuse);
  const directory = await opened.read(begin, end - begin);
  const entries = parseDirectory(directory, begin, count, refuse);
  entries.sort((a, b) => a.header - b.header);
  await placeRecords(opened, entries, begin, refuse);
  return byName(entries, refuse);
}

/** Where the central directory lies, and how many entries it has. */
async function readEnds(
  opened: SourceFile,
  size: number,
  refuse: Refuse,
): Promise<{ begin: number; end: number; count: number }> {
  const base = Math.max(0, size - ENDS_BYTES);
  const tail = await opened.read(base, size - base);
  const view = new DataView(tail.buffer, tail.byteOffset, tail.byteLength);
  const at = tail.length - END_BYTES;
  if (at < 0 || view.getUint32(at, true) !== END)
    return refuse(Math.max(0, size - END_BYTES), await whyNoEnd(opened, size));
  if (view.getUint16(at + 20, true) !== 0)
    return refuse(base + at, "the archive's end announces a comment that is not there");
  const [disk, first] = [view.getUint16(at + 4, true), view.getUint16(at + 6, true)];
  if ((disk !== 0 && disk !== U16) || (first !== 0 && first !== U16))
    return refuse(base + at, "the archive is one of several parts");
  let [here, count, length, begin] = [
    view.getUint16(at + 8, true),
    view.getUint16(at + 10, true),
    view.getUint32(at + 12, true),
    view.getUint32(at + 16, true),
  ];
  let end = base + at;
  const locator = at - 20;
  if (locator >= 56 && view.getUint32(locator, true) === LOCATOR64) {
    const from = locator - 56;
    if (Number(view.getBigUint64(locator + 8, true)) !== base + from)
      return refuse(base + locator, "the zip64 end is not where its locator says");
    if (view.getUint32(locator + 4, true) !== 0 || view.getUint32(locator + 16, true) > 1)
      return refuse(base + locator, "the archive is one of several parts");
    if (view.getUint32(from, true) !== END64 || view.getBigUint64(from + 4, true) !== 44n)
      return refuse(base + from, "the zip64 end is damaged");
    if (view.getUint32(from + 16, true) !== 0 || view.getUint32(from + 20, true) !== 0)
      return refuse(base + from, "the archive is one of several parts");
    const wide = [24, 32, 40, 48].map((field) => Number(view.getBigUint64(from + field, true)));
    const short = [here, count, length, begin];
    const agree = short.every((value, i) => value === wide[i] || value === (i < 2 ? U16 : U32));
    if (!agree) return refuse(base + from, "the zip64 end and the plain one disagree");
    [here, count, length, begin] = wide as [number, number, number, number];
    end = base + from;
  } else if (disk === U16 || first === U16) return refuse(base + at, "the archive is one of several parts");
  if (here !== count) return refuse(base + at, "the archive is one of several parts");
  if (length > MAX_HEADER_BYTES || count > MAX_TENSORS + OTHERS)
    return refuse(base + at, `a directory of ${count} records in ${length} bytes`);
  if (begin + length !== end)
    return refuse(
      base + at,
      `the directory must end at byte ${end}, where the archive's end begins, but ends at ${begin + length}`,
    );
  return { begin, end, count };
}

/** Why the last bytes are not the end of an archive. */
async function whyNoEnd(opened: SourceFile, size: number): Promise<string> {
  const base = Math.max(0, size - END_BYTES - U16);
  const tail = await opened.read(base, size - base);
  for (let i = tail.length - END_BYTES; i >= 0; i--) {
    if (tail[i] !== 0x50 || tail[i + 1] !== 0x4b || tail[i + 2] !== 5 || tail[i + 3] !== 6) continue;
    return `${tail.length - END_BYTES - i} bytes follow the archive's end, which torch.save does not write`;
  }
  return "the archive has no end: the file is cut short";
}

function parseDirectory(bytes: Uint8Array, base: number, count: number, refuse: Refuse): Entry[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const entries: Entry[] = [];
  let at = 0;
  while (at < bytes.length) {
    const offset = base + at;
    if (at + 46 > bytes.length || view.getUint32(at, true) !== CENTRAL)
      return refuse(offset, "the directory is damaged");
    const flags = view.getUint16(at + 8, true);
    const method = view.getUint16(at + 10, true);
    const [nameLength, extraLength, commentLength] = [28, 30, 32].map((field) => view.getUint16(at + field, true));
    const next = at + 46 + nameLength! + extraLength! + commentLength!;
    if (next > bytes.length) return refuse(offset, "the directory is damaged");
    const nameBytes = bytes.subarray(at + 46, at + 46 + nameLength!);
    const name = nameOf(nameBytes, offset, refuse);
    const what = `record ${quote(name)}`;
    if (flags & 0x2041)
      return refuse(offset, `${what} is encrypted`, "decrypt it first: there is no password in a model's folder");
    if (method !== 0) {
      const how = METHODS.get(method) ?? `method ${method}`;
      return refuse(
        offset,
        `${what} is compressed (${how}); torch.save stores records as they are`,
        "load and save it again with torch",
      );
    }
    if (flags & ~(SIZES_FOLLOW | UTF8_NAMES))
      return refuse(offset, `${what} has the unknown flags 0x${flags.toString(16)}`);
    const extra = bytes.subarray(at + 46 + nameLength!, at + 46 + nameLength! + extraLength!);
    const [size, packed, header, disk] = wideOf(extra, [
      view.getUint32(at + 24, true),
      view.getUint32(at + 20, true),
      view.getUint32(at + 42, true),
      view.getUint16(at + 34, true),
    ]) ?? [-1, 0, 0, 0];
    if (size < 0) return refuse(offset, `${what}: its zip64 fields are damaged`);
    if (disk !== 0) return refuse(offset, "the archive is one of several parts");
    if (size !== packed) return refuse(offset, `${what} is stored, but of ${packed} bytes instead of ${size}`);
    if (header + LOCAL_BYTES + nameLength! + size > base) return refuse(offset, `${what} ends behind the records' end`);
    entries.push({ name, begin: 0, size, crc: view.getUint32(at + 16, true), flags, header, nameBytes });
    at = next;
  }
  if (entries.length !== count) return refuse(base, `the directory has ${entries.length} records instead of ${count}`);
  return entries;
}

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const CONTROL = /[\u0000-\u001f\u007f]/;

/** A record's name. Nothing is ever opened by it; names that lead somewhere else are of no file of torch's. */
function nameOf(bytes: Uint8Array, offset: number, refuse: Refuse): string {
  let name: string;
  try {
    name = UTF8.decode(bytes);
  } catch {
    return refuse(offset, "a record's name is not UTF-8");
  }
  const parts = name.split("/");
  const bad =
    CONTROL.test(name) || /\\|^[A-Za-z]:/.test(name) || parts[0] === "" || parts.includes("..") || parts.includes(".");
  return bad ? refuse(offset, `a record has the name ${quote(name)}`) : name;
}

/** Sizes and offset, from the zip64 field where the plain ones are full; undefined if that field does not hold them. */
function wideOf(
  extra: Uint8Array,
  [size, packed, header, disk]: [size: number, packed: number, header: number, disk: number],
): [size: number, packed: number, header: number, disk: number] | undefined {
  const needs = [size === U32, packed === U32, header === U32];
  if (!needs.includes(true)) return [size, packed, header, disk];
  const view = new DataView(extra.buffer, extra.byteOffset, extra.byteLength);
  for (let at = 0; at + 4 <= extra.length; ) {
    const length = view.getUint16(at + 2, true);
    if (at + 4 + length > extra.length) return undefined;
    if (view.getUint16(at, true) === 1) {
      let from = at + 4;
      const values = [size, packed, header].map((value, i) => {
        if (!needs[i]) return value;
        from += 8;
        return from <= at + 4 + length ? Number(view.getBigUint64(from - 8, true)) : -1;
      });
      if (!values.every(isWhole)) return undefined;
      return [values[0]!, values[1]!, values[2]!, disk];
    }
    at += 4 + length;
  }
  return undefined;
}

/** Settles where each record's bytes begin; records may not share bytes or leave room between them. */
async function placeRecords(opened: SourceFile, entries: readonly Entry[], end: number, refuse: Refuse): Promise<void> {
  const bytesAt = windowed(opened, end);
  if (entries.length > 0 && entries[0]!.header !== 0) refuse(0, "bytes stand before the first record");
  for (const [i, entry] of entries.entries()) {
    const next = entries[i + 1]?.header ?? end;
    const { header, flags, size } = entry;
    const what = `record ${quote(entry.name)}`;
    const least = header + LOCAL_BYTES + entry.nameBytes.length;
    if (least + size > next) refuse(header, `${what} runs into the next one`);
    // What may follow the bytes: nothing, or their checksum and sizes in 16 or (zip64) 24 bytes.
    const starts = (flags & SIZES_FOLLOW ? [16, 24] : [0])
      .map((after) => next - after - size)
      .filter((start) => start >= least);
    const sure = starts.filter((start) => start % ALIGNMENT === 0);
    if (opened.far && sure.length === 1) {
      entry.begin = sure[0]!;
      continue;
    }
    const local = await bytesAt(header, least - header);
    const view = new DataView(local.buffer, local.byteOffset, local.byteLength);
    const same =
      view.getUint32(0, true) === LOCAL &&
      view.getUint16(6, true) === flags &&
      view.getUint16(8, true) === 0 &&
      view.getUint16(26, true) === entry.nameBytes.length &&
      local.subarray(LOCAL_BYTES).every((byte, at) => byte === entry.nameBytes[at]);
    if (!same) refuse(header, `${what}: its local header is another one than the directory's`);
    const fields = [14, 18, 22].map((field) => view.getUint32(field, true));
    const later = (flags & SIZES_FOLLOW) !== 0 && fields.every((value) => value === 0);
    const wide = fields[1] === U32 && fields[2] === U32; // in a zip64 field
    const equal = fields[0] === entry.crc && (wide || (fields[1] === size && fields[2] === size));
    if (!later && !equal) refuse(header, `${what}: its local header has another size or checksum than the directory`);
    entry.begin = least + view.getUint16(28, true);
    if (!starts.includes(entry.begin)) refuse(header, `${what} does not end where the next one begins`);
  }
}

function byName(entries: readonly Entry[], refuse: Refuse): Map<string, ZipRecord> {
  const records = new Map<string, ZipRecord>();
  const folder = entries[0]?.name.split("/")[0];
  for (const entry of entries) {
    const slash = entry.name.indexOf("/");
    if (slash < 0 || entry.name.slice(0, slash) !== folder) {
      refuse(entry.header, `record ${quote(entry.name)} is not in the archive's folder ${quote(folder ?? "")}`);
    }
    const name = entry.name.slice(slash + 1);
    if (records.has(name)) refuse(entry.header, `record ${quote(entry.name)} is there twice`);
    records.set(name, entry);
  }
  return records;
}

/** The CRC-32 of zip, of the few bytes that are interpreted. */
export function crc32(bytes: Uint8Array): number {
  let crc = -1;
  for (let i = 0; i < bytes.length; i++) crc = CRC_TABLE[(crc ^ bytes[i]!) & 0xff]! ^ (crc >>> 8);
  return ~crc >>> 0;
}

const CRC_TABLE = Int32Array.from({ length: 256 }, (_, i) => {
  let value = i;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});
