// Decodes commands (core/command.ts) into calls with operands, the arguments of kernels.

import { bytesOf, DTYPES, type DType } from "../../../core/dtype.js";
import type { AttrSpec } from "../../../core/signature.js";
import { rowStrides } from "../../../core/tensor.js";
import type { Block } from "../device/buffers.js";

/** A range of a block as a shader binds it. */
export interface Binding {
  readonly block: Block;
  /** Byte where the binding begins: a multiple of 256. */
  readonly start: number;
  /** Bytes that are bound. */
  readonly size: number;
}

export interface Operand extends Binding {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Elements between neighbours of each dim. */
  readonly strides: readonly number[];
  readonly contiguous: boolean;
  /** Byte of the block where the first element lies. */
  readonly byte: number;
  /** Elements from the beginning of the binding to the first element. */
  readonly offset: number;
  readonly count: number;
  /** False if one binding cannot hold it: too large, or in two buffers (see split.ts). */
  readonly fits: boolean;
}

export interface Call {
  readonly op: number;
  readonly site: number;
  /** In signature order, outputs last. */
  readonly operands: readonly (Operand | undefined)[];
  readonly attributes: readonly number[];
}

/** Alignment of bindings: the default, and largest, `minStorageBufferOffsetAlignment` of WebGPU. */
const ALIGN = 256;

export function decodeCall(
  words: Int32Array,
  floats: Float32Array,
  start: number,
  operandCount: number,
  attributes: readonly AttrSpec[],
  blockOf: (buffer: number) => Block,
): Call {
  const operands = new Array<Operand | undefined>(operandCount);
  let at = start + 3;
  for (let i = 0; i < operandCount; i++) {
    const header = words[at]!;
    if (header === 0) {
      at++;
      continue;
    }
    const rank = header & 0xff;
    const dtype = DTYPES[(header >>> 8) & 0xff]!;
    const block = blockOf(words[at + 1]!);
    const byte = (words[at + 2]! >>> 0) + words[at + 3]! * 4294967296;
    const contiguous = (header & 0x1000000) === 0;
    at += 4;
    const shape = Array.from(words.subarray(at, at + rank));
    at += rank;
    const strides = contiguous ? rowStrides(shape) : Array.from(words.subarray(at, at + rank));
    if (!contiguous) at += rank;
    operands[i] = operand(block, byte, dtype, shape, strides, contiguous);
  }
  const values = attributes.map(({ type }, i) => (type === "i32" ? words[at + i]! : floats[at + i]!));
  return { op: words[start]!, site: words[start + 2]!, operands, attributes: values };
}

export function operand(
  block: Block,
  byte: number,
  dtype: DType,
  shape: readonly number[],
  strides: readonly number[],
  contiguous: boolean,
): Operand {
  let count = 1;
  let extent = 1;
  for (let d = 0; d < shape.length; d++) {
    count *= shape[d]!;
    extent += (shape[d]! - 1) * strides[d]!;
  }
  if (count === 0) extent = 0;
  const start = Math.min(Math.floor(byte / ALIGN) * ALIGN, block.bytes - 16);
  const offset = dtype === "u4" ? (byte - start) * 2 : (byte - start) / bytesOf(dtype, 1);
  // Whole 16-byte units, so that a shader may read the last ones as vec4; blocks are padded to that.
  const size = Math.max(16, Math.ceil((byte - start + bytesOf(dtype, extent)) / 16) * 16);
  const fits = size <= block.binding && (start % block.segment) + size <= block.segment;
  return { block, start, size, dtype, shape, strides, contiguous, byte, offset, count, fits };
}

/** Elements `at` to `at + count` of one dim. 4-bit elements must begin at a whole byte. */
export function narrowed(from: Operand, dim: number, at: number, count: number): Operand {
  const { block, byte, dtype, shape, strides, contiguous } = from;
  const size = shape.slice();
  size[dim] = count;
  const outermost = shape.slice(0, dim).every((n) => n === 1);
  return operand(
    block,
    byte + bytesOf(dtype, at * strides[dim]!),
    dtype,
    size,
    strides,
    contiguous && (outermost || count === shape[dim]),
  );
}

/** A contiguous operand as rows: all dims but the last are one. */
export function asRows(from: Operand): Operand {
  const columns = from.shape.at(-1) ?? 1;
  const rows = leading(from.shape);
  return { ...from, shape: [rows, columns], strides: [from.strides.at(-2) ?? columns, 1] };
}

/** A contiguous operand as one dim. */
export function asFlat(from: Operand): Operand {
  return { ...from, shape: [from.count], strides: [1] };
}

/** Product of all dims but the last `keep`. */
export function leading(shape: readonly number[], keep = 1): number {
  let n = 1;
  for (let d = 0; d + keep < shape.length; d++) n *= shape[d]!;
  return n;
}
