// Files of examples: the seam between readers of formats and a platform, and how text comes out of a file piece by piece.

import { isOf } from "../../core/checks.js";
import { FormatError, OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import { isFile, type MediaFile } from "../../media/reader.js";
import { foreignKind, HEAD_BYTES, isPage } from "../../sources/files.js";
import { inMemory } from "../../sources/in-memory.js";
import { brokenUtf8 } from "../../sources/json-text.js";
import type { SourceFile } from "../../sources/source.js";

/** A file that can be opened, as often as it is read. */
export interface DataPlace {
  /** Its path, its address, or what stands for one, for messages; formats are told by its ending. */
  readonly name: string;
  /** Its path below the folder in which it was found; absent for one that was named itself. */
  readonly below?: string;
  /** The caller closes it. @throws NotFoundError, FormatError, NetworkError */
  open(): Promise<SourceFile>;
}

/** What reading examples needs of its platform. */
export interface DataReader {
  /**
   * The files that a path or an address names: itself, or those of a folder and the folders in it, by name.
   * @throws NotFoundError, NetworkError, OptionError
   */
  find(where: string): Promise<readonly DataPlace[]>;
}

/** A file of examples: its path or address, or its bytes. */
export type DataFile = MediaFile;

/** The files that `given` stands for. `called` names bytes in messages. @throws what `find` throws; OptionError */
export async function placesOf(reader: DataReader, given: unknown, called: string): Promise<readonly DataPlace[]> {
  if (!isFile(given)) {
    throw new OptionError(`load_dataset: a file is a path, an address or bytes, got ${show(given)}`);
  }
  if (typeof given === "string") return reader.find(given);
  if (isOf(given, URL)) return reader.find(given.href);
  return [{ name: nameOf(given) ?? called, open: async () => inMemory(nameOf(given) ?? called, given) }];
}

/** The name of a File, which a Blob has not. */
function nameOf(given: object): string | undefined {
  const { name } = given as { readonly name?: unknown };
  return typeof name === "string" && name !== "" ? name : undefined;
}

/** Opens a file, passes what `use` makes of it on, and closes it, also when the caller stops early. */
export async function* opened<T>(place: DataPlace, use: (file: SourceFile) => AsyncIterable<T>): AsyncGenerator<T> {
  const file = await place.open();
  try {
    yield* use(file);
  } finally {
    await file.close();
  }
}

/** Bytes that are read at once by default. */
const PIECE = 1 << 20;
const LF = 10;
const ENCODING_HINT = "save it as UTF-8, or convert it: iconv -f LATIN1 -t UTF-8 old.txt > new.txt";
const LONG_HINT = "is this a file with one example on each line?";
/** Longest line, in bytes: the longest text that JavaScript holds is not much longer. */
const LONGEST_LINE = 2 ** 28;

/** A piece of a file's text, which ends behind a line end or at the end of the file. */
interface TextPiece {
  readonly text: string;
  /** Number of its first line, from 1. */
  readonly line: number;
}

/** @throws FormatError with the file and the line */
export function brokenLine(file: string, line: number, problem: string, hint?: string, cause?: unknown): FormatError {
  return new FormatError(`${file}, line ${line}: ${problem}`, { details: { file, line }, hint, cause });
}

/**
 * The text of a file in pieces of about `most` bytes: UTF-8, or UTF-16 that begins with a byte order mark. The mark is no text.
 * @throws FormatError for other bytes, with the line, and for files that are no text
 */
export async function* textPieces(file: SourceFile, most: number = PIECE): AsyncGenerator<TextPiece> {
  const { path, size } = file;
  const head = await file.read(0, Math.min(size, HEAD_BYTES));
  const kind = isPage(head) ? undefined : foreignKind(head); // a page is a text like others
  if (kind)
    throw new FormatError(`${path}: expected text, got ${kind.name}`, { details: { file: path }, hint: kind.hint });
  const wide = (head[0] === 0xff && head[1] === 0xfe) || (head[0] === 0xfe && head[1] === 0xff);
  const encoding = !wide ? "utf-8" : head[0] === 0xff ? "utf-16le" : "utf-16be";
  const decoder = new TextDecoder(encoding, { fatal: true, ignoreBOM: true });
  let at = wide ? 2 : head[0] === 0xef && head[1] === 0xbb && head[2] === 0xbf ? 3 : 0;
  let line = 1;
  let rest: Uint8Array = new Uint8Array(0);
  while (at < size || rest.length > 0) {
    const more = await file.read(at, Math.min(most, size - at));
    at += more.length;
    const bytes = joined(rest, more);
    const end = at >= size ? bytes.length : lineEnd(bytes, encoding);
    rest = bytes.slice(end);
    if (rest.length > LONGEST_LINE) {
      throw brokenLine(path, line, `longer than ${LONGEST_LINE} bytes`, LONG_HINT);
    }
    if (end === 0) continue;
    const text = decoded(decoder, bytes.subarray(0, end), path, line);
    const zero = text.indexOf("\0");
    if (zero >= 0) {
      const where = line + count(text, "\n", zero);
      throw brokenLine(path, where, "a zero byte, which no text has: UTF-16 without a byte order mark?", ENCODING_HINT);
    }
    yield { text, line };
    line += count(text, "\n", text.length);
  }
}

/** A TextDecoder, whose type not every platform's declarations have. */
interface Decoder {
  readonly encoding: string;
  decode(bytes: Uint8Array): string;
}

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  if (a.length === 0) return b;
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

/** Where the last line of `bytes` that ends in them ends. */
function lineEnd(bytes: Uint8Array, encoding: string): number {
  if (encoding === "utf-8") return bytes.lastIndexOf(LF) + 1;
  const low = encoding === "utf-16le" ? 0 : 1;
  for (let at = bytes.length - (bytes.length % 2) - 2; at >= 0; at -= 2) {
    if (bytes[at + low] === LF && bytes[at + 1 - low] === 0) return at + 2;
  }
  return 0;
}

function decoded(decoder: Decoder, bytes: Uint8Array, path: string, line: number): string {
  try {
    return decoder.decode(bytes);
  } catch (cause) {
    if (decoder.encoding !== "utf-8") {
      throw new FormatError(`${path}: begins like ${decoder.encoding.toUpperCase()} text but is not`, {
        details: { file: path },
        hint: ENCODING_HINT,
        cause,
      });
    }
    const broken = bytes.subarray(0, brokenUtf8(bytes));
    const where = line + broken.reduce((lines, byte) => lines + (byte === LF ? 1 : 0), 0);
    throw brokenLine(path, where, "bytes that are not UTF-8", ENCODING_HINT, cause);
  }
}

/** How often a letter stands before `end`. */
function count(text: string, letter: string, end: number): number {
  let n = 0;
  for (let at = text.indexOf(letter); at >= 0 && at < end; at = text.indexOf(letter, at + 1)) n++;
  return n;
}

/** The lines of a file without their ends (LF or CRLF), with their numbers. */
export async function* linesOf(file: SourceFile): AsyncGenerator<TextPiece> {
  for await (const piece of textPieces(file)) {
    const lines = piece.text.split("\n");
    if (lines.at(-1) === "") lines.pop(); // behind the last line end
    for (const [i, text] of lines.entries()) {
      yield { text: text.endsWith("\r") ? text.slice(0, -1) : text, line: piece.line + i };
    }
  }
}

/** All text of a file at once. @throws FormatError for one that is too long for it */
export async function wholeText(file: SourceFile): Promise<string> {
  if (file.size > LONGEST_LINE) {
    throw new FormatError(`${file.path}: ${file.size} bytes cannot be read as one text`, {
      details: { file: file.path },
      hint: "write one example on each line (JSON Lines)",
    });
  }
  let text = "";
  for await (const piece of textPieces(file, Math.max(1, file.size))) text += piece.text;
  return text;
}
