// LLM.int8()'s functions on tensors: rows to codes, products of codes, and back. Sums are exact whole numbers; values are f32 until
// they are rounded once to the dtype asked for.

import { HELD } from "../core/checks.js";
import { parseDType } from "../core/dtype.js";
import { OptionError, ShapeError } from "../core/errors.js";
import { checkedLater, number, type Options, readOptions, type Table } from "../core/options.js";
import { shapeText, show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import { add } from "../ops/add.js";
import { blockwiseDequantize } from "../ops/blockwise.js";
import { contiguous } from "../ops/copy.js";
import { multiply } from "../ops/gated.js";
import { int8Matmul, int8Quantize } from "../ops/int8.js";
import { llmInt8Dequantize, llmInt8Linear } from "../ops/llm-int8.js";
import { scale } from "../ops/scale.js";
import {
  asMatrix,
  cast,
  checkedSize,
  checkedTensor,
  FLOAT_DTYPES,
  floatDType,
  floatOf,
  numbersOf,
  tensorOption,
} from "./functional-checks.js";

/**
 * The columns that hold an outlier in any row. How many they are depends on the data, so what is on the device is a mark for each
 * column, and `read` waits for their numbers.
 */
export class OutlierColumns {
  /** u8[C]: 1 for a column with an outlier. */
  readonly mask: Tensor;
  readonly [HELD]: readonly Tensor[];
  readonly #own = true;

  /** True for one itself, which a proxy is not. */
  static is(value: unknown): value is OutlierColumns {
    return typeof value === "object" && value !== null && #own in value && value.#own;
  }

  /** @throws OptionError, DTypeError */
  constructor(mask: Tensor) {
    this.mask = checkedTensor("OutlierColumns", "mask", mask, ["u8"]);
    this[HELD] = [this.mask];
  }

  /** [C]: the columns among which they are. */
  get shape(): readonly number[] {
    return this.mask.shape;
  }

  /** Their numbers, ascending. */
  async read(): Promise<Int32Array> {
    const marks = await this.mask.read();
    return Int32Array.from([...marks.keys()].filter((k) => marks[k] !== 0));
  }

  dispose(): void {
    this.mask.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

const QUANTIZE = {
  /** Magnitude from which an element is an outlier; 0 for none. */
  threshold: number((n) => n >= 0 && n < Number.POSITIVE_INFINITY, "a number of at least 0"),
} satisfies Table;
export interface Int8VectorwiseQuantOptions extends Options<typeof QUANTIZE> {}

/**
 * Quantizes the rows (last dim) of a float tensor to 8 bits: `[codes, row_stats, outlier_cols]`. codes i8 in its shape, in
 * [-127, 127]; row_stats f32[rows], the largest magnitude of each row below the threshold; outlier_cols null for a threshold of 0.
 * The columns of outliers have codes of zero in all rows, so a row's codes depend on the rows beside it, as in Python; models
 * here choose outliers row by row instead.
 * @throws OptionError, DTypeError, ShapeError
 */
export function int8_vectorwise_quant(
  A: Tensor,
  options: Int8VectorwiseQuantOptions = {},
): [codes: Tensor, row_stats: Tensor, outlier_cols: OutlierColumns | null] {
  const place = "int8_vectorwise_quant";
  const x = checkedTensor(place, "A", A, FLOAT_DTYPES);
  const { threshold = 0 } = readOptions(place, QUANTIZE, options);
  return scope(() => {
    const { codes, absmax, outliers } = int8Quantize(asMatrix(x), threshold);
    return [codes.view(...x.shape), absmax, threshold > 0 ? new OutlierColumns(outliers) : null];
  });
}

/**
 * `codes * row_stats / 127`, in f32.
 * @param row_stats f32, one for each row of the last dim
 * @throws OptionError, DTypeError, ShapeError
 */
export function int8_vectorwise_dequant(A: Tensor, row_stats: Tensor): Tensor {
  const place = "int8_vectorwise_dequant";
  const codes = checkedTensor(place, "A", A, ["i8"]);
  const stats = checkedTensor(place, "row_stats", row_stats, ["f32"]);
  return scope(() => {
    const rows = asMatrix(codes);
    checkedSize(place, "row_stats", stats, rows.shape[0]!);
    return llmInt8Dequantize(rows, contiguous(stats).view(rows.shape[0]!)).view(...codes.shape);
  });
}

/**
 * `A · Bᵀ` for codes `A[.., K]` and `B[N, K]` (i8): i32[.., N], exact.
 * @throws OptionError, DTypeError, ShapeError (K above 131071, whose sums may not fit)
 */
export function int8_linear_matmul(A: Tensor, B: Tensor): Tensor {
  const place = "int8_linear_matmul";
  const a = checkedTensor(place, "A", A, ["i8"]);
  const b = checkedTensor(place, "B", B, ["i8"]);
  if (b.shape.length !== 2 || a.shape.at(-1) !== b.shape[1]) {
    throw new ShapeError(`${place}: ${shapeText(a.shape)} does not multiply with ${shapeText(b.shape)}`, {
      hint: "the second matrix is [N, K]: its rows are multiplied with those of the first",
    });
  }
  return scope(() => int8Matmul(contiguous(a), contiguous(b)));
}

const DEQUANT = {
  /** Added to each row, [N]. */
  bias: tensorOption(),
  /** Of the result: "float32" by default, which nothing overflows. */
  dtype: floatDType(),
} satisfies Table;
export interface Int8MmDequantOptions extends Options<typeof DEQUANT> {}

/**
 * Sums of products of codes to values: `A[.., N] * row_stats * col_stats / 127² + bias`.
 * @throws OptionError, DTypeError, ShapeError
 */
export function int8_mm_dequant(
  A: Tensor,
  row_stats: Tensor,
  col_stats: Tensor,
  options: Int8MmDequantOptions = {},
): Tensor {
  const place = "int8_mm_dequant";
  const sums = checkedTensor(place, "A", A, ["i32"]);
  const given = readOptions(place, DEQUANT, options);
  return scope(() => {
    const rows = asMatrix(sums);
    const y = scaled(place, rows, row_stats, col_stats, given.bias);
    return cast(y, parseDType(given.dtype ?? "f32")!).view(...sums.shape);
  });
}

/** Call it in a scope. */
function scaled(place: string, sums: Tensor, row_stats: unknown, col_stats: unknown, bias: Tensor | undefined): Tensor {
  const [M = 0, N = 0] = sums.shape;
  const stats = (name: string, value: unknown, size: number): Tensor => {
    const tensor = checkedTensor(place, name, value, ["f32"]);
    checkedSize(place, name, tensor, size);
    return scale(contiguous(tensor).view(size), 1 / 127);
  };
  const values = Tensor.empty(sums.device, [M, N], "f32", place);
  const rows = stats("row_stats", row_stats, M).view(M, 1).expand(M, N);
  const columns = stats("col_stats", col_stats, N).view(1, N).expand(M, N);
  if (bias) checkedSize(place, "bias", checkedTensor(place, "bias", bias, FLOAT_DTYPES), N);
  if (values.size === 0) return values;
  const y = multiply(multiply(contiguous(sums, "f32"), rows), columns);
  return bias ? add(y, contiguous(cast(bias, "f32").view(1, N).expand(M, N))) : y;
}

/**
 * The product of two quantized matrices: `A[.., K] · B[N, K]ᵀ * row_stats * col_stats / 127² + bias`.
 * @throws OptionError, DTypeError, ShapeError
 */
export function int8_scaled_mm(
  A: Tensor,
  B: Tensor,
  row_stats: Tensor,
  col_stats: Tensor,
  options: Int8MmDequantOptions = {},
): Tensor {
  return scope(() => int8_mm_dequant(int8_linear_matmul(A, B), row_stats, col_stats, options));
}

const MIXED = {
  /** What `int8_vectorwise_quant` found, or the numbers of columns; null for none. */
  outlier_cols: checkedLater<OutlierColumns | readonly number[] | Int32Array | null>(),
  bias: tensorOption(),
} satisfies Table;
export interface Int8MixedScaledMmOptions extends Options<typeof MIXED> {}

/** Smallest normal number: as a threshold, everything but zero is an outlier. */
const LEAST = 2 ** -126;

/**
 * LLM.int8()'s product: the codes' product, and the outlier columns of `A` in full precision with the values of the codes of B.
 * The result is [.., N] in the dtype of A.
 * @param A float[.., K], what CA was made of
 * @param CA i8[.., K], its codes, zero in outlier columns
 * @param CB i8[N, K], the codes of the weights
 * @throws OptionError, DTypeError, ShapeError
 */
export function int8_mixed_scaled_mm(
  A: Tensor,
  CA: Tensor,
  CB: Tensor,
  SCA: Tensor,
  SCB: Tensor,
  options: Int8MixedScaledMmOptions = {},
): Tensor {
  const place = "int8_mixed_scaled_mm";
  const x = checkedTensor(place, "A", A, FLOAT_DTYPES);
  const { outlier_cols, bias } = readOptions(place, MIXED, options);
  if (Tensor.is(CA) && CA.shape.join() !== x.shape.join()) {
    throw new ShapeError(`${place}: A is ${shapeText(x.shape)}, CA is ${shapeText(CA.shape)}`);
  }
  return scope(() => {
    const y = int8_scaled_mm(CA, CB, SCA, SCB, bias ? { bias } : {});
    if (outlier_cols === undefined || outlier_cols === null) return cast(y, floatOf(x));
    const rows = asMatrix(cast(x, "f32"));
    const [M = 0, K = 0] = rows.shape;
    if (y.size === 0 || K === 0) return cast(y, floatOf(x));
    const marks = marksOf(place, outlier_cols, x, K);
    const map = Tensor.from(
      x.device,
      Float32Array.from({ length: 256 }, (_, i) => Math.min(i, 1)),
      [256],
    );
    const one = Tensor.from(x.device, [1], [1], "f32");
    const chosen = multiply(rows, blockwiseDequantize(marks, one, map, K).view(1, K).expand(M, K));
    const weight = { codes: contiguous(CB), scb: contiguous(SCB).view(SCB.size), threshold: LEAST };
    return cast(add(y, llmInt8Linear(chosen, weight).view(...y.shape)), floatOf(x));
  });
}

/** u8[K]: 1 for each outlier column. */
function marksOf(place: string, given: unknown, x: Tensor, K: number): Tensor {
  if (OutlierColumns.is(given)) {
    checkedSize(place, "outlier_cols", given.mask, K);
    return contiguous(given.mask);
  }
  const columns = numbersOf(given);
  if (!columns?.every((k) => Number.isInteger(k) && k >= 0 && k < K)) {
    throw new OptionError(`${place}: outlier_cols must be numbers of the ${K} columns, got ${show(given)}`);
  }
  const marks = new Uint8Array(K);
  for (const k of columns) marks[k] = 1;
  return Tensor.from(x.device, marks, [K], "u8");
}

const VECTORWISE = { ...QUANTIZE, bias: tensorOption() } satisfies Table;
export interface Int8VectorwiseMatmulOptions extends Options<typeof VECTORWISE> {}

/**
 * Vector-wise matrix product: the rows of `A[.., K]` and of `B[N, K]` are quantized to 8 bits, multiplied as whole numbers, and
 * scaled back: [.., N] in the dtype of A. With a threshold, outliers of A are multiplied in full precision, row by row: a row
 * never depends on the rows beside it.
 * @throws OptionError, DTypeError, ShapeError
 */
export function int8_vectorwise_matmul(A: Tensor, B: Tensor, options: Int8VectorwiseMatmulOptions = {}): Tensor {
  const place = "int8_vectorwise_matmul";
  const x = checkedTensor(place, "A", A, FLOAT_DTYPES);
  const w = checkedTensor(place, "B", B, FLOAT_DTYPES);
  const { threshold = 0, bias } = readOptions(place, VECTORWISE, options);
  if (w.shape.length !== 2 || x.shape.at(-1) !== w.shape[1]) {
    throw new ShapeError(`${place}: ${shapeText(x.shape)} does not multiply with ${shapeText(w.shape)}`);
  }
  return scope(() => {
    const { codes, absmax: scb } = int8Quantize(contiguous(w), 0);
    const y = llmInt8Linear(asMatrix(cast(x, "f32")), { codes, scb, threshold }, bias ? { bias } : {});
    return cast(y.view(...x.shape.slice(0, -1), w.shape[0]!), floatOf(x));
  });
}
