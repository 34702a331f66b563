// Values of parameters that have no device yet: floats on the host, or the rule that draws them; and the tensors of a quantized
// matrix as a checkpoint stores them. They become tensors and weights on the first move to a device.

import { elementsOf, type StoredDType, type StoredTensor } from "../checkpoints/stored.js";
import type { Device } from "../core/device.js";
import { bytesOf, narrow, widen } from "../core/dtype.js";
import { CheckpointError } from "../core/errors.js";
import { Tensor } from "../core/tensor.js";
import {
  denseScheme,
  type FloatDType,
  type MatrixShape,
  rowsOfExpert,
  type Scheme,
  type StoredNames,
  type Weight,
  type WeightPart,
} from "./weight.js";

/** Bytes of a piece on its way to a device. */
const PIECE = 8 << 20;

/** Float dtypes as files name them. */
export const STORED_FLOATS = { f32: "F32", f16: "F16", bf16: "BF16" } as const satisfies Record<
  FloatDType,
  StoredDType
>;

export class PendingFloats {
  readonly shape: readonly number[];
  readonly dtype: FloatDType;
  readonly #make: () => Uint8Array;

  /** @param make the bytes of all elements in `dtype`; each call gives the same */
  constructor(shape: readonly number[], dtype: FloatDType, make: () => Uint8Array) {
    this.shape = shape;
    this.dtype = dtype;
    this.#make = make;
  }

  bytes(): Uint8Array {
    return this.#make();
  }

  /** The same values, rounded to another dtype. */
  as(dtype: FloatDType): PendingFloats {
    if (dtype === this.dtype) return this;
    return new PendingFloats(this.shape, dtype, () => narrow(dtype, widen(this.dtype, this.bytes())));
  }

  /** The tensors that a state lists. */
  parts(name: string): readonly WeightPart[] {
    return [{ name, dtype: STORED_FLOATS[this.dtype], shape: this.shape, bytes: async () => this.bytes() }];
  }

  /** @throws OutOfMemoryError */
  tensor(device: Device): Tensor {
    return tensorOf(device, this.bytes(), this.shape, this.dtype, "parameter");
  }

  /** The stored matrix: in `scheme`, or in rows of floats. @throws OutOfMemoryError */
  weight(device: Device, shape: MatrixShape, experts: number, scheme: Scheme | undefined): Weight {
    const [outputs, inputs] = shape;
    const each = rowsOfExpert(shape, experts);
    const bytes = this.bytes();
    const rowBytes = bytesOf(this.dtype, inputs);
    const builder = (scheme ?? denseScheme(this.dtype, false)).begin(device, shape, "weight", experts);
    try {
      const step = Math.max(1, Math.floor(PIECE / (rowBytes || 1) / builder.granularity)) * builder.granularity;
      for (let expert = 0; expert < outputs; expert += each) {
        for (let at = 0; at < each; at += step) {
          const [first, count] = [expert + at, Math.min(step, each - at)];
          const rows = bytes.subarray(first * rowBytes, (first + count) * rowBytes);
          using piece = tensorOf(device, rows, [count, inputs], this.dtype, "weight piece");
          builder.put(piece, first);
        }
      }
      return builder.finish();
    } catch (error) {
      builder[Symbol.dispose]();
      throw error;
    }
  }
}

/** A tensor of a state: its type, and its bytes as files hold them. */
export interface StateBytes {
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

export class PendingCodes {
  readonly #names: StoredNames;
  readonly #tensors: ReadonlyMap<string, StateBytes>;

  /** @param tensors by their roles in the scheme */
  constructor(names: StoredNames, tensors: ReadonlyMap<string, StateBytes>) {
    this.#names = names;
    this.#tensors = tensors;
  }

  parts(name: string): readonly WeightPart[] {
    const own = moduleOf(this.#names.names.get("weight")!).length;
    return [...this.#tensors].map(([role, { dtype, shape, bytes }]) => ({
      name: moduleOf(name) + this.#names.names.get(role)!.slice(own),
      dtype,
      shape,
      bytes: async () => bytes,
    }));
  }

  /** @throws FormatError, CheckpointError for tensors that do not fit; OutOfMemoryError */
  weight(device: Device, shape: MatrixShape, experts: number, _scheme?: Scheme): Weight {
    const { scheme, notes } = this.#names;
    const name = this.#names.names.get("weight")!;
    if (experts !== 1 || !scheme.restore) {
      throw new CheckpointError(`tensor ${name}: a stack of ${experts} experts is not restored from one tensor`);
    }
    const stored = new Map<string, StoredTensor>();
    for (const [role, { dtype, shape: dims, bytes }] of this.#tensors) {
      const from = { name: this.#names.names.get(role)!, file: "state_dict", offset: 0 };
      stored.set(role, { ...from, dtype, shape: dims, bytes: bytes.length });
    }
    const read = new Map(notes.flatMap((role) => (stored.has(role) ? [[role, this.#bytes(role).slice()]] : [])));
    const piece = { at: 0, rows: shape[0], stored: { scheme, tensors: stored, notes }, notes: read };
    const restorer = scheme.restore(device, shape, "weight", [piece], experts);
    try {
      for (const [role, into] of restorer.targets(piece)) {
        using target = into;
        target.writeBytes(this.#bytes(role));
      }
      using rows = tensorOf(device, this.#bytes("weight"), shape, restorer.dtype, "codes");
      restorer.put(rows, 0);
      return restorer.finish();
    } catch (error) {
      restorer[Symbol.dispose]();
      throw error;
    }
  }

  #bytes(role: string): Uint8Array {
    return this.#tensors.get(role)!.bytes;
  }
}

/** "a.b." of "a.b.weight". */
function moduleOf(name: string): string {
  return name.slice(0, name.lastIndexOf(".") + 1);
}

function tensorOf(
  device: Device,
  bytes: Uint8Array,
  shape: readonly number[],
  dtype: FloatDType | "i8" | "u4",
  label: string,
): Tensor {
  const tensor = Tensor.empty(device, shape, dtype, label);
  try {
    tensor.writeBytes(bytes);
  } catch (error) {
    tensor.dispose();
    throw error;
  }
  return tensor;
}

/** Floats that are all alike. */
export function constant(shape: readonly number[], value: number): PendingFloats {
  return new PendingFloats(shape, "f32", () => narrow("f32", new Float32Array(elementsOf(shape)).fill(value)));
}
