// NF4 and FP4 as weights: 4-bit codes over blocks of the flattened matrix, with one absmax per block, which double
// quantization stores in 8 bits (Dettmers et al. 2023). In a stack each expert starts new blocks. The arithmetic is in
// ops/four-bit.ts, the checkpoint format in _four-bit-files.ts.

import type { Device } from "../core/device.js";
import { OptionError, ShapeError } from "../core/errors.js";
import { kept, scope, Tensor } from "../core/tensor.js";
import { dividedBy, elementsOn, joinMatrices, joinVectors, type RowPiece, rowsOn } from "../nn/divide.js";
import {
  chosenExperts,
  copied,
  type FloatDType,
  joinedShape,
  type MatrixShape,
  movedMatrix,
  noExperts,
  noStack,
  PANEL_ROWS,
  rowsOfExpert,
  type Scheme,
  stackOf,
  type Weight,
  type WeightPart,
  type WeightRestorer,
} from "../nn/weight.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { doubleQuantize } from "../ops/double-quantize.js";
import { fourBitExpertLinear } from "../ops/experts.js";
import {
  BLOCK_SIZES,
  type BnbKind,
  type FourBitCompute,
  type FourBitKind,
  type FourBitOperands,
  fourBitDequantize,
  fourBitEmbedding,
  fourBitLinear,
  fourBitQuantize,
  NESTED_BLOCK,
} from "../ops/four-bit.js";
import type { LinearOptions } from "../ops/linear.js";
import { pack, unpack } from "../ops/pack.js";
import { dynamicMap } from "./_dynamic-map.js";
import { fourBitNames, fourBitParts, readStates } from "./_four-bit-files.js";
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

/** A 4-bit stack concatenates its experts' statistics: absmax[E*B], nested[E*C], offset[E]. */
class FourBitWeight implements Weight {
  readonly shape: MatrixShape;
  readonly experts: number;
  readonly scheme: FourBitKind;
  readonly operands: FourBitOperands;
  /** Its scales were chosen by the error of their blocks. */
  readonly #searched: boolean;

  constructor(operands: FourBitOperands, experts = 1, searched = false) {
    this.#searched = searched;
    this.shape = operands.codes.shape as MatrixShape;
    this.experts = experts;
    this.scheme = operands.kind;
    this.operands = operands;
  }

  get compute(): FourBitCompute {
    return this.operands.compute;
  }

  get alike(): Scheme | undefined {
    const { kind, blocksize, compute, nested } = this.operands;
    if (kind !== "nf4" && kind !== "fp4") return undefined;
    return fourBitScheme({
      kind,
      blocksize,
      compute,
      double_quant: nested !== undefined,
      scale_search: this.#searched,
    });
  }

  get nbytes(): number {
    return this.tensors.reduce((sum, tensor) => sum + tensor.nbytes, 0);
  }

  get footprint(): number {
    return Math.ceil((this.shape[0] * this.shape[1]) / 2);
  }

  linear(x: Tensor, options?: LinearOptions): Tensor {
    const { experts, operands } = this;
    if (experts === 1) {
      noExperts(options);
      return fourBitLinear(x, operands, options);
    }
    const chosen = chosenExperts(options);
    return scope(() => {
      const codes = operands.codes.view(experts, -1, this.shape[1]);
      const absmax = operands.absmax.view(experts, -1);
      const nested = operands.nested && { nested: operands.nested.view(experts, -1) };
      return fourBitExpertLinear(x, { ...operands, codes, absmax, ...nested }, chosen);
    });
  }

  rows(ids: Tensor): Tensor {
    noStack(this.experts);
    return fourBitEmbedding(this.operands, ids);
  }

  dense(dtype: FloatDType): Tensor {
    if (this.experts === 1) return scope(() => contiguous(fourBitDequantize(this.operands), dtype));
    return scope(() => {
      const dense = Tensor.empty(this.operands.codes.device, this.shape, dtype, "dense");
      const rows = rowsOfExpert(this.shape, this.experts);
      for (let e = 0; e < this.experts; e++) {
        scope(() => copyInto(fourBitDequantize(this.#expert(e)), dense.narrow(0, e * rows, rows)));
      }
      return dense;
    });
  }

  /** @throws ShapeError for a part of an expert: its blocks cannot be split */
  async parts(name: string, at = 0, rows = this.shape[0], values: FloatDType = "f32"): Promise<readonly WeightPart[]> {
    const each = rowsOfExpert(this.shape, this.experts);
    if (at % each !== 0 || rows !== each) {
      throw new ShapeError(`4-bit codes are stored in whole matrices of ${each} rows, not as rows ${at} + ${rows}`);
    }
    const { kind, blocksize, rounding } = this.operands;
    if (kind !== "nf4" && kind !== "fp4") throw new OptionError(`bitsandbytes has no name for the codes ${kind}`);
    const description = {
      kind,
      blocksize,
      values: rounding === "f32" ? values : rounding,
      shape: [each, this.shape[1]] as const,
    };
    return fourBitParts(name, description, () => this.#expert(at / each));
  }

  /** The operands of one expert's matrix, in plain rows; call it in a scope. */
  #expert(index: number): FourBitOperands {
    const { codes, absmax, nested, offset, ...rest } = this.operands;
    const own = (all: Tensor): Tensor => {
      const count = all.shape[0]! / this.experts;
      return all.narrow(0, index * count, count);
    };
    const twice = nested && offset ? { nested: own(nested), offset: own(offset) } : {};
    return { ...rest, codes: own(unpack(codes)), absmax: own(absmax), ...twice };
  }

  moved(to: Device): Weight {
    const { codes, absmax, nested, map, offset, ...format } = this.operands;
    const there = kept(() => ({
      codes: movedMatrix(codes, () => codesOf(to, this.shape, format.blocksize, format.kind, this.experts)),
      absmax: copied(absmax, to),
      ...(nested && map && offset
        ? { nested: copied(nested, to), map: copied(map, to), offset: copied(offset, to) }
        : {}),
    }));
    return new FourBitWeight({ ...format, ...there }, this.experts, this.#searched);
  }

  /** Pieces begin with a block, and with a block of blocks where these are quantized again. */
  get divisor(): number | undefined {
    if (this.experts > 1) return undefined;
    const { blocksize, nested } = this.operands;
    return granularity(this.shape[1], nested ? blocksize * NESTED_BLOCK : blocksize);
  }

  divided(pieces: readonly RowPiece[]): Weight[] {
    const { codes, absmax, nested, map, offset, ...format } = this.operands;
    const inputs = this.shape[1];
    return dividedBy(codes, pieces, (rows, piece) => {
      const { at, to } = piece;
      const first = (at * inputs) / format.blocksize;
      const { blocks, outer } = blocksOf([piece.rows, inputs], format.blocksize);
      const there = kept(() => ({
        codes: rowsOn(rows, piece, (shape) => codesOf(to, shape, format.blocksize, format.kind, 1)),
        absmax: elementsOn(absmax, first, blocks, to),
        ...(nested && map && offset
          ? {
              nested: elementsOn(nested, first / NESTED_BLOCK, outer, to),
              map: elementsOn(map, 0, map.size, to),
              offset: elementsOn(offset, 0, 1, to),
            }
          : {}),
      }));
      return new FourBitWeight({ ...format, ...there }, 1, this.#searched);
    });
  }

  joined(pieces: readonly FourBitWeight[], to: Device): Weight {
    const { codes: _codes, absmax: _absmax, nested, map, offset, ...format } = this.operands;
    const operands = pieces.map((piece) => piece.operands);
    const whole = kept(() => ({
      codes: joinMatrices(
        operands.map(({ codes }) => codes),
        codesOf(to, joinedShape(pieces), format.blocksize, format.kind, 1),
      ),
      absmax: joinVectors(
        operands.map(({ absmax }) => absmax),
        to,
      ),
      ...(nested && map && offset
        ? {
            nested: joinVectors(
              operands.map((one) => one.nested!),
              to,
            ),
            map: elementsOn(map, 0, map.size, to),
            offset: elementsOn(offset, 0, 1, to),
          }
        : {}),
    }));
    return new FourBitWeight({ ...format, ...whole }, 1, this.#searched);
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

/** Codes and statistics of a weight in 4 bits; undefined for others. */
export function fourBitOperands(weight: Weight): FourBitOperands | undefined {
  return weight instanceof FourBitWeight ? weight.operands : undefined;
}

/** Blocks of one matrix, and blocks of those. */
function blocksOf([outputs, inputs]: MatrixShape, blocksize: number): { blocks: number; outer: number } {
  const blocks = Math.ceil((outputs * inputs) / blocksize);
  return { blocks, outer: Math.ceil(blocks / NESTED_BLOCK) };
}

/** Memory for codes: panels interleave sixteen rows, so no block may span two rows. */
function codesOf(device: Device, shape: MatrixShape, blocksize: number, label: string, experts: number): Tensor {
  const [outputs, inputs] = shape;
  if (experts > 1 && (rowsOfExpert(shape, experts) * inputs) % 2 !== 0) {
    throw new ShapeError(`experts of ${outputs / experts} x ${inputs} 4-bit codes do not end at a whole byte`);
  }
  if (inputs % blocksize !== 0) return Tensor.empty(device, shape, "u4", label);
  return stackOf(device, shape, "u4", label, experts);
}

/** Numbers of rows that end with a whole block and a whole panel. */
function granularity(inputs: number, blocksize: number): number {
  // The quotient is a power of two, as PANEL_ROWS is.
  return Math.max(PANEL_ROWS, blocksize / greatestCommonDivisor(inputs, blocksize));
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
          weight = new FourBitWeight(operands, experts, options.scale_search);
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
      const weight = new FourBitWeight({ codes, absmax, ...twice, ...format }, experts);
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
      const weight = new FourBitWeight({ codes, absmax, kind, blocksize, compute, rounding: "f32" }, experts);
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

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
