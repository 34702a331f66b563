// Folders of models with a head beside the tensors of a fixture.

import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { copyOf, editJson } from "./checkpoints.js";
import { FIXTURES } from "./fixtures.js";

/** A tensor of a head. */
export interface HeadTensor {
  readonly shape: readonly number[];
  readonly values: readonly number[];
}

/** A copy of a fixture's folder with the tensors of a head beside it, and other fields in its config.json. */
export function withHead(
  name: string,
  tensors: Readonly<Record<string, HeadTensor>>,
  config: Record<string, unknown>,
): string {
  const folder = copyOf("models", name);
  editJson(join(folder, "config.json"), config);
  renameSync(join(folder, "model.safetensors"), join(folder, "model-1.safetensors"));
  const header: Record<string, object> = {};
  const all: number[] = [];
  for (const [key, { shape, values }] of Object.entries(tensors)) {
    header[key] = { dtype: "F32", shape, data_offsets: [4 * all.length, 4 * (all.length + values.length)] };
    all.push(...values);
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const bytes = Buffer.concat([length, text, Buffer.from(Float32Array.from(all).buffer)]);
  writeFileSync(join(folder, "model-2.safetensors"), bytes);
  const own = Object.fromEntries(Object.keys(tensors).map((key) => [key, "model-2.safetensors"]));
  const index = { metadata: {}, weight_map: { ...indexOf(name), ...own } };
  writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify(index));
  return folder;
}

function indexOf(name: string): Record<string, string> {
  const bytes = readFileSync(join(FIXTURES, "models", name, "model.safetensors"));
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as object;
  const names = Object.keys(header).filter((key) => key !== "__metadata__");
  return Object.fromEntries(names.map((key) => [key, "model-1.safetensors"]));
}
