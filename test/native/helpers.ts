// A little assembler over the native backend, so that its tests need nothing above it.

import { type NativeBackend, type NativeOptions, openNative } from "../../src/backends/native/index.js";
import { CommandBuffer } from "../../src/core/command.js";
import { bytesOf, type DType, narrow, widen } from "../../src/core/dtype.js";

export interface Operand {
  readonly buffer: number;
  readonly offset: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly strides: readonly number[] | null;
  readonly panels: boolean;
}

export type Values = Float32Array | Int32Array | Int8Array | Uint8Array;

export class Machine {
  readonly backend: NativeBackend;
  readonly commands = new CommandBuffer();

  constructor(options: NativeOptions = {}) {
    this.backend = openNative(options);
  }

  kernel(name: string): number {
    return this.backend.kernels.findIndex((kernel) => kernel.name === name);
  }

  empty(shape: readonly number[], dtype: DType = "f32"): Operand {
    const size = shape.reduce((n, d) => n * d, 1);
    return {
      buffer: this.backend.allocate(bytesOf(dtype, size)),
      offset: 0,
      dtype,
      shape,
      strides: null,
      panels: false,
    };
  }

  from(values: Values | readonly number[], shape: readonly number[], dtype: DType = "f32"): Operand {
    const operand = this.empty(shape, dtype);
    const bytes =
      dtype === "f32" || dtype === "f16" || dtype === "bf16"
        ? narrow(dtype, Float32Array.from(values))
        : dtype === "i32"
          ? new Uint8Array(Int32Array.from(values).buffer)
          : new Uint8Array(Int8Array.from(values).buffer);
    this.backend.write(operand.buffer, 0, bytes);
    return operand;
  }

  /** Records and submits one command. Attributes: a number is an i32, an array of one is an f32. */
  run(
    op: string,
    operands: readonly (Operand | undefined)[],
    attrs: readonly (number | [number])[] = [],
    site = 0,
  ): void {
    this.commands.begin(this.kernel(op), site);
    for (const operand of operands) this.commands.tensor(operand);
    for (const attr of attrs) typeof attr === "number" ? this.commands.int(attr) : this.commands.float(attr[0]);
    this.commands.end();
    this.backend.submit(this.commands.words, this.commands.length);
    this.commands.reset();
  }

  async bytes(operand: Operand): Promise<Uint8Array> {
    const size = operand.shape.reduce((n, d) => n * d, 1);
    return this.backend.read(operand.buffer, operand.offset, bytesOf(operand.dtype, size));
  }

  async floats(operand: Operand): Promise<Float32Array> {
    return widen(operand.dtype as "f32", await this.bytes(operand));
  }

  async ints(operand: Operand): Promise<number[]> {
    const bytes = await this.bytes(operand);
    return [...new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)];
  }

  /** The same memory with other strides. */
  view(operand: Operand, shape: readonly number[], strides: readonly number[] | null, offset = 0): Operand {
    return { ...operand, shape, strides, offset };
  }
}

/** Reproducible values, roughly normal. */
export function noise(size: number, seed = 1, scale = 1): Float32Array {
  let state = seed >>> 0 || 1;
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 4294967296;
  };
  return Float32Array.from({ length: size }, () => (next() + next() + next() + next() - 2) * scale * 1.7);
}

/** Largest difference, relative to 1 + |expected|. */
export function distance(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (got.length !== expected.length) return Number.POSITIVE_INFINITY;
  let worst = 0;
  for (let i = 0; i < got.length; i++) {
    const [a, b] = [got[i]!, expected[i]!];
    if (Object.is(a, b) || a === b) continue;
    const d = Math.abs(a - b) / (1 + Math.abs(b));
    worst = Math.max(worst, Number.isNaN(d) ? Number.POSITIVE_INFINITY : d);
  }
  return worst;
}
