// Copies of fixture models that tests may change, in temporary folders that are removed after the test file.

import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FIXTURES } from "./fixtures.js";
import { temporary } from "./temporary.js";

/** A copy of a folder below the fixtures, without the expected results. */
export function copyOf(...path: string[]): string {
  const folder = temporary(path.join("/"));
  cpSync(join(FIXTURES, ...path), folder, {
    recursive: true,
    filter: (file) => !file.endsWith("expected.safetensors"),
  });
  return folder;
}

export type Header = Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;

/** Rewrites the header of a safetensors file; the data stay as they are. */
export function editHeader(file: string, edit: (header: Header) => void): void {
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + length)) as Header;
  edit(header);
  writeFileSync(file, Buffer.concat([headerBytes(header), bytes.subarray(8 + length)]));
}

function headerBytes(header: Header): Buffer {
  const text = Buffer.from(JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([size, text]);
}

/** Writes f32 tensors of the given shapes with small repeating values. */
export function writeTensors(file: string, shapes: ReadonlyMap<string, readonly number[]>): void {
  const header: Header = {};
  let at = 0;
  for (const [name, shape] of shapes) {
    const end = at + 4 * shape.reduce((n, size) => n * size, 1);
    header[name] = { dtype: "F32", shape: [...shape], data_offsets: [at, end] };
    at = end;
  }
  const values = Float32Array.from({ length: at / 4 }, (_, i) => ((i * 7919) % 1009) / 25000 - 0.02);
  writeFileSync(file, Buffer.concat([headerBytes(header), Buffer.from(values.buffer)]));
}

/** Changes fields of a JSON file. */
export function editJson(file: string, fields: Record<string, unknown>): void {
  const before = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
  writeFileSync(file, JSON.stringify({ ...before, ...fields }));
}

/** A copy of a fixture's folder whose stored names lack a prefix, as files of the first repositories of BLOOM and GPT-2 do. */
export function withoutPrefix(prefix: string, ...path: string[]): string {
  const folder = copyOf(...path);
  editHeader(join(folder, "model.safetensors"), (header) => {
    for (const name of Object.keys(header).filter((stored) => stored.startsWith(prefix))) {
      header[name.slice(prefix.length)] = header[name]!;
      delete header[name];
    }
  });
  return folder;
}
