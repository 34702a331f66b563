// Examples in Parquet, by hyparquet, an optional package. A row group is in memory at a time.

import { FormatError, OctavoError } from "../../core/errors.js";
import type { SourceFile } from "../../sources/source.js";
import { asNumber, installed } from "./columnar.js";
import { isObject } from "./json-lines.js";
import type { Feature } from "./types.js";

/** What is used of hyparquet. */
interface Hyparquet {
  parquetMetadataAsync(file: AsyncBuffer): Promise<Metadata>;
  parquetSchema(metadata: Metadata): SchemaTree;
  parquetReadObjects(options: object): Promise<readonly unknown[]>;
}
interface AsyncBuffer {
  readonly byteLength: number;
  slice(begin: number, end?: number): Promise<ArrayBuffer>;
}
interface SchemaTree {
  readonly children: readonly SchemaTree[];
  readonly element: { readonly name: string };
}
interface Metadata {
  readonly row_groups: readonly {
    readonly num_rows: bigint;
    readonly columns: readonly {
      readonly meta_data?: { readonly codec?: string; readonly path_in_schema?: readonly string[] };
    }[];
  }[];
}

const PACKAGE = "hyparquet";
const COMPRESSORS = "hyparquet-compressors";
/** What hyparquet itself unpacks. */
const BUILT_IN = ["UNCOMPRESSED", "SNAPPY"];

/**
 * The examples of a file. Whole numbers are numbers where JavaScript counts them exactly.
 * @throws OctavoError without the package; FormatError
 */
export async function* parquetExamples(file: SourceFile): AsyncGenerator<Feature> {
  const { path, size } = file;
  const { parquetMetadataAsync, parquetReadObjects, parquetSchema } = await installed<Hyparquet>(
    PACKAGE,
    path,
    "Parquet",
  );
  const buffer: AsyncBuffer = {
    byteLength: size,
    async slice(begin, end = size) {
      const at = begin < 0 ? size + begin : begin;
      const bytes = await file.read(at, Math.min(end, size) - at);
      return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length) as ArrayBuffer;
    },
  };
  const reading = async <T>(work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (cause) {
      if (cause instanceof OctavoError) throw cause;
      throw new FormatError(`${path}: no Parquet file, or a broken one: ${(cause as Error).message}`, {
        details: { file: path },
        cause,
      });
    }
  };
  const metadata = await reading(() => parquetMetadataAsync(buffer));
  await reading(async () => checkColumns(parquetSchema(metadata), metadata));
  const packed = metadata.row_groups
    .flatMap(({ columns }) => columns.map(({ meta_data }) => meta_data?.codec))
    .find((codec) => codec !== undefined && !BUILT_IN.includes(codec));
  const { compressors } =
    packed === undefined
      ? { compressors: undefined }
      : await installed<{ readonly compressors: object }>(COMPRESSORS, path, `Parquet with ${packed}`);
  let rowStart = 0;
  for (const { num_rows } of metadata.row_groups) {
    const rowEnd = rowStart + Number(num_rows);
    const rows = await reading(() => parquetReadObjects({ file: buffer, metadata, compressors, rowStart, rowEnd }));
    for (const row of rows) {
      if (!isObject(row)) throw new FormatError(`${path}: a row that is no object`, { details: { file: path } });
      yield plain(row) as Feature;
    }
    rowStart = rowEnd;
  }
}

/** Where a column is not in the schema, hyparquet would leave the errors of others to nobody, which ends Node. @throws Error */
function checkColumns(schema: SchemaTree, { row_groups }: Metadata): void {
  for (const { meta_data } of row_groups.flatMap(({ columns }) => columns)) {
    let at: SchemaTree | undefined = schema;
    for (const name of meta_data?.path_in_schema ?? []) at = at?.children.find(({ element }) => element.name === name);
    if (!at || !meta_data?.path_in_schema) throw new Error("a column that its schema does not have");
  }
}

/** Values with numbers in place of bigints, as far as they are exact. */
function plain(value: unknown): unknown {
  if (typeof value === "bigint") return asNumber(value);
  if (Array.isArray(value)) return value.map(plain);
  if (!isObject(value) || Object.getPrototypeOf(value) !== Object.prototype) return value;
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, plain(one)]));
}
