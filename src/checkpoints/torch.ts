// Reading PyTorch's own checkpoints (`pytorch_model.bin`): which tensors a file of torch.save holds, and where their bytes lie. No
// weight is read and nothing of the file is run: see pickle.ts. The two containers are torch-zip.ts and torch-legacy.ts.

import { FormatError } from "../core/errors.js";
import { rowStrides } from "../core/shape.js";
import { foreignKind, HEAD_BYTES, quote } from "../sources/files.js";
import { type Source, type SourceFile, withFile } from "../sources/source.js";
import { MAX_PICKLE_BYTES, type Pickled, readPickle } from "./pickle.js";
import { Dict, kindOfValue, type PickleValue, SAVE_AGAIN, TensorValue } from "./pickle-values.js";
import { MAX_TENSORS } from "./safetensors-header.js";
import { elementsOf, type StoredHeader, type StoredTensor } from "./stored.js";
import { widthOf } from "./torch-globals.js";
import { readLegacy } from "./torch-legacy.js";
import { ZipStorages } from "./torch-storages.js";
import { crc32, readZip, type ZipRecord } from "./torch-zip.js";

const WHAT = "PyTorch checkpoint";
/** Where the first header of a tar archive says so: the format of torch before 0.2. */
const TAR_AT = 257;
/** Bytes of the records that hold a word. */
const MAX_WORD = 64;
/** Versions of the zip container that torch has read so far. */
const LAST_VERSION = 10;

/**
 * Reads what a file of torch.save says of its tensors. A text beside them is described as the U8 tensor of its UTF-8 bytes, as
 * which bitsandbytes saves it elsewhere; other values that are no tensors are left out, with a warning.
 * @throws NotFoundError if there is no such file; FormatError, naming the offset, if it is not a whole file of torch.save that
 * holds tensors by their names
 */
export async function readTorchHeader(source: Source, file: string): Promise<StoredHeader> {
  return withFile(source, file, WHAT, async (opened) => {
    const { size } = opened;
    const head = await opened.read(0, Math.min(size, 2 * TAR_AT));
    const kind = containerOf(head);
    if (kind === "zip") return zipHeader(opened);
    if (kind === "legacy") return headerOf(file, await readLegacy(opened), []);
    const foreign = foreignKind(head.subarray(0, HEAD_BYTES)) ?? otherKind(head);
    const got = size === 0 ? "an empty file" : (foreign?.name ?? "something else");
    throw new FormatError(`${file}: expected a ${WHAT} as torch.save writes it, got ${got}`, {
      details: { file, offset: 0, expected: WHAT, got },
      hint: foreign?.hint ?? "download or copy the file again",
    });
  });
}

function containerOf(head: Uint8Array): "zip" | "legacy" | undefined {
  if (head[0] === 0x50 && head[1] === 0x4b && head[2] === 3 && head[3] === 4) return "zip";
  return head[0] === 0x80 ? "legacy" : undefined;
}

/** Kinds of files that only this reader may meet. */
function otherKind(head: Uint8Array): { name: string; hint: string } | undefined {
  const text = String.fromCharCode(...head.subarray(0, 2 * TAR_AT));
  if (text.startsWith("ustar", TAR_AT)) {
    return { name: "a tar archive (torch.save before 0.2)", hint: "load and save it again with a torch of before 2.6" };
  }
  if (text.startsWith("PK\x05\x06")) return { name: "an empty zip archive", hint: "download the file again" };
  if (text.startsWith("7z\xbc\xaf\x27\x1c")) return { name: "a 7z archive", hint: "unpack it first" };
  if (/^.{8}\{\s*"/s.test(text)) return { name: "a safetensors file", hint: "name it model.safetensors" };
  return undefined;
}

async function zipHeader(opened: SourceFile): Promise<StoredHeader> {
  const { path: file } = opened;
  const records = await readZip(opened);
  const refuse = (problem: string, hint?: string): never => {
    throw new FormatError(`${file}: ${problem}`, { details: { file, got: problem }, hint });
  };
  const names = [...records.keys()];
  if (records.has("constants.pkl") || names.some((name) => name.startsWith("code/"))) {
    return refuse("a TorchScript archive, not a state dict", SAVE_AGAIN);
  }
  const others = names.filter((name) => name.endsWith("/data.pkl"));
  if (others.length > 0) return refuse(`the archive holds another pickle, ${quote(others[0]!)}`, SAVE_AGAIN);
  const pickle = records.get("data.pkl");
  if (!pickle) return refuse("the archive has no record data.pkl: torch.save has not written it", SAVE_AGAIN);
  const version = await wordOf(opened, records.get("version"));
  if (version === undefined) return refuse("the archive has no record version: torch.save has not written it");
  if (!/^\d{1,2}$/.test(version) || Number(version) < 1 || Number(version) > LAST_VERSION) {
    return refuse(`version ${quote(version)} of torch's archives; 1 to ${LAST_VERSION} are read`);
  }
  const order = await wordOf(opened, records.get("byteorder"));
  if (order !== undefined && order !== "little") {
    return refuse(
      order === "big" ? "written on a big-endian machine" : `the byte order ${quote(order)} is none`,
      "load and save it again with torch, on a little-endian machine",
    );
  }
  if (pickle.size > MAX_PICKLE_BYTES)
    return refuse(`its pickle has ${pickle.size} bytes; at most ${MAX_PICKLE_BYTES} are read`);
  const bytes = await opened.read(pickle.begin, pickle.size);
  const warnings: string[] = [];
  if (pickle.crc === 0) warnings.push(`${file}: written without checksums`);
  else if (crc32(bytes) !== pickle.crc)
    return refuse("its pickle has another checksum than the archive says", "download the file again");
  const context = { file, base: pickle.begin, more: false, storage: new ZipStorages(records).find };
  const pickled = readPickle(bytes, 0, context);
  if (pickled.end !== bytes.length) return refuse(`${bytes.length - pickled.end} bytes follow its pickle`);
  return headerOf(file, pickled, warnings);
}

/** The word that a small record holds. */
async function wordOf(opened: SourceFile, record: ZipRecord | undefined): Promise<string | undefined> {
  if (!record) return undefined;
  const bytes = await opened.read(record.begin, Math.min(record.size, MAX_WORD));
  return String.fromCharCode(...bytes).replace(/\n$/, "");
}

/** The tensors of a state dict, in the order of their bytes. */
function headerOf(file: string, { value, texts }: Pickled, warnings: string[]): StoredHeader {
  if (!(value instanceof Dict)) {
    throw new FormatError(`${file}: expected a dict of tensors by their names, got ${kindOfValue(value)}`, {
      details: { file, expected: "a dict", got: kindOfValue(value) },
      hint: SAVE_AGAIN,
    });
  }
  const tensors: StoredTensor[] = [];
  const others: [name: string, value: PickleValue][] = [];
  for (const [name, one] of value.entries) {
    if (typeof name === "string" && one instanceof TensorValue) tensors.push(storedTensor(file, name, one));
    else if (typeof name === "string" && typeof one === "string")
      tensors.push(storedText(file, name, one, texts.get(one)!));
    else others.push([typeof name === "string" ? name : kindOfValue(name), one]);
  }
  if (tensors.length > MAX_TENSORS) {
    throw new FormatError(`${file}: ${tensors.length} tensors; at most ${MAX_TENSORS} are read`, { details: { file } });
  }
  if (others.length > 0) {
    const [name, one] = others[0]!;
    const what = `${quote(name)} (${kindOfValue(one)})`;
    if (!tensors.some(({ dtype }) => dtype !== "U8")) {
      const inner = others.find(
        ([, held]) => held instanceof Dict && [...held.entries.values()].some((v) => v instanceof TensorValue),
      );
      throw new FormatError(
        `${file}: expected tensors by their names, got ${inner ? `a dict that holds them under ${quote(inner[0])}` : what}`,
        { details: { file, expected: "tensors", got: what }, hint: SAVE_AGAIN },
      );
    }
    const more = others.length > 1 ? ` and ${others.length - 1} more entries are` : " is";
    warnings.push(`${file}: ${what}${more} no tensor, and not read`);
  }
  tensors.sort((a, b) => a.offset - b.offset);
  return { tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])), metadata: new Map(), warnings };
}

function storedTensor(file: string, name: string, { dtype, shape, strides, from, offset }: TensorValue): StoredTensor {
  const width = widthOf(dtype);
  const elements = elementsOf(shape);
  const reach = elements === 0 ? 0 : shape.reduce((far, dim, d) => far + (dim - 1) * strides[d]!, 1);
  const packed = rowStrides(shape);
  const inRows = elements === 0 || shape.every((dim, d) => dim === 1 || strides[d] === packed[d]);
  const place = { file, offset: from.storage.begin + from.offset + offset * width, bytes: reach * width };
  return inRows ? { name, dtype, shape, ...place } : { name, dtype, shape, strides, ...place };
}

function storedText(file: string, name: string, text: string, offset: number): StoredTensor {
  const bytes = new TextEncoder().encode(text).length;
  return { name, dtype: "U8", shape: [bytes], file, offset, bytes };
}
