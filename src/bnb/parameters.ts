// The matrices of bitsandbytes' modules, under its names: what is quantized, once, on the first move to a device.

import { parseDType } from "../core/dtype.js";
import { choice, flag, number, type Options, readOptions, whole } from "../core/options.js";
import { scope, Tensor } from "../core/tensor.js";
import { Matrix } from "../nn/module.js";
import type { FloatDType, Scheme } from "../nn/weight.js";
import { BLOCK_SIZES, BNB_KINDS, FOUR_BIT, FOUR_BIT_TABLES, NESTED_BLOCK } from "../ops/four-bit.js";
import { unpack } from "../ops/pack.js";
import { fourBitOperands } from "../quant/_four-bit-weight.js";
import { BITS_AND_BYTES } from "../quant/config.js";
import { fourBitScheme } from "../quant/four-bit.js";
import { int8FloatsScheme } from "../quant/int8-floats.js";
import { int8Parts, llmInt8Scheme } from "../quant/llm-int8.js";
import { QuantState } from "./quant-state.js";

/** A tensor in plain rows: a handle of its own, or a copy. */
function rowsOf(tensor: Tensor): Tensor {
  const rows = unpack(tensor);
  return rows === tensor ? tensor.alias() : rows;
}

/** Matrices of a stack, one below the other. */
const experts = whole(1);

export const INT8_PARAMS = {
  /** Activations of at least this size are multiplied in full precision (default: 0, none). */
  threshold: number((n) => n >= 0, "a number of at least 0"),
  /** The floats stay, can be trained, and are quantized for every product (default: false). */
  has_fp16_weights: flag(),
  experts,
};

export const PARAMS_4BIT = {
  /** "nf4" or "fp4" (default: "fp4", as in Python). */
  quant_type: choice(BNB_KINDS),
  /** Elements per block (default: 64). */
  blocksize: choice(BLOCK_SIZES),
  /** The scales of blocks are quantized too (default: true). */
  compress_statistics: flag(),
  /** As `bnb_4bit_scale_search` (default: false). */
  scale_search: flag(),
  /** As `bnb_4bit_compute_dtype` (default: exact). */
  compute_dtype: BITS_AND_BYTES.bnb_4bit_compute_dtype,
  experts,
};
export interface Params4bitOptions extends Options<typeof PARAMS_4BIT> {}

/** A matrix in 8-bit codes with a scale for each row. */
export class Int8Params extends Matrix {
  readonly threshold: number;
  readonly has_fp16_weights: boolean;

  /** @throws OptionError, ShapeError */
  constructor(rows: number, columns: number, options: Options<typeof INT8_PARAMS> = {}) {
    const { threshold = 0, has_fp16_weights = false, experts = 1 } = readOptions("Int8Params", INT8_PARAMS, options);
    super(rows, columns, experts);
    this.threshold = threshold;
    this.has_fp16_weights = has_fp16_weights;
    this.product = true;
    this.scheme = llmInt8Scheme(threshold);
  }

  /** With `has_fp16_weights` floats in their dtype. */
  override schemeFor(dtype: FloatDType): Scheme | undefined {
    return this.has_fp16_weights ? int8FloatsScheme(dtype, this.threshold) : this.scheme;
  }

  /** The codes, i8[N,K] in rows; undefined before it is quantized. Whoever asks disposes the tensor, or a scope. */
  get CB(): Tensor | undefined {
    const parts = this.filled ? int8Parts(this.weight) : undefined;
    return parts && rowsOf(parts.codes);
  }

  /** The largest size of each row, f32[N]: a value is code * SCB / 127. As `CB`. */
  get SCB(): Tensor | undefined {
    const parts = this.filled ? int8Parts(this.weight) : undefined;
    return parts?.scb.alias();
  }
}

/** A matrix in 4-bit codes over blocks of its flattened elements. */
export class Params4bit extends Matrix {
  readonly quant_type: "nf4" | "fp4";
  readonly blocksize: number;
  readonly compress_statistics: boolean;
  readonly options: Params4bitOptions;

  /** @throws OptionError, ShapeError */
  constructor(rows: number, columns: number, options: Params4bitOptions = {}) {
    const read = readOptions("Params4bit", PARAMS_4BIT, options);
    const {
      quant_type = "fp4",
      blocksize = 64,
      compress_statistics = true,
      compute_dtype = "f32",
      scale_search,
    } = read;
    super(rows, columns, read.experts);
    this.options = read;
    this.quant_type = quant_type;
    this.blocksize = blocksize;
    this.compress_statistics = compress_statistics;
    this.product = true;
    const asked = compute_dtype === "int8" ? "int8" : parseDType(compute_dtype)!;
    const compute = asked === "f16" ? "f32" : asked;
    this.scheme = fourBitScheme({
      kind: quant_type,
      blocksize,
      double_quant: compress_statistics,
      compute,
      scale_search,
    });
  }

  /** The codes, u4[N,K] in rows, the first of two in the high half of a byte; undefined before it is quantized. As `CB`. */
  get codes(): Tensor | undefined {
    const operands = this.filled ? fourBitOperands(this.weight) : undefined;
    return operands && rowsOf(operands.codes);
  }

  /** How the codes are decoded; undefined before it is quantized. Whoever asks disposes the state, or a scope. */
  get quant_state(): QuantState | undefined {
    const operands = this.filled ? fourBitOperands(this.weight) : undefined;
    if (!operands) return undefined;
    const kind = this.quant_type;
    const { blocksize, absmax, nested, map, offset } = operands;
    const { device } = absmax;
    return scope(() => {
      const code = Tensor.from(device, FOUR_BIT_TABLES[FOUR_BIT[kind]]!.slice(), [16], "f32", "4-bit values");
      const common = { quant_type: kind, blocksize, shape: this.shape, dtype: this.dtype ?? "f32", code };
      if (!nested || !map || !offset) return new QuantState({ ...common, absmax: absmax.alias() });
      const outer = { absmax: nested.alias(), code: map.alias(), shape: absmax.shape, blocksize: NESTED_BLOCK };
      return new QuantState({
        ...common,
        absmax: absmax.alias(),
        offset: offset.alias(),
        state2: new QuantState(outer),
      });
    });
  }
}
