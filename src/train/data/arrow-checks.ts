// What is checked of Arrow's messages before flechette decodes them: it reads numbers beyond an array as 0 and believes every count, so
// that a damaged file would give wrong values, or loops of billions. FlatBuffers and messages: Schema.fbs and Message.fbs of Arrow's
// format.

const [LIST, STRUCT, FIXED_BINARY, FIXED_LIST, LARGE_LIST] = [12, 13, 15, 16, 21];
const BOOL = 6;
/** Types that are not read, of those that Arrow numbers from 1. */
const UNREAD = new Map([
  [14, "unions"],
  [17, "maps"],
  [22, "runs"],
  [25, "lists as views"],
  [26, "lists as views"],
]);
/** The last type that Arrow has. */
const LAST_TYPE = 26;
const [SCHEMA, DICTIONARY, RECORDS] = [1, 2, 3];
/** Deepest nesting of fields. */
const DEEPEST = 64;
/** Most rows of a batch whatever its size: a row takes a bit of each column at least, but a column of nulls takes nothing. */
const FEW_ROWS = 8192;

/** A message's kind and the bytes of its body. */
export interface MessageHead {
  readonly kind: number;
  readonly body: number;
}

/** A table of a FlatBuffer. */
class Tables {
  readonly #view: DataView;
  /** How many may be visited: each takes four bytes at least, so more of them means that some contain themselves. */
  #left: number;

  constructor(bytes: Uint8Array) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#left = bytes.byteLength / 4;
  }

  u8 = (at: number): number => this.#view.getUint8(at);

  /** A whole number of 64 bits from 0 on. */
  count(at: number): number {
    const value = Number(this.#view.getBigInt64(at, true));
    if (value >= 0 && Number.isSafeInteger(value)) return value;
    throw new Error(`the count ${value}`);
  }

  /** What an offset at a place points at. */
  to(at: number): number {
    return at + this.#view.getUint32(at, true);
  }

  /** Where a field of a table stands; undefined where it has its default. */
  field(table: number, number: number): number | undefined {
    const fields = table - this.#view.getInt32(table, true);
    const slot = 4 + 2 * number;
    if (slot >= this.#view.getUint16(fields, true)) return undefined;
    return this.#view.getUint16(fields + slot, true) === 0
      ? undefined
      : table + this.#view.getUint16(fields + slot, true);
  }

  /** A table in a field of another. */
  table(table: number, number: number): number | undefined {
    const at = this.field(table, number);
    return at === undefined ? undefined : this.visited(this.to(at));
  }

  visited(table: number): number {
    if (--this.#left >= 0) return table;
    throw new Error("fields that contain themselves");
  }

  /** Where the entries of a vector in a field stand, each of so many bytes. */
  vector(table: number, number: number, stride: number): number[] {
    const at = this.field(table, number);
    if (at === undefined) return [];
    const vector = this.to(at);
    const length = this.#view.getUint32(vector, true);
    if (vector + 4 + length * stride > this.#view.byteLength) throw new Error(`a list of ${length} entries`);
    return Array.from({ length }, (_, i) => vector + 4 + i * stride);
  }
}

/**
 * Kind and body of a message, whose counts are found to be possible.
 * @param size bytes of the file that are left for the body
 * @throws Error
 */
export function messageHead(bytes: Uint8Array, size: number): MessageHead {
  const tables = new Tables(bytes);
  const message = tables.to(0);
  const at = { kind: tables.field(message, 1), body: tables.field(message, 3) };
  const kind = at.kind === undefined ? 0 : tables.u8(at.kind);
  const body = at.body === undefined ? 0 : tables.count(at.body);
  const header = tables.table(message, 2);
  if (header === undefined) throw new Error("a message of nothing");
  if (body > size) throw new Error(`a body of ${body} bytes, and ${size} are left`);
  const most = Math.max(FEW_ROWS, 8 * (bytes.length + body));
  if (kind === SCHEMA) {
    checkFields(tables, tables.vector(header, 1, 4), 0);
    checkPairs(tables, header, 2);
  } else if (kind === RECORDS) checkBatch(tables, header, body, most);
  else if (kind === DICTIONARY) checkBatch(tables, tables.table(header, 1) ?? header, body, most);
  else throw new Error(`a message of kind ${kind}`);
  return { kind, body };
}

function checkFields(tables: Tables, places: readonly number[], depth: number): void {
  if (depth > DEEPEST) throw new Error(`fields that are nested more than ${DEEPEST} times`);
  for (const place of places) {
    const field = tables.visited(tables.to(place));
    const type = tables.field(field, 2);
    const id = type === undefined ? 0 : tables.u8(type);
    const children = tables.vector(field, 5, 4);
    if (id < 1 || id > LAST_TYPE) throw new Error(`a column of the type ${id}, which Arrow does not have`);
    if (UNREAD.has(id)) throw new Error(`columns of ${UNREAD.get(id)} are not read`);
    if (tables.field(field, 4) !== undefined && children.length > 0)
      throw new Error("dictionaries of lists are not read");
    const lists = [LIST, LARGE_LIST, FIXED_LIST].includes(id);
    if (lists ? children.length !== 1 : id !== STRUCT && children.length > 0) {
      throw new Error(`a type with ${children.length} kinds of values`);
    }
    checkFields(tables, children, depth + 1);
    checkPairs(tables, field, 6);
  }
}

/** Metadata: names and values. */
function checkPairs(tables: Tables, table: number, field: number): void {
  for (const pair of tables.vector(table, field, 4)) tables.visited(tables.to(pair));
}

function checkBatch(tables: Tables, batch: number, body: number, most: number): void {
  const rows = tables.field(batch, 0);
  const nodes = tables.vector(batch, 1, 16).map((at) => tables.count(at));
  for (const length of [rows === undefined ? 0 : tables.count(rows), ...nodes]) {
    if (length > most) throw new Error(`a column of ${length} rows in ${body} bytes`);
  }
  const buffers = tables.vector(batch, 2, 16);
  for (const at of buffers) {
    if (tables.count(at) + tables.count(at + 8) > body) throw new Error("a column beyond the end of its message");
  }
  const views = tables.vector(batch, 4, 8).reduce((sum, at) => sum + tables.count(at), 0);
  if (views > buffers.length) throw new Error(`${views} buffers of text, and there are ${buffers.length}`);
}

/** What is looked at of a column's type and of a batch of its values, as flechette has them. */
export interface ColumnType {
  readonly typeId: number;
  readonly stride?: number;
}
export interface ColumnBatch {
  readonly type: ColumnType;
  readonly length: number;
  readonly nullCount: number;
  readonly validity?: { readonly length: number };
  readonly values?: { readonly length: number };
  readonly offsets?: ArrayLike<number | bigint>;
  readonly children?: readonly ColumnBatch[];
  /** Values that codes stand for. */
  readonly dictionary?: { readonly data: readonly ColumnBatch[] };
}

/**
 * Checks that a column has so many rows, and that lists and texts lie within their values.
 * @throws Error
 */
export function checkColumn(batch: ColumnBatch, rows: number): void {
  const { type, length, nullCount, validity, values, offsets, children = [], dictionary } = batch;
  if (length < rows) throw new Error(`a column of ${length} rows in place of ${rows}`);
  if (nullCount > 0 && validity && validity.length * 8 < rows) throw new Error("marks of nulls are missing");
  if (offsets) {
    const end = children[0]?.length ?? values?.length ?? 0;
    if (rows > 0 && offsets.length <= rows) throw new Error("offsets are missing");
    for (let i = 0, last = 0; i <= rows && rows > 0; i++) {
      const next = Number(offsets[i]);
      if (!(next >= last && next <= end)) throw new Error(`the offset ${next} after ${last}, of ${end} values`);
      last = next;
    }
    if (children[0]) checkColumn(children[0], children[0].length);
  } else if (type.typeId === FIXED_LIST) {
    const { stride = 0 } = type;
    if (stride < 0) throw new Error(`lists of ${stride} values`);
    checkColumn(children[0]!, rows * stride);
  } else if (values) {
    const { stride = 1 } = type;
    const least = type.typeId === BOOL ? rows / 8 : type.typeId === FIXED_BINARY ? rows * stride : rows;
    if (stride < 0 || values.length < least) throw new Error(`${values.length} values for ${rows} rows`);
  } else {
    for (const child of children) checkColumn(child, rows);
  }
  for (const part of dictionary?.data ?? []) checkColumn(part, part.length);
}
