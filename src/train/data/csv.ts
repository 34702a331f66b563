// Examples in CSV (RFC 4180): a header and records, fields in quotes where they hold separators, quotes ("") or line ends. The reader
// is strict: what Python's would guess is refused with its line.

import { FormatError } from "../../core/errors.js";
import type { SourceFile } from "../../sources/source.js";
import { brokenLine, textPieces } from "./files.js";
import type { Feature } from "./types.js";

/** What the fields of a column are, by datasets' names. */
export const COLUMN_TYPES = ["string", "int32", "int64", "float32", "float64", "bool"] as const;
export type ColumnType = (typeof COLUMN_TYPES)[number];

export interface CsvOptions {
  /** Separates fields. */
  readonly delimiter: string;
  /** Names of the columns, of a file without a header. */
  readonly column_names?: readonly string[] | undefined;
  /** What columns hold; they are text by default. */
  readonly features?: Readonly<Record<string, ColumnType>> | undefined;
}

interface CsvRecord {
  readonly fields: readonly string[];
  /** Number of its first line, from 1. */
  readonly line: number;
}

/**
 * The examples of a file: fields by the names of columns. Of numbers and truth values, empty fields are null.
 * @throws FormatError with file and line
 */
export async function* csvExamples(file: SourceFile, options: CsvOptions): AsyncGenerator<Feature> {
  const { features = {} } = options;
  let names = options.column_names;
  if (names) checkColumns(file.path, names, features);
  for await (const { fields, line } of records(file, options.delimiter)) {
    if (names === undefined) {
      names = header(file.path, line, fields);
      checkColumns(file.path, names, features);
    } else if (fields.length === names.length) {
      yield Object.fromEntries(names.map((name, i) => [name, typedField(fields[i]!, name, features, file.path, line)]));
    } else {
      throw brokenLine(file.path, line, `${fields.length} fields, and there are ${names.length} columns`, QUOTE_HINT);
    }
  }
}

const QUOTE_HINT = 'a field with a separator, a quote or a line end stands in quotes: "a ""b"", c"';

function header(path: string, line: number, names: readonly string[]): readonly string[] {
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw brokenLine(path, line, `two columns are called ${JSON.stringify(twice)}`);
  return names;
}

/** @throws FormatError for features of columns that are not there */
function checkColumns(path: string, names: readonly string[], features: Readonly<Record<string, ColumnType>>): void {
  const strange = Object.keys(features).find((name) => !names.includes(name));
  if (strange === undefined) return;
  throw new FormatError(`${path}: there is no column ${JSON.stringify(strange)}, only ${names.join(", ")}`, {
    details: { file: path, key: strange },
  });
}

const TRUTH = new Map([
  ["true", true],
  ["false", false],
  ["1", true],
  ["0", false],
]);

function typedField(
  field: string,
  name: string,
  features: Readonly<Record<string, ColumnType>>,
  path: string,
  line: number,
): unknown {
  const type = Object.hasOwn(features, name) ? features[name]! : "string";
  if (type === "string") return field;
  if (field.trim() === "") return null;
  const value = type === "bool" ? TRUTH.get(field.trim().toLowerCase()) : Number(field);
  const fits = value !== undefined && !Number.isNaN(value) && (!type.startsWith("int") || Number.isSafeInteger(value));
  if (fits) return value;
  throw brokenLine(path, line, `${JSON.stringify(field.slice(0, 40))} in column ${name} is no ${type}`);
}

/** Where the reader stands: before a field, in a bare one, in a quoted one, or behind its quote. */
type State = "begin" | "bare" | "quoted" | "closed";

async function* records(file: SourceFile, delimiter: string): AsyncGenerator<CsvRecord> {
  const { path } = file;
  let state: State = "begin";
  let fields: string[] = [];
  let field = "";
  let line = 1;
  let first = 1;
  const end = (): void => {
    fields.push(field);
    field = "";
    state = "begin";
  };
  for await (const { text } of textPieces(file)) {
    for (let at = 0; at < text.length; ) {
      const char = text[at]!;
      if (state === "quoted") {
        // To the next quote at once: that is most of a text.
        const quote = text.indexOf('"', at);
        const stop = quote < 0 ? text.length : quote;
        const part = text.slice(at, stop);
        field += part;
        for (let n = part.indexOf("\n"); n >= 0; n = part.indexOf("\n", n + 1)) line++;
        at = stop + 1;
        if (quote >= 0) state = "closed";
        continue;
      }
      at++;
      if (char === "\n" || (char === "\r" && text[at] === "\n")) {
        if (char === "\r") at++;
        const blank = state === "begin" && fields.length === 0;
        end();
        if (!blank) yield { fields, line: first };
        fields = [];
        first = ++line;
      } else if (char === delimiter) end();
      else if (char === '"') {
        if (state === "bare")
          throw brokenLine(path, line, "a quote inside a field that has none around it", QUOTE_HINT);
        if (state === "closed") field += '"';
        state = "quoted";
      } else if (state === "closed")
        throw brokenLine(path, line, "text behind the quote that ends a field", QUOTE_HINT);
      else {
        field += char;
        state = "bare";
      }
    }
  }
  if (state === "quoted") throw brokenLine(path, first, "a quote that nothing ends", QUOTE_HINT);
  if (state !== "begin" || fields.length > 0) {
    end();
    yield { fields, line: first };
  }
}
