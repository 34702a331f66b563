// Bytes and Blobs as open files.

import { isOf } from "../core/checks.js";
import type { SourceFile } from "./source.js";

/** A Blob, which may be larger than memory: it is read by parts. (Not every platform's types have one.) */
interface BlobLike {
  arrayBuffer(): Promise<ArrayBuffer>;
}
interface Sliced extends BlobLike {
  readonly size: number;
  slice(begin: number, end: number): BlobLike;
}

/** Bytes or a Blob as an open file. */
export function inMemory(path: string, given: Uint8Array | ArrayBuffer | BlobLike): SourceFile {
  if (isOf(given, Uint8Array) || isOf(given, ArrayBuffer)) {
    const bytes = isOf(given, Uint8Array) ? given : new Uint8Array(given);
    const read = async (at: number, count: number): Promise<Uint8Array> => bytes.slice(at, at + count);
    return { path, size: bytes.length, read, close: async () => {} };
  }
  const blob = given as Sliced;
  const read = async (at: number, count: number): Promise<Uint8Array> =>
    new Uint8Array(await blob.slice(at, at + count).arrayBuffer());
  return { path, size: blob.size, read, close: async () => {} };
}
