// A 4-bit weight with zero points: each value of a block is shifted by the same number, scale * (8 - zero point). A product with it is the
// product with the codes, plus the sums of x over the blocks times the shifts: x · (W + S)ᵀ. So no kernel knows of zero points.

import type { Device } from "../core/device.js";
import { OptionError } from "../core/errors.js";
import { kept, scope, type Tensor } from "../core/tensor.js";
import { elementsOn, type RowPiece } from "../nn/divide.js";
import {
  chosenExperts,
  copied,
  denseScheme,
  type FloatDType,
  type MatrixShape,
  type Weight,
  type WeightPart,
} from "../nn/weight.js";
import { activation } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { contiguous } from "../ops/copy.js";
import { filled } from "../ops/fill.js";
import { type LinearOptions, linear } from "../ops/linear.js";

class ShiftedWeight implements Weight {
  readonly #codes: Weight;
  /** One shift for each block: [outputs, blocks of a row]. */
  readonly #shifts: Weight;
  /** A one for each element of a block: sums them, and spreads one number over them. */
  readonly #ones: Tensor;

  /** Owns all of them. @param ones f32[blocksize] */
  constructor(codes: Weight, shifts: Weight, ones: Tensor) {
    this.#codes = codes;
    this.#shifts = shifts;
    this.#ones = ones.keep();
  }

  get shape(): MatrixShape {
    return this.#codes.shape;
  }

  get experts(): number {
    return this.#codes.experts;
  }

  get scheme(): string {
    return this.#codes.scheme;
  }

  get compute(): Weight["compute"] {
    return this.#codes.compute;
  }

  get tensors(): readonly Tensor[] {
    return [...this.#codes.tensors, ...this.#shifts.tensors, this.#ones];
  }

  readonly trainable: readonly Tensor[] = [];

  get nbytes(): number {
    return this.tensors.reduce((sum, tensor) => sum + tensor.nbytes, 0);
  }

  get footprint(): number {
    return this.#codes.footprint;
  }

  linear(x: Tensor, options: LinearOptions = {}): Tensor {
    const { act = "none", bias, residual, experts } = options;
    return scope(() => {
      const lead = x.shape.slice(0, -1);
      const [blocks, blocksize] = [this.#shifts.shape[1], this.#ones.size];
      const sums = linear(contiguous(x).view(-1, blocksize), this.#ones.view(1, -1)).view(...lead, blocks);
      const biased = bias ? { bias } : {};
      if (experts) {
        chosenExperts(options);
        const y = add(this.#codes.linear(x, { experts, ...biased }), this.#shifts.linear(sums, { experts }));
        return act === "none" ? y : activation(y, act);
      }
      if (act === "none") {
        const shifted = this.#shifts.linear(sums, residual ? { residual } : {});
        return this.#codes.linear(x, { ...biased, residual: shifted });
      }
      const y = activation(this.#codes.linear(x, { ...biased, residual: this.#shifts.linear(sums) }), act);
      return residual ? add(y, residual) : y;
    });
  }

  rows(ids: Tensor): Tensor {
    return scope(() => {
      const rows = this.#codes.rows(ids);
      return add(rows, this.#spread(this.#shifts.rows(ids), rows.shape));
    });
  }

  dense(dtype: FloatDType): Tensor {
    return scope(() => {
      const rows = this.#codes.dense("f32");
      return contiguous(add(rows, this.#spread(this.#shifts.dense("f32"), rows.shape)), dtype);
    });
  }

  /** Each shift once for each element of its block. */
  #spread(shifts: Tensor, shape: readonly number[]): Tensor {
    return linear(shifts.view(-1, 1), this.#ones.view(-1, 1)).view(...shape);
  }

  /** @throws OptionError always: no format is written that has zero points */
  async parts(name: string): Promise<readonly WeightPart[]> {
    throw new OptionError(`${name}: bitsandbytes has no name for the codes ${this.scheme}`);
  }

  moved(to: Device): Weight {
    const codes = this.#codes.moved!(to);
    return shifted(
      codes,
      () => this.#shifts.moved!(to),
      () => copied(this.#ones, to),
    );
  }

  /** That of the codes: blocks lie within rows, so every number of rows has its shifts. */
  get divisor(): number | undefined {
    return this.#codes.divisor;
  }

  divided(pieces: readonly RowPiece[]): Weight[] {
    const codes = this.#codes.divided!(pieces);
    const made: Weight[] = [];
    let shifts: Weight[] = [];
    try {
      shifts = this.#shifts.divided!(pieces);
      for (const [i, { to }] of pieces.entries()) {
        made.push(
          shifted(
            codes[i]!,
            () => shifts[i]!,
            () => elementsOn(this.#ones, 0, this.#ones.size, to),
          ),
        );
      }
      return made;
    } catch (error) {
      for (const weight of [...made, ...codes, ...shifts]) weight.dispose();
      throw error;
    }
  }

  joined(pieces: readonly ShiftedWeight[], to: Device): Weight {
    const all = (part: (piece: ShiftedWeight) => Weight): Weight[] => pieces.map(part);
    return shifted(
      this.#codes.joined!(
        all((piece) => piece.#codes),
        to,
      ),
      () =>
        this.#shifts.joined!(
          all((piece) => piece.#shifts),
          to,
        ),
      () => elementsOn(this.#ones, 0, this.#ones.size, to),
    );
  }

  dispose(): void {
    this.#codes.dispose();
    this.#shifts.dispose();
    this.#ones.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** A weight of codes and shifts, which belong to it: they are freed if there is no memory for what is still to be made. */
function shifted(codes: Weight, makeShifts: () => Weight, makeOnes: () => Tensor): Weight {
  let shifts: Weight | undefined;
  try {
    shifts = makeShifts();
    return new ShiftedWeight(codes, shifts, kept(() => ({ ones: makeOnes() })).ones);
  } catch (error) {
    codes.dispose();
    shifts?.dispose();
    throw error;
  }
}

/** What takes the shifts of a weight in order, beside its codes. */
export interface ShiftsBuilder extends Disposable {
  /** Records storing shifts f32[n * blocks] as those of rows `at` to `at + n`. */
  put(shifts: Tensor, at: number): void;
  /** `codes` with the shifts; both belong to it. */
  finish(codes: Weight): Weight;
}

/** @param shape outputs and blocks of a row */
export function beginShifts(device: Device, shape: MatrixShape, blocksize: number, experts: number): ShiftsBuilder {
  const builder = denseScheme("f32").begin(device, shape, "zero points", experts);
  return {
    put: (shifts, at) => {
      using rows = shifts.view(-1, shape[1]);
      builder.put(rows, at);
    },
    finish: (codes) =>
      shifted(
        codes,
        () => builder.finish(),
        () => filled(device, [blocksize], 1),
      ),
    [Symbol.dispose]: () => builder[Symbol.dispose](),
  };
}

/** Bytes of shifts, for plans. */
export function shiftsBytes([outputs, inputs]: MatrixShape, blocksize: number): number {
  return (4 * outputs * inputs) / blocksize + 4 * blocksize;
}
