// The leaves of the module tree that checkpoints hold: parameters and matrices. They know shape and dtype, and hold tensors once
// something fills them; until then they may hold values on the host, or a rule that makes them.

import type { Device } from "../core/device.js";
import { isFloat, narrow, widen } from "../core/dtype.js";
import { DTypeError, OctavoError } from "../core/errors.js";
import { checkedShape } from "../core/shape.js";
import { scope, Tensor } from "../core/tensor.js";
import { contiguous } from "../ops/copy.js";
import type { Compute } from "../ops/linear.js";
import { taping } from "../ops/tape.js";
import { transfer } from "../ops/transfer.js";
import { type PendingCodes, PendingFloats } from "./pending.js";
import type { FloatDType, MatrixShape, Scheme, Weight } from "./weight.js";

/** Values on their way: they take the place of others, or are given up. */
export interface Moving {
  take(): void;
  dispose(): void;
}

/** A tensor of a checkpoint that is not a matrix: norm weights, biases, position tables. */
export class Parameter {
  #shape: readonly number[];
  /** Files may lack it; it then stays empty. */
  optional = false;
  /** Its values while it has no device. */
  pending: PendingFloats | undefined;
  #value: Tensor | undefined;
  /** What stands in for its tensor; it belongs to another parameter. */
  #instead: Parameter | undefined;
  #asks = false;

  /** @param shape what it will hold, or a tensor that it takes over @throws OptionError */
  constructor(...shape: readonly number[] | readonly [Tensor]) {
    const [first] = shape;
    if (Tensor.is(first)) {
      this.#shape = first.shape;
      this.#value = first.keep();
      return;
    }
    this.#shape = checkedShape("a Parameter", shape as readonly number[]);
  }

  get shape(): readonly number[] {
    return this.#shape;
  }

  get filled(): boolean {
    return this.#value !== undefined;
  }

  /** Its tensor. @throws as `value` */
  get data(): Tensor {
    return this.value;
  }

  get requires_grad(): boolean {
    return this.#value?.requires_grad ?? this.#asks;
  }

  /** As of tensors; a parameter without a device asks once it has one. @throws as there */
  requires_grad_(on = true): this {
    this.#value?.requires_grad_(on);
    this.#asks = on;
    return this;
  }

  /** The gradient of its tensor. */
  get grad(): Tensor | undefined {
    return this.#value?.grad;
  }

  /** @throws as `value`, and as `grad` of tensors */
  set grad(grad: Tensor | null | undefined) {
    this.value.grad = grad;
  }

  /**
   * Puts it on a device, or converts it; gradients belong to it afterwards, not to what it was. @throws OctavoError while it has no values, OutOfMemoryError
   */
  to(device: Device | undefined, dtype?: FloatDType): void {
    if (this.#value) {
      this.moving(device, dtype)?.take();
      return;
    }
    if (dtype && this.pending) this.pending = this.pending.as(dtype);
    if (!device) return;
    if (this.pending) this.fill(this.pending.tensor(device));
    else if (!this.optional) throw notFilled(this.shape);
  }

  /** What `to` puts in its tensor's place; undefined if that is as it should be. @throws OutOfMemoryError */
  moving(device: Device | undefined, dtype?: FloatDType): Moving | undefined {
    const before = this.#value;
    if (!before) return undefined;
    const after = taping(undefined, () =>
      scope(() => contiguous(device ? transfer(before, device) : before, dtype ?? before.dtype)),
    );
    if (after === before) return undefined;
    after.keep();
    return { take: () => this.fill(after), dispose: () => after.dispose() };
  }

  /** @throws OctavoError while the parameter is only declared. */
  get value(): Tensor {
    if (this.#instead) return this.#instead.value;
    if (!this.#value) throw notFilled(this.shape);
    return this.#value;
  }

  /** From now on `value` is that of another parameter (an adapter's); undefined: its own again. */
  replaceBy(other: Parameter | undefined): void {
    this.#instead = other;
  }

  /** Its own tensor, also while another one stands in for it. */
  get own(): Tensor | undefined {
    return this.#value;
  }

  /** Takes a tensor over in place of its own; it still asks for a gradient if it did. */
  fill(value: Tensor): void {
    const asks = this.requires_grad;
    this.#value?.dispose();
    this.#value = value.keep();
    this.pending = undefined;
    if (asks) this.requires_grad_();
  }

  /** `fill` with a tensor of another shape, which becomes its own: a vocabulary grew. */
  resize(value: Tensor): void {
    this.#shape = value.shape;
    this.fill(value);
  }

  /** Its tensors on the device. */
  get tensors(): readonly Tensor[] {
    return this.#value ? [this.#value] : [];
  }

  /** `number` in the precision of the tensor: constants that a model keeps in its own dtype. @throws as `value` */
  rounded(number: number): number {
    const { dtype } = this.value;
    return isFloat(dtype) ? widen(dtype, narrow(dtype, Float32Array.of(number)))[0]! : number;
  }

  get nbytes(): number {
    return this.#value?.nbytes ?? 0;
  }

  get footprint(): number {
    return this.nbytes;
  }

  dispose(): void {
    this.pending = undefined;
    this.#value?.dispose();
    this.#value = undefined;
  }
}

/** A parameter of one number, which the host knows once it is loaded. Whoever fills it sets `number`. */
export class Scalar extends Parameter {
  number = 1;
}

/**
 * A parameter that files may hold as a direction of its shape, and a magnitude for each index of dim `dim` (weight
 * normalisation, Salimans and Kingma 2016); it is their product.
 */
export class NormedParameter extends Parameter {
  readonly dim: number;

  /** @param dim the dim of the magnitudes; @param shape of the product */
  constructor(dim: number, ...shape: number[]) {
    super(...shape);
    this.dim = dim;
  }

  /** Shape of the magnitudes. */
  get magnitudes(): readonly number[] {
    return this.shape.map((size, d) => (d === this.dim ? size : 1));
  }

  /** The magnitudes count as well, as in transformers. */
  override get footprint(): number {
    const size = this.shape.reduce((n, one) => n * one, 1);
    return this.nbytes + (this.nbytes / size) * this.shape[this.dim]!;
  }
}

/** A matrix of a checkpoint, stored in the scheme that the loader chose. Tied modules share one. */
export class Matrix {
  #shape: MatrixShape;
  /** Matrices of a stack, one below the other; 1 for a single matrix. */
  readonly experts: number;
  /** True once a module multiplies with it; false for tables that are only looked up. */
  product = false;
  /** Files may lack it; it then stays empty. */
  optional = false;
  /** Its shape in files, if that is not [outputs, inputs] but the same elements in the same order. */
  stored_shape: readonly number[] | undefined;
  /** How it is stored once it has a device; plain floats in rows by default. A loader chooses for itself. */
  scheme: Scheme | undefined;
  /** Its values while it has no device. */
  pending: PendingFloats | PendingCodes | undefined;
  /** Dtype of its values, also once they are codes; of a matrix that a loader filled, nothing is said. */
  dtype: FloatDType | undefined;
  #asks = false;
  #weight: Weight | undefined;
  /** The weights inside the wrappers of `wrap`, the stored weight first. */
  #wrapped: Weight[] = [];

  /** @param out rows of each of the `experts` @throws ShapeError */
  constructor(out: number, inputs: number, experts = 1) {
    const [rows = 0, columns = 0, count = 1] = checkedShape("a Matrix", [out, inputs, experts]);
    this.#shape = [rows * count, columns];
    this.experts = count;
  }

  get shape(): MatrixShape {
    return this.#shape;
  }

  get filled(): boolean {
    return this.#weight !== undefined;
  }

  /** @throws OctavoError while the matrix is only declared. */
  get weight(): Weight {
    if (!this.#weight) throw notFilled(this.shape);
    return this.#weight;
  }

  /** Replaces the weight, including all wrappers; floats still ask for a gradient if it did. */
  fill(weight: Weight): void {
    const asks = this.requires_grad;
    this.dispose();
    this.#weight = weight;
    if (asks) this.requires_grad_();
  }

  /** `fill` with a weight of another shape, which becomes its own: a vocabulary grew. */
  resize(weight: Weight): void {
    this.#shape = weight.shape;
    this.fill(weight);
  }

  /** Its floats. @throws as `weight`; DTypeError for codes, which have values only once they are decoded */
  get data(): Tensor {
    const inner = this.inner ?? this.weight;
    const [floats] = inner.trainable;
    if (floats) return floats;
    if (inner.scheme === "dense")
      throw new DTypeError("a matrix that tp_plan cuts is no single tensor", {
        hint: "dequantize() puts it together",
      });
    throw new DTypeError(`a matrix that is stored as ${inner.scheme} has no floats`, {
      hint: "dequantize() decodes them",
    });
  }

  /** Its values, decoded. The caller disposes the tensor, or a scope. @throws as `weight` */
  dequantize(dtype: FloatDType = "f32"): Tensor {
    return this.weight.dense(dtype);
  }

  get requires_grad(): boolean {
    return this.inner?.trainable.some((tensor) => tensor.requires_grad) ?? this.#asks;
  }

  /** @throws OctavoError for floats that lie on several devices: adapters alone are trained over them */
  checkTrainable(): void {
    const { inner } = this;
    if (inner?.scheme !== "dense" || inner.trainable.length > 0) return;
    throw new OctavoError("ERR_UNSUPPORTED", "a matrix that tp_plan cuts takes no gradient", {
      hint: "model.add_adapter(new LoraConfig()) is trained over it, or load the model without tp_plan",
    });
  }

  /**
   * As of tensors; a matrix without a device asks once it has one. Codes are frozen: they never do.
   * @throws as checkTrainable
   */
  requires_grad_(on = true): this {
    if (on) this.checkTrainable();
    for (const tensor of this.inner?.trainable ?? []) tensor.requires_grad_(on);
    this.#asks = on;
    return this;
  }

  /** The gradient of its floats. */
  get grad(): Tensor | undefined {
    return this.inner?.trainable[0]?.grad;
  }

  /** @throws as `data`, and as `grad` of tensors */
  set grad(grad: Tensor | null | undefined) {
    this.data.grad = grad;
  }

  /**
   * Puts it on a device, where it is stored in its scheme: floats are quantized now, and codes never again. Floats that stay
   * floats are converted to `dtype`; codes are not.
   * @throws OctavoError while it has no values, or if it is wrapped; OutOfMemoryError
   */
  to(device: Device | undefined, dtype?: FloatDType): void {
    if (this.#weight) {
      this.moving(device, dtype)?.take();
      return;
    }
    if (dtype && this.pending instanceof PendingFloats) this.pending = this.pending.as(dtype);
    if (this.pending instanceof PendingFloats) this.dtype = this.pending.dtype;
    if (!device) return;
    if (this.pending)
      this.fill(this.pending.weight(device, this.shape, this.experts, this.schemeFor(this.dtype ?? "f32")));
    else if (!this.optional) throw notFilled(this.shape);
  }

  /** True if `to` would change anything of its weight. @throws OctavoError if it is wrapped */
  moves(device: Device | undefined, dtype?: FloatDType): boolean {
    const weight = this.#weight;
    if (!weight) return false;
    const there = device !== undefined && weight.tensors.some((tensor) => tensor.device !== device);
    const converted = dtype !== undefined && weight.scheme === "dense" && weight.tensors[0]?.dtype !== dtype;
    if (!there && !converted) return false;
    if (this.#wrapped.length === 0 && weight.moved) return true;
    throw new OctavoError("ERR_WRAPPED", `to: a matrix with an adapter (${weight.scheme}) stays where it is`);
  }

  /**
   * What `to` puts in its weight's place; undefined if that is as it should be.
   * @param compute how products with floats that are converted may round; by default as the dtype has it
   * @throws as `moves`; OutOfMemoryError
   */
  moving(device: Device | undefined, dtype?: FloatDType, compute?: Compute): Moving | undefined {
    if (!this.moves(device, dtype)) return undefined;
    const before = this.weight;
    const after = taping(undefined, () => before.moved!(device ?? before.tensors[0]!.device, dtype, compute));
    const take = (): void => {
      if (dtype && before.scheme === "dense") this.dtype = dtype;
      this.fill(after);
    };
    return { take, dispose: () => after.dispose() };
  }

  /**
   * From now on multiplies with the weight that `make` builds around the current one (an adapter). The inner weight stays the
   * matrix's: the wrapper's `dispose` must leave it alone.
   */
  wrap(make: (inner: Weight) => Weight): void {
    const inner = this.weight;
    const outer = make(inner);
    this.#wrapped.push(inner);
    this.#weight = outer;
  }

  /** The stored weight, below all wrappers. */
  get inner(): Weight | undefined {
    return this.#wrapped[0] ?? this.#weight;
  }

  /** Replaces the stored weight; wrappers of `wrap` stay around it. */
  refill(weight: Weight): void {
    const [before] = this.#wrapped;
    if (!before) {
      this.fill(weight);
      return;
    }
    this.#wrapped[0] = weight;
    (this.#wrapped[1] ?? this.#weight)?.rebase?.(weight);
    before.dispose();
  }

  /** Undoes the last `wrap` and disposes the wrapper. @throws OctavoError if there is none */
  unwrap(): void {
    const inner = this.#wrapped.pop();
    if (!inner) throw new OctavoError("ERR_NOT_WRAPPED", `a matrix of shape [${this.shape.join(", ")}] has no wrapper`);
    this.#weight?.dispose();
    this.#weight = inner;
  }

  /** Its tensors on the device. */
  get tensors(): readonly Tensor[] {
    return this.#weight?.tensors ?? [];
  }

  /** The scheme for floats of a dtype. */
  schemeFor(_dtype: FloatDType): Scheme | undefined {
    return this.scheme;
  }

  /** How it is stored, for the printed tree: its scheme, or its dtype if it is not quantized. */
  get stored(): string {
    const { pending } = this;
    if (!this.#weight) return pending ? `${this.scheme?.name ?? "floats"} to be` : "not loaded";
    const { scheme, tensors } = this.#weight;
    return scheme === "dense" ? (tensors[0]?.dtype ?? scheme) : scheme;
  }

  get nbytes(): number {
    return this.#weight?.nbytes ?? 0;
  }

  get footprint(): number {
    return this.#weight?.footprint ?? 0;
  }

  dispose(): void {
    this.pending = undefined;
    this.#weight?.dispose();
    this.#weight = undefined;
    for (const weight of this.#wrapped.splice(0)) weight.dispose();
  }
}

/** Tells all of them whether they ask for a gradient; nothing is told if one of them cannot. @throws as `requires_grad_` of a matrix */
export function askFor(parameters: Iterable<Parameter | Matrix>, on: boolean): void {
  const all = [...parameters];
  if (on) for (const one of all) if (one instanceof Matrix) one.checkTrainable();
  for (const one of all) one.requires_grad_(on);
}

/** The error for what has no values yet. */
function notFilled(shape: readonly number[]): OctavoError {
  return new OctavoError("ERR_NOT_LOADED", `a parameter of shape [${shape.join(", ")}] was used before it was loaded`, {
    hint: "load a checkpoint into the model first",
  });
}
