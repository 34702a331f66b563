// The reference backend: runs each op's own plain loops on submit. Tests compare faster backends with it; it also serves
// machines without any of them. It has no panels and no threads.

import type { Backend, BackendFailure, BufferId } from "../../core/backend.js";
import { bytesOf, DTYPES, type DType, fromBf16, fromF16, type HostArray, toBf16, toF16 } from "../../core/dtype.js";
import { DeviceError, OutOfMemoryError } from "../../core/errors.js";
import type { OperandSpec, Signature } from "../../core/signature.js";
import { rowStrides } from "../../core/tensor.js";
import type { HostTensor, Op } from "../../ops/op.js";
import { Poison } from "../_poison.js";

interface Operand {
  readonly spec: OperandSpec;
  readonly host: HostTensor;
  readonly memory: Uint8Array;
  readonly strides: readonly number[];
  readonly written: boolean;
}

/** @param ops the ops to offer, all by default from `ops/index.ts` */
export function openReference(ops: readonly Op[], budget = 4 * 2 ** 30): Backend {
  const buffers = new Map<BufferId, Uint8Array>();
  let next = 1;
  const poison = new Poison();

  const memory = (buffer: BufferId, offset: number, bytes: number): Uint8Array => {
    const whole = buffers.get(buffer);
    if (!whole || offset < 0 || offset + bytes > whole.length) {
      throw new DeviceError(`reference: ${offset}+${bytes} bytes of buffer ${buffer} do not exist`);
    }
    return whole.subarray(offset, offset + bytes);
  };

  const runOne = (words: Int32Array, floats: Float32Array, start: number): BackendFailure | undefined => {
    const op = ops[words[start]!]!;
    let at = start + 3;
    const operands: Operand[] = [];
    const specs = [...op.signature.inputs, ...op.signature.outputs];
    specs.forEach((spec, index) => {
      const header = words[at]!;
      if (header === 0) {
        at++;
        return;
      }
      const rank = header & 0xff;
      const dtype = DTYPES[(header >>> 8) & 0xff]!;
      const offset = (words[at + 2]! >>> 0) + words[at + 3]! * 4294967296;
      const shape = [...words.subarray(at + 4, at + 4 + rank)];
      const strided = (header & 0x1000000) !== 0;
      const strides = strided ? [...words.subarray(at + 4 + rank, at + 4 + 2 * rank)] : rowStrides(shape);
      const extent = shape.some((n) => n === 0) ? 0 : 1 + shape.reduce((far, n, d) => far + (n - 1) * strides[d]!, 0);
      const bytes = memory(words[at + 1]!, offset, bytesOf(dtype, extent));
      at += 4 + rank + (strided ? rank : 0);
      const written = spec.mutated || index >= op.signature.inputs.length;
      operands.push({
        spec,
        host: { shape, dtype, data: gather(bytes, dtype, shape, strides) },
        memory: bytes,
        strides,
        written,
      });
    });
    const attributes: Record<string, number> = {};
    for (const { name, type } of op.signature.attrs) {
      attributes[name] = type === "i32" ? words[at]! : floats[at]!;
      at++;
    }
    const named: Record<string, HostTensor> = {};
    for (const { spec, host } of operands) named[spec.name] = host;
    const message = op.definition.reference(named, attributes);
    if (message !== undefined) return { op: op.name, site: words[start + 2]!, message };
    for (const operand of operands) if (operand.written) scatter(operand);
    return undefined;
  };

  return {
    name: "reference",
    description: "reference loops in JavaScript, one thread",
    kernels: ops.map((op) => ({ name: op.name, signature: op.signature.text })),
    budget,
    allocate(bytes) {
      if (bytes > budget) throw new OutOfMemoryError(`reference: ${bytes} bytes do not fit ${budget}`);
      buffers.set(next, new Uint8Array(Math.max(8, Math.ceil(bytes / 8) * 8)));
      return next++;
    },
    free(buffer) {
      buffers.delete(buffer);
      poison.forget(buffer);
    },
    write(buffer, offset, bytes) {
      memory(buffer, offset, bytes.length).set(bytes);
      poison.clear(buffer, offset, offset + bytes.length);
    },
    spoil(buffer, offset, bytes, failure) {
      poison.spoil({ buffer, begin: offset, end: offset + bytes }, failure);
    },
    submit(commands, words) {
      const floats = new Float32Array(commands.buffer, commands.byteOffset, commands.length);
      const signatureOf = (kernel: number): Signature => ops[kernel]!.signature;
      for (let at = 0; at < words; at += commands[at + 1]!) {
        poison.command(commands, at, signatureOf, () => runOne(commands, floats, at));
      }
    },
    async read(buffer, offset, bytes, checked = bytes) {
      const spoilt = poison.verdict(buffer, offset, checked);
      if (spoilt) throw spoilt;
      return memory(buffer, offset, bytes).slice();
    },
    async close() {
      buffers.clear();
    },
  };
}

/** Calls `visit` with the element offset of each element, in row order. */
function walk(shape: readonly number[], strides: readonly number[], visit: (i: number, at: number) => void): void {
  const last = Math.max(0, shape.length - 1);
  const [count, step] = [shape[last] ?? 1, strides[last] ?? 0]; // a scalar is one element
  let i = 0;
  const go = (d: number, at: number): void => {
    if (d === last) for (let n = 0; n < count; n++) visit(i++, at + n * step);
    else for (let n = 0; n < shape[d]!; n++) go(d + 1, at + n * strides[d]!);
  };
  go(0, 0);
}

/** Elements as they lie in memory, whose blocks begin at multiples of eight bytes. */
type Stored = Float32Array | Int32Array | Uint16Array | Int8Array | Uint8Array;

function storedAs(dtype: DType, { buffer, byteOffset, byteLength }: Uint8Array): Stored {
  const count = byteLength / bytesOf(dtype, 1);
  switch (dtype) {
    case "f32":
      return new Float32Array(buffer, byteOffset, count);
    case "i32":
      return new Int32Array(buffer, byteOffset, count);
    case "f16":
    case "bf16":
      return new Uint16Array(buffer, byteOffset, count);
    case "i8":
      return new Int8Array(buffer, byteOffset, count);
    default:
      return new Uint8Array(buffer, byteOffset, count);
  }
}

/** True if elements lie in row order without gaps. */
function isDense(shape: readonly number[], strides: readonly number[]): boolean {
  return rowStrides(shape).every((step, d) => step === strides[d] || shape[d] === 1);
}

function gather(bytes: Uint8Array, dtype: DType, shape: readonly number[], strides: readonly number[]): HostArray {
  if (dtype === "u4") return bytes.slice();
  const stored = storedAs(dtype, bytes);
  const decode = dtype === "f16" ? fromF16 : dtype === "bf16" ? fromBf16 : undefined;
  if (!decode && isDense(shape, strides)) return stored.slice() as HostArray;
  const count = shape.reduce((n, size) => n * size, 1);
  const out = decode ? new Float32Array(count) : new (stored.constructor as new (count: number) => HostArray)(count);
  if (!decode) {
    walk(shape, strides, (i, at) => {
      out[i] = stored[at]!;
    });
  } else if (isDense(shape, strides)) for (let i = 0; i < count; i++) out[i] = decode(stored[i]!);
  else {
    walk(shape, strides, (i, at) => {
      out[i] = decode(stored[at]!);
    });
  }
  return out;
}

function scatter({ host, memory, strides }: Operand): void {
  const { dtype, data, shape } = host;
  if (dtype === "u4") {
    memory.set(data as Uint8Array);
    return;
  }
  const stored = storedAs(dtype, memory);
  const encode = dtype === "f16" ? toF16 : dtype === "bf16" ? toBf16 : undefined;
  if (!encode && isDense(shape, strides)) {
    stored.set(data);
    return;
  }
  walk(shape, strides, (i, at) => {
    stored[at] = encode ? encode(data[i]!) : data[i]!;
  });
}
