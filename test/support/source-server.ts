// A file server on loopback for a suite, and sources that read from it.

import type { IncomingMessage } from "node:http";
import { afterAll, beforeAll } from "vitest";
import { HttpSource, type HttpSourceOptions } from "../../src/sources/http.js";
import type { SourceFile } from "../../src/sources/source.js";
import { FileServer } from "./server.js";

/** Runs from before the first test of the file to after the last. */
export const server: FileServer = new FileServer();
beforeAll(() => server.start());
afterAll(() => server.stop());

/** Gives `use` a source for the server's folder /m, and closes it. */
export async function withSource<T>(options: HttpSourceOptions, use: (source: HttpSource) => Promise<T>): Promise<T> {
  const source = new HttpSource(`${server.address}/m`, options);
  try {
    return await use(source);
  } finally {
    await source.close();
  }
}

export function open(source: HttpSource, name: string): Promise<SourceFile> {
  return source.open(source.path(name), "test file");
}

/** The whole file. */
export async function read(source: HttpSource, name: string): Promise<Buffer> {
  const file = await open(source, name);
  try {
    return Buffer.from(await file.read(0, file.size));
  } finally {
    await file.close();
  }
}

/** Puts a file into /m. */
export function serve(name: string, body: Buffer): void {
  server.files.set(`/m/${name}`, body);
}

/** Start and end (not included) of the range that was asked for. */
export function rangeOf({ headers }: IncomingMessage): [number, number] {
  const [, start, last] = /^bytes=(\d+)-(\d+)$/.exec(headers.range!)!;
  return [Number(start), Number(last) + 1];
}
