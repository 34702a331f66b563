// The ways to quantize a linear that `explain` compares: each takes a weight and an input, and gives what the product comes to.

import { scope, Tensor } from "../core/tensor.js";
import { denseScheme, type MatrixShape, rowsOfExpert, type Scheme, storeRows, type Weight } from "../nn/weight.js";
import { affineDequantize, affineQuantize } from "../ops/affine.js";
import { contiguous, copyInto } from "../ops/copy.js";
import type { LinearOptions } from "../ops/linear.js";
import { BitsAndBytesConfig, type BitsAndBytesOptions } from "../quant/config.js";
import { schemeOf } from "../quant/index.js";

export const METHOD_NAMES = ["absmax_tensor", "absmax_row", "llm_int8", "nf4", "fp4", "o4"] as const;
export type MethodName = (typeof METHOD_NAMES)[number];

/** One way to quantize linears. */
export interface Method {
  readonly name: MethodName;
  /** For people: "absmax per tensor". */
  readonly title: string;
  /** Bytes that a matrix takes. */
  bytes(shape: MatrixShape, experts: number): number;
  /** Records the product of a linear whose weight is quantized for it, and forgotten afterwards. */
  product(x: Tensor, weight: Weight, options: LinearOptions | undefined): Tensor;
}

/** A scheme of the library. */
function stored(name: MethodName, title: string, fields: BitsAndBytesOptions): Method {
  const scheme = schemeOf(new BitsAndBytesConfig(fields))!;
  return {
    name,
    title,
    bytes: (shape, experts) => scheme.bytes(shape, experts),
    product: (x, weight, options) => scope(() => through(scheme, weight.dense("f32"), weight, x, options)),
  };
}

/** The product of x with rows that are stored in a scheme for it. */
function through(
  scheme: Scheme,
  rows: Tensor,
  { experts }: Weight,
  x: Tensor,
  options: LinearOptions | undefined,
): Tensor {
  using made = storeRows(scheme, rows, scheme.name, experts);
  return made.linear(x, options);
}

/** `x` after symmetric quantization with one scale for all its elements. Call it in a scope. */
function rounded(x: Tensor): Tensor {
  const flat = contiguous(x, "f32").view(x.size);
  const { codes, scale, zero_point } = affineQuantize(flat, { blocksize: x.size, symmetric: true });
  return affineDequantize(codes, scale, zero_point, x.size).view(...x.shape);
}

/** One scale for the whole matrix (of an expert) and one for all activations: nothing that a model is stored in. */
const PER_TENSOR: Method = {
  name: "absmax_tensor",
  title: "absmax per tensor",
  bytes: ([outputs, inputs], experts) => outputs * inputs + 4 * experts,
  product: (x, weight, options) =>
    scope(() => {
      const { shape, experts } = weight;
      const each = rowsOfExpert(shape, experts);
      const rows = weight.dense("f32");
      const made = Tensor.empty(x.device, shape, "f32", "rounded weight");
      for (let e = 0; e < experts; e++) {
        scope(() => copyInto(rounded(rows.narrow(0, e * each, each)), made.narrow(0, e * each, each)));
      }
      return through(denseScheme("f32"), made, weight, rounded(x), options);
    }),
};

/** @param threshold magnitude from which an activation is an outlier of LLM.int8() */
export function methodsOf(threshold: number): readonly Method[] {
  return [
    PER_TENSOR,
    stored("absmax_row", "absmax per row", { load_in_8bit: true, llm_int8_threshold: 0 }),
    stored("llm_int8", "LLM.int8()", { load_in_8bit: true, llm_int8_threshold: threshold }),
    stored("nf4", "NF4", { load_in_4bit: true, bnb_4bit_quant_type: "nf4" }),
    stored("fp4", "FP4", { load_in_4bit: true, bnb_4bit_quant_type: "fp4" }),
    stored("o4", "O4", { load_in_4bit: true, bnb_4bit_quant_type: "o4" }),
  ];
}
