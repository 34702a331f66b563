// Reads the golden fixtures: arrays from safetensors, everything else from JSON.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import { parseSafetensorsHeader } from "../../src/checkpoints/safetensors.js";
import { fromBf16, fromF16 } from "../../src/core/dtype.js";

export const FIXTURES = join(import.meta.dirname, "..", "fixtures");

export interface Golden {
  readonly shape: readonly number[];
  readonly dtype: string;
  /** Floats of any width as numbers; integers as they are. */
  readonly values: Float32Array | Int32Array | Int8Array | Uint8Array;
}

export function readJson<T>(...path: string[]): T {
  return JSON.parse(readFileSync(join(FIXTURES, ...path), "utf8")) as T;
}

/** All arrays of a safetensors file below the fixtures. */
export function readArrays(...path: string[]): Map<string, Golden> {
  const file = join(FIXTURES, ...path);
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const { tensors } = parseSafetensorsHeader(bytes.subarray(8, 8 + length), bytes.length, file);
  const out = new Map<string, Golden>();
  for (const [name, { dtype, shape, offset, bytes: size }] of tensors) {
    const raw = new Uint8Array(bytes.subarray(offset, offset + size));
    out.set(name, { shape, dtype, values: decode(dtype, raw, name) });
  }
  return out;
}

function decode(dtype: string, raw: Uint8Array, name: string): Golden["values"] {
  const { buffer } = raw;
  switch (dtype) {
    case "F32":
      return new Float32Array(buffer);
    case "F64":
      return Float32Array.from(new Float64Array(buffer));
    case "F16":
      return Float32Array.from(new Uint16Array(buffer), fromF16);
    case "BF16":
      return Float32Array.from(new Uint16Array(buffer), fromBf16);
    case "I32":
      return new Int32Array(buffer);
    case "I64":
      return Int32Array.from(new BigInt64Array(buffer), Number);
    case "I8":
      return new Int8Array(buffer);
    case "U8":
    case "BOOL":
      return raw;
    default:
      throw new Error(`fixture ${name}: dtype ${dtype}`);
  }
}

/** Largest and mean absolute difference. */
export function difference(a: ArrayLike<number>, b: ArrayLike<number>): { max: number; mean: number } {
  if (a.length !== b.length) throw new Error(`lengths differ: ${a.length} and ${b.length}`);
  let max = 0;
  let sum = 0;
  for (let i = 0; i < a.length; i++) {
    const d = Math.abs(a[i]! - b[i]!);
    if (!(d <= max)) max = d; // NaN sticks
    sum += d;
  }
  return { max, mean: a.length ? sum / a.length : 0 };
}

/** Largest absolute value. */
export function largest(values: ArrayLike<number>): number {
  let most = 0;
  for (let i = 0; i < values.length; i++) most = Math.max(most, Math.abs(values[i]!));
  return most;
}

/** Numbers may differ by the rounding of f32, all else may not. */
export function expectNear(got: unknown, want: unknown, place = "output"): void {
  if (typeof want === "number" && typeof got === "number") {
    expect(Math.abs(got - want), place).toBeLessThanOrEqual(2e-5 * Math.max(1, Math.abs(want)));
    return;
  }
  if (typeof want !== "object" || want === null) {
    expect(got, place).toEqual(want);
    return;
  }
  expect(Object.keys(got as object).sort(), place).toEqual(Object.keys(want).sort());
  for (const [key, value] of Object.entries(want)) {
    expectNear((got as Record<string, unknown>)[key], value, `${place}.${key}`);
  }
}
