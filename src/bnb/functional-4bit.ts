// 4-bit functions of bitsandbytes on tensors: NF4 and FP4 codes, two in a byte, the first in the high half.

import { bytesOf, parseDType } from "../core/dtype.js";
import { OptionError, ShapeError } from "../core/errors.js";
import { checkedLater, choice, flag, type Options, readOptions, type Table } from "../core/options.js";
import { shapeText } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import { doubleQuantize } from "../ops/double-quantize.js";
import {
  BLOCK_SIZES,
  BNB_KINDS,
  type BnbKind,
  FOUR_BIT,
  FOUR_BIT_TABLES,
  fourBitDequantize,
  fourBitLinear,
  NESTED_BLOCK,
} from "../ops/four-bit.js";
import { fourBitQuantize } from "../ops/four-bit-quantize.js";
import { dynamicMap } from "../quant/_dynamic-map.js";
import {
  asMatrix,
  cast,
  checkedTensor,
  FLOAT_DTYPES,
  flat,
  floatDType,
  floatOf,
  tensorOption,
} from "./functional-checks.js";
import { checkedState, QuantState } from "./quant-state.js";

const STORAGE = ["uint8", "float16", "bfloat16", "float32"] as const;

const QUANTIZE = {
  /** Elements that share a scale. */
  blocksize: choice(BLOCK_SIZES),
  /** Quantize the scales as well. */
  compress_statistics: flag(),
  quant_type: choice(BNB_KINDS),
  /** As `bnb_4bit_scale_search` (default: false). */
  scale_search: flag(),
  /** Dtype under which the bytes of the codes appear. */
  quant_storage: choice(STORAGE),
} satisfies Table;
export interface Quantize4bitOptions extends Options<typeof QUANTIZE> {}

/** 4-bit elements laid out as rows that begin with a block, so that a device may cut them. */
function shapeOf(count: number, blocksize: number): readonly [number, number] {
  return count > 0 && count % blocksize === 0 ? [count / blocksize, blocksize] : [1, count];
}

/**
 * Quantizes a float tensor of any shape to 4 bits, in blocks over its flattened elements: `[packed, quant_state]`, where packed is
 * u8[ceil(n/2), 1]. The default type is "fp4", as in Python; "nf4" takes the same bytes and is more precise.
 * @throws OptionError, DTypeError, ShapeError (bytes that do not fill the elements of `quant_storage`)
 */
export function quantize_4bit(A: Tensor, options: Quantize4bitOptions = {}): [packed: Tensor, quant_state: QuantState] {
  const place = "quantize_4bit";
  const x = checkedTensor(place, "A", A, FLOAT_DTYPES);
  const given = readOptions(place, QUANTIZE, options);
  const { blocksize = 64, compress_statistics = false, quant_type: kind = "fp4", quant_storage = "uint8" } = given;
  const { scale_search } = given;
  const { device, size } = x;
  const bytes = bytesOf("u4", size);
  const storage = quant_storage === "uint8" ? "u8" : parseDType(quant_storage)!;
  const width = bytesOf(storage, 1);
  if (bytes % width !== 0) {
    throw new OptionError(`${place}: ${bytes} bytes of codes are no whole elements of ${quant_storage}`, {
      hint: 'leave quant_storage at "uint8"',
    });
  }
  const blocks = Math.ceil(size / blocksize);
  return scope(() => {
    const sizes = shapeOf(size, blocksize);
    const packed = Tensor.empty(device, [bytes, 1], "u8", "4-bit codes");
    const absmax = Tensor.empty(device, [blocks], "f32", "absmax");
    if (size > 0) {
      const codes = packed.reinterpret("u4", ...sizes);
      fourBitQuantize(flat(x).view(...sizes), codes, absmax, kind, blocksize, 0, scale_search);
    }
    const code = Tensor.from(device, FOUR_BIT_TABLES[FOUR_BIT[kind]]!, [16], "f32", "4-bit values");
    const common = { code, shape: x.shape, blocksize, quant_type: kind, dtype: floatOf(x) };
    const codes = storage === "u8" ? packed : packed.reinterpret(storage, bytes / width, 1);
    return [codes, new QuantState({ ...common, ...(compress_statistics ? twice(absmax) : { absmax }) })];
  });
}

/** An absmax in 8-bit codes. */
function twice(absmax: Tensor): { absmax: Tensor; offset: Tensor; state2: QuantState } {
  const { device, size: blocks } = absmax;
  const map = Tensor.from(device, dynamicMap(true), [256], "f32", "nested map");
  const codes = Tensor.empty(device, [blocks], "u8", "absmax");
  const nested = Tensor.empty(device, [Math.ceil(blocks / NESTED_BLOCK)], "f32", "nested absmax");
  const offset = Tensor.empty(device, [1], "f32", "offset");
  doubleQuantize(absmax, map, codes, nested, offset);
  const state2 = new QuantState({ absmax: nested, code: map, shape: [blocks], blocksize: NESTED_BLOCK });
  return { absmax: codes, offset, state2 };
}

/** `quantize_4bit` with `quant_type: "nf4"`. */
export function quantize_nf4(A: Tensor, options: Omit<Quantize4bitOptions, "quant_type"> = {}) {
  return quantize_4bit(A, withKind("quantize_nf4", options, "nf4"));
}

/** `quantize_4bit` with `quant_type: "fp4"`. */
export function quantize_fp4(A: Tensor, options: Omit<Quantize4bitOptions, "quant_type"> = {}) {
  return quantize_4bit(A, withKind("quantize_fp4", options, "fp4"));
}

function withKind(place: string, options: object, kind: BnbKind): Quantize4bitOptions {
  return { ...readOptions(place, QUANTIZE, options), quant_type: kind };
}

const DEQUANTIZE = {
  absmax: tensorOption(),
  blocksize: choice(BLOCK_SIZES),
  quant_type: choice(BNB_KINDS),
  shape: checkedLater<readonly number[]>(),
  dtype: floatDType(),
} satisfies Table;
export interface Dequantize4bitFields extends Options<typeof DEQUANTIZE> {}

/** The state that a caller gave, or one of the fields that he gave instead. Call it in a scope. */
function stateOf(place: string, packed: Tensor, given: unknown): QuantState {
  if (QuantState.is(given)) return given;
  if (given === undefined) return checkedState(place, given);
  const { absmax, blocksize = 64, quant_type = "fp4", shape, dtype = "f32" } = readOptions(place, DEQUANTIZE, given);
  if (!absmax) throw new OptionError(`${place}: without a QuantState the absmax is needed`);
  const { device } = packed;
  const code = Tensor.from(device, FOUR_BIT_TABLES[FOUR_BIT[quant_type]]!, [16], "f32", "4-bit values");
  const all = [2 * packed.nbytes];
  return new QuantState({ absmax: absmax.alias(), code, shape: shape ?? all, blocksize, quant_type, dtype });
}

/** The codes of a state as u4 in the given dims. @throws ShapeError, OptionError */
function codesOf(place: string, packed: unknown, state: QuantState, sizes: readonly [number, number]): Tensor {
  const bytes = checkedTensor(place, "the packed codes", packed, ["u8", ...FLOAT_DTYPES]);
  const count = sizes[0] * sizes[1];
  if (bytes.nbytes !== bytesOf("u4", count)) {
    throw new ShapeError(
      `${place}: the state is that of ${shapeText(state.shape)}, which has ${bytesOf("u4", count)} bytes of codes, not ${bytes.nbytes}`,
    );
  }
  if (!state.quant_type) throw new OptionError(`${place}: the state is that of 8-bit codes`);
  return bytes.reinterpret("u4", ...sizes);
}

/** The operands of the ops in four-bit.ts. */
function operandsOf(codes: Tensor, state: QuantState) {
  const { absmax, quant_type, blocksize, offset, state2, dtype } = state;
  const nested = state2 && offset ? { nested: state2.absmax, map: state2.code, offset } : {};
  if (state2 && state2.blocksize !== NESTED_BLOCK) {
    throw new ShapeError(`a quantized absmax has blocks of ${NESTED_BLOCK}, not ${state2.blocksize}`);
  }
  return { codes, absmax, ...nested, kind: quant_type!, blocksize, rounding: dtype, compute: "f32" as const };
}

/**
 * The values of 4-bit codes, in the shape and dtype of the tensor that was quantized: `table[code] * absmax`, rounded once.
 * @param quant_state what `quantize_4bit` returned beside the codes; or absmax, blocksize, quant_type, shape and dtype
 * @throws OptionError, DTypeError, ShapeError
 */
export function dequantize_4bit(packed: Tensor, quant_state: QuantState | Dequantize4bitFields): Tensor {
  const place = "dequantize_4bit";
  const bytes = checkedTensor(place, "A", packed, ["u8", ...FLOAT_DTYPES]);
  return scope(() => {
    const state = stateOf(place, bytes, quant_state);
    const size = state.shape.reduce((n, one) => n * one, 1);
    const codes = codesOf(place, packed, state, shapeOf(size, state.blocksize));
    if (size === 0) return Tensor.empty(bytes.device, state.shape, state.dtype, "dequantized");
    return cast(fourBitDequantize(operandsOf(codes, state)), state.dtype).view(...state.shape);
  });
}

/** `dequantize_4bit` of NF4 codes. @throws as it, and OptionError for others */
export function dequantize_nf4(packed: Tensor, quant_state: QuantState | Dequantize4bitFields): Tensor {
  return dequantize_4bit(packed, kindOf("dequantize_nf4", quant_state, "nf4"));
}

/** `dequantize_4bit` of FP4 codes. @throws as it, and OptionError for others */
export function dequantize_fp4(packed: Tensor, quant_state: QuantState | Dequantize4bitFields): Tensor {
  return dequantize_4bit(packed, kindOf("dequantize_fp4", quant_state, "fp4"));
}

function kindOf(place: string, given: QuantState | Dequantize4bitFields, kind: BnbKind) {
  if (!QuantState.is(given)) return { ...readOptions(place, DEQUANTIZE, given), quant_type: kind };
  if (given.quant_type === kind) return given;
  throw new OptionError(`${place}: the codes are ${given.quant_type ?? "8-bit"}, not ${kind}`);
}

const MATMUL = { bias: tensorOption() } satisfies Table;

/**
 * `A · dequantized(B)ᵀ + bias` for `A[.., K]` and the 4-bit codes of a matrix [N, K]: [.., N] in the dtype of A. No decoded matrix
 * is made; values are those of `dequantize_4bit`, sums f32. Can be differentiated by A and bias.
 * @throws OptionError, DTypeError, ShapeError
 */
export function matmul_4bit(
  A: Tensor,
  B: Tensor,
  quant_state: QuantState,
  options: Options<typeof MATMUL> = {},
): Tensor {
  return product("matmul_4bit", A, B, quant_state, options);
}

/** `matmul_4bit`, under the name of the kernel for one row; it takes any number of rows. */
export function gemv_4bit(A: Tensor, B: Tensor, quant_state: QuantState, options: Options<typeof MATMUL> = {}): Tensor {
  return product("gemv_4bit", A, B, quant_state, options);
}

function product(place: string, A: Tensor, B: Tensor, quant_state: QuantState, options: object): Tensor {
  const x = checkedTensor(place, "A", A, FLOAT_DTYPES);
  const { bias } = readOptions(place, MATMUL, options);
  const state = checkedState(place, quant_state);
  const [N = 0, K = 0] = state.shape;
  if (state.shape.length !== 2 || x.shape.at(-1) !== K) {
    throw new ShapeError(`${place}: ${shapeText(x.shape)} does not multiply with a matrix ${shapeText(state.shape)}`, {
      hint: x.shape.at(-1) === N ? "matrices are [outputs, inputs]; quantize the transposed one" : undefined,
    });
  }
  return scope(() => {
    const codes = codesOf(place, B, state, [N, K]);
    const y = fourBitLinear(asMatrix(cast(x, "f32")), operandsOf(codes, state), bias ? { bias } : {});
    return cast(y.view(...x.shape.slice(0, -1), N), floatOf(x));
  });
}
