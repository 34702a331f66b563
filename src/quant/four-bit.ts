// NF4 and FP4 as schemes (Dettmers et al. 2023), and codes that files of other quantizers hold. The weights are in _four-bit-weight.ts,
// the arithmetic in ops/four-bit.ts, the checkpoint format in _four-bit-files.ts.

import type { Device } from "../core/device.js";
import { OptionError } from "../core/errors.js";
import { kept, scope, Tensor } from "../core/tensor.js";
import { PANEL_ROWS, rowsOfExpert, type Scheme, type WeightRestorer } from "../nn/weight.js";
import { copyInto } from "../ops/copy.js";
import { doubleQuantize } from "../ops/double-quantize.js";
import { BLOCK_SIZES, type BnbKind, type FourBitCompute, type FourBitOperands, NESTED_BLOCK } from "../ops/four-bit.js";
import { fourBitQuantize } from "../ops/four-bit-quantize.js";
import { pack } from "../ops/pack.js";
import { dynamicMap } from "./_dynamic-map.js";
import { fourBitNames, fourBitParts, readStates } from "./_four-bit-files.js";
import { blocksOf, codesOf, type FourBitForm, FourBitWeight, granularity } from "./_four-bit-weight.js";
import { beginShifts, shiftsBytes } from "./_zero-points.js";

export interface FourBitOptions {
  readonly kind: BnbKind;
  /** Elements per block: 32, 64, ... 4096. */
  readonly blocksize: number;
  readonly double_quant: boolean;
  readonly compute: FourBitCompute;
  /** Scales are chosen by the error of their blocks (see fourBitQuantize). */
  readonly scale_search?: boolean | undefined;
  /** Values decoded from a checkpoint's codes are not rounded to the dtype that it names. */
  readonly exact_values?: boolean;
}

/** What a scheme's weights have in common with it. @param kind theirs, wherever they come from */
function bnbForm(kind: BnbKind, searched: boolean | undefined): FourBitForm {
  return {
    alike: ({ blocksize, compute, nested }) =>
      fourBitScheme({ kind, blocksize, compute, double_quant: nested !== undefined, scale_search: searched }),
    parts: (name, matrix, operands) => fourBitParts(name, { kind, ...matrix }, operands),
  };
}

/** @throws OptionError for a block size that the format does not allow */
export function fourBitScheme(options: FourBitOptions): Scheme {
  const { kind, blocksize, double_quant, compute } = options;
  if (!(BLOCK_SIZES as readonly number[]).includes(blocksize)) {
    throw new OptionError(`blocksize must be one of ${BLOCK_SIZES.join(", ")}, got ${blocksize}`);
  }
  return {
    name: kind,
    bytes(shape, experts = 1) {
      const { blocks, outer } = blocksOf([shape[0] / experts, shape[1]], blocksize);
      const statistics = double_quant ? experts * (blocks + 4 * outer + 4) + 1024 : experts * 4 * blocks;
      return Math.ceil((shape[0] * shape[1]) / 2) + statistics;
    },
    begin(device: Device, shape, label, experts = 1) {
      const each = rowsOfExpert(shape, experts);
      const inputs = shape[1];
      const { blocks } = blocksOf([each, inputs], blocksize);
      const { codes, absmax } = kept(() => ({
        codes: codesOf(device, shape, blocksize, label, experts),
        absmax: Tensor.empty(device, [experts * blocks], "f32", `${label} absmax`),
      }));
      let weight: FourBitWeight | undefined;
      return {
        granularity: granularity(inputs, blocksize),
        put(rows, at) {
          const count = rows.shape[0]!;
          const expert = Math.floor(at / each);
          const begin = expert * blocks + ((at - expert * each) * inputs) / blocksize;
          using part = Tensor.empty(device, [count, inputs], "u4", "4-bit rows");
          using statistics = absmax.narrow(0, begin, Math.ceil((count * inputs) / blocksize));
          fourBitQuantize(rows, part, statistics, kind, blocksize, 0, options.scale_search);
          pack(part, codes, at);
        },
        finish() {
          const statistics = double_quant ? quantizeTwice(absmax, label, experts) : { absmax };
          const operands = { codes, ...statistics, kind, blocksize, compute, rounding: "f32" } as const;
          weight = new FourBitWeight(operands, experts, bnbForm(kind, options.scale_search));
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
    claims(name, has) {
      const found = fourBitNames(name, has);
      return (
        found && { ...found, scheme: fourBitScheme({ ...options, kind: found.kind, double_quant: found.double_quant }) }
      );
    },
    restore(device, shape, label, pieces, experts = 1): WeightRestorer {
      const each = rowsOfExpert(shape, experts);
      const inputs = shape[1];
      const state = readStates(pieces, { kind, double_quant, rows: each, columns: inputs, experts });
      const { blocks, outer } = blocksOf([each, inputs], state.blocksize);
      const made: Record<string, Tensor> = kept(() => ({
        codes: codesOf(device, shape, state.blocksize, label, experts),
        absmax: Tensor.empty(device, [experts * blocks], double_quant ? "u8" : "f32", `${label} absmax`),
        ...(double_quant
          ? {
              nested: Tensor.empty(device, [experts * outer], "f32", `${label} nested absmax`),
              map: Tensor.empty(device, [256], "f32", `${label} nested map`),
              offset: Tensor.from(device, Float32Array.from(state.offsets), [experts], "f32", `${label} offset`),
            }
          : {}),
      }));
      const { codes, absmax, nested, map, offset } = made as {
        codes: Tensor;
        absmax: Tensor;
        nested?: Tensor;
        map?: Tensor;
        offset?: Tensor;
      };
      const twice = nested && map && offset ? { nested, map, offset } : {};
      const format = {
        kind,
        blocksize: state.blocksize,
        compute,
        rounding: options.exact_values ? ("f32" as const) : state.values,
      };
      const weight = new FourBitWeight({ codes, absmax, ...twice, ...format }, experts, bnbForm(kind, false));
      return {
        granularity: granularity(inputs, state.blocksize),
        dtype: "u4",
        *targets({ at }) {
          const expert = at / each;
          yield ["absmax", absmax.narrow(0, expert * blocks, blocks)];
          if (!nested || !map) return;
          yield ["nested_absmax", nested.narrow(0, expert * outer, outer)];
          if (expert === 0) yield ["nested_quant_map", map.alias()];
        },
        put: (rows, at) => pack(rows, codes, at),
        finish: () => weight,
        [Symbol.dispose]: () => weight.dispose(),
      };
    },
  };
}

/** What `codesScheme` stores. */
interface CodesOptions {
  readonly kind: "int4" | "e2m1";
  /** Inputs that share a scale; they divide a row. */
  readonly blocksize: number;
  readonly compute: FourBitCompute;
  /** Blocks can have zero points: for plans. */
  readonly zero_points: boolean;
}

/** 4-bit codes that a file holds in another format, as they are. Floats are not quantized to these kinds. */
export function codesScheme({ kind, blocksize, compute, zero_points }: CodesOptions): Scheme {
  return {
    name: kind,
    bytes(shape) {
      const count = shape[0] * shape[1];
      return Math.ceil(count / 2) + (4 * count) / blocksize + (zero_points ? shiftsBytes(shape, blocksize) : 0);
    },
    begin() {
      throw new OptionError(`floats are not quantized to ${kind}`);
    },
    beginCodes(device, shape, label, shifted, experts = 1) {
      const [outputs, inputs] = shape;
      const blocks = inputs / blocksize;
      const { codes, absmax } = kept(() => ({
        codes: codesOf(device, shape, blocksize, label, experts),
        absmax: Tensor.empty(device, [outputs * blocks], "f32", `${label} absmax`),
      }));
      const weight = new FourBitWeight({ codes, absmax, kind, blocksize, compute, rounding: "f32" }, experts, {});
      let shifts: ReturnType<typeof beginShifts> | undefined;
      try {
        shifts = shifted ? beginShifts(device, [outputs, blocks], blocksize, experts) : undefined;
      } catch (error) {
        weight.dispose();
        throw error;
      }
      return {
        granularity: PANEL_ROWS,
        put(rows, statistics, at) {
          pack(rows, codes, at);
          using own = absmax.narrow(0, at * blocks, rows.shape[0]! * blocks);
          copyInto(statistics.scales, own);
          if (statistics.shifts) shifts?.put(statistics.shifts, at);
        },
        finish: () => shifts?.finish(weight) ?? weight,
        [Symbol.dispose]() {
          weight.dispose();
          shifts?.[Symbol.dispose]();
        },
      };
    },
  };
}

/** The second quantization, separate for each expert. */
function quantizeTwice(
  absmax: Tensor,
  label: string,
  experts: number,
): Pick<FourBitOperands, "absmax" | "nested" | "map" | "offset"> {
  const { device } = absmax;
  const blocks = absmax.shape[0]! / experts;
  const outer = Math.ceil(blocks / NESTED_BLOCK);
  const { codes, nested, map, offset } = kept(() => ({
    codes: Tensor.empty(device, [experts * blocks], "u8", `${label} absmax`),
    nested: Tensor.empty(device, [experts * outer], "f32", `${label} nested absmax`),
    map: Tensor.from(device, dynamicMap(true), [256], "f32", `${label} nested map`),
    offset: Tensor.empty(device, [experts], "f32", `${label} offset`),
  }));
  for (let e = 0; e < experts; e++) {
    scope(() => {
      const own = (all: Tensor, count: number): Tensor => all.narrow(0, e * count, count);
      doubleQuantize(own(absmax, blocks), map, own(codes, blocks), own(nested, outer), own(offset, 1));
    });
  }
  absmax.dispose();
  return { absmax: codes, nested, map, offset };
}
