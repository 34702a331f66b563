// Floats that are multiplied as LLM.int8(): the matrix stays in floats, which can be trained, and every product quantizes it anew.
// Its gradient is that of the float product (bitsandbytes multiplies row codes with column scales there, which is wrong).

import { scope, Tensor } from "../core/tensor.js";
import {
  denseScheme,
  type FloatDType,
  type MatrixShape,
  noExperts,
  type Scheme,
  type Weight,
  type WeightPart,
} from "../nn/weight.js";
import { activation } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { type LinearOptions, outerProduct } from "../ops/linear.js";
import { llmInt8Back, llmInt8Linear, llmInt8Quantize } from "../ops/llm-int8.js";
import { sumRows } from "../ops/sum-rows.js";
import { type GradientCall, recordAs } from "../ops/tape.js";

class Int8OfFloats implements Weight {
  readonly scheme = "dense";
  readonly experts = 1;
  readonly #floats: Weight;
  readonly #threshold: number;

  constructor(floats: Weight, threshold: number) {
    this.#floats = floats;
    this.#threshold = threshold;
  }

  get shape(): MatrixShape {
    return this.#floats.shape;
  }

  get tensors(): readonly Tensor[] {
    return this.#floats.tensors;
  }

  get trainable(): readonly Tensor[] {
    return this.#floats.trainable;
  }

  get nbytes(): number {
    return this.#floats.nbytes;
  }

  get footprint(): number {
    return this.#floats.footprint;
  }

  linear(x: Tensor, options: LinearOptions = {}): Tensor {
    noExperts(options);
    const { bias, residual, act = "none" } = options;
    return scope(() => {
      const inputs = [x, this.tensors[0]!, ...(bias ? [bias] : [])];
      const outputs = recordAs("llm_int8_of_floats", inputs, gradient, () => {
        const { codes, scb } = this.#quantized();
        const y = llmInt8Linear(x, { codes, scb, threshold: this.#threshold }, bias ? { bias } : {});
        return { outputs: [y], saved: [codes, scb, x] };
      });
      const y = act === "none" ? outputs[0]! : activation(outputs[0]!, act);
      return residual ? add(y, residual) : y;
    });
  }

  #quantized(): { codes: Tensor; scb: Tensor } {
    const data = this.tensors[0]!;
    const codes = Tensor.panels(data.device, ...this.shape, "i8", "llm_int8");
    const scb = Tensor.empty(data.device, [this.shape[0]], "f32", "llm_int8 SCB");
    llmInt8Quantize(data, codes, scb, 0);
    return { codes, scb };
  }

  rows(ids: Tensor): Tensor {
    return this.#floats.rows(ids);
  }

  dense(dtype: FloatDType): Tensor {
    return this.#floats.dense(dtype);
  }

  parts(name: string, at?: number, rows?: number): Promise<readonly WeightPart[]> {
    return this.#floats.parts(name, at, rows);
  }

  moved(...to: Parameters<NonNullable<Weight["moved"]>>): Weight {
    return new Int8OfFloats(this.#floats.moved!(...to), this.#threshold);
  }

  dispose(): void {
    this.#floats.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Of `[x, weight, bias?, codes, scb, x]`. */
function gradient({ inputs, dy: [dy], wanted }: GradientCall): (Tensor | undefined)[] {
  const [codes, scb, x] = inputs.slice(-3) as [Tensor, Tensor, Tensor];
  return [
    wanted[0] ? llmInt8Back(dy!, { codes, scb }) : undefined,
    wanted[1] ? outerProduct(dy!, x) : undefined,
    wanted[2] ? sumRows(dy!) : undefined,
  ];
}

/** @param threshold magnitude from which an activation is an outlier; 0 for none */
export function int8FloatsScheme(dtype: FloatDType, threshold: number): Scheme {
  const floats = denseScheme(dtype, false, "f32");
  return {
    name: "int8 of floats",
    bytes: (shape) => floats.bytes(shape),
    begin(...where) {
      const builder = floats.begin(...where);
      return {
        granularity: builder.granularity,
        put: (rows, at) => builder.put(rows, at),
        finish: () => new Int8OfFloats(builder.finish(), threshold),
        [Symbol.dispose]: () => builder[Symbol.dispose](),
      };
    },
  };
}
