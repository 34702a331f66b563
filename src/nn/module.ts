// The module tree. Children and parameters are plain fields; their names are the checkpoint's names. Building a tree
// allocates nothing: parameters know only shape and dtype until something fills them (like `init_empty_weights`).

import type { Device } from "../core/device.js";
import { bytesOf, isFloat, narrow, widen } from "../core/dtype.js";
import { OctavoError } from "../core/errors.js";
import { Tensor } from "../core/tensor.js";
import type { LinearOptions } from "../ops/linear.js";
import type { FloatDType, MatrixShape, Weight } from "./weight.js";

/** A tensor of a checkpoint that is not a matrix: norm weights, biases, position tables. */
export class Parameter {
  readonly shape: readonly number[];
  /** Files may lack it; it then stays empty. */
  optional = false;
  #value: Tensor | undefined;

  constructor(...shape: number[]) {
    this.shape = shape;
  }

  get filled(): boolean {
    return this.#value !== undefined;
  }

  /** @throws OctavoError while the parameter is only declared. */
  get value(): Tensor {
    if (!this.#value) throw notFilled(this.shape);
    return this.#value;
  }

  fill(value: Tensor): void {
    this.#value?.dispose();
    this.#value = value.keep();
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
  readonly shape: MatrixShape;
  /** Matrices of a stack, one below the other; 1 for a single matrix. */
  readonly experts: number;
  /** True once a module multiplies with it; false for tables that are only looked up. */
  product = false;
  /** Files may lack it; it then stays empty. */
  optional = false;
  /** Its shape in files, if that is not [outputs, inputs] but the same elements in the same order. */
  stored_shape: readonly number[] | undefined;
  #weight: Weight | undefined;
  /** The weights inside the wrappers of `wrap`, the stored weight first. */
  #wrapped: Weight[] = [];

  /** @param out rows of each of the `experts` */
  constructor(out: number, inputs: number, experts = 1) {
    this.shape = [out * experts, inputs];
    this.experts = experts;
  }

  get filled(): boolean {
    return this.#weight !== undefined;
  }

  /** @throws OctavoError while the matrix is only declared. */
  get weight(): Weight {
    if (!this.#weight) throw notFilled(this.shape);
    return this.#weight;
  }

  /** Replaces the weight, including all wrappers. */
  fill(weight: Weight): void {
    this.dispose();
    this.#weight = weight;
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

  get nbytes(): number {
    return this.#weight?.nbytes ?? 0;
  }

  get footprint(): number {
    return this.#weight?.footprint ?? 0;
  }

  dispose(): void {
    this.#weight?.dispose();
    this.#weight = undefined;
    for (const weight of this.#wrapped.splice(0)) weight.dispose();
  }
}

/**
 * A constant of a module that no checkpoint holds (inverse frequencies, ALiBi slopes). It is a leaf of the tree: the loader
 * puts it on the device with the weights, and `Module.dispose` frees it. A model on several devices has a copy on each.
 */
export class Buffer {
  readonly #values: () => Float32Array | Int32Array;
  readonly #tensors = new Map<Device, Tensor>();

  /** @param values the constant's elements; called once per device */
  constructor(values: () => Float32Array | Int32Array) {
    this.#values = values;
  }

  /** The constant on `device`, f32[n] or i32[n]; made there on first use. @throws OutOfMemoryError */
  on(device: Device): Tensor {
    let tensor = this.#tensors.get(device);
    if (!tensor) {
      const values = this.#values();
      tensor = Tensor.from(device, values, [values.length], undefined, "constant").keep();
      this.#tensors.set(device, tensor);
    }
    return tensor;
  }

  get nbytes(): number {
    return [...this.#tensors.values()].reduce((sum, tensor) => sum + tensor.nbytes, 0);
  }

  dispose(): void {
    for (const tensor of this.#tensors.values()) tensor.dispose();
    this.#tensors.clear();
  }
}

function notFilled(shape: readonly number[]): OctavoError {
  return new OctavoError("ERR_NOT_LOADED", `a parameter of shape [${shape.join(", ")}] was used before it was loaded`, {
    hint: "load a checkpoint into the model first",
  });
}

export abstract class Module {
  /** Path in the tree, set by `name_tree`; error messages and leak reports carry it. */
  path = "";

  /** The name of its class, as the tree prints it. */
  get class_name(): string {
    return this.constructor.name;
  }

  /** Direct children: modules in fields, and in arrays in fields ("layers.0"). */
  *children(): Iterable<[string, Module]> {
    for (const [name, value] of Object.entries(this)) {
      if (value instanceof Module) yield [name, value];
      else if (Array.isArray(value)) {
        for (const [index, item] of value.entries()) if (item instanceof Module) yield [`${name}.${index}`, item];
      }
    }
  }

  /** This module and all below it, with their paths; the root's path is "". */
  *named_modules(prefix = ""): Iterable<[string, Module]> {
    yield [prefix, this];
    for (const [name, child] of this.children()) yield* child.named_modules(prefix ? `${prefix}.${name}` : name);
  }

  /** Parameters and matrices by the checkpoint's names. A tied one appears under each of its names. */
  *named_parameters(): Iterable<[string, Parameter | Matrix]> {
    for (const [path, module] of this.named_modules()) {
      for (const [name, value] of Object.entries(module)) {
        if (value instanceof Parameter || value instanceof Matrix) yield [path ? `${path}.${name}` : name, value];
      }
    }
  }

  /** Each parameter once. */
  parameters(): Set<Parameter | Matrix> {
    return new Set([...this.named_parameters()].map(([, parameter]) => parameter));
  }

  /** Constants with the paths of their fields. */
  *named_buffers(): Iterable<[string, Buffer]> {
    for (const [path, module] of this.named_modules()) {
      for (const [name, value] of Object.entries(module)) {
        if (value instanceof Buffer) yield [path ? `${path}.${name}` : name, value];
      }
    }
  }

  /** Sets the paths of all modules below; called once when a tree is complete. */
  name_tree(): this {
    for (const [path, module] of this.named_modules()) module.path = path;
    return this;
  }

  dispose(): void {
    for (const parameter of this.parameters()) parameter.dispose();
    for (const [, buffer] of this.named_buffers()) buffer.dispose();
  }
}

/** y = x Wᵀ + b; with a stack of experts, for the matrices of each token's experts (see ops/experts.ts). */
export class Linear extends Module {
  weight: Matrix;
  bias: Parameter | undefined;

  constructor(inputs: number, out: number, options: { bias?: boolean; experts?: number } = {}) {
    super();
    const { experts = 1 } = options;
    this.weight = new Matrix(out, inputs, experts);
    this.weight.product = true;
    this.bias = options.bias ? new Parameter(...(experts > 1 ? [experts, out] : [out])) : undefined;
  }

  /** Its paths in checkpoints: its own, or one for each expert of a stack ("experts.0.w1"). */
  get published_paths(): readonly string[] {
    const { experts } = this.weight;
    if (experts === 1) return [this.path];
    const at = this.path.lastIndexOf(".");
    return Array.from({ length: experts }, (_, e) => `${this.path.slice(0, at)}.${e}${this.path.slice(at)}`);
  }

  /** Multiplies with another module's matrix instead of one of its own. */
  tie(weight: Matrix): this {
    weight.product = true;
    this.weight = weight;
    return this;
  }

  forward(x: Tensor, options: Omit<LinearOptions, "bias"> = {}): Tensor {
    return within(x.device, this.path, () =>
      this.weight.weight.linear(x, this.bias ? { ...options, bias: this.bias.value } : options),
    );
  }
}

/** A table whose rows are looked up. */
export class Embedding extends Module {
  weight: Matrix;

  constructor(entries: number, width: number) {
    super();
    this.weight = new Matrix(entries, width);
  }

  forward(ids: Tensor): Tensor {
    return within(ids.device, this.path, () => this.weight.weight.rows(ids));
  }
}

/** A part that files may lack. */
export function optional<M extends Module>(part: M): M {
  for (const parameter of part.parameters()) parameter.optional = true;
  return part;
}

/** Bytes of a parameter stored unquantized in `dtype`: for plans made before anything is loaded. */
export function plainBytes(parameter: Parameter | Matrix, dtype: FloatDType): number {
  return bytesOf(
    dtype,
    parameter.shape.reduce((n, size) => n * size, 1),
  );
}

/** Runs `body`; its ops are recorded under `path`. */
export function within<T>(device: Device, path: string, body: () => T): T {
  const before = device.enter(path);
  try {
    return body();
  } finally {
    device.enter(before);
  }
}
