// Helpers of the format tests: a scratch folder, hand-made safetensors bytes, and the check that a refusal is typed.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect } from "vitest";
import * as checkpoint from "../../src/checkpoints/checkpoint.js";
import * as safetensors from "../../src/checkpoints/safetensors.js";
import { FormatError, OctavoError } from "../../src/core/errors.js";
import { Disk } from "../../src/sources/disk.js";
import * as json from "../../src/sources/json.js";

export const FIXTURES = join(dirname(fileURLToPath(import.meta.url)), "..", "fixtures");

/** The readers of any source, applied to files on disk. */
export const openCheckpoint = (folder: string, options?: checkpoint.CheckpointOptions) =>
  checkpoint.openCheckpoint(new Disk(folder), options);
export const readJsonFile = (file: string, options?: json.JsonFileOptions) =>
  json.readJsonFile(new Disk(dirname(file)), file, options);
export const readSafetensorsHeader = (file: string) => safetensors.readSafetensorsHeader(new Disk(dirname(file)), file);

/** A folder under the system's temporary one, removed after the test file. */
export function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), "octavo-sources-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** The bytes of a safetensors file with this header text and `data` zero bytes. */
export function fileOf(header: string | Uint8Array, data = 0, length?: bigint): Buffer {
  const body = Buffer.from(header);
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(length ?? BigInt(body.length));
  return Buffer.concat([head, body, Buffer.alloc(data)]);
}

/** One entry of a header as text; fields may be any text. */
export function entry(dtype: string, shape: string, offsets: string): string {
  return `{"dtype":${dtype},"shape":${shape},"data_offsets":${offsets}}`;
}

export function put(folder: string, name: string, content: string | Uint8Array): string {
  const file = join(folder, name);
  writeFileSync(file, content);
  return file;
}

/** The error of `work`; fails if it succeeds. */
export async function failure(work: () => unknown): Promise<unknown> {
  try {
    await work();
  } catch (error) {
    return error;
  }
  return expect.fail("expected an error, but it succeeded");
}

/** Expects a FormatError that names the file and a place in it; returns it. */
export async function refusal(work: () => unknown, file?: string): Promise<FormatError> {
  const error = await failure(work);
  if (!(error instanceof FormatError)) throw new Error("expected a FormatError", { cause: error });
  expect(error.code).toBe("ERR_FORMAT");
  if (file !== undefined) {
    expect(error.details.file).toBe(file);
    expect(error.message).toContain(file);
  }
  return error;
}

export { FormatError, OctavoError };
