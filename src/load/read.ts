// Reads parts of stored tensors onto a device, some rows at a time: straight from the file if the backend can and the bytes
// are in order, else through the host, which converts element types and gathers strided elements.

import {
  elementsOf,
  type PackedMatrix,
  type ReadTensor,
  type RowDecoder,
  STORED_BITS,
  type StoredTensor,
} from "../checkpoints/stored.js";
import { convertBytes, deviceDType } from "../checkpoints/values.js";
import type { Device } from "../core/device.js";
import { isFloat, narrow } from "../core/dtype.js";
import { FormatError } from "../core/errors.js";
import { rowStrides, scope, Tensor } from "../core/tensor.js";
import type { FloatDType } from "../nn/weight.js";
import { copyInto } from "../ops/copy.js";
import { type Source, withFile } from "../sources/source.js";
import type { Part } from "./plan.js";

/** Bytes in flight at once. */
export const READ_BYTES = 8 << 20;

/** Reads rows of a part on demand. */
export interface RowReader extends Disposable {
  /** Element type on the device. */
  readonly dtype: FloatDType;
  /** Fills `into`, contiguous rows of that dtype, with the part's rows from `at` on. */
  read(into: Tensor, at: number): Promise<void>;
}

/** Device dtype for the elements of a stored tensor. @throws FormatError for elements that are not whole bytes */
export function readDType({ dtype, name, file }: StoredTensor): FloatDType {
  if (STORED_BITS.get(dtype)! % 8 !== 0) {
    throw new FormatError(`tensor ${name}: ${dtype} cannot be read as a float`, { details: { file, key: name } });
  }
  const direct = deviceDType(dtype);
  return direct !== undefined && isFloat(direct) ? direct : "f32";
}

/** @param shape of all rows of the part, as in the parameter */
export function rowReader(device: Device, files: Source, part: Part, shape: readonly number[]): RowReader {
  const { from, first, view } = part;
  if (from.packed) return packedReader(files, from.packed, first);
  const dtype = readDType(from);
  const width = elementsOf(shape.slice(1));
  const tensor = dense(from) ? { ...from, strides: undefined } : from;
  if (view === "transposed") return transposedReader(device, files, tensor, first, dtype);
  if (!tensor.strides) {
    return {
      dtype,
      read: (into, at) => readElements(device, files, tensor, (first + at) * width, into),
      [Symbol.dispose]() {},
    };
  }
  const { strides } = tensor;
  // Adjacent columns are the rows of another matrix, which is transposed on the device.
  if (view === undefined && strides.length === 2 && strides[0] === 1 && strides[1] === from.shape[0]) {
    const turned = { ...from, shape: [from.shape[1]!, from.shape[0]!], strides: undefined };
    return transposedReader(device, files, turned, first, dtype);
  }
  return {
    dtype,
    read: (into, at) => readStrided(files, tensor, first + at, into),
    [Symbol.dispose]() {},
  };
}

/** Reads the tensors of a packed matrix. */
export function tensorReader(files: Source): ReadTensor {
  return ({ file, offset, bytes }, at = 0, count = bytes) =>
    withFile(files, file, "checkpoint", (opened) => opened.read(offset + at, count, { onward: at > 0 }));
}

/** Rows of a packed matrix. */
function packedReader(files: Source, packed: PackedMatrix, first: number): RowReader {
  const read = tensorReader(files);
  let decoder: RowDecoder | undefined;
  return {
    dtype: "f32",
    async read(into, at) {
      decoder ??= await packed.open(read);
      const values = await decoder.rows(first + at, into.shape[0] ?? 1);
      into.writeBytes(narrow("f32", values));
    },
    [Symbol.dispose]() {
      decoder = undefined;
    },
  };
}

/** True if the strides are those of contiguous rows. */
function dense({ shape, strides }: StoredTensor): boolean {
  const packed = rowStrides(shape);
  return strides === undefined || shape.every((size, d) => size <= 1 || strides[d] === packed[d]);
}

/** Rows of a matrix stored as [columns, rows]: all of it stays on the device while they are taken. */
function transposedReader(
  device: Device,
  files: Source,
  from: StoredTensor,
  first: number,
  dtype: FloatDType,
): RowReader {
  let whole: Tensor | undefined;
  return {
    dtype,
    async read(into, at) {
      if (!whole) {
        whole = Tensor.empty(device, from.shape, dtype, "transposed weight").keep();
        if (from.strides) await readStrided(files, from, 0, whole);
        else await readElements(device, files, from, 0, whole);
      }
      const stored = whole;
      scope(() => copyInto(stored.narrow(1, first + at, into.shape[0]!).permute(1, 0), into));
    },
    [Symbol.dispose]: () => whole?.dispose(),
  };
}

/** Fills `into` with the elements of a contiguous stored tensor from element `at` on. */
async function readElements(
  device: Device,
  files: Source,
  from: StoredTensor,
  at: number,
  into: Tensor,
): Promise<void> {
  const width = STORED_BITS.get(from.dtype)! / 8;
  const bytes = into.size * width;
  const position = from.offset + at * width;
  if (deviceDType(from.dtype) === into.dtype) {
    await readBytes(device, files, from.file, position, bytes, into);
    return;
  }
  if (bytes === 0) return;
  await withFile(files, from.file, "checkpoint", async (file) => {
    const raw = await file.read(position, bytes, { onward: true });
    into.writeBytes(convertBytes(from.dtype, raw, into.dtype, from.name));
  });
}

/** Fills `into` with bytes of a file. */
export async function readBytes(
  device: Device,
  files: Source,
  file: string,
  position: number,
  bytes: number,
  into: Tensor,
): Promise<void> {
  if (bytes === 0) return;
  if (files.local && device.readsFiles) {
    device.load(into, file, position);
    return;
  }
  await withFile(files, file, "checkpoint", async (opened) => {
    for (let at = 0; at < bytes; at += READ_BYTES) {
      into.writeBytes(await opened.read(position + at, Math.min(READ_BYTES, bytes - at), { onward: true }), at);
    }
  });
}

/** Fills `into` with slices of the first dim, from `first` on, of a strided tensor. */
async function readStrided(files: Source, from: StoredTensor, first: number, into: Tensor): Promise<void> {
  const width = STORED_BITS.get(from.dtype)! / 8;
  const shape = [into.shape[0] ?? 1, ...from.shape.slice(1)];
  const strides = from.strides!;
  if (into.size === 0) return;
  const begin = first * (strides[0] ?? 0);
  const reach = shape.reduce((far, size, d) => far + (size - 1) * strides[d]!, 1);
  await withFile(files, from.file, "checkpoint", async (file) => {
    const raw = await file.read(from.offset + begin * width, reach * width);
    const packed = gather(raw, width, shape, strides);
    into.writeBytes(convertBytes(from.dtype, packed, into.dtype, from.name));
  });
}

/** Gathers elements of `width` bytes at `strides` into contiguous rows. */
export function gather(
  raw: Uint8Array,
  width: number,
  shape: readonly number[],
  strides: readonly number[],
): Uint8Array {
  const out = new Uint8Array(elementsOf(shape) * width);
  const index = new Array<number>(shape.length).fill(0);
  let from = 0;
  for (let at = 0; at < out.length; at += width) {
    for (let i = 0; i < width; i++) out[at + i] = raw[from * width + i]!;
    for (let d = shape.length - 1; d >= 0; d--) {
      from += strides[d]!;
      index[d]!++;
      if (index[d]! < shape[d]!) break;
      from -= shape[d]! * strides[d]!;
      index[d] = 0;
    }
  }
  return out;
}

/** All bytes of a small tensor. */
export async function readSmall(files: Source, from: StoredTensor): Promise<Uint8Array> {
  return withFile(files, from.file, "checkpoint", (file) => file.read(from.offset, from.bytes));
}

/** Fills `into` with all elements of a contiguous tensor, converted if necessary. */
export async function readWhole(device: Device, files: Source, from: StoredTensor, into: Tensor): Promise<void> {
  await readElements(device, files, from, 0, into);
}
