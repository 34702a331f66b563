// Shapes and strides of tensors: their arithmetic, and the checks of those that callers give.

import { isList, isWhole, listOf } from "./checks.js";
import { ShapeError } from "./errors.js";
import { shapeText, show } from "./show.js";

/** Most dims of a tensor; the native kernels have as many (native/call.h). */
const MOST_DIMS = 8;

/** Number of elements of a shape. */
export function elements(shape: readonly number[]): number {
  let n = 1;
  for (let d = 0; d < shape.length; d++) n *= shape[d]!;
  return n;
}

/** Strides of contiguous rows, in elements. */
export function rowStrides(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let d = shape.length - 1; d >= 0; d--) {
    strides[d] = stride;
    stride *= shape[d]!;
  }
  return strides;
}

/** `strides`, or null if they are those of contiguous rows. */
export function packed(shape: readonly number[], strides: readonly number[]): readonly number[] | null {
  let expected = 1;
  for (let d = shape.length - 1; d >= 0; d--) {
    if (shape[d] !== 1 && strides[d] !== expected) return strides;
    expected *= shape[d]!;
  }
  return null;
}

/** Shape and strides of windows along dim `at`: see `Tensor.unfold`; undefined if they do not fit. */
export function windowed(
  shape: readonly number[],
  strides: readonly number[] | null,
  at: number | undefined,
  size: number,
  step: number,
): { shape: readonly number[]; strides: readonly number[] } | undefined {
  const length = at === undefined ? undefined : shape[at];
  const whole = isWhole(size) && isWhole(step) && size > 0 && step > 0;
  if (at === undefined || length === undefined || !whole || size > length || shape.length >= MOST_DIMS)
    return undefined;
  const from = strides ?? rowStrides(shape);
  const count = Math.floor((length - size) / step) + 1;
  return { shape: [...shape.with(at, count), size], strides: [...from.with(at, from[at]! * step), from[at]!] };
}

/**
 * A copy of a shape that a caller gave, which the caller may change later.
 * @throws ShapeError unless it is a list of at most 8 whole numbers, and their product is exact
 */
export function checkedShape(what: string, shape: unknown): readonly number[] {
  const sizes = wholeList(shape);
  if (sizes && Number.isSafeInteger(elements(sizes))) return sizes;
  const said = isList(shape) ? shapeText(shape) : show(shape);
  throw new ShapeError(`${what}: bad shape ${said}; a shape is a list of at most ${MOST_DIMS} whole numbers`);
}

/** A copy of a list of at most 8 whole numbers; undefined for all else, whatever it does when it is read. */
export function wholeList(value: unknown): readonly number[] | undefined {
  const sizes = listOf(value, isWhole);
  return sizes && sizes.length <= MOST_DIMS ? sizes : undefined;
}

/**
 * The shape for a view of a tensor of shape `from`: one size may be -1, which is worked out.
 * @throws ShapeError
 */
export function viewShape(from: readonly number[], shape: readonly number[]): readonly number[] {
  const size = elements(from);
  const hole = shape.indexOf(-1);
  const others = wholeList(shape.filter((_, d) => d !== hole));
  if (others) {
    const rest = elements(others);
    const sizes = hole < 0 ? others : [...others.slice(0, hole), rest === 0 ? 0 : size / rest, ...others.slice(hole)];
    if (wholeList(sizes) && elements(sizes) === size) return sizes;
  }
  throw new ShapeError(`view: ${shapeText(from)} has ${size} elements, ${shapeText(shape)} does not`, {
    hint: isList(shape[0]) ? "pass the sizes one by one: view(2, 3)" : undefined,
  });
}
