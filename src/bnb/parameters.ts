// The matrices of bitsandbytes' modules, under its names: what is quantized, once, on the first move to a device.

import { Tensor } from "../core/tensor.js";
import { Matrix } from "../nn/module.js";
import type { FloatDType, Scheme } from "../nn/weight.js";
import { FOUR_BIT, FOUR_BIT_TABLES, NESTED_BLOCK } from "../ops/four-bit.js";
import { unpack } from "../ops/pack.js";
import { type FourBitOptions, fourBitOperands, fourBitScheme } from "../quant/four-bit.js";
import { int8FloatsScheme } from "../quant/int8-floats.js";
import { int8Parts, llmInt8Scheme } from "../quant/llm-int8.js";

/** A tensor in plain rows: a handle of its own, or a copy. */
function rowsOf(tensor: Tensor): Tensor {
  const rows = unpack(tensor);
  return rows === tensor ? tensor.alias() : rows;
}

export interface Int8Options {
  /** Activations of at least this size are multiplied in full precision; 0 for none. */
  readonly threshold: number;
  /** The floats stay, can be trained, and are quantized for every product. */
  readonly has_fp16_weights: boolean;
  readonly experts?: number;
}

/** A matrix in 8-bit codes with a scale for each row. */
export class Int8Params extends Matrix {
  readonly threshold: number;
  readonly has_fp16_weights: boolean;

  constructor(rows: number, columns: number, { threshold, has_fp16_weights, experts = 1 }: Int8Options) {
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

/** How the codes of a 4-bit matrix are decoded. Its tensors belong to whoever asks for them. */
export interface QuantState4bit {
  readonly quant_type: string;
  readonly blocksize: number;
  readonly shape: readonly number[];
  /** Dtype of the values before they were quantized. */
  readonly dtype: FloatDType;
  /** The largest size of each block: f32, or u8 codes if they are quantized too. */
  readonly absmax: Tensor;
  /** Values of the 16 codes as shares of absmax, f32[16]. */
  readonly code: Tensor;
  /** Mean of absmax, if it is quantized: f32[1]. */
  readonly offset?: Tensor;
  /** How absmax is decoded, if it is quantized. */
  readonly state2?: { readonly absmax: Tensor; readonly code: Tensor; readonly blocksize: number };
}

/** A matrix in 4-bit codes over blocks of its flattened elements. */
export class Params4bit extends Matrix {
  readonly quant_type: "nf4" | "fp4";
  readonly blocksize: number;
  readonly compress_statistics: boolean;
  readonly options: FourBitOptions;

  constructor(rows: number, columns: number, options: FourBitOptions, experts = 1) {
    super(rows, columns, experts);
    this.options = options;
    this.quant_type = options.kind;
    this.blocksize = options.blocksize;
    this.compress_statistics = options.double_quant;
    this.product = true;
    this.scheme = fourBitScheme(options);
  }

  /** The codes, u4[N,K] in rows, the first of two in the high half of a byte; undefined before it is quantized. As `CB`. */
  get codes(): Tensor | undefined {
    const operands = this.filled ? fourBitOperands(this.weight) : undefined;
    return operands && rowsOf(operands.codes);
  }

  /** Undefined before it is quantized. */
  get quant_state(): QuantState4bit | undefined {
    const operands = this.filled ? fourBitOperands(this.weight) : undefined;
    if (!operands) return undefined;
    const { kind, blocksize, absmax, nested, map, offset } = operands;
    return {
      ...{ quant_type: kind, blocksize, shape: this.shape, dtype: this.dtype ?? "f32" },
      absmax: absmax.alias(),
      code: Tensor.from(absmax.device, FOUR_BIT_TABLES[FOUR_BIT[kind]]!.slice(), [16], "f32", "4-bit values"),
      ...(nested && map && offset
        ? {
            offset: offset.alias(),
            state2: { absmax: nested.alias(), code: map.alias(), blocksize: NESTED_BLOCK },
          }
        : {}),
    };
  }
}
