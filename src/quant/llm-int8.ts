// LLM.int8() as a weight: int8 codes with one absmax per output row, activations quantized per row with their outliers
// taken out (Dettmers et al. 2022). The arithmetic is in ops/llm-int8.ts.

import type { Device } from "../core/device.js";
import { kept, scope, Tensor } from "../core/tensor.js";
import { type FloatDType, type MatrixShape, PANEL_ROWS, type Scheme, type Weight } from "../nn/weight.js";
import { contiguous } from "../ops/copy.js";
import type { LinearOptions } from "../ops/linear.js";
import { llmInt8Back, llmInt8Dequantize, llmInt8Linear, llmInt8Quantize } from "../ops/llm-int8.js";

export class LlmInt8Weight implements Weight {
  readonly shape: MatrixShape;
  readonly scheme = "llm_int8";
  readonly threshold: number;
  /** i8[N,K] */
  readonly codes: Tensor;
  /** f32[N]: row absmax. */
  readonly scb: Tensor;
  /** u8[K]: 1 where some activation was an outlier since the weight was made. */
  readonly seen: Tensor;

  constructor(codes: Tensor, scb: Tensor, seen: Tensor, threshold: number) {
    this.shape = codes.shape as MatrixShape;
    this.codes = codes;
    this.scb = scb;
    this.seen = seen;
    this.threshold = threshold;
  }

  get nbytes(): number {
    return this.tensors.reduce((sum, tensor) => sum + tensor.nbytes, 0);
  }

  get footprint(): number {
    return this.shape[0] * this.shape[1];
  }

  linear(x: Tensor, options?: LinearOptions): Tensor {
    return llmInt8Linear(x, this, options);
  }

  back(dy: Tensor): Tensor {
    return llmInt8Back(dy, this);
  }

  rows(): Tensor {
    throw new Error("LLM.int8() weights are multiplied with, never looked up");
  }

  dense(dtype: FloatDType): Tensor {
    return scope(() => contiguous(llmInt8Dequantize(this.codes, this.scb), dtype));
  }

  get tensors(): readonly Tensor[] {
    return [this.codes, this.scb, this.seen];
  }

  readonly trainable: readonly Tensor[] = [];

  dispose(): void {
    for (const tensor of this.tensors) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** @param threshold magnitude from which an activation counts as an outlier; 0 for none */
export function llmInt8Scheme(threshold: number): Scheme {
  return {
    name: "llm_int8",
    bytes: ([outputs, inputs]) => outputs * inputs + 4 * outputs + inputs,
    begin(device: Device, [outputs, inputs], label) {
      const { codes, scb, seen } = kept(() => ({
        codes: Tensor.panels(device, outputs, inputs, "i8", label),
        scb: Tensor.empty(device, [outputs], "f32", `${label} SCB`),
        seen: Tensor.from(device, new Uint8Array(inputs), [inputs], "u8", `${label} outliers`),
      }));
      const weight = new LlmInt8Weight(codes, scb, seen, threshold);
      return {
        granularity: PANEL_ROWS,
        put: (rows, at) => llmInt8Quantize(rows, codes, scb, at),
        finish: () => weight,
        [Symbol.dispose]: () => weight.dispose(),
      };
    },
  };
}
