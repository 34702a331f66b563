// Examples in Arrow's IPC format, streams and files, as Python's datasets keep them: by flechette, an optional package. A record batch
// is in memory at a time, so messages are found here ("Encapsulated message format" of Arrow's columnar format).

import { FormatError, OctavoError } from "../../core/errors.js";
import type { SourceFile } from "../../sources/source.js";
import { type ColumnBatch, checkColumn, type MessageHead, messageHead } from "./arrow-checks.js";
import { asNumber, installed } from "./columnar.js";
import type { Feature } from "./types.js";

/** What is used of flechette. */
interface Flechette {
  readonly Type: Readonly<Record<"Binary" | "LargeBinary" | "FixedSizeBinary" | "BinaryView", number>>;
  tableFromIPC(messages: readonly Uint8Array[], options: object): Table;
}
interface Table {
  readonly schema: { readonly fields: readonly Field[] };
  readonly numRows: number;
  getChildAt(index: number): { readonly data: readonly ColumnBatch[]; at(row: number): unknown };
}
interface Field {
  readonly name: string;
  readonly type: Type;
}
interface Type {
  readonly typeId: number;
  readonly children?: readonly Field[];
  /** The values' type, where codes stand for them. */
  readonly dictionary?: Type;
}

const PACKAGE = "@uwdata/flechette";
const MAGIC = "ARROW1";
/** Codes of a message's header. */
const [DICTIONARY, RECORDS] = [2, 3];

interface Message {
  readonly kind: number;
  readonly bytes: Uint8Array;
}

/**
 * The examples of a file. Whole numbers are numbers where JavaScript counts them exactly.
 * @throws OctavoError without the package; FormatError
 */
export async function* arrowExamples(file: SourceFile): AsyncGenerator<Feature> {
  const { path } = file;
  const { tableFromIPC, Type } = await installed<Flechette>(PACKAGE, path, "Arrow");
  const binary = [Type.Binary, Type.LargeBinary, Type.FixedSizeBinary, Type.BinaryView];
  const reading = <T>(work: () => T): T => {
    try {
      return work();
    } catch (cause) {
      if (cause instanceof OctavoError) throw cause;
      throw broken(path, (cause as Error).message, cause);
    }
  };
  // A batch is read with the schema and the dictionaries before it.
  const before: Uint8Array[] = [];
  for await (const { kind, bytes } of messagesOf(file)) {
    if (kind !== RECORDS) {
      before.push(bytes);
      if (kind !== DICTIONARY && before.length > 1) throw broken(path, "a second schema");
      continue;
    }
    if (before.length === 0) throw broken(path, "a record batch before the schema");
    const table = reading(() => tableFromIPC([...before, bytes], { useBigInt: true, useDate: true }));
    const columns = table.schema.fields.map(({ name, type }, i) => ({ name, type, values: table.getChildAt(i) }));
    reading(() => {
      for (const { values } of columns) for (const part of values.data) checkColumn(part, table.numRows);
    });
    for (let row = 0; row < table.numRows; row++) {
      yield reading(() =>
        Object.fromEntries(columns.map(({ name, type, values }) => [name, plain(type, values.at(row), binary)])),
      );
    }
  }
  if (before.length === 0) throw broken(path, "no schema");
}

function broken(path: string, problem: string, cause?: unknown): FormatError {
  return new FormatError(`${path}: no Arrow file, or a broken one: ${problem}`, { details: { file: path }, cause });
}

/** A message is a mark of four bytes (absent before Arrow 0.15), the length of its metadata, these, and its body. */
async function* messagesOf(file: SourceFile): AsyncGenerator<Message> {
  const { path, size } = file;
  const first = await file.read(0, Math.min(8, size));
  const isFile = String.fromCharCode(...first.subarray(0, MAGIC.length)) === MAGIC;
  for (let at = isFile ? 8 : 0; at < size; ) {
    const start = viewOf(await file.read(at, Math.min(8, size - at)));
    if (start.byteLength < 4) throw broken(path, `it ends within the message at byte ${at}`);
    const marked = start.getInt32(0, true) === -1;
    if (marked && start.byteLength < 8) throw broken(path, `it ends within the message at byte ${at}`);
    const length = start.getInt32(marked ? 4 : 0, true);
    if (length === 0) return;
    const begin = at + (marked ? 8 : 4);
    if (length < 0 || length > size - begin) throw broken(path, `it ends within the message at byte ${at}`);
    const metadata = await file.read(begin, length);
    let head: MessageHead;
    try {
      head = messageHead(metadata, size - begin - length);
    } catch (cause) {
      const problem = cause instanceof RangeError ? "it points beyond its end" : (cause as Error).message;
      throw broken(path, `the message at byte ${at}: ${problem}`, cause);
    }
    const end = begin + length + head.body;
    const bytes = await file.read(at, end - at);
    // Numbers of 64 bits are looked at in place.
    yield { kind: head.kind, bytes: bytes.byteOffset % 8 === 0 ? bytes : bytes.slice() };
    at = end;
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Values as Python's datasets give them: lists in place of typed arrays, numbers in place of bigints as far as they are exact. */
function plain(type: Type, value: unknown, binary: readonly number[]): unknown {
  if (typeof value === "bigint") return asNumber(value);
  if (value === undefined) throw new Error("a value that is not there");
  if (typeof value !== "object" || value === null || value instanceof Date) return value;
  if (type.dictionary) return plain(type.dictionary, value, binary);
  if (binary.includes(type.typeId)) return (value as Uint8Array).slice(); // the batch may go
  const { children = [] } = type;
  if (ArrayBuffer.isView(value) || Array.isArray(value)) {
    return Array.from(value as ArrayLike<unknown>, (one) => plain(children[0]?.type ?? type, one, binary));
  }
  const fields = value as Feature;
  return Object.fromEntries(children.map(({ name, type: own }) => [name, plain(own, fields[name], binary)]));
}
