// A matrix in 4-bit codes as a weight, whatever its kind: codes over blocks of the flattened matrix, with one absmax per block,
// which double quantization and O4 store in 8 bits. In a stack each expert starts new blocks. The arithmetic is in ops/four-bit.ts; how
// such weights are made, stored and read is a scheme's (four-bit.ts, o4.ts).

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
} from "../nn/weight.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { fourBitExpertLinear } from "../ops/experts.js";
import {
  type FourBitCompute,
  type FourBitKind,
  type FourBitOperands,
  fourBitDequantize,
  fourBitEmbedding,
  fourBitLinear,
  NESTED_BLOCK,
  o4Group,
} from "../ops/four-bit.js";
import type { LinearOptions } from "../ops/linear.js";
import { unpack } from "../ops/pack.js";

/** What schemes say of their weights. */
export interface FourBitForm {
  /** The scheme that makes such weights of floats; absent for codes that only files hold. */
  alike?(operands: FourBitOperands): Scheme;
  /** The tensors of one matrix in a checkpoint, whose operands `operands` gives in plain rows, inside a scope. */
  parts?(
    name: string,
    matrix: { readonly shape: MatrixShape; readonly blocksize: number; readonly values: FloatDType },
    operands: () => FourBitOperands,
  ): Promise<WeightPart[]>;
}

/** A 4-bit stack concatenates its experts' statistics: absmax[E*B], nested[E*C], offset[E]. */
export class FourBitWeight implements Weight {
  readonly shape: MatrixShape;
  readonly experts: number;
  readonly scheme: FourBitKind;
  readonly operands: FourBitOperands;
  readonly #form: FourBitForm;

  constructor(operands: FourBitOperands, experts: number, form: FourBitForm) {
    this.#form = form;
    this.shape = operands.codes.shape as MatrixShape;
    this.experts = experts;
    this.scheme = operands.kind;
    this.operands = operands;
  }

  get compute(): FourBitCompute {
    return this.operands.compute;
  }

  get alike(): Scheme | undefined {
    return this.#form.alike?.(this.operands);
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
    if (!this.#form.parts) throw new OptionError(`no checkpoint that is written here has a name for the codes ${kind}`);
    const shape = [each, this.shape[1]] as const;
    const matrix = { shape, blocksize, values: rounding === "f32" ? values : rounding };
    return this.#form.parts(name, matrix, () => this.#expert(at / each));
  }

  /** The operands of one expert's matrix, in plain rows; call it in a scope. */
  #expert(index: number): FourBitOperands {
    const { codes, absmax, nested, offset, ...rest } = this.operands;
    const own = (all: Tensor): Tensor => {
      const count = all.shape[0]! / this.experts;
      return all.narrow(0, index * count, count);
    };
    const more = { ...(nested && { nested: own(nested) }), ...(offset && { offset: own(offset) }) };
    return { ...rest, codes: own(unpack(codes)), absmax: own(absmax), ...more };
  }

  moved(to: Device): Weight {
    const { codes, absmax, nested, map, offset, ...format } = this.operands;
    const there = kept(() => ({
      codes: movedMatrix(codes, () => codesOf(to, this.shape, format.blocksize, format.kind, this.experts)),
      absmax: copied(absmax, to),
      ...(nested && { nested: copied(nested, to) }),
      ...(map && { map: copied(map, to) }),
      ...(offset && { offset: copied(offset, to) }),
    }));
    return new FourBitWeight({ ...format, ...there }, this.experts, this.#form);
  }

  /** Blocks that share an outer scale. */
  get #group(): number {
    const { kind, blocksize } = this.operands;
    return kind === "o4" ? o4Group(this.shape[1], blocksize) : NESTED_BLOCK;
  }

  /** Pieces begin with a block, and with a group of blocks where their scales are quantized. */
  get divisor(): number | undefined {
    if (this.experts > 1) return undefined;
    const { blocksize, nested } = this.operands;
    return granularity(this.shape[1], nested ? blocksize * this.#group : blocksize);
  }

  divided(pieces: readonly RowPiece[]): Weight[] {
    const { codes, absmax, nested, map, offset, ...format } = this.operands;
    const inputs = this.shape[1];
    return dividedBy(codes, pieces, (rows, piece) => {
      const { at, to } = piece;
      const first = (at * inputs) / format.blocksize;
      const { blocks, outer } = blocksOf([piece.rows, inputs], format.blocksize, this.#group);
      const there = kept(() => ({
        codes: rowsOn(rows, piece, (shape) => codesOf(to, shape, format.blocksize, format.kind, 1)),
        absmax: elementsOn(absmax, first, blocks, to),
        ...(nested && { nested: elementsOn(nested, first / this.#group, outer, to) }),
        ...(map && { map: elementsOn(map, 0, map.size, to) }),
        ...(offset && { offset: elementsOn(offset, 0, 1, to) }),
      }));
      return new FourBitWeight({ ...format, ...there }, 1, this.#form);
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
      ...(nested && {
        nested: joinVectors(
          operands.map((one) => one.nested!),
          to,
        ),
      }),
      ...(map && { map: elementsOn(map, 0, map.size, to) }),
      ...(offset && { offset: elementsOn(offset, 0, 1, to) }),
    }));
    return new FourBitWeight({ ...format, ...whole }, 1, this.#form);
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

/** Blocks of one matrix, and groups of those. */
export function blocksOf(
  [outputs, inputs]: MatrixShape,
  blocksize: number,
  group: number = NESTED_BLOCK,
): { blocks: number; outer: number } {
  const blocks = Math.ceil((outputs * inputs) / blocksize);
  return { blocks, outer: Math.ceil(blocks / group) };
}

/** Memory for codes: panels interleave sixteen rows, so no block may span two rows. */
export function codesOf(device: Device, shape: MatrixShape, blocksize: number, label: string, experts: number): Tensor {
  const [outputs, inputs] = shape;
  if (experts > 1 && (rowsOfExpert(shape, experts) * inputs) % 2 !== 0) {
    throw new ShapeError(`experts of ${outputs / experts} x ${inputs} 4-bit codes do not end at a whole byte`);
  }
  if (inputs % blocksize !== 0) return Tensor.empty(device, shape, "u4", label);
  return stackOf(device, shape, "u4", label, experts);
}

/** Numbers of rows that end with a whole block and a whole panel. */
export function granularity(inputs: number, blocksize: number): number {
  // The quotient is a power of two, as PANEL_ROWS is.
  return Math.max(PANEL_ROWS, blocksize / greatestCommonDivisor(inputs, blocksize));
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
