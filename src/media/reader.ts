// What processors need of their platform: bytes of a file by its name, and decoders of images.

import { isOf } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import type { RawImage } from "./image.js";

export interface MediaReader {
  /** The bytes of a file by its path or address. @throws NotFoundError, NetworkError, OptionError */
  bytes(where: string): Promise<Uint8Array>;
  /**
   * Decodes PNG or JPEG, and what else the platform can, turned as the file says.
   * @throws FormatError for broken or other files, OptionError if no decoder is installed
   */
  image(bytes: Uint8Array): Promise<RawImage>;
}

/** What a Blob is to a declaration: not every platform's types have one. */
export interface BlobLike {
  arrayBuffer(): Promise<ArrayBuffer>;
}

/** A file: its path or address, or its bytes. */
export type MediaFile = string | URL | Uint8Array | ArrayBuffer | BlobLike;

/** True for what stands for a file. */
export function isFile(value: unknown): value is MediaFile {
  if (typeof value === "string") return true;
  return [Uint8Array, URL, ArrayBuffer, Blob].some((kind) => isOf<object>(value, kind));
}

/** The bytes of a file. @throws what `reader.bytes` throws; OptionError for what is no file */
export async function bytesOf(reader: MediaReader, file: MediaFile): Promise<Uint8Array> {
  if (typeof file === "string") return reader.bytes(file);
  if (file instanceof URL) return reader.bytes(file.href);
  if (file instanceof Uint8Array) return file;
  if (file instanceof ArrayBuffer) return new Uint8Array(file);
  if (file instanceof Blob) return new Uint8Array(await file.arrayBuffer());
  throw new OptionError(`a file is a path, an address or bytes, got ${show(file)}`);
}
