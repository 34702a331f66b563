// The module tree. Children and parameters are plain fields; their names are the checkpoint's names. Building a tree
// allocates nothing: parameters know only shape and dtype until something fills them (like `init_empty_weights`).

import { Device } from "../core/device.js";
import { bytesOf, DTYPE_SPELLINGS, isFloat, parseDType } from "../core/dtype.js";
import { NotFoundError, OptionError } from "../core/errors.js";
import { listed, shapeText, show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import { contiguous } from "../ops/copy.js";
import { embeddingBack } from "../ops/embedding.js";
import { fillInto } from "../ops/fill.js";
import type { LinearOptions } from "../ops/linear.js";
import { type GradientRule, recordAs, tapes } from "../ops/tape.js";
import { Buffer } from "./buffer.js";
import { askFor, Matrix, Parameter } from "./parameter.js";
import { treeOf } from "./print.js";
import { type LoadedKeys, type LoadStateOptions, loadState, type State, type StateTensor, stateOf } from "./state.js";
import type { FloatDType } from "./weight.js";

export { Buffer, type BufferFacts } from "./buffer.js";
export { askFor, Matrix, type Moving, NormedParameter, Parameter, Scalar } from "./parameter.js";

export abstract class Module {
  /** Path in the tree, set by `name_tree`; error messages and leak reports carry it. */
  path = "";
  /** What `train` and `eval` set. Only dropout asks. */
  training = true;

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

  /** Puts another module in the place of a child, by the name that `children` gives it. */
  replace(name: string, module: Module): void {
    const list = /^(.+)\.(\d+)$/.exec(name);
    const fields = this as unknown as Record<string, Module | Module[]>;
    if (list) (fields[list[1]!] as Module[])[Number(list[2])] = module;
    else fields[name] = module;
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

  /** The module at a path, "" for this one. @throws NotFoundError */
  get_submodule(path: string): Module {
    for (const [name, module] of this.named_modules()) if (name === path) return module;
    throw new NotFoundError(`${this.class_name} has no module ${show(path)}`, {
      hint: `it has ${listed([...this.children()].map(([name]) => name))}`,
    });
  }

  /** The parameters' device; undefined while they have none. */
  get device(): Device | undefined {
    for (const { tensors } of this.parameters()) if (tensors[0]) return tensors[0].device;
    return undefined;
  }

  /**
   * Moves parameters to a device, converts floats to a dtype ("float16"), or both. On its first move a parameter gets its memory,
   * and a quantized matrix its codes: once, since codes move as they are.
   * @throws OptionError for anything else, OctavoError for a parameter without values, OutOfMemoryError
   */
  to(...where: readonly (Device | string)[]): this {
    let device: Device | undefined;
    let dtype: FloatDType | undefined;
    for (const one of where) {
      if (Device.is(one)) device = one;
      else dtype = (typeof one === "string" ? parseDType(one) : undefined) ?? refusePlace(one);
    }
    for (const [path, module] of this.named_modules()) module.path ||= path;
    const names = new Map([...this.named_parameters()].map(([name, parameter]) => [parameter, name]));
    for (const [parameter, name] of names) {
      if (device) within(device, name, () => parameter.to(device, dtype));
      else parameter.to(undefined, dtype);
    }
    return this;
  }

  /** Sets `training` in all modules of the tree. @throws OptionError */
  train(mode = true): this {
    if (typeof mode !== "boolean") throw new OptionError(`train: mode must be true or false, got ${show(mode)}`);
    for (const [, module] of this.named_modules()) module.training = mode;
    return this;
  }

  /** `train(false)`. */
  eval(): this {
    return this.train(false);
  }

  /**
   * All parameters that hold floats ask for gradients, or no longer do. Unlike Python's, parameters do not ask until they are told
   * to: a pass that nobody differentiates then keeps nothing.
   */
  requires_grad_(on = true): this {
    if (typeof on !== "boolean") throw new OptionError(`requires_grad_: it takes true or false, got ${show(on)}`);
    askFor(this.parameters(), on);
    return this;
  }

  /** Disposes the gradients of all parameters. */
  zero_grad(): void {
    for (const { tensors } of this.parameters()) for (const tensor of tensors) tensor.grad = undefined;
  }

  /**
   * The tensors by their names in checkpoints: floats as they are, quantized matrices as bitsandbytes stores them. Bytes are read
   * when they are asked for. Parameters without a device count; those without values do not.
   */
  async state_dict(): Promise<Map<string, StateTensor>> {
    return stateOf(this.named_parameters());
  }

  /**
   * Takes the values of a state: of `state_dict`, of a file (`load`), or tensors by name. Keys, shapes and types are checked before anything changes.
   * A parameter without a device holds them on the host until `to`. Codes go only into a module of their kind; floats for one that
   * holds codes are quantized.
   * @throws CheckpointError in Python's words: missing and unexpected keys (with `strict`), and shapes that differ; FormatError
   */
  async load_state_dict(state: State, options: LoadStateOptions = {}): Promise<LoadedKeys> {
    return loadState(this.class_name, [...this.named_parameters()], state, options);
  }

  /** What the module itself is, in one line of the printed tree. */
  extra_repr(): string {
    const facts: string[] = [];
    for (const [name, value] of Object.entries(this)) {
      if (value instanceof Parameter) facts.push(`${name}=${shapeText(value.shape)}`);
      else if (value instanceof Matrix) facts.push(`${name}=${shapeText(value.shape)} ${value.stored}`);
      else if (name === "eps") facts.push(`eps=${value}`);
    }
    return facts.join(", ");
  }

  /** The tree, as Python prints it. */
  toString(): string {
    return treeOf(this);
  }

  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.toString();
  }

  dispose(): void {
    for (const parameter of this.parameters()) parameter.dispose();
    for (const [, buffer] of this.named_buffers()) buffer.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function refusePlace(place: unknown): never {
  throw new OptionError(`to: a module goes to a Device or a float dtype, got ${show(place)}`, {
    hint: `openDevice("cpu") gives a device; dtypes are ${listed(DTYPE_SPELLINGS, 20)}`,
  });
}

/**
 * `body` of floats of any kind and layout: it gets contiguous f32, and its result has the dtype of `x` again.
 * @throws OptionError if x is no tensor
 */
export function inFloats(call: string, x: Tensor, body: (x: Tensor) => Tensor): Tensor {
  if (!Tensor.is(x)) throw new OptionError(`${call}: the input must be a Tensor, got ${show(x)}`);
  if (!isFloat(x.dtype) || (x.dtype === "f32" && x.contiguous)) return body(x);
  return scope(() => contiguous(body(contiguous(x, "f32")), x.dtype));
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
    return inFloats(this.class_name, x, (floats) =>
      within(x.device, this.path, () =>
        this.weight.weight.linear(floats, this.bias ? { ...options, bias: this.bias.value } : options),
      ),
    );
  }

  override extra_repr(): string {
    const { shape, experts } = this.weight;
    const sizes = `in_features=${shape[1]}, out_features=${shape[0] / experts}, bias=${this.bias !== undefined}`;
    return `${sizes}${experts > 1 ? `, experts=${experts}` : ""}, weight=${this.weight.stored}`;
  }
}

/** A table whose rows are looked up. */
export class Embedding extends Module {
  weight: Matrix;
  readonly padding_idx: number | undefined;

  /** @param padding_idx the entry of padding, which is not trained: its gradient is zero */
  constructor(entries: number, width: number, padding_idx?: number | null) {
    super();
    this.weight = new Matrix(entries, width);
    this.padding_idx = padding_idx ?? undefined;
  }

  forward(ids: Tensor): Tensor {
    if (!Tensor.is(ids)) throw new OptionError(`${this.class_name}: the input must be a Tensor, got ${show(ids)}`);
    return within(ids.device, this.path, () => {
      const { weight } = this.weight;
      const table = weight === this.weight.inner && weight.scheme === "dense" ? weight.tensors[0] : undefined;
      const { padding_idx } = this;
      if (padding_idx === undefined || padding_idx < 0 || !table || !tapes.open?.tracks(table)) return weight.rows(ids);
      const [rows] = recordAs("embedding", [table], withoutEntry(padding_idx, table.shape[0]!), () => {
        return { outputs: [weight.rows(ids)], saved: [ids] };
      });
      return rows!;
    });
  }

  override extra_repr(): string {
    return `${this.weight.shape.join(", ")}, weight=${this.weight.stored}`;
  }
}

/** The gradient of a look-up by its table, whose entry `padding_idx` has none. */
export function withoutEntry(padding_idx: number, entries: number): GradientRule {
  return ({ inputs: [, ids], dy: [dy] }) => {
    const gradient = embeddingBack(ids!, dy!, entries);
    if (padding_idx < entries) fillInto(gradient.narrow(0, padding_idx, 1), 0);
    return [gradient];
  };
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
