// Absmax and zero-point quantization to 8 bits, by tensor, row, column or block: the two schemes that introductions to 8-bit
// quantization begin with. Tensors give tensors; lists of numbers give lists, by the same op's own loops.

import { OptionError, ShapeError } from "../core/errors.js";
import { choice, flag, type Options, readOptions, such, type Table, whole } from "../core/options.js";
import { shapeText, show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import type { FloatDType } from "../nn/weight.js";
import { affineDequantize, affineDequantizeOp, affineQuantize, affineQuantizeOp } from "../ops/affine.js";
import { contiguous } from "../ops/copy.js";
import { asMatrix, cast, checkedTensor, FLOAT_DTYPES, flat, floatOf, numbersOf } from "./functional-checks.js";

const GRANULARITIES = ["tensor", "row", "column", "block"] as const;
type Granularity = (typeof GRANULARITIES)[number];

const ABSMAX = {
  /** What shares a scale: all elements, those of a row (the last dim), of a column, or of a block. */
  granularity: choice(GRANULARITIES),
  /** Elements of a block, over the flattened tensor; the last one may be short. */
  blocksize: whole(1),
} satisfies Table;
export interface AbsmaxOptions extends Options<typeof ABSMAX> {}

const isRange = (value: unknown): boolean => {
  const numbers = numbersOf(value);
  return numbers?.length === 2 && numbers[0]! <= 0 && numbers[1]! >= 0 && Number.isFinite(numbers[1]! - numbers[0]!);
};

const ZEROPOINT = {
  ...ABSMAX,
  /** Codes -127 to 127 about zero instead of -128 to 127 over the range. */
  symmetric: flag(),
  /** The range to quantize, instead of that of the numbers; what lies outside gets the nearest code. */
  range: such<readonly [low: number, high: number]>(isRange, "two numbers with zero between them"),
} satisfies Table;
export interface ZeropointOptions extends Options<typeof ZEROPOINT> {}

/** What belongs to the codes: value = (code - zero_point) * scale. */
export interface AffineState<Values = Tensor> {
  /** One for each tensor, row, column or block. */
  readonly scale: Values;
  /** As many whole numbers; zeros if the codes are symmetric. */
  readonly zero_point: Values;
  readonly granularity: Granularity;
  readonly blocksize: number;
  readonly shape: readonly number[];
  readonly dtype: FloatDType;
}

interface Asked {
  readonly granularity: Granularity;
  readonly blocksize: number | undefined;
  readonly symmetric: boolean;
  readonly range: readonly [number, number] | undefined;
}

/**
 * Symmetric quantization: code = round(x * 127 / max|x|), `[codes, state]` with codes i8 in the shape of `A`. A list of numbers gives a
 * list of codes.
 * @throws OptionError, DTypeError, ShapeError
 */
export function quantize_absmax(A: Tensor, options?: AbsmaxOptions): [codes: Tensor, state: AffineState];
export function quantize_absmax(
  A: readonly number[],
  options?: AbsmaxOptions,
): [codes: number[], state: AffineState<readonly number[]>];
export function quantize_absmax(A: Tensor | readonly number[], options: AbsmaxOptions = {}) {
  const { granularity = "tensor", blocksize } = readOptions("quantize_absmax", ABSMAX, options);
  return quantized("quantize_absmax", A, { granularity, blocksize, symmetric: true, range: undefined });
}

/**
 * Zero-point quantization: scale = (high - low) / 255 over the range of the numbers, extended to zero; code = round(x / scale) +
 * zero_point, from -128 to 127. `[codes, state]` with codes i8 in the shape of `A`; a list of numbers gives a list of codes.
 * @throws OptionError, DTypeError, ShapeError
 */
export function quantize_zeropoint(A: Tensor, options?: ZeropointOptions): [codes: Tensor, state: AffineState];
export function quantize_zeropoint(
  A: readonly number[],
  options?: ZeropointOptions,
): [codes: number[], state: AffineState<readonly number[]>];
export function quantize_zeropoint(A: Tensor | readonly number[], options: ZeropointOptions = {}) {
  const given = readOptions("quantize_zeropoint", ZEROPOINT, options);
  const { granularity = "tensor", blocksize, symmetric = false } = given;
  const range = given.range && ([Number(given.range[0]), Number(given.range[1])] as const);
  return quantized("quantize_zeropoint", A, { granularity, blocksize, symmetric, range });
}

function quantized(place: string, A: unknown, asked: Asked): [unknown, unknown] {
  const { granularity, blocksize } = asked;
  if ((granularity === "block") !== (blocksize !== undefined)) {
    throw new OptionError(`${place}: blocksize goes with granularity "block", and with no other`);
  }
  if (!Tensor.is(A)) return listed(place, A, asked);
  const x = checkedTensor(place, "A", A, FLOAT_DTYPES);
  return scope(() => {
    const { values, block } = laidOut(x, granularity, blocksize);
    const { codes, scale, zero_point } = affineQuantize(flat(values), { ...asked, blocksize: block });
    const common = { granularity, blocksize: block, shape: x.shape, dtype: floatOf(x) };
    return [restored(codes, granularity, x.shape), { scale, zero_point, ...common }];
  });
}

/** The elements that share a scale one after another, and how many they are. Call it in a scope. */
function laidOut(x: Tensor, granularity: Granularity, blocksize = 1): { values: Tensor; block: number } {
  if (granularity === "block") return { values: x, block: blocksize };
  const rows = asMatrix(x);
  const [height = 0, width = 0] = rows.shape;
  if (granularity === "row") return { values: rows, block: Math.max(1, width) };
  if (granularity === "tensor") return { values: rows, block: Math.max(1, x.size) };
  return { values: contiguous(rows.permute(1, 0)), block: Math.max(1, height) };
}

/** Undoes `laidOut`. Call it in a scope. */
function restored(y: Tensor, granularity: Granularity, shape: readonly number[]): Tensor {
  if (granularity !== "column") return y.view(...shape);
  const width = shape.at(-1) ?? 1;
  return contiguous(y.view(width, width === 0 ? 0 : y.size / width).permute(1, 0)).view(...shape);
}

function listed(place: string, A: unknown, { granularity, blocksize, symmetric, range }: Asked): [unknown, unknown] {
  const values = numbersOf(A);
  if (!values) throw new OptionError(`${place}: A must be a Tensor or a list of numbers, got ${show(A)}`);
  if (granularity === "column") throw new OptionError(`${place}: a list of numbers has no columns; pass a Tensor`);
  const count = values.length;
  const block = blocksize ?? Math.max(1, count);
  const [[, [blocks = 0] = []] = []] = [affineQuantizeOp.definition.shape!({ n: count }, { blocksize: block })];
  const codes = new Int8Array(count);
  const scale = new Float32Array(blocks);
  const zero_point = new Int32Array(blocks);
  const operands = {
    x: { shape: [count], dtype: "f32", data: values },
    codes: { shape: [count], dtype: "i8", data: codes },
    scale: { shape: [blocks], dtype: "f32", data: scale },
    zero_point: { shape: [blocks], dtype: "i32", data: zero_point },
  } as const;
  const [low, high] = range ?? [0, 0];
  const attributes = { blocksize: block, symmetric: Number(symmetric), ranged: range ? 1 : 0, low, high };
  affineQuantizeOp.definition.reference(operands, attributes);
  const common = { granularity, blocksize: block, shape: [count], dtype: "f32" };
  return [[...codes], { scale: [...scale], zero_point: [...zero_point], ...common }];
}

/**
 * `(code - zero_point) * scale`, in the shape and dtype of what was quantized.
 * @throws OptionError, DTypeError, ShapeError
 */
export function dequantize_zeropoint(codes: Tensor, state: AffineState): Tensor;
export function dequantize_zeropoint(codes: readonly number[], state: AffineState<readonly number[]>): number[];
export function dequantize_zeropoint(
  codes: Tensor | readonly number[],
  state: AffineState<Tensor | readonly number[]>,
) {
  return dequantized("dequantize_zeropoint", codes, state);
}

/** `code * scale`, as `dequantize_zeropoint`. */
export function dequantize_absmax(codes: Tensor, state: AffineState): Tensor;
export function dequantize_absmax(codes: readonly number[], state: AffineState<readonly number[]>): number[];
export function dequantize_absmax(codes: Tensor | readonly number[], state: AffineState<Tensor | readonly number[]>) {
  return dequantized("dequantize_absmax", codes, state);
}

const STATE = {
  scale: such<Tensor | readonly number[]>((value) => Tensor.is(value) || numbersOf(value) !== undefined, "scales"),
  zero_point: such<Tensor | readonly number[]>(
    (value) => Tensor.is(value) || numbersOf(value) !== undefined,
    "numbers",
  ),
  granularity: choice(GRANULARITIES),
  blocksize: whole(1),
  shape: such<readonly number[]>((value) => numbersOf(value) !== undefined, "a list of sizes"),
  dtype: choice(FLOAT_DTYPES),
} satisfies Table;

function dequantized(place: string, codes: unknown, given: unknown): Tensor | number[] {
  const { scale, zero_point, granularity, blocksize, shape: sizes, dtype } = readOptions(place, STATE, given);
  const shape = sizes && [...(numbersOf(sizes) ?? [])];
  if (!scale || !zero_point || !granularity || blocksize === undefined || !shape || !dtype) {
    throw new OptionError(`${place}: state must be what a quantize function returned beside the codes`);
  }
  if (!Tensor.is(codes)) {
    const values = numbersOf(codes);
    const [scales, zeros] = [numbersOf(scale), numbersOf(zero_point)];
    if (!values || !scales || !zeros) {
      throw new OptionError(`${place}: codes and state must both be of tensors, or of lists`);
    }
    const odd = values.find((code) => !Number.isInteger(code) || code < -128 || code > 127);
    if (odd !== undefined) throw new OptionError(`${place}: codes are whole numbers from -128 to 127, got ${odd}`);
    const count = values.length;
    if (shape.length !== 1 || shape[0] !== count) {
      throw new ShapeError(`${place}: the state is that of ${shapeText(shape)}, the codes are ${count}`);
    }
    if (scales.length !== Math.ceil(count / blocksize) || zeros.length !== scales.length) {
      throw new ShapeError(`${place}: ${count} codes do not fit ${scales.length} scales for ${blocksize} each`);
    }
    const y = new Float32Array(count);
    const operands = {
      codes: { shape: [count], dtype: "i8", data: Int8Array.from(values) },
      scale: { shape: [scales.length], dtype: "f32", data: scales },
      zero_point: { shape: [zeros.length], dtype: "i32", data: Int32Array.from(zeros) },
      y: { shape: [count], dtype: "f32", data: y },
    } as const;
    affineDequantizeOp.definition.reference(operands, { blocksize });
    return [...y];
  }
  const x = checkedTensor(place, "codes", codes, ["i8"]);
  const scales = checkedTensor(place, "scale", scale, ["f32"]);
  const zeros = checkedTensor(place, "zero_point", zero_point, ["i32"]);
  if (shape.join() !== x.shape.join()) {
    throw new ShapeError(`${place}: the state is that of ${shapeText(shape)}, the codes are ${shapeText(x.shape)}`);
  }
  return scope(() => {
    const { values } = laidOut(x, granularity, blocksize);
    return cast(restored(affineDequantize(flat(values), scales, zeros, blocksize), granularity, x.shape), dtype);
  });
}
