// Tensors: a shape over a piece of device memory. Storage is counted, so views are free and memory goes back as soon as the
// last view is disposed. `scope` (scope.ts) frees everything made inside it except its result.

import { autograd, theEngine } from "./autograd.js";
import type { BufferId } from "./backend.js";
import { isWhole } from "./checks.js";
import type { Device } from "./device.js";
import { bytesOf, DTYPES, type DType, type HostArray, isDType, isFloat } from "./dtype.js";
import { DTypeError, OctavoError, OptionError, ShapeError } from "./errors.js";
import { checkedPlace, checkMaking, type Place } from "./place.js";
import { enroll, withdraw } from "./scope.js";
import { checkedShape, elements, packed, rowStrides, viewShape, wholeList, windowed } from "./shape.js";
import { listed, shapeText, show } from "./show.js";
import { type Later, Storage } from "./storage.js";
import { checkedValues, decode, dtypeOf, encode, type HostValues } from "./values.js";

export type { Place } from "./place.js";
export { kept, scope } from "./scope.js";
export { rowStrides } from "./shape.js";

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
  #leaf = false;
  #grad: Tensor | undefined;

  private constructor(
    storage: Storage,
    shape: readonly number[],
    dtype: DType,
    strides: readonly number[] | null,
    offset: number,
    panels: boolean,
  ) {
    if (!Storage.is(storage)) {
      throw new OptionError("a Tensor is not made by its constructor", { hint: "Tensor.from(device, values, shape)" });
    }
    this.#storage = storage;
    this.shape = shape;
    this.dtype = dtype;
    this.strides = strides;
    this.offset = offset;
    this.panels = panels;
    enroll(this);
  }

  /** True for a tensor itself, which a proxy of one is not. */
  static is(value: unknown): value is Tensor {
    return typeof value === "object" && value !== null && #storage in value;
  }

  /**
   * Memory for a tensor; its contents are undefined until written.
   * @throws ShapeError, DTypeError, DeviceError, OutOfMemoryError
   */
  static empty(device: Device, shape: readonly number[], dtype: DType, label = "tensor"): Tensor {
    checkMaking(device, dtype, label);
    const sizes = checkedShape(label, shape);
    return new Tensor(new Storage(device, bytesOf(dtype, elements(sizes)), label), sizes, dtype, null, 0, false);
  }

  /** @internal a tensor that gets memory and contents when it is first used (ops/later.ts). @throws ShapeError, DTypeError, DeviceError */
  static later(device: Device, shape: readonly number[], dtype: DType, label: string, later: Later): Tensor {
    checkMaking(device, dtype, label);
    const sizes = checkedShape(label, shape);
    return new Tensor(new Storage(device, bytesOf(dtype, elements(sizes)), label, later), sizes, dtype, null, 0, false);
  }

  /**
   * Memory for a matrix in the device's panel layout, or in rows if the device has none.
   * @throws as `empty`
   */
  static panels(device: Device, rows: number, columns: number, dtype: DType, label = "weight"): Tensor {
    checkMaking(device, dtype, label);
    checkedShape(label, [rows, columns]);
    const bytes = device.panelBytes(dtype, rows, columns);
    if (bytes === undefined) return Tensor.empty(device, [rows, columns], dtype, label);
    return new Tensor(new Storage(device, bytes, label), [rows, columns], dtype, null, 0, true);
  }

  /**
   * A tensor with values from the host; numbers are rounded half to even for f16 and bf16.
   * @throws as `empty`, and as `write`
   */
  static from(
    device: Device,
    values: HostValues,
    shape: readonly number[],
    dtype: DType = dtypeOf(values),
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
    const block = this.#alive ? this.#storage.ready : undefined;
    if (block) return block.buffer;
    const what = `tensor ${shapeText(this.shape)} ${this.dtype}`;
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
  part(place: Place): Tensor {
    const { shape, strides, first, capacity } = checkedPlace(place);
    if (this.offset !== 0 || this.strides !== null || this.size !== capacity || this.panels) {
      throw new ShapeError(`part: ${shapeText(this.shape)} does not have ${capacity} elements`);
    }
    return this.#share(shape, strides, bytesOf(this.dtype, first));
  }

  /** The same memory with another shape of the same size. Panels keep their columns: their rows may be regrouped. */
  view(...shape: number[]): Tensor {
    const sizes = viewShape(this.shape, shape);
    const regrouped = sizes.length >= 2 && sizes.at(-1) === this.shape.at(-1);
    if (this.strides !== null || (this.panels && !regrouped)) {
      throw new ShapeError("view: the tensor must be contiguous rows");
    }
    return this.#share(sizes, null, this.offset);
  }

  /** The same bytes as elements of another dtype, all of them. @throws DTypeError, ShapeError */
  reinterpret(dtype: DType, ...shape: number[]): Tensor {
    if (!isDType(dtype)) throw new DTypeError(`reinterpret: dtype is one of ${listed(DTYPES)}, got ${show(dtype)}`);
    const sizes = checkedShape("reinterpret", shape);
    const fits = bytesOf(dtype, elements(sizes)) === this.nbytes && this.offset % bytesOf(dtype, 1) === 0;
    if (!fits || this.strides !== null || this.panels) {
      throw new ShapeError(
        `reinterpret: ${shapeText(this.shape)} ${this.dtype} is not the bytes of ${shapeText(sizes)} ${dtype}`,
      );
    }
    return this.#share(sizes, null, this.offset, dtype);
  }

  /** Elements `start` to `start + length` of dim `dim`, without copying. */
  narrow(dim: number, start: number, length: number): Tensor {
    const at = this.#dim(dim);
    const size = at === undefined ? undefined : this.shape[at];
    const whole = isWhole(start) && isWhole(length);
    if (at === undefined || size === undefined || !whole || start + length > size || this.#splits(at, start, size)) {
      throw new ShapeError(
        `narrow: ${show(start)}+${show(length)} of dim ${show(dim)} does not fit ${shapeText(this.shape)} ${this.dtype}`,
      );
    }
    const strides = this.strides ?? rowStrides(this.shape);
    const shape = this.shape.slice();
    shape[at] = length;
    // An empty part has no offset: it could lie past the end of the buffer.
    const offset = this.offset + (elements(shape) === 0 ? 0 : bytesOf(this.dtype, start * strides[at]!));
    return this.#share(shape, packed(shape, strides), offset);
  }

  /** The dim that a caller names, negative ones from the end; undefined if it is no whole number. */
  #dim(dim: number): number | undefined {
    if (!Number.isSafeInteger(dim)) return undefined;
    return dim < 0 ? dim + this.shape.length : dim;
  }

  /** True if a part could not be addressed: panels have no parts, and two 4-bit elements share a byte, where rows may begin. */
  #splits(dim: number, start: number, size: number): boolean {
    if (this.panels) return true;
    return this.dtype === "u4" && (dim !== 0 || this.strides !== null || (start * this.size) % (2 * size) !== 0);
  }

  /** Element `index` of dim `dim`, which is removed. */
  select(dim: number, index: number): Tensor {
    const part = this.narrow(dim, index, 1);
    const at = this.#dim(dim);
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
      throw new ShapeError(`permute: ${shapeText(order)} does not fit ${shapeText(this.shape)} ${this.dtype}`);
    }
    const from = this.strides ?? rowStrides(this.shape);
    const shape = order.map((d) => this.shape[d]!);
    const strides = order.map((d) => from[d]!);
    return this.#share(shape, packed(shape, strides), this.offset);
  }

  /** Repeats dims of size 1 to `shape` with a stride of zero, without copying. */
  expand(...shape: number[]): Tensor {
    const sizes = wholeList(shape);
    const fits = sizes?.length === this.shape.length && sizes.every((size, d) => [1, size].includes(this.shape[d]!));
    if (!sizes || !fits || this.panels || this.dtype === "u4" || !Number.isSafeInteger(elements(sizes))) {
      throw new ShapeError(`expand: ${shapeText(this.shape)} ${this.dtype} does not expand to ${shapeText(shape)}`);
    }
    const from = this.strides ?? rowStrides(this.shape);
    const strides = sizes.map((size, d) => (this.shape[d] === size ? from[d]! : 0));
    return this.#share(sizes, packed(sizes, strides), this.offset);
  }

  /**
   * Windows of `size` elements, `step` apart, along a dim: it becomes their number, and a last dim of `size` is added. They
   * may overlap; nothing is copied.
   */
  unfold(dim: number, size: number, step: number): Tensor {
    const at = this.#dim(dim);
    const wide = windowed(this.shape, this.strides, at, size, step);
    if (!wide || this.panels || this.dtype === "u4") {
      throw new ShapeError(
        `unfold: ${show(size)} by ${show(step)} of dim ${show(dim)} does not fit ${shapeText(this.shape)} ${this.dtype}`,
      );
    }
    return this.#share(wide.shape, packed(wide.shape, wide.strides), this.offset);
  }

  /** Another handle on the same memory, with a lifetime of its own. */
  alias(): Tensor {
    return this.#share(this.shape, this.strides, this.offset);
  }

  /**
   * Overwrites the contents from the host.
   * @throws ShapeError (another count of values, strides), DTypeError (no numbers), GradientError (a gradient needs the old values)
   */
  write(values: HostValues): void {
    const wanted = this.dtype === "u4" ? bytesOf("u4", this.size) : this.size;
    const checked = checkedValues(values, wanted, shapeText(this.shape));
    if (this.strides !== null || this.panels) throw new ShapeError("write: the tensor must be contiguous rows");
    if (wanted === 0) return;
    autograd.engine?.checkWrite("write", this);
    this.device.write(this.buffer, this.offset, encode(this.dtype, checked));
  }

  /** Overwrites raw bytes, in the tensor's own dtype. @throws ShapeError, DTypeError, GradientError */
  writeBytes(bytes: Uint8Array, at = 0): void {
    if (this.strides !== null) throw new ShapeError("writeBytes: the tensor must be contiguous");
    if (!ArrayBuffer.isView(bytes) || !(bytes instanceof Uint8Array)) {
      throw new DTypeError(`writeBytes: bytes must be a Uint8Array, got ${show(bytes)}`);
    }
    if (!isWhole(at) || at + bytes.length > this.nbytes)
      throw new ShapeError(`writeBytes: ${show(at)}+${bytes.length} of ${this.nbytes} bytes`);
    if (bytes.length === 0) return;
    autograd.engine?.checkWrite("writeBytes", this);
    this.device.write(this.buffer, this.offset + at, bytes);
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
    withdraw(this);
    return this;
  }

  /**
   * Gives the memory back but keeps the tensor and all views of it: they cannot be used until `restore`. Ordered like
   * everything else: commands recorded before still find the contents.
   * @throws ShapeError if the tensor is only a part of its memory
   */
  evict(): void {
    if (this.offset !== 0 || this.nbytes !== this.#storage.bytes) {
      throw new ShapeError(`evict: ${shapeText(this.shape)} ${this.dtype} is a part of a larger tensor`);
    }
    this.#storage.evict();
  }

  /** False while it is evicted. */
  get resident(): boolean {
    return this.#storage.block !== undefined || this.#storage.later !== undefined;
  }

  /** Allocates memory again; its contents are undefined until written. @throws OutOfMemoryError */
  restore(): void {
    if (!this.#alive) void this.buffer; // throws
    this.#storage.restore();
  }

  /** True if `backward` of what is computed from it gives it a gradient, or passes one on. */
  get requires_grad(): boolean {
    return this.#leaf || (autograd.engine?.tracks(this) ?? false);
  }

  set requires_grad(on: boolean) {
    this.requires_grad_(on);
  }

  /**
   * From now on, ops whose inputs depend on this tensor are recorded, so that `backward` of a result gives it a gradient
   * (false: no more). A tensor that was computed from others that require one cannot be asked.
   * @throws DTypeError unless it holds floats, OctavoError after dispose(), GradientError
   */
  requires_grad_(on = true): this {
    if (typeof on !== "boolean") throw new OptionError(`requires_grad_: it takes true or false, got ${show(on)}`);
    void this.buffer; // throws if disposed
    if (on === this.#leaf) return this;
    if (on && !isFloat(this.dtype)) throw new DTypeError(`requires_grad_: a tensor of ${this.dtype} has no gradient`);
    const engine = theEngine();
    if (on) engine.watch(this);
    else engine.forget(this);
    this.#leaf = on;
    return this;
  }

  /** The sum of the gradients that `backward` gave so far: f32, of this shape. It belongs to this tensor. */
  get grad(): Tensor | undefined {
    return this.#grad;
  }

  /** Takes the tensor over (undefined or null: none) and disposes the one before. @throws ShapeError, OptionError */
  set grad(grad: Tensor | null | undefined) {
    if (grad === this.#grad) return;
    if (grad !== null && grad !== undefined) {
      if (!Tensor.is(grad)) throw new OptionError(`grad must be a Tensor, got ${show(grad)}`);
      if (shapeText(grad.shape) !== shapeText(this.shape) || grad.dtype !== "f32") {
        throw new ShapeError(
          `the gradient of ${shapeText(this.shape)} is f32 of that shape, not ${shapeText(grad.shape)} ${grad.dtype}`,
        );
      }
      grad.keep();
    }
    this.#grad?.dispose();
    this.#grad = grad ?? undefined;
  }

  /**
   * Records the gradients of this result by all tensors that require one, and adds them to their `grad`. What was recorded for
   * it is used up.
   * @param gradient f32, of this shape: the gradient by this tensor; it may be left out if that is one number
   * @throws GradientError if it depends on no such tensor, an op in between has no gradient, or its recording is used up
   */
  backward(gradient?: Tensor | null): void {
    if (gradient !== undefined && gradient !== null && !Tensor.is(gradient)) {
      throw new OptionError(`backward: gradient must be a Tensor, got ${show(gradient)}`);
    }
    theEngine().backward(this, gradient ?? undefined);
  }

  dispose(): void {
    if (!this.#alive) return;
    this.#alive = false;
    this.#grad?.dispose();
    this.#grad = undefined;
    this.#storage.drop();
    if (this.#leaf) autograd.engine?.forget(this);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** One line: shape, dtype and device, and how to get the values, which are on the device. */
  toString(): string {
    const values = !this.#alive ? "disposed" : !this.resident ? "evicted" : "values: await tensor.read()";
    return `Tensor(${shapeText(this.shape)} ${this.dtype} on ${this.device.name}; ${values})`;
  }

  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.toString();
  }

  #share(shape: readonly number[], strides: readonly number[] | null, offset: number, dtype = this.dtype): Tensor {
    if (!this.#alive || !this.resident) void this.buffer; // throws
    this.#storage.references++;
    return new Tensor(this.#storage, shape, dtype, strides, offset, this.panels);
  }
}
