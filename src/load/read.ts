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
import { bytesFor, type Source, withFile } from "../sources/source.js";
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
  const [down, across] = tensor.strides;
  // Columns that lie closer than rows are the rows of another matrix, which is transposed on the device.
  if (view === undefined && from.shape.length === 2 && down! < across!) {
    const other = { ...from, shape: [from.shape[1]!, from.shape[0]!], strides: [across!, down!] };
    const turned = dense(other) ? { ...other, strides: undefined } : other;
    return transposedReader(device, files, turned, first, dtype);
  }
  return {
    dtype,
    read: (into, at) => readElements(device, files, tensor, (first + at) * width, into),
    [Symbol.dispose]() {},
  };
}

/** Codes of quantized matrices are read as they lie. @throws FormatError for a tensor whose elements do not lie in rows */
export function inRows(from: StoredTensor): StoredTensor {
  if (dense(from)) return from;
  throw new FormatError(`tensor ${from.name}: codes that do not lie together in the file cannot be read`, {
    details: { file: from.file, tensor: from.name, got: from.strides },
    hint: "save it again as a contiguous tensor",
  });
}

/** Reads the tensors of a packed matrix. */
export function tensorReader(files: Source): ReadTensor {
  return async (from, at = 0, count = from.bytes) => {
    const { file, offset } = inRows(from);
    return withFile(files, file, "checkpoint", (opened) => opened.read(offset + at, count, { onward: at > 0 }));
  };
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
        await readElements(device, files, from, 0, whole);
      }
      const stored = whole;
      scope(() => copyInto(stored.narrow(1, first + at, into.shape[0]!).permute(1, 0), into));
    },
    [Symbol.dispose]() {
      whole?.dispose();
      whole = undefined;
    },
  };
}

/** Fills `into` with the elements of a stored tensor from element `at` on. */
async function readElements(
  device: Device,
  files: Source,
  from: StoredTensor,
  at: number,
  into: Tensor,
): Promise<void> {
  const width = STORED_BITS.get(from.dtype)! / 8;
  const bytes = into.size * width;
  if (from.strides) {
    into.writeBytes(convertBytes(from.dtype, await gathered(files, from, at, into.size), into.dtype, from.name));
    return;
  }
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

/** All bytes of a tensor of plain elements, in the order of its shape. */
export async function bytesInOrder(files: Source, from: StoredTensor): Promise<Uint8Array> {
  if (from.strides) return gathered(files, from, 0, elementsOf(from.shape));
  return withFile(files, from.file, "checkpoint", (file) => file.read(from.offset, from.bytes));
}

/** Bytes of a file that are read at once to gather elements from them. */
const REACH_BYTES = 4 * READ_BYTES;

/** The bytes of `count` elements of a strided tensor, from element `at` on. */
async function gathered(files: Source, from: StoredTensor, at: number, count: number): Promise<Uint8Array> {
  const width = STORED_BITS.get(from.dtype)! / 8;
  const out = bytesFor(count * width, from.file);
  if (count === 0) return out;
  await withFile(files, from.file, "checkpoint", async (file) => {
    /** Gathers elements of a part of the tensor that begins at `position`; `to` is the place in `out`. */
    const take = async (place: Place, at: number, count: number, to: number): Promise<void> => {
      const { shape, strides, position } = place;
      const inner = elementsOf(shape.slice(1));
      const slice = (i: number): Place => ({
        shape: shape.slice(1),
        strides: strides.slice(1),
        position: position + i * strides[0]! * width,
      });
      if (at % inner === 0 && count % inner === 0) {
        const begin = shape.length === 0 ? position : slice(at / inner).position;
        const part = shape.length === 0 ? [] : [count / inner, ...shape.slice(1)];
        const reach = part.reduce((far, size, d) => far + (size - 1) * strides[d]!, 1) * width;
        if (reach <= REACH_BYTES || shape.length === 0) {
          out.set(gather(await file.read(begin, reach), width, part, strides), to * width);
          return;
        }
      }
      for (let done = 0; done < count; ) {
        const within = (at + done) % inner;
        const some = Math.min(inner - within, count - done);
        await take(slice(Math.floor((at + done) / inner)), within, some, to + done);
        done += some;
      }
    };
    await take({ shape: from.shape, strides: from.strides!, position: from.offset }, at, count, 0);
  });
  return out;
}

/** Where a strided tensor, or a part of one, lies in a file. */
interface Place {
  readonly shape: readonly number[];
  readonly strides: readonly number[];
  readonly position: number;
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
  if (!dense(from)) return gathered(files, from, 0, elementsOf(from.shape));
  return withFile(files, from.file, "checkpoint", (file) => file.read(from.offset, from.bytes));
}

/** Fills `into` with all elements of a tensor, converted if necessary. */
export async function readWhole(device: Device, files: Source, from: StoredTensor, into: Tensor): Promise<void> {
  await readElements(device, files, from, 0, into);
}
