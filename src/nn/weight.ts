// A Weight is a stored matrix for products: the only place where quantization schemes differ. A Scheme makes weights from rows
// that arrive a few at a time, as floats or as a checkpoint's codes, so a matrix is never in memory twice. A stack holds the
// matrices of several experts, one below the other.

import type { StoredDType, StoredTensor } from "../checkpoints/stored.js";
import type { Device } from "../core/device.js";
import type { DType } from "../core/dtype.js";
import { ShapeError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { embedding } from "../ops/embedding.js";
import { expertLinear } from "../ops/experts.js";
import { type Compute, type LinearOptions, linear } from "../ops/linear.js";
import { pack, unpack } from "../ops/pack.js";
import { transfer } from "../ops/transfer.js";
import { dividedBy, joinMatrices, type RowPiece, rowsOn } from "./divide.js";

/** Shape of a matrix: outputs (N) by inputs (K). */
export type MatrixShape = readonly [outputs: number, inputs: number];
export type FloatDType = "f32" | "f16" | "bf16";

/** A checkpoint tensor that stores a weight, or a part of one. */
export interface WeightPart {
  readonly name: string;
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  /** The bytes as files hold them, read from the device. */
  bytes(): Promise<Uint8Array>;
}

export interface Weight extends Disposable {
  /** Of a stack: all rows of all experts. */
  readonly shape: MatrixShape;
  /** Matrices of a stack; 1 for a single matrix. */
  readonly experts: number;
  /** Name of the scheme that made it: "dense", "llm_int8", "nf4", "fp4", "o4", "int4", "e2m1". */
  readonly scheme: string;
  /** How its products may round, where its scheme has a choice. */
  readonly compute?: "f32" | "bf16" | "int8" | undefined;
  /** Its tensors on the device: the matrix, and its scales or tables. */
  readonly tensors: readonly Tensor[];
  /** The tensors that can have gradients: floats. Empty for codes, which are frozen. */
  readonly trainable: readonly Tensor[];
  /** The scheme that stores other floats as these are; absent for codes that floats are not quantized to. */
  readonly alike?: Scheme | undefined;
  /** Bytes it takes on the device, statistics and padding included. */
  readonly nbytes: number;
  /** Bytes as `get_memory_footprint` of transformers counts them: the codes alone. */
  readonly footprint: number;
  /**
   * Records `act(x · Wᵀ + bias) + residual`. A stack needs `experts` and takes no residual: see ops/experts.ts.
   * @throws ShapeError
   */
  linear(x: Tensor, options?: LinearOptions): Tensor;
  /** Records a look-up of rows, as f32. */
  rows(ids: Tensor): Tensor;
  /** Records the matrix as contiguous rows in `dtype`. */
  dense(dtype: FloatDType): Tensor;
  /** Counters of its work since it was made, by name. Weights without counters omit it. */
  statistics?(): Promise<Readonly<Record<string, number>>>;
  /**
   * The tensors that store rows `at` to `at + rows` (default: all) in a checkpoint, where `name` is that of the matrix: the
   * inverse of loading. The parts of a 4-bit stack are whole experts.
   * @param values dtype of decoded values that a 4-bit file names, if the weight was not read from one (default: f32)
   */
  parts(name: string, at?: number, rows?: number, values?: FloatDType): Promise<readonly WeightPart[]>;
  /**
   * Records a copy on device `to`: the same codes; floats in `dtype` if it is given, whose products may then round as `compute` says
   * (default: as `computeFor` the dtype). Absent for weights over other weights.
   * @throws OutOfMemoryError
   */
  moved?(to: Device, dtype?: FloatDType, compute?: Compute): Weight;
  /** Its rows can be divided at multiples of this; absent if they cannot. */
  readonly divisor?: number | undefined;
  /** Records copies of its rows, each piece a weight of its own on its device. @throws OutOfMemoryError */
  divided?(pieces: readonly RowPiece[]): Weight[];
  /** The inverse, on a device: one weight of all rows of `pieces`, of which this is the first. @throws OutOfMemoryError */
  joined?(pieces: readonly Weight[], to: Device): Weight;
  /** Of a weight on several devices: takes over another, and gives it divided over the same; whole, if it cannot be divided. */
  likewise?(whole: Weight): Weight;
  /** Of weights over other weights: the one below is replaced by `inner`, which belongs to the matrix as before. */
  rebase?(inner: Weight): void;
  dispose(): void;
}

/** A weight under construction: rows come in order, `finish` returns the weight. */
interface WeightBuilder extends Disposable {
  /** Rows per `put` must be a multiple of this (the last one may be short). */
  readonly granularity: number;
  /** Records storing `rows[n,K]` (any float dtype) as rows `at` .. `at + n`. */
  put(rows: Tensor, at: number): void;
  finish(): Weight;
}

/** A weight that is made of 4-bit codes: rows come in order, `finish` returns the weight. */
interface CodesBuilder extends Disposable {
  /** Rows per `put` must be a multiple of this (the last ones may be short). */
  readonly granularity: number;
  /** Records storing codes u4[n,K], and scale and shift of each of their blocks, f32, as rows `at` to `at + n`. */
  put(codes: Tensor, statistics: { readonly scales: Tensor; readonly shifts?: Tensor | undefined }, at: number): void;
  finish(): Weight;
}

/** A quantized matrix, or a part of one, as a checkpoint stores it. */
export interface StoredWeight {
  /** The scheme that restores it. */
  readonly scheme: Scheme;
  /** Its tensors by their roles in the scheme; "weight" are the codes. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** The roles of small tensors that the host reads before anything is allocated. */
  readonly notes: readonly string[];
}

/** Rows `at` to `at + rows` of a matrix to be restored, with the bytes of its notes. */
export interface StoredRows {
  readonly at: number;
  readonly rows: number;
  readonly stored: StoredWeight;
  readonly notes: ReadonlyMap<string, Uint8Array>;
}

/** A weight that is being restored: codes come in order, `finish` returns the weight. */
export interface WeightRestorer extends Disposable {
  /** Rows per `put` must be a multiple of this (the last ones of the matrix, or of an expert, may be short). */
  readonly granularity: number;
  /** Dtype of codes on the device, as [n,K]. */
  readonly dtype: "i8" | "u4";
  /** Tensors on the device that receive the piece's other tensors, by their roles in the scheme. */
  targets(piece: StoredRows): Iterable<readonly [role: string, into: Tensor]>;
  /** Records storing codes as rows `at` to `at + n`. */
  put(codes: Tensor, at: number): void;
  finish(): Weight;
}

/** How a matrix is stored. `experts` is the number of matrices in a stack, 1 by default. */
export interface Scheme {
  readonly name: string;
  /** Bytes that a matrix takes, for plans. */
  bytes(shape: MatrixShape, experts?: number): number;
  begin(device: Device, shape: MatrixShape, label: string, experts?: number): WeightBuilder;
  /** Stores 4-bit codes as they come from a packed file. @param shifted whether its blocks have zero points */
  beginCodes?(device: Device, shape: MatrixShape, label: string, shifted: boolean, experts?: number): CodesBuilder;
  /**
   * If a checkpoint with these tensor names holds the matrix `name` quantized by this scheme: the scheme that restores it, and
   * the names of its tensors.
   */
  claims?(name: string, has: (name: string) => boolean): StoredNames | undefined;
  /** @throws FormatError, CheckpointError for what cannot be restored, before anything is allocated */
  restore?(
    device: Device,
    shape: MatrixShape,
    label: string,
    pieces: readonly StoredRows[],
    experts?: number,
  ): WeightRestorer;
}

/** Names of tensors by their roles in a scheme: see StoredWeight. */
export interface StoredNames {
  readonly scheme: Scheme;
  readonly names: ReadonlyMap<string, string>;
  readonly notes: readonly string[];
}

/** Rows of one expert. @throws ShapeError unless all experts have the same number */
export function rowsOfExpert([outputs]: MatrixShape, experts: number): number {
  const rows = outputs / experts;
  if (!Number.isSafeInteger(rows)) throw new ShapeError(`${outputs} rows cannot be divided among ${experts} experts`);
  return rows;
}

/** Memory for rows in the device's panel layout; in plain rows if a panel would span two experts. */
export function stackOf(device: Device, shape: MatrixShape, dtype: DType, label: string, experts: number): Tensor {
  const whole = experts === 1 || rowsOfExpert(shape, experts) % PANEL_ROWS === 0;
  return whole ? Tensor.panels(device, ...shape, dtype, label) : Tensor.empty(device, shape, dtype, label);
}

/** The experts for a product with a stack. @throws ShapeError if there are none, or a residual */
export function chosenExperts(options: LinearOptions | undefined): LinearOptions & { experts: Tensor } {
  const { experts, residual } = options ?? {};
  if (!experts) throw new ShapeError("a product with a stack of experts needs `experts`");
  if (residual) throw new ShapeError("a product with experts takes no residual", { hint: "give it to mix()" });
  return { ...options, experts };
}

/** @throws ShapeError if experts are given for a single matrix */
export function noExperts(options: LinearOptions | undefined): void {
  if (options?.experts) throw new ShapeError("a single matrix takes no experts");
}

/** @throws ShapeError */
export function noStack(experts: number): void {
  if (experts > 1) throw new ShapeError("rows of a stack of experts cannot be looked up");
}

/** Records a copy of a matrix on another device, in the layout that `make` chooses there. Call it in `kept`, or keep it. */
export function movedMatrix(matrix: Tensor, make: () => Tensor): Tensor {
  return scope(() => {
    const target = make();
    const rows = transfer(unpack(matrix), target.device);
    pack(rows.contiguous && rows.dtype === target.dtype ? rows : contiguous(rows, target.dtype), target);
    return target;
  });
}

/** Records a copy of a tensor on a device, which may be its own. */
export function copied(x: Tensor, to: Device): Tensor {
  if (x.device !== to) return transfer(x, to);
  const y = Tensor.empty(to, x.shape, x.dtype, "copy");
  copyInto(x, y);
  return y;
}

/** The shape of matrices one below the other. */
export function joinedShape(pieces: readonly Pick<Weight, "shape">[]): MatrixShape {
  return [pieces.reduce((sum, { shape }) => sum + shape[0], 0), pieces[0]!.shape[1]];
}

/** The bytes of rows `at` to `at + count` of a matrix on the device. */
export async function readRows(matrix: Tensor, at: number, count: number): Promise<Uint8Array> {
  const part = scope(() => {
    const rows = unpack(matrix);
    return rows === matrix && at === 0 && count === matrix.shape[0] ? rows.alias() : rows.narrow(0, at, count);
  });
  try {
    return await part.readBytes();
  } finally {
    part.dispose();
  }
}

class DenseWeight implements Weight {
  readonly shape: MatrixShape;
  readonly scheme = "dense";
  readonly experts: number;
  readonly #data: Tensor;
  readonly #compute: Compute;
  /** In panels, where the device has them. */
  readonly #product: boolean;

  constructor(data: Tensor, compute: Compute, experts: number, product: boolean) {
    this.#data = data.keep();
    this.experts = experts;
    this.#compute = compute;
    this.#product = product;
    this.shape = data.shape as MatrixShape;
  }

  get tensors(): readonly Tensor[] {
    return [this.#data];
  }

  get trainable(): readonly Tensor[] {
    return [this.#data];
  }

  get alike(): Scheme {
    return denseScheme(this.#data.dtype as FloatDType, this.#product, this.#compute);
  }

  get nbytes(): number {
    return this.#data.nbytes;
  }

  get footprint(): number {
    return this.shape[0] * this.shape[1] * (this.#data.dtype === "f32" ? 4 : 2);
  }

  linear(x: Tensor, options?: LinearOptions): Tensor {
    if (this.experts === 1) {
      noExperts(options);
      return linear(x, this.#data, options, this.#compute);
    }
    const chosen = chosenExperts(options);
    return scope(() => {
      const stack = this.#data.view(this.experts, -1, this.shape[1]);
      return expertLinear(x, stack, chosen, this.#compute);
    });
  }

  rows(ids: Tensor): Tensor {
    return embedding(this.#data, ids);
  }

  async parts(name: string, at = 0, rows = this.shape[0]): Promise<readonly WeightPart[]> {
    const dtype = ({ f32: "F32", f16: "F16", bf16: "BF16" } as const)[this.#data.dtype as FloatDType];
    return [{ name, dtype, shape: [rows, this.shape[1]], bytes: () => readRows(this.#data, at, rows) }];
  }

  dense(dtype: FloatDType): Tensor {
    return scope(() => {
      const rows = contiguous(unpack(this.#data), dtype);
      return rows === this.#data ? rows.alias() : rows;
    });
  }

  moved(to: Device, dtype = this.#data.dtype as FloatDType, compute = this.#computeIn(dtype)): Weight {
    const { shape, experts } = this;
    const make = (): Tensor =>
      this.#product ? stackOf(to, shape, dtype, "weight", experts) : Tensor.empty(to, shape, dtype, "weight");
    return new DenseWeight(movedMatrix(this.#data, make), compute, experts, this.#product);
  }

  #computeIn(dtype: FloatDType): Compute {
    return dtype === this.#data.dtype ? this.#compute : computeFor(dtype);
  }

  get divisor(): number | undefined {
    return this.experts === 1 ? PANEL_ROWS : undefined;
  }

  divided(pieces: readonly RowPiece[]): Weight[] {
    return dividedBy(this.#data, pieces, (rows, piece) =>
      this.#like(rowsOn(rows, piece, (shape) => this.#empty(piece.to, shape))),
    );
  }

  joined(pieces: readonly Weight[], to: Device): Weight {
    const rows = pieces.map((piece) => piece.tensors[0]!);
    return this.#like(scope(() => joinMatrices(rows, this.#empty(to, joinedShape(pieces)))));
  }

  #empty(device: Device, shape: MatrixShape): Tensor {
    const { dtype } = this.#data;
    return this.#product ? stackOf(device, shape, dtype, "weight", 1) : Tensor.empty(device, shape, dtype, "weight");
  }

  #like(data: Tensor): Weight {
    return new DenseWeight(data, this.#compute, 1, this.#product);
  }

  dispose(): void {
    this.#data.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Default compute type of products with dense matrices in `dtype`. */
export function computeFor(dtype: FloatDType): Compute {
  return dtype === "bf16" ? "bf16" : "f32";
}

/**
 * Plain floats in `dtype`. `product` says that the matrix is used in products (not only looked up): it is then kept in the
 * device's panel layout. `compute` "bf16" allows bf16 products with a bf16 matrix, and is the default for such a matrix: that
 * is how a bf16 model multiplies in Python. Sums stay f32.
 */
export function denseScheme(dtype: FloatDType, product = true, compute = computeFor(dtype)): Scheme {
  return {
    name: "dense",
    bytes: ([out, inputs]) => out * inputs * (dtype === "f32" ? 4 : 2),
    begin(device, shape, label, experts = 1) {
      const data = product
        ? stackOf(device, shape, dtype, label, experts).keep()
        : Tensor.empty(device, shape, dtype, label).keep();
      return {
        granularity: data.panels ? PANEL_ROWS : 1,
        put(rows, at) {
          if (!data.panels) {
            using part = data.narrow(0, at, rows.shape[0]!);
            copyInto(rows, part);
            return;
          }
          if (rows.dtype === dtype) {
            pack(rows, data, at);
            return;
          }
          using converted = contiguous(rows, dtype);
          pack(converted, data, at);
        },
        finish: () => new DenseWeight(data, compute, experts, product),
        [Symbol.dispose]: () => data.dispose(),
      };
    },
  };
}

/** Records storing `rows`, f[N,K], as one matrix, or as those of several experts. @throws OutOfMemoryError, ShapeError */
export function storeRows(scheme: Scheme, rows: Tensor, label: string, experts = 1): Weight {
  const [N = 0, K = 0] = rows.shape;
  const builder = scheme.begin(rows.device, [N, K], label, experts);
  try {
    const each = rowsOfExpert([N, K], experts);
    for (let e = 0; e < experts; e++) {
      using own = rows.narrow(0, e * each, each);
      builder.put(own, e * each);
    }
    return builder.finish();
  } catch (error) {
    builder[Symbol.dispose]();
    throw error;
  }
}

/** Largest number of rows in a device's panels: chunks that begin at multiples of this never split a panel. */
export const PANEL_ROWS = 16;
