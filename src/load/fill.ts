// Fills a planned model from its files: rows stream through a small staging buffer on the device, and are quantized as
// they arrive. Memory never holds more than the finished weights plus one piece of one tensor.

import type { CodeReader, StoredTensor } from "../checkpoints/stored.js";
import type { Device } from "../core/device.js";
import { CheckpointError, throwIfAborted } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { turn } from "../core/turns.js";
import type { Model } from "../nn/model.js";
import { type Matrix, type Module, type NormedParameter, type Parameter, Scalar } from "../nn/module.js";
import { weightNorm } from "../nn/norm.js";
import { denseScheme, type FloatDType, type Scheme, type StoredRows } from "../nn/weight.js";
import { contiguous } from "../ops/copy.js";
import { type Plan, type PlanItem, partBytes } from "./plan.js";
import { inRows, readBytes, readDType, readSmall, readWhole, tensorReader } from "./read.js";
import { type Context, pieces, readersOf, readMatrix, readRows, stepOf } from "./rows.js";

/** Source bytes between two checks of the signal and of the parameters filled so far. */
const BREATH = 64 << 20;
/** Milliseconds between two reports of progress. */
const REPORT_MS = 100;

/** Progress of a load, in the format of transformers.js' download reports. */
export interface ProgressEvent {
  /** "download": bytes come from the hub into the cache, before the load itself; `loaded` and `total` are of these files. */
  readonly status: "download" | "initiate" | "progress" | "done" | "warning";
  /** The model's name. */
  readonly name: string;
  /** The file read last. */
  readonly file: string;
  /** The tensor read last. */
  readonly tensor: string;
  /** Bytes read, and total bytes to read. */
  readonly loaded: number;
  readonly total: number;
  /** Percent. */
  readonly progress: number;
  /** Bytes read per second since the load began. */
  readonly bytes_per_second: number;
  /** Bytes received over the network so far; absent for a folder on disk. */
  readonly network?: number;
  /** The problem, for "warning": one that did not end the load. */
  readonly message?: string;
}

/** Where the parameters of a model on several devices go. */
export interface Destination {
  /** All devices. */
  readonly devices: readonly Device[];
  /** The device that reads a parameter. */
  deviceOf(parameter: Parameter | Matrix): Device;
  /** Called when all of a parameter has been recorded; it may be taken elsewhere now. */
  filled?(parameter: Parameter | Matrix): void;
  /** The block that this parameter, as its last one, completes, if its weights then go elsewhere. */
  completes(parameter: Parameter | Matrix): Module | undefined;
  /** Takes the weights of such a block away. */
  store(block: Module): Promise<void>;
}

/** Where the parts of a model are, while it is used. */
export interface PlacedModel {
  /** The place of each block, and of each module beside them. */
  readonly device_map: Readonly<Record<string, string | number>>;
  /** True if weights lie elsewhere than where they are used. */
  readonly offloaded: boolean;
  /** Frees what lies elsewhere, and the devices that were opened for it; after the model. */
  close(): Promise<void>;
}

/** A model over several devices, while it is loaded and used. */
export interface SpreadModel extends Destination, PlacedModel {
  /** The device of everything that is not a block. */
  readonly main: Device;
  readonly warnings: readonly string[];
  /** Devices that cut the model by tensor parallelism. */
  readonly tp_size?: number;
  /** Lets the model run as it is spread, once all of it is filled. */
  finish(model: Model): void;
}

export interface FillOptions {
  readonly name: string;
  readonly dtype: FloatDType;
  readonly progress_callback?: (event: ProgressEvent) => void;
  readonly signal?: AbortSignal;
  /** Absent: everything goes to one device. */
  readonly destination?: Destination;
}

/**
 * Reads every tensor of the plan into the model.
 * @throws AbortError, FormatError (a file that cannot be read or ends early included); the model must then be disposed
 */
export async function fill(device: Device, plan: Plan, options: FillOptions): Promise<void> {
  const { signal, name, progress_callback, destination } = options;
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
  /** Filled since the last check. */
  let filled: (Parameter | Matrix)[] = [];
  /** Waits for the queue; failed file reads are thrown here. */
  const settle = async (): Promise<void> => {
    const tensors = filled.flatMap((parameter) => parameter.tensors);
    filled = [];
    for (const one of destination?.devices ?? [device]) await one.synchronize();
    await Promise.all(tensors.map((tensor) => tensor.ready()));
    stop();
  };
  const breathe = async (bytes: number, from: StoredTensor): Promise<void> => {
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
    // If device and files answer synchronously, nothing else had a turn: an abort may be pending.
    await turn();
    stop();
  };
  stop();
  report("initiate");
  for (const item of plan.items) {
    const { scheme, parts, parameter } = item;
    const on = destination?.deviceOf(parameter) ?? device;
    const context: Context = { device: on, files: plan.source, breathe };
    const before = on.enter(item.name);
    try {
      if (scheme === undefined) await fillParameter(context, item, options.dtype);
      else if (parts.some(({ stored }) => stored)) await restoreMatrix(context, item, scheme);
      else if (scheme.beginCodes) await fillCodes(context, item, scheme, options.dtype);
      else await fillMatrix(context, item, scheme);
      destination?.filled?.(parameter);
      filled.push(parameter);
    } finally {
      on.enter(before);
    }
    const block = destination?.completes(parameter);
    if (!block) continue;
    await settle(); // what is taken away cannot be asked later if it was read well
    await destination!.store(block);
  }
  await settle();
  report("done");
}

async function fillParameter(context: Context, item: PlanItem, dtype: FloatDType): Promise<void> {
  const { device, breathe } = context;
  const parameter = item.parameter as Parameter;
  const { readers, dtype: stored } = readersOf(context, item);
  // A number is read as a list of one.
  const { shape } = parameter;
  const staged = Tensor.empty(device, shape.length > 0 ? shape : [1], stored, "parameter");
  let value = staged;
  let filled = false;
  try {
    await readRows(item, readers, stored, staged, 0);
    value = item.magnitudes
      ? await normed(context, item.parameter as NormedParameter, staged, item.magnitudes, dtype)
      : scope(() => contiguous(shape.length > 0 ? staged : staged.view(), dtype));
    parameter.fill(value);
    filled = true;
    if (parameter instanceof Scalar) parameter.number = (await value.readFloats())[0]!;
  } finally {
    for (const reader of readers) reader[Symbol.dispose]();
    if (!filled || value !== staged) staged.dispose();
  }
  for (const part of item.parts) await breathe(partBytes(part), part.from);
  if (item.magnitudes) await breathe(item.magnitudes.bytes, item.magnitudes);
}

/** A normalised weight from its directions and the magnitudes in the file. */
async function normed(
  { device, files }: Context,
  { dim, magnitudes: shape }: NormedParameter,
  directions: Tensor,
  magnitudes: StoredTensor,
  dtype: FloatDType,
): Promise<Tensor> {
  using factors = Tensor.empty(device, shape, readDType(magnitudes), "magnitudes");
  await readWhole(device, files, magnitudes, factors);
  return scope(() => contiguous(weightNorm(directions, factors, dim), dtype));
}

async function fillMatrix(context: Context, item: PlanItem, scheme: Scheme): Promise<void> {
  const matrix = item.parameter as Matrix;
  let builder: ReturnType<Scheme["begin"]> | undefined;
  try {
    await readMatrix(context, item, () => {
      builder = scheme.begin(context.device, matrix.shape, scheme.name, matrix.experts);
      return builder;
    });
    matrix.fill(builder!.finish());
  } catch (error) {
    builder?.[Symbol.dispose]();
    throw error;
  }
}

/** Fills a matrix with the codes of a packed file; with floats, if its codes turn out to be of no kind that is stored. */
async function fillCodes(context: Context, item: PlanItem, scheme: Scheme, dtype: FloatDType): Promise<void> {
  const { device, files, breathe } = context;
  const matrix = item.parameter as Matrix;
  const { shape, experts } = matrix;
  const inputs = shape[1];
  const readers: CodeReader[] = [];
  for (const { from } of item.parts) {
    const reader = await from.packed!.codes!.open(tensorReader(files));
    if (!reader) {
      await fillMatrix(context, item, denseScheme(dtype, matrix.product));
      return;
    }
    readers.push(reader);
  }
  const shifted = readers.some(({ zero_points }) => zero_points);
  const builder = scheme.beginCodes!(device, shape, scheme.name, shifted, experts);
  try {
    const step = stepOf(inputs / 2, builder.granularity);
    for (const [i, { from, at: first, rows: all }] of item.parts.entries()) {
      // A part is one matrix, or all matrices of a stack, whose pieces are of one expert.
      const each = Math.min(all, shape[0] / experts);
      for (const { at, count } of pieces(all, each, step)) {
        const rows = await readers[i]!.rows(at, count);
        using packed = Tensor.empty(device, [count, inputs], "u4", "codes");
        packed.writeBytes(rows.codes);
        const { length } = rows.absmax;
        using scales = Tensor.from(device, rows.absmax, [length], "f32", "scales");
        using shifts = shifted
          ? Tensor.from(device, rows.shifts ?? new Float32Array(length), [length], "f32", "shifts")
          : undefined;
        builder.put(packed, { scales, shifts }, first + at);
        await breathe((from.bytes * count) / all, from);
      }
    }
    matrix.fill(builder.finish());
  } catch (error) {
    builder[Symbol.dispose]();
    throw error;
  }
}

/** Restores a matrix that the checkpoint holds quantized: its codes stream like floats. */
async function restoreMatrix(context: Context, item: PlanItem, scheme: Scheme): Promise<void> {
  const { device, files, breathe } = context;
  const matrix = item.parameter as Matrix;
  const { shape, experts } = matrix;
  const inputs = shape[1];
  const pieces: StoredRows[] = [];
  for (const { at, rows, stored, from } of item.parts) {
    if (!stored || !scheme.restore || stored.scheme.name !== scheme.name) {
      throw new CheckpointError(
        `tensor ${from.name}: the parts of ${item.name} are not all quantized by ${scheme.name}`,
        {
          details: { file: from.file, tensor: from.name },
        },
      );
    }
    inRows(from);
    const notes = new Map<string, Uint8Array>();
    for (const role of stored.notes) {
      const note = stored.tensors.get(role);
      if (note) notes.set(role, await readSmall(files, note));
    }
    pieces.push({ at, rows, stored, notes });
  }
  const restorer = scheme.restore!(device, shape, scheme.name, pieces, experts);
  const rowBytes = restorer.dtype === "u4" ? inputs / 2 : inputs;
  const step = stepOf(rowBytes, restorer.granularity);
  try {
    for (const piece of pieces) {
      for (const [role, into] of restorer.targets(piece)) {
        using target = into;
        await readWhole(device, files, piece.stored.tensors.get(role)!, target);
      }
      const codes = piece.stored.tensors.get("weight")!;
      for (let at = 0; at < piece.rows; at += step) {
        const count = Math.min(step, piece.rows - at);
        using rows = Tensor.empty(device, [count, inputs], restorer.dtype, "codes");
        await readBytes(device, files, codes.file, codes.offset + at * rowBytes, rows.nbytes, rows);
        restorer.put(rows, piece.at + at);
        await breathe(rows.nbytes, codes);
      }
      const all = [...piece.stored.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0);
      await breathe(all - codes.bytes, codes);
    }
    matrix.fill(restorer.finish());
  } catch (error) {
    restorer[Symbol.dispose]();
    throw error;
  }
}
