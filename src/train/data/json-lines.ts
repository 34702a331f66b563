// Examples in JSON: one object on each line (JSON Lines), or one list of objects in the whole file.

import { FormatError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import type { SourceFile } from "../../sources/source.js";
import { brokenLine, linesOf, wholeText } from "./files.js";
import type { Feature } from "./types.js";

/** An object with fields, as an example is. */
export function isObject(value: unknown): value is Feature {
  try {
    return typeof value === "object" && !Array.isArray(value) && Object.getPrototypeOf(value) !== undefined;
  } catch {
    return false; // null, or a proxy
  }
}

/**
 * The examples of a JSON file: of its lines, or of the list that it is. With `field`, the file is one object that has the list.
 * @throws FormatError with file and line for what is no JSON, or no object
 */
export async function* jsonExamples(file: SourceFile, field: string | undefined): AsyncGenerator<Feature> {
  if (field !== undefined || (await beginsAsList(file))) yield* listIn(file, field);
  else yield* jsonLines(file);
}

async function* jsonLines(file: SourceFile): AsyncGenerator<Feature> {
  for await (const { text, line } of linesOf(file)) {
    if (text.trim() === "") continue;
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (cause) {
      const hint = text.trim() === "{" ? "one object stands on one line, or all of them in a list" : undefined;
      throw brokenLine(file.path, line, `no JSON: ${(cause as Error).message}`, hint, cause);
    }
    if (!isObject(value)) throw brokenLine(file.path, line, `expected an object, got ${show(value)}`);
    yield value;
  }
}

/** Bytes at the beginning that are looked at for the kind of a file. */
const BEGINNING = 4096;

/** A line that is a list is no example, so "[" begins a list of all. */
async function beginsAsList(file: SourceFile): Promise<boolean> {
  const bytes = await file.read(0, Math.min(file.size, BEGINNING));
  return new TextDecoder().decode(bytes).trimStart().startsWith("[");
}

async function* listIn(file: SourceFile, field: string | undefined): AsyncGenerator<Feature> {
  const { path } = file;
  const wrong = (problem: string, cause?: unknown): FormatError =>
    new FormatError(`${path}: ${problem}`, { details: { file: path, key: field }, cause });
  let value: unknown;
  try {
    value = JSON.parse(await wholeText(file));
  } catch (cause) {
    throw cause instanceof FormatError ? cause : wrong(`no JSON: ${(cause as Error).message}`, cause);
  }
  if (field !== undefined) {
    if (!isObject(value) || !Object.hasOwn(value, field)) throw wrong(`expected an object with ${show(field)}`);
    value = value[field];
  }
  if (!Array.isArray(value)) throw wrong(`expected a list of objects, got ${show(value)}`);
  for (const [i, one] of value.entries()) {
    if (!isObject(one)) throw wrong(`entry ${i} is no object, but ${show(one)}`);
    yield one;
  }
}
