// Fills a planned model from its files: rows stream through a small staging buffer on the device, and are quantized as
// they arrive. At no time is more than the finished weights plus one piece of one tensor in memory.

import type { Device } from "../core/device.js";
import { type DType, isFloat } from "../core/dtype.js";
import { FormatError, throwIfAborted } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { readRange, withFile } from "../formats/files.js";
import type { TensorInfo } from "../formats/safetensors.js";
import { convertBytes, deviceDType } from "../formats/values.js";
import type { Matrix, Parameter } from "../nn/module.js";
import type { FloatDType, Scheme } from "../nn/weight.js";
import { contiguous } from "../ops/copy.js";
import type { Plan } from "./plan.js";

/** Source bytes that are in flight at once. */
const PIECE = 8 << 20;
/** Source bytes between two looks at the signal and at what has become of the parameters so far. */
const BREATH = 64 << 20;

/** Progress of a load, in the shape that transformers.js reports downloads. */
export interface ProgressEvent {
  readonly status: "initiate" | "progress" | "done";
  /** The model's name. */
  readonly name: string;
  /** The tensor that was read last. */
  readonly file: string;
  /** Bytes read, and bytes to read in all. */
  readonly loaded: number;
  readonly total: number;
  /** Percent. */
  readonly progress: number;
}

export interface FillOptions {
  readonly name: string;
  readonly dtype: FloatDType;
  readonly progress_callback?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
}

/**
 * Reads every tensor of the plan into the model.
 * @throws AbortError, FormatError, KernelError (a read that failed); the model must then be disposed
 */
export async function fill(device: Device, plan: Plan, options: FillOptions): Promise<void> {
  const { signal, name, progress_callback } = options;
  let loaded = 0;
  let sinceBreath = 0;
  const report = (status: ProgressEvent["status"], file: string): void =>
    progress_callback?.({
      status,
      name,
      file,
      loaded,
      total: plan.bytes,
      progress: (100 * loaded) / (plan.bytes || 1),
    });
  const stop = (): void => {
    throwIfAborted(signal, "loading");
  };
  /** Filled since the last look. */
  let filled: (Parameter | Matrix)[] = [];
  /** Waits for the queue; a read of a file that failed comes out here. */
  const settle = async (): Promise<void> => {
    const tensors = filled.flatMap((parameter) => parameter.tensors);
    filled = [];
    await device.synchronize();
    await Promise.all(tensors.map((tensor) => tensor.ready()));
    stop();
  };
  const breathe = async (bytes: number, file: string): Promise<void> => {
    loaded += bytes;
    sinceBreath += bytes;
    stop();
    if (sinceBreath < BREATH) return;
    sinceBreath = 0;
    await settle();
    report("progress", file);
  };
  stop();
  report("initiate", "");
  for (const { name: path, parameter, source, scheme } of plan.items) {
    const before = device.enter(path);
    try {
      if (scheme === undefined) await fillParameter(device, parameter as Parameter, source, options.dtype);
      else await fillMatrix(device, parameter as Matrix, source, scheme, breathe);
      filled.push(parameter);
      if (scheme === undefined || (parameter as Matrix).transposed) await breathe(source.bytes, source.name);
    } finally {
      device.enter(before);
    }
  }
  await settle();
  report("done", "");
}

/** Where the bytes of a tensor come from: straight from the file onto the device, or through the host if they must be converted. */
function reader(
  device: Device,
  source: TensorInfo,
): { dtype: FloatDType; read: (into: Tensor, at: number) => Promise<void> } {
  const direct: DType | undefined = deviceDType(source.dtype);
  const dtype = direct !== undefined && isFloat(direct) ? direct : "f32";
  const elementBytes = source.bytes / (source.shape.reduce((n, size) => n * size, 1) || 1);
  return {
    dtype,
    async read(into, at) {
      const bytes = into.size * elementBytes;
      if (bytes === 0) return;
      const position = source.offset + at * elementBytes;
      if (direct === dtype && device.backend.load) {
        device.flush();
        device.backend.load(into.buffer, into.offset, source.file, position, bytes);
        return;
      }
      await withFile(source.file, "checkpoint", async (handle) => {
        const raw = await readRange(handle, source.file, position, bytes);
        if (raw.length !== bytes) {
          throw new FormatError(`${source.file} ends inside tensor ${source.name}`, {
            details: { file: source.file, offset: position + raw.length, expected: bytes, got: raw.length },
          });
        }
        into.writeBytes(direct === dtype ? raw : convertBytes(source.dtype, raw, dtype, source.name));
      });
    },
  };
}

async function fillParameter(
  device: Device,
  parameter: Parameter,
  source: TensorInfo,
  dtype: FloatDType,
): Promise<void> {
  const from = reader(device, source);
  const staged = Tensor.empty(device, parameter.shape, from.dtype, "parameter");
  let value: Tensor | undefined;
  try {
    await from.read(staged, 0);
    value = contiguous(staged, dtype);
  } finally {
    if (value !== staged) staged.dispose();
  }
  parameter.fill(value);
}

async function fillMatrix(
  device: Device,
  matrix: Matrix,
  source: TensorInfo,
  scheme: Scheme,
  breathe: (bytes: number, file: string) => Promise<void>,
): Promise<void> {
  const [outputs, inputs] = matrix.shape;
  const from = reader(device, source);
  const builder = scheme.begin(device, matrix.shape, scheme.name);
  const rowBytes = source.bytes / (outputs || 1);
  const step = Math.max(1, Math.floor(PIECE / (rowBytes || 1) / builder.granularity)) * builder.granularity;
  let whole: Tensor | undefined;
  try {
    if (matrix.transposed) {
      whole = Tensor.empty(device, [inputs, outputs], from.dtype, "transposed weight");
      await from.read(whole, 0);
    }
    for (let at = 0; at < outputs; at += step) {
      const count = Math.min(step, outputs - at);
      const piece = whole
        ? columns(whole, at, count)
        : Tensor.empty(device, [count, inputs], from.dtype, "weight piece");
      try {
        if (!whole) await from.read(piece, at * inputs);
        builder.put(piece, at);
      } finally {
        piece.dispose();
      }
      if (!whole) await breathe(count * rowBytes, source.name);
    }
    matrix.fill(builder.finish());
  } catch (error) {
    builder[Symbol.dispose]();
    throw error;
  } finally {
    whole?.dispose();
  }
}

/** Columns `at` .. `at + count` of a [in, out] matrix as contiguous rows. */
function columns(whole: Tensor, at: number, count: number): Tensor {
  return scope(() => contiguous(whole.narrow(1, at, count).permute(1, 0)));
}
