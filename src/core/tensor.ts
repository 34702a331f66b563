// Tensors: a shape over a piece of device memory. Storage is counted, so views are free and memory goes back as soon as the
// last view is disposed. `scope` frees everything made inside it except its result.

import type { BufferId } from "./backend.js";
import type { Device } from "./device.js";
import { bytesOf, type DType, type HostArray, isFloat } from "./dtype.js";
import { DTypeError, OctavoError, ShapeError } from "./errors.js";
import { Storage } from "./storage.js";
import { decode, encode } from "./values.js";

/** Position of a tensor in its allocation, in elements (not bytes). A matrix in panels counts as rows. */
export interface Place {
  /** The allocation; compare it by identity. */
  readonly storage: object;
  /** Elements of the allocation. */
  readonly capacity: number;
  readonly shape: readonly number[];
  /** Null when contiguous. */
  readonly strides: readonly number[] | null;
  readonly first: number;
}

/** Tensors made in the innermost open scope; null outside of scopes. */
let current: Tensor[] | null = null;

function elements(shape: readonly number[]): number {
  let n = 1;
  for (let d = 0; d < shape.length; d++) n *= shape[d]!;
  return n;
}

export class Tensor implements Disposable {
  readonly shape: readonly number[];
  readonly dtype: DType;
  /** Strides in elements, null when contiguous. */
  readonly strides: readonly number[] | null;
  /** Byte offset in the buffer. */
  readonly offset: number;
  /** True if the bytes are in the device's panel layout; only kernels whose signature allows it take such a tensor. */
  readonly panels: boolean;
  readonly #storage: Storage;
  #alive = true;

  private constructor(
    storage: Storage,
    shape: readonly number[],
    dtype: DType,
    strides: readonly number[] | null,
    offset: number,
    panels: boolean,
  ) {
    this.#storage = storage;
    this.shape = shape;
    this.dtype = dtype;
    this.strides = strides;
    this.offset = offset;
    this.panels = panels;
    current?.push(this);
  }

  /** Memory for a tensor; its contents are undefined until written. */
  static empty(device: Device, shape: readonly number[], dtype: DType, label = "tensor"): Tensor {
    for (const size of shape) {
      if (!Number.isSafeInteger(size) || size < 0) throw new ShapeError(`${label}: bad shape [${shape.join(", ")}]`);
    }
    return new Tensor(new Storage(device, bytesOf(dtype, elements(shape)), label), shape, dtype, null, 0, false);
  }

  /** Memory for a matrix in the device's panel layout, or in rows if the device has none. */
  static panels(device: Device, rows: number, columns: number, dtype: DType, label = "weight"): Tensor {
    const bytes = device.panelBytes(dtype, rows, columns);
    if (bytes === undefined) return Tensor.empty(device, [rows, columns], dtype, label);
    return new Tensor(new Storage(device, bytes, label), [rows, columns], dtype, null, 0, true);
  }

  /** A tensor with values from the host; numbers are rounded half to even for f16 and bf16. */
  static from(
    device: Device,
    values: Float32Array | Int32Array | Int8Array | Uint8Array | readonly number[],
    shape: readonly number[],
    dtype: DType = values instanceof Int32Array
      ? "i32"
      : values instanceof Int8Array
        ? "i8"
        : values instanceof Uint8Array
          ? "u8"
          : "f32",
    label = "constant",
  ): Tensor {
    const tensor = Tensor.empty(device, shape, dtype, label);
    try {
      tensor.write(values);
    } catch (error) {
      tensor.dispose();
      throw error;
    }
    return tensor;
  }

  get device(): Device {
    return this.#storage.device;
  }

  /** @throws OctavoError if the tensor was disposed, or is evicted. */
  get buffer(): BufferId {
    const { block } = this.#storage;
    if (this.#alive && block) return block.buffer;
    const what = `tensor [${this.shape.join(", ")}] ${this.dtype}`;
    if (this.#alive) throw new OctavoError("ERR_NOT_LOADED", `${what} was used while it was evicted`);
    throw new OctavoError("ERR_DISPOSED", `${what} was used after dispose()`, {
      hint: "keep() it, or return it from the scope that made it",
    });
  }

  get size(): number {
    return elements(this.shape);
  }

  /** Bytes of its memory (for panels: as the device stores it). */
  get nbytes(): number {
    return this.panels ? this.#storage.bytes : bytesOf(this.dtype, this.size);
  }

  get contiguous(): boolean {
    return this.strides === null;
  }

  get alive(): boolean {
    return this.#alive;
  }

  /** The allocation that all views share: compare it by identity. */
  get storage(): object {
    return this.#storage;
  }

  /** Where its elements are in its allocation; valid for disposed tensors too. */
  get place(): Place {
    const { shape, strides, dtype, offset } = this;
    const unit = bytesOf(dtype, 1);
    const capacity = this.panels ? this.size : this.#storage.bytes / unit;
    return { storage: this.#storage, capacity, shape, strides, first: offset / unit };
  }

  /** The same place in this tensor, which must be a whole allocation with `capacity` elements. */
  part({ shape, strides, first, capacity }: Place): Tensor {
    if (this.offset !== 0 || this.strides !== null || this.size !== capacity || this.panels) {
      throw new ShapeError(`part: [${this.shape.join(", ")}] does not have ${capacity} elements`);
    }
    return this.#share(shape, strides, bytesOf(this.dtype, first));
  }

  /** The same memory with another shape of the same size. Panels keep their columns: their rows may be regrouped. */
  view(...shape: number[]): Tensor {
    const hole = shape.indexOf(-1);
    if (hole >= 0) {
      const rest = shape.reduce((n, size, d) => (d === hole ? n : n * size), 1);
      shape[hole] = rest === 0 ? 0 : this.size / rest;
    }
    if (elements(shape) !== this.size || !shape.every((size) => Number.isSafeInteger(size) && size >= 0)) {
      throw new ShapeError(
        `view: [${this.shape.join(", ")}] has ${this.size} elements, [${shape.join(", ")}] does not`,
      );
    }
    const regrouped = shape.length >= 2 && shape.at(-1) === this.shape.at(-1);
    if (this.strides !== null || (this.panels && !regrouped)) {
      throw new ShapeError("view: the tensor must be contiguous rows");
    }
    return this.#share(shape, null, this.offset);
  }

  /** Elements `start` to `start + length` of dim `dim`, without copying. */
  narrow(dim: number, start: number, length: number): Tensor {
    const at = dim < 0 ? dim + this.shape.length : dim;
    const size = this.shape[at];
    const whole = Number.isSafeInteger(start) && Number.isSafeInteger(length) && start >= 0 && length >= 0;
    // Two 4-bit elements share a byte: rows that start on a byte boundary may be taken.
    const halves =
      this.dtype === "u4" && (at !== 0 || this.strides !== null || (start * this.size) % (2 * size!) !== 0);
    if (size === undefined || !whole || start + length > size || this.panels || halves) {
      throw new ShapeError(
        `narrow: ${start}+${length} of dim ${dim} does not fit [${this.shape.join(", ")}] ${this.dtype}`,
      );
    }
    const strides = this.strides ?? rowStrides(this.shape);
    const shape = this.shape.slice();
    shape[at] = length;
    // An empty part has no offset: it could lie past the end of the buffer.
    const offset = this.offset + (elements(shape) === 0 ? 0 : bytesOf(this.dtype, start * strides[at]!));
    return this.#share(shape, packed(shape, strides), offset);
  }

  /** Element `index` of dim `dim`, which is removed. */
  select(dim: number, index: number): Tensor {
    const at = dim < 0 ? dim + this.shape.length : dim;
    const part = this.narrow(at, index, 1);
    const strides = (part.strides ?? rowStrides(part.shape)).filter((_, d) => d !== at);
    const shape = part.shape.filter((_, d) => d !== at);
    const result = part.#share(shape, packed(shape, strides), part.offset);
    part.dispose();
    return result;
  }

  /** Dims in another order, without copying. */
  permute(...order: number[]): Tensor {
    const all = new Set(order.filter((d) => Number.isInteger(d) && d >= 0 && d < this.shape.length));
    if (this.panels || this.dtype === "u4" || order.length !== this.shape.length || all.size !== order.length) {
      throw new ShapeError(`permute: [${order.join(", ")}] does not fit [${this.shape.join(", ")}] ${this.dtype}`);
    }
    const from = this.strides ?? rowStrides(this.shape);
    const shape = order.map((d) => this.shape[d]!);
    const strides = order.map((d) => from[d]!);
    return this.#share(shape, packed(shape, strides), this.offset);
  }

  /** Repeats dims of size 1 to `shape` with a stride of zero, without copying. */
  expand(...shape: number[]): Tensor {
    if (this.panels || this.dtype === "u4" || shape.length !== this.shape.length) {
      throw new ShapeError(`expand: [${this.shape.join(", ")}] ${this.dtype} does not expand to [${shape.join(", ")}]`);
    }
    const from = this.strides ?? rowStrides(this.shape);
    const strides = shape.map((size, d) => {
      if (this.shape[d] === size) return from[d]!;
      if (this.shape[d] === 1) return 0;
      throw new ShapeError(`expand: [${this.shape.join(", ")}] does not expand to [${shape.join(", ")}]`);
    });
    return this.#share(shape, packed(shape, strides), this.offset);
  }

  /** Another handle on the same memory, with a lifetime of its own. */
  alias(): Tensor {
    return this.#share(this.shape, this.strides, this.offset);
  }

  /** Overwrites the contents from the host. */
  write(values: Float32Array | Int32Array | Int8Array | Uint8Array | readonly number[]): void {
    if (values.length !== (this.dtype === "u4" ? bytesOf("u4", this.size) : this.size)) {
      throw new ShapeError(`write: [${this.shape.join(", ")}] wants ${this.size} values, got ${values.length}`);
    }
    if (this.strides !== null || this.panels) throw new ShapeError("write: the tensor must be contiguous rows");
    if (values.length === 0) return;
    this.device.write(this.buffer, this.offset, encode(this.dtype, values));
  }

  /** Overwrites raw bytes, in the tensor's own dtype. */
  writeBytes(bytes: Uint8Array, at = 0): void {
    if (this.strides !== null) throw new ShapeError("writeBytes: the tensor must be contiguous");
    if (!Number.isSafeInteger(at) || at < 0 || at + bytes.length > this.nbytes)
      throw new ShapeError(`writeBytes: ${at}+${bytes.length} of ${this.nbytes} bytes`);
    if (bytes.length > 0) this.device.write(this.buffer, this.offset + at, bytes);
  }

  /** Raw bytes as stored, after everything recorded before has run. */
  async readBytes(): Promise<Uint8Array> {
    if (this.strides !== null) throw new ShapeError("read: the tensor must be contiguous", { hint: "copy() it first" });
    if (this.nbytes === 0) return new Uint8Array(0);
    return this.device.read(this.buffer, this.offset, this.nbytes);
  }

  /** Resolves when the contents are ready. @throws KernelError if a command failed that wrote them or their inputs */
  async ready(): Promise<void> {
    if (this.strides !== null)
      throw new ShapeError("ready: the tensor must be contiguous", { hint: "copy() it first" });
    await this.device.read(this.buffer, this.offset, 0, this.nbytes);
  }

  /** Values, after everything recorded before has run: f16 and bf16 are widened to f32; u4 stays packed. */
  async read(): Promise<HostArray> {
    if (this.panels) throw new ShapeError("read: the tensor is in panels", { hint: "unpack() it first" });
    return decode(this.dtype, await this.readBytes());
  }

  /** `read` for float tensors. */
  async readFloats(): Promise<Float32Array> {
    if (!isFloat(this.dtype)) throw new DTypeError(`readFloats: the tensor is ${this.dtype}`);
    return (await this.read()) as Float32Array;
  }

  /** Takes the tensor out of the open scope: it lives until `dispose`. */
  keep(): this {
    if (current) {
      const at = current.lastIndexOf(this);
      if (at >= 0) current.splice(at, 1);
    }
    return this;
  }

  /**
   * Gives the memory back but keeps the tensor and all views of it: they cannot be used until `restore`. Ordered like
   * everything else: commands recorded before still find the contents.
   * @throws ShapeError if the tensor is only a part of its memory
   */
  evict(): void {
    if (this.offset !== 0 || this.nbytes !== this.#storage.bytes) {
      throw new ShapeError(`evict: [${this.shape.join(", ")}] ${this.dtype} is a part of a larger tensor`);
    }
    this.#storage.evict();
  }

  /** False while it is evicted. */
  get resident(): boolean {
    return this.#storage.block !== undefined;
  }

  /** Allocates memory again; its contents are undefined until written. @throws OutOfMemoryError */
  restore(): void {
    if (!this.#alive) void this.buffer; // throws
    this.#storage.restore();
  }

  dispose(): void {
    if (!this.#alive) return;
    this.#alive = false;
    this.#storage.drop();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #share(shape: readonly number[], strides: readonly number[] | null, offset: number): Tensor {
    void this.buffer; // throws if disposed
    this.#storage.references++;
    return new Tensor(this.#storage, shape, this.dtype, strides, offset, this.panels);
  }
}

/**
 * Runs `body` and disposes every tensor made inside except those in its result (a tensor, or an array or plain object
 * of tensors), which go to the enclosing scope. Synchronous on purpose: async code must own its tensors.
 */
export function scope<T>(body: () => T extends Promise<unknown> ? never : T): T {
  const outer = current;
  const mine: Tensor[] = [];
  current = mine;
  let result: T | undefined;
  let done = false;
  try {
    result = body();
    done = true;
    return result;
  } finally {
    current = outer;
    const survivors = new Set<Tensor>();
    if (done) collect(result, survivors);
    for (const tensor of mine) {
      if (survivors.has(tensor)) outer?.push(tensor);
      else tensor.dispose();
    }
  }
}

/** Tensors that are made together and outlive every scope: all of them, or none if memory runs out midway. */
export function kept<T extends Readonly<Record<string, Tensor>>>(body: () => T): T {
  const made = scope(body as () => never) as T;
  for (const tensor of Object.values(made)) tensor.keep();
  return made;
}

function collect(value: unknown, into: Set<Tensor>): void {
  if (value instanceof Tensor) into.add(value);
  else if (Array.isArray(value)) for (const item of value) collect(item, into);
  else if (value && typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype) {
    for (const item of Object.values(value)) collect(item, into);
  }
}

/** Strides of contiguous rows, in elements. */
export function rowStrides(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let d = shape.length - 1; d >= 0; d--) {
    strides[d] = stride;
    stride *= shape[d]!;
  }
  return strides;
}

/** `strides`, or null if they are those of contiguous rows. */
function packed(shape: readonly number[], strides: readonly number[]): readonly number[] | null {
  let expected = 1;
  for (let d = shape.length - 1; d >= 0; d--) {
    if (shape[d] !== 1 && strides[d] !== expected) return strides;
    expected *= shape[d]!;
  }
  return null;
}
