// Tensor parallelism: matrices cut by outputs over several devices, which multiply at the same time. Every output is summed by one
// device over all inputs, as on one device, so in every scheme the number of devices changes no bit. (Megatron-LM, Shoeybi et al.
// 2019, cuts the second of two matrices by inputs; its sums depend on the number of devices.) Norms, attention and caches are on the
// main device.

import type { StoredDType } from "../checkpoints/stored.js";
import type { Device } from "../core/device.js";
import { ShapeError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { copyInto } from "../ops/copy.js";
import type { Compute, LinearOptions } from "../ops/linear.js";
import { transfer } from "../ops/transfer.js";
import type { RowPiece } from "./divide.js";
import { type Module, within } from "./module.js";
import type { ModelPlacement } from "./pass.js";
import { type FloatDType, type MatrixShape, noExperts, type Scheme, type Weight, type WeightPart } from "./weight.js";

/**
 * The rows of a matrix by device, nearly alike; a device may get none. The first device always has some.
 * @param divisor pieces begin at multiples of it
 */
function rowPieces(outputs: number, divisor: number, devices: readonly Device[]): RowPiece[] {
  const units = Math.ceil(outputs / divisor);
  const begin = (i: number): number => Math.min(outputs, Math.ceil((units * i) / devices.length) * divisor);
  return devices.flatMap((to, i) => {
    const at = begin(i);
    const rows = begin(i + 1) - at;
    return rows > 0 ? [{ at, rows, to }] : [];
  });
}

interface Shard extends RowPiece {
  readonly weight: Weight;
}

/** A weight whose rows lie on several devices, the main one first. Inputs and outputs of its products are on the main device. */
class DividedWeight implements Weight {
  readonly shape: MatrixShape;
  readonly experts = 1;
  readonly scheme: string;
  readonly compute: Weight["compute"];
  /** No part is the matrix, so floats are trained by adapters alone. */
  readonly trainable: readonly Tensor[] = [];
  readonly #shards: readonly Shard[];
  readonly #place: TensorParallel;

  constructor(shape: MatrixShape, shards: readonly Shard[], place: TensorParallel) {
    const { scheme, compute } = shards[0]!.weight;
    this.shape = shape;
    this.scheme = scheme;
    this.compute = compute;
    this.#shards = shards;
    this.#place = place;
  }

  get #weights(): Weight[] {
    return this.#shards.map(({ weight }) => weight);
  }

  get tensors(): readonly Tensor[] {
    return this.#weights.flatMap(({ tensors }) => tensors);
  }

  get nbytes(): number {
    return this.#weights.reduce((sum, { nbytes }) => sum + nbytes, 0);
  }

  get footprint(): number {
    return this.#weights.reduce((sum, { footprint }) => sum + footprint, 0);
  }

  get alike(): Scheme | undefined {
    const { alike } = this.#shards[0]!.weight;
    return (
      alike && {
        ...alike,
        begin: (...given) => {
          const builder = alike.begin(...given);
          return { ...builder, finish: () => this.likewise(builder.finish()) };
        },
      }
    );
  }

  likewise(whole: Weight): Weight {
    let divided: Weight | undefined;
    try {
      divided = this.#place.divide(whole);
    } catch (error) {
      whole.dispose();
      throw error;
    }
    if (!divided) return whole;
    whole.dispose();
    return divided;
  }

  linear(x: Tensor, options: LinearOptions = {}): Tensor {
    noExperts(options);
    const { device: main } = x;
    return scope(() => {
      const shape = [...x.shape.slice(0, -1), this.shape[0]];
      const y = Tensor.empty(main, shape, "f32", "linear");
      // The others first: they compute while the main device does.
      const products = [...this.#shards].reverse().map((shard) => {
        const body = (): Tensor => this.#product(shard, x, options);
        return { shard, product: within(shard.to, main.path, body) };
      });
      for (const { shard, product } of products.reverse()) {
        scope(() => copyInto(transfer(product, main), y.narrow(shape.length - 1, shard.at, shard.rows)));
      }
      return y;
    });
  }

  /** The outputs of one device, there. */
  #product(shard: Shard, x: Tensor, { bias, residual, act }: LinearOptions): Tensor {
    const { at, rows, to, weight } = shard;
    return weight.linear(this.#place.input(x, to), {
      ...(act ? { act } : {}),
      ...(bias ? { bias: transfer(bias.narrow(0, at, rows), to) } : {}),
      ...(residual ? { residual: columnsOn(residual, shard) } : {}),
    });
  }

  rows(): never {
    throw new ShapeError("a matrix on several devices is for products alone");
  }

  dense(dtype: FloatDType): Tensor {
    return scope(() => {
      const { to: main } = this.#shards[0]!;
      const whole = Tensor.empty(main, this.shape, dtype, "dense");
      for (const { at, rows, weight } of this.#shards) {
        scope(() => copyInto(transfer(weight.dense(dtype), main), whole.narrow(0, at, rows)));
      }
      return whole;
    });
  }

  async statistics(): Promise<Readonly<Record<string, number>>> {
    return (await this.#shards[0]!.weight.statistics?.()) ?? {}; // all have seen the same activations
  }

  /** The whole matrix is put together on the main device, once for each part that is read. */
  async parts(name: string, at = 0, rows = this.shape[0], values?: FloatDType): Promise<readonly WeightPart[]> {
    const read = async <T>(use: (parts: readonly WeightPart[]) => Promise<T> | T): Promise<T> => {
      const weights = this.#weights;
      using whole = weights[0]!.joined!(weights, this.#shards[0]!.to);
      return await use(await whole.parts(name, at, rows, values));
    };
    const parts = await read((all) => all.map(({ name, dtype, shape }) => ({ name, dtype, shape })));
    return parts.map((part: { name: string; dtype: StoredDType; shape: readonly number[] }, i) => ({
      ...part,
      bytes: () => read((all) => all[i]!.bytes()),
    }));
  }

  /** @throws ShapeError for another main device */
  moved(to: Device, ...how: [dtype?: FloatDType, compute?: Compute]): Weight {
    if (to !== this.#shards[0]!.to) throw new ShapeError("a matrix on several devices stays there");
    const made: Shard[] = [];
    try {
      for (const { weight, ...piece } of this.#shards) made.push({ ...piece, weight: weight.moved!(piece.to, ...how) });
    } catch (error) {
      for (const { weight } of made) weight.dispose();
      throw error;
    }
    return new DividedWeight(this.shape, made, this.#place);
  }

  dispose(): void {
    for (const weight of this.#weights) weight.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Some columns of x[..,N] on a device. */
function columnsOn(x: Tensor, { at, rows, to }: RowPiece): Tensor {
  const part = Tensor.empty(x.device, [...x.shape.slice(0, -1), rows], x.dtype, "columns");
  copyInto(x.narrow(x.shape.length - 1, at, rows), part);
  return transfer(part, to);
}

/** A model whose matrices are cut over devices; everything else is on the first of them. */
export class TensorParallel implements ModelPlacement, Disposable {
  readonly devices: readonly Device[];
  /** The input of the last product in a block, on the devices it was sent to: q, k and v have the same. */
  readonly #sent = new Map<Device, Tensor>();
  #input: Tensor | undefined;
  #inside = false;

  /** @param devices the main one first */
  constructor(devices: readonly Device[]) {
    this.devices = devices;
  }

  deviceOf(): Device {
    return this.devices[0]!;
  }

  /** A copy of a weight that is cut by rows; undefined if it is too small, or its codes cannot be cut. @throws OutOfMemoryError */
  divide(weight: Weight): Weight | undefined {
    const { divisor, shape } = weight;
    if (divisor === undefined || !weight.divided) return undefined;
    const pieces = rowPieces(shape[0], divisor, this.devices);
    if (pieces.length < 2) return undefined;
    const parts = weight.divided(pieces);
    return new DividedWeight(
      shape,
      pieces.map((piece, i) => ({ ...piece, weight: parts[i]! })),
      this,
    );
  }

  /** `x` on a device; inside a block the copy is there for the next product, too. */
  input(x: Tensor, to: Device): Tensor {
    if (x.device === to || !this.#inside) return transfer(x, to);
    if (this.#input !== x) this.#forget();
    this.#input = x;
    let copy = this.#sent.get(to);
    if (!copy) {
      copy = transfer(x, to).keep();
      this.#sent.set(to, copy);
    }
    return copy;
  }

  enter(_blocks: readonly Module[], _index: number, h: Tensor): Tensor {
    this.#inside = true;
    return transfer(h, this.devices[0]!);
  }

  leave(): void {
    this.#forget();
    this.#inside = false;
  }

  exit(h: Tensor): Tensor {
    return h;
  }

  abandon(): void {
    this.leave();
  }

  #forget(): void {
    for (const copy of this.#sent.values()) copy.dispose();
    this.#sent.clear();
    this.#input = undefined;
  }

  dispose(): void {
    this.#forget();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
