// A backend for tests that runs the ops' reference loops in double precision: its memory holds every f32 as a double, so
// that finite differences are precise enough. Other dtypes are stored as usual.

import type { Backend, BufferId } from "../../src/core/backend.js";
import { FORGET } from "../../src/core/command.js";
import { Device } from "../../src/core/device.js";
import { bytesOf, DTYPES, type DType, fromBf16, fromF16, type HostArray, toBf16, toF16 } from "../../src/core/dtype.js";
import { rowStrides, type Tensor } from "../../src/core/tensor.js";
import { OPS } from "../../src/ops/index.js";
import type { HostTensor } from "../../src/ops/op.js";

interface Memory {
  readonly bytes: DataView;
  /** Values of f32 elements, by their index from the start of the buffer. */
  readonly doubles: Float64Array;
}

/** Data of an operand in doubles; references only index it and take subarrays. */
const asHostArray = (doubles: Float64Array): HostArray => doubles as unknown as HostArray;

class Doubles implements Backend {
  readonly name = "doubles";
  readonly description = "reference loops in double precision";
  readonly kernels = OPS.map((op) => ({ name: op.name, signature: op.signature.text }));
  readonly budget = 2 ** 30;
  readonly #buffers = new Map<BufferId, Memory>();
  #next = 1;

  allocate(bytes: number): BufferId {
    const words = Math.ceil(bytes / 8) * 2 + 2;
    this.#buffers.set(this.#next, {
      bytes: new DataView(new ArrayBuffer(words * 4)),
      doubles: new Float64Array(words),
    });
    return this.#next++;
  }

  free(buffer: BufferId): void {
    this.#buffers.delete(buffer);
  }

  memory(buffer: BufferId): Memory {
    const memory = this.#buffers.get(buffer);
    if (!memory) throw new Error(`no buffer ${buffer}`);
    return memory;
  }

  write(buffer: BufferId, offset: number, bytes: Uint8Array): void {
    const memory = this.memory(buffer);
    for (let i = 0; i < bytes.length; i++) memory.bytes.setUint8(offset + i, bytes[i]!);
    for (let at = Math.ceil(offset / 4); at * 4 + 4 <= offset + bytes.length; at++) {
      memory.doubles[at] = memory.bytes.getFloat32(at * 4, true);
    }
  }

  /** There are no transfers to this backend. */
  spoil(): never {
    throw new Error("no transfers into doubles");
  }

  submit(words: Int32Array, count: number): void {
    for (let at = 0; at < count; at += words[at + 1]!) if (words[at] !== FORGET) this.#run(words, at);
  }

  /** The bytes as written; f32 results are in `valuesOf`. */
  async read(buffer: BufferId, offset: number, bytes: number): Promise<Uint8Array> {
    return new Uint8Array(this.memory(buffer).bytes.buffer, offset, bytes).slice();
  }

  async close(): Promise<void> {}

  #run(words: Int32Array, start: number): void {
    const op = OPS[words[start]!]!;
    const specs = [...op.signature.inputs, ...op.signature.outputs];
    const named: Record<string, HostTensor> = {};
    const after: (() => void)[] = [];
    let at = start + 3;
    specs.forEach(({ name, mutated }, i) => {
      const header = words[at]!;
      if (header === 0) {
        at++;
        return;
      }
      const rank = header & 0xff;
      const dtype = DTYPES[(header >>> 8) & 0xff]!;
      const shape = [...words.subarray(at + 4, at + 4 + rank)];
      const strided = (header & 0x1000000) !== 0;
      const strides = strided ? [...words.subarray(at + 4 + rank, at + 4 + 2 * rank)] : rowStrides(shape);
      const memory = this.memory(words[at + 1]!);
      const places = dtype === "u4" ? bytes4(shape, words[at + 2]!) : placesOf(shape, strides, words[at + 2]!, dtype);
      const data = places.map((place) => load(memory, dtype, place));
      named[name] = { shape, dtype, data: dtype === "f32" ? asHostArray(data) : narrowed(dtype, data) };
      const host = named[name]!;
      if (mutated || i >= op.signature.inputs.length) {
        after.push(() => {
          for (const [e, place] of places.entries()) store(memory, dtype, place, host.data[e]!);
        });
      }
      at += 4 + rank + (strided ? rank : 0);
    });
    const floats = new Float32Array(words.buffer, words.byteOffset, words.length);
    const attributes = op.signature.attrs.map(({ name, type }, i) => [
      name,
      type === "i32" ? words[at + i] : floats[at + i],
    ]);
    const failure = op.definition.reference(named, Object.fromEntries(attributes));
    if (failure) throw new Error(`${op.name}: ${failure}`);
    for (const write of after) write();
  }
}

/** Positions of elements: their index for f32, their byte otherwise. */
function placesOf(shape: readonly number[], strides: readonly number[], offset: number, dtype: DType): Float64Array {
  const unit = dtype === "f32" ? 1 : bytesOf(dtype, 1);
  const count = shape.reduce((n, size) => n * size, 1);
  return new Float64Array(count).map((_, i) => {
    let rest = i;
    let element = 0;
    for (let d = shape.length - 1; d >= 0; d--) {
      element += (rest % shape[d]!) * strides[d]!;
      rest = Math.floor(rest / shape[d]!);
    }
    return (dtype === "f32" ? offset / 4 : offset) + element * unit;
  });
}

function bytes4(shape: readonly number[], offset: number): Float64Array {
  const count = bytesOf(
    "u4",
    shape.reduce((n, size) => n * size, 1),
  );
  return new Float64Array(count).map((_, i) => offset + i);
}

function narrowed(dtype: DType, data: Float64Array): HostArray {
  if (dtype === "i32") return Int32Array.from(data);
  if (dtype === "i8") return Int8Array.from(data);
  if (dtype === "u8" || dtype === "u4") return Uint8Array.from(data);
  return asHostArray(data);
}

function load({ bytes, doubles }: Memory, dtype: DType, place: number): number {
  switch (dtype) {
    case "f32":
      return doubles[place]!;
    case "f16":
      return fromF16(bytes.getUint16(place, true));
    case "bf16":
      return fromBf16(bytes.getUint16(place, true));
    case "i32":
      return bytes.getInt32(place, true);
    case "i8":
      return bytes.getInt8(place);
    default:
      return bytes.getUint8(place);
  }
}

function store({ bytes, doubles }: Memory, dtype: DType, place: number, value: number): void {
  switch (dtype) {
    case "f32":
      doubles[place] = value;
      break;
    case "f16":
      bytes.setUint16(place, toF16(value), true);
      break;
    case "bf16":
      bytes.setUint16(place, toBf16(value), true);
      break;
    case "i32":
      bytes.setInt32(place, value, true);
      break;
    default:
      bytes.setUint8(place, value);
  }
}

/** A device whose f32 are doubles. Read its f32 tensors with `valuesOf`, not with `read`. */
export function openDoubles(): Device {
  return new Device(new Doubles());
}

/** The doubles of a contiguous f32 tensor, live: writing them changes the tensor. */
export function valuesOf(tensor: Tensor): Float64Array {
  tensor.device.flush();
  const { doubles } = (tensor.device.backend as Doubles).memory(tensor.buffer);
  return doubles.subarray(tensor.offset / 4, tensor.offset / 4 + tensor.size);
}

/** Central differences of `loss` by the elements `at` of `by`. */
export function differences(by: Tensor, at: readonly number[], loss: () => Tensor): number[] {
  const values = valuesOf(by);
  return at.map((i) => {
    const before = values[i]!;
    const h = 1e-6 * Math.max(1, Math.abs(before));
    const of = (value: number): number => {
      values[i] = value;
      using result = loss();
      return valuesOf(result)[0]!;
    };
    const slope = (of(before + h) - of(before - h)) / (2 * h);
    values[i] = before;
    return slope;
  });
}
