// NF4 and FP4 as weights: 4-bit codes over blocks of the flattened matrix, one absmax per block, which double
// quantization stores in 8 bits (Dettmers et al. 2023). The arithmetic is in ops/four-bit.ts.

import type { Device } from "../core/device.js";
import { OptionError } from "../core/errors.js";
import { kept, scope, Tensor } from "../core/tensor.js";
import { type FloatDType, type MatrixShape, PANEL_ROWS, type Scheme, type Weight } from "../nn/weight.js";
import { contiguous } from "../ops/copy.js";
import {
  BLOCK_SIZES,
  doubleQuantize,
  type FourBitCompute,
  type FourBitKind,
  type FourBitOperands,
  fourBitBack,
  fourBitDequantize,
  fourBitLinear,
  fourBitQuantize,
  NESTED_BLOCK,
} from "../ops/four-bit.js";
import type { LinearOptions } from "../ops/linear.js";
import { pack } from "../ops/pack.js";
import { dynamicMap } from "./_dynamic-map.js";

export interface FourBitOptions {
  readonly kind: FourBitKind;
  /** Elements per block: 32, 64, ... 4096. */
  readonly blocksize: number;
  readonly double_quant: boolean;
  readonly compute: FourBitCompute;
}

export class FourBitWeight implements Weight {
  readonly shape: MatrixShape;
  readonly scheme: FourBitKind;
  readonly operands: FourBitOperands;

  constructor(operands: FourBitOperands) {
    this.shape = operands.codes.shape as MatrixShape;
    this.scheme = operands.kind;
    this.operands = operands;
  }

  get nbytes(): number {
    return this.tensors.reduce((sum, tensor) => sum + tensor.nbytes, 0);
  }

  get footprint(): number {
    return Math.ceil((this.shape[0] * this.shape[1]) / 2);
  }

  linear(x: Tensor, options?: LinearOptions): Tensor {
    return fourBitLinear(x, this.operands, options);
  }

  back(dy: Tensor): Tensor {
    return fourBitBack(dy, this.operands);
  }

  rows(): Tensor {
    throw new Error("4-bit weights are multiplied with, never looked up");
  }

  dense(dtype: FloatDType): Tensor {
    return scope(() => contiguous(fourBitDequantize(this.operands), dtype));
  }

  get tensors(): readonly Tensor[] {
    const { codes, absmax, nested, map, offset } = this.operands;
    return [codes, absmax, nested, map, offset].filter((tensor) => tensor !== undefined);
  }

  readonly trainable: readonly Tensor[] = [];

  dispose(): void {
    for (const tensor of this.tensors) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** @throws OptionError for a block size that the format does not have */
export function fourBitScheme(options: FourBitOptions): Scheme {
  const { kind, blocksize, double_quant, compute } = options;
  if (!(BLOCK_SIZES as readonly number[]).includes(blocksize)) {
    throw new OptionError(`blocksize must be one of ${BLOCK_SIZES.join(", ")}, got ${blocksize}`);
  }
  const bytes = ([outputs, inputs]: MatrixShape): number => {
    const blocks = Math.ceil((outputs * inputs) / blocksize);
    const statistics = double_quant ? blocks + 4 * Math.ceil(blocks / NESTED_BLOCK) + 1028 : 4 * blocks;
    return Math.ceil((outputs * inputs) / 2) + statistics;
  };
  return {
    name: kind,
    bytes,
    begin(device: Device, shape, label) {
      const [outputs, inputs] = shape;
      const blocks = Math.ceil((outputs * inputs) / blocksize);
      // Panels interleave sixteen rows, so a block must not reach from one row into the next.
      const { codes, absmax } = kept(() => ({
        codes:
          inputs % blocksize === 0
            ? Tensor.panels(device, outputs, inputs, "u4", label)
            : Tensor.empty(device, shape, "u4", label),
        absmax: Tensor.empty(device, [blocks], "f32", `${label} absmax`),
      }));
      let weight: FourBitWeight | undefined;
      const rowsPerBlock = blocksize / greatestCommonDivisor(inputs, blocksize);
      return {
        granularity: Math.max(PANEL_ROWS, rowsPerBlock),
        put(rows, at) {
          if (!codes.panels) {
            fourBitQuantize(rows, codes, absmax, kind, blocksize, at);
            return;
          }
          const count = rows.shape[0]!;
          using part = Tensor.empty(device, [count, inputs], "u4", "4-bit rows");
          using statistics = absmax.narrow(0, (at * inputs) / blocksize, (count * inputs) / blocksize);
          fourBitQuantize(rows, part, statistics, kind, blocksize, 0);
          pack(part, codes, at);
        },
        finish() {
          weight = new FourBitWeight({
            codes,
            ...(double_quant ? quantizeTwice(absmax, label) : { absmax }),
            kind,
            blocksize,
            compute,
          });
          return weight;
        },
        [Symbol.dispose]() {
          if (weight) weight.dispose();
          else {
            codes.dispose();
            absmax.dispose();
          }
        },
      };
    },
  };
}

function quantizeTwice(absmax: Tensor, label: string): Pick<FourBitOperands, "absmax" | "nested" | "map" | "offset"> {
  const { device } = absmax;
  const blocks = absmax.shape[0]!;
  const { codes, nested, map, offset } = kept(() => ({
    codes: Tensor.empty(device, [blocks], "u8", `${label} absmax`),
    nested: Tensor.empty(device, [Math.ceil(blocks / NESTED_BLOCK)], "f32", `${label} nested absmax`),
    map: Tensor.from(device, dynamicMap(true), [256], "f32", `${label} nested map`),
    offset: Tensor.empty(device, [1], "f32", `${label} offset`),
  }));
  doubleQuantize(absmax, map, codes, nested, offset);
  absmax.dispose();
  return { absmax: codes, nested, map, offset };
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
