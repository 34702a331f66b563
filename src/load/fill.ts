// Fills a planned model from its files: rows stream through a small staging buffer on the device, and are quantized as
// they arrive. At no time is more than the finished weights plus one piece of one tensor in memory.

import type { TensorInfo } from "../checkpoints/safetensors.js";
import { convertBytes, deviceDType } from "../checkpoints/values.js";
import type { Device } from "../core/device.js";
import { type DType, isFloat } from "../core/dtype.js";
import { throwIfAborted } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Matrix, Parameter } from "../nn/module.js";
import type { FloatDType, Scheme } from "../nn/weight.js";
import { contiguous } from "../ops/copy.js";
import { type Source, withFile } from "../sources/source.js";
import type { Plan } from "./plan.js";

/** Source bytes that are in flight at once. */
const PIECE = 8 << 20;
/** Source bytes between two looks at the signal and at what has become of the parameters so far. */
const BREATH = 64 << 20;
/** Milliseconds between two reports of progress. */
const REPORT_MS = 100;

/** Progress of a load, in the shape that transformers.js reports downloads. */
export interface ProgressEvent {
  readonly status: "initiate" | "progress" | "done" | "warning";
  /** The model's name. */
  readonly name: string;
  /** The file that was read last. */
  readonly file: string;
  /** The tensor that was read last. */
  readonly tensor: string;
  /** Bytes read, and bytes to read in all. */
  readonly loaded: number;
  readonly total: number;
  /** Percent. */
  readonly progress: number;
  /** Bytes read per second since the load began. */
  readonly bytes_per_second: number;
  /** Bytes that came over the network so far; absent for a folder on disk. */
  readonly network?: number;
  /** What went wrong without ending the load, for "warning". */
  readonly message?: string;
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
  let last = { file: "", name: "" };
  const begin = performance.now();
  let reported = begin;
  const report = (status: ProgressEvent["status"]): void => {
    reported = performance.now();
    progress_callback?.({
      status,
      name,
      file: last.file && plan.source.name(last.file),
      tensor: last.name,
      loaded,
      total: plan.bytes,
      progress: (100 * loaded) / (plan.bytes || 1),
      bytes_per_second: loaded / Math.max(1e-3, (reported - begin) / 1000),
      network: plan.source.network,
    });
  };
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
  const breathe = async (bytes: number, from: TensorInfo): Promise<void> => {
    loaded += bytes;
    sinceBreath += bytes;
    last = from;
    stop();
    if (sinceBreath >= BREATH) {
      sinceBreath = 0;
      await settle();
    }
    if (performance.now() - reported < REPORT_MS) return;
    report("progress");
    // Where the device and the files answer at once, nobody else had a turn: an abort may be waiting for one.
    await new Promise((resolve) => setTimeout(resolve, 0));
    stop();
  };
  stop();
  report("initiate");
  for (const { name: path, parameter, source, scheme } of plan.items) {
    const before = device.enter(path);
    try {
      const from = reader(device, plan.source, source);
      if (scheme === undefined) await fillParameter(device, parameter as Parameter, from, options.dtype);
      else await fillMatrix(device, parameter as Matrix, from, scheme, breathe);
      filled.push(parameter);
      if (scheme === undefined || (parameter as Matrix).transposed) await breathe(source.bytes, source);
    } finally {
      device.enter(before);
    }
  }
  await settle();
  report("done");
}

/** Where the bytes of a tensor come from: straight from the file onto the device where the backend can, or through the host. */
interface Reader {
  readonly source: TensorInfo;
  /** What the bytes are once they are on the device. */
  readonly dtype: FloatDType;
  /** Fills `into` from element `at` on. */
  read(into: Tensor, at: number): Promise<void>;
}

function reader(device: Device, files: Source, source: TensorInfo): Reader {
  const direct: DType | undefined = deviceDType(source.dtype);
  const dtype = direct !== undefined && isFloat(direct) ? direct : "f32";
  const elementBytes = source.bytes / (source.shape.reduce((n, size) => n * size, 1) || 1);
  return {
    source,
    dtype,
    async read(into, at) {
      const bytes = into.size * elementBytes;
      if (bytes === 0) return;
      const position = source.offset + at * elementBytes;
      if (direct === dtype && files.local && device.readsFiles) {
        device.load(into, source.file, position);
        return;
      }
      await withFile(files, source.file, "checkpoint", async (file) => {
        const raw = await file.read(position, bytes, { onward: true });
        into.writeBytes(direct === dtype ? raw : convertBytes(source.dtype, raw, dtype, source.name));
      });
    },
  };
}

async function fillParameter(device: Device, parameter: Parameter, from: Reader, dtype: FloatDType): Promise<void> {
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
  from: Reader,
  scheme: Scheme,
  breathe: (bytes: number, from: TensorInfo) => Promise<void>,
): Promise<void> {
  const [outputs, inputs] = matrix.shape;
  const { source } = from;
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
      if (!whole) await breathe(count * rowBytes, source);
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
