// Calls whose operands are too large for one binding. WebGPU grants 128 MiB a binding and 256 MiB a buffer by default, and
// a head of 32000 x 4096 in bf16 is 250 MiB. A kernel names the axes along which its calls can be cut; this file cuts them
// into calls that fit. A single row that spans two buffers is copied to scratch, and back if it is written.

import type { CommandRecorder } from "../device/command-recorder.js";
import type { Axis, Kernel, Part, Target } from "../kernel.js";
import { type Call, narrowed, type Operand, operand } from "./call.js";

function slice(call: Call, { parts, attributes }: Axis, begin: number, count: number): Call {
  const operands = call.operands.map((whole, i) => {
    const part = parts[i];
    return part ? cut(part, begin, count) : whole;
  });
  return { ...call, operands, attributes: attributes?.(begin) ?? call.attributes };
}

function cut({ operand: from, dim, range }: Part, begin: number, count: number): Operand {
  const [at, size] = range?.(begin, count) ?? [begin, count];
  return narrowed(from, dim, at, size);
}

/** Records a call, cut into parts if needed. Returns a sentence if it cannot be computed. */
export function recordFitting(
  kernel: Kernel,
  call: Call,
  recorder: CommandRecorder,
  target: Target,
): string | undefined {
  if (call.operands.every((one) => one === undefined || one.fits)) return kernel.record(call, recorder, target);
  const axes = kernel.axes?.(call) ?? [];
  if (typeof axes === "string") return axes;
  const found = choose(call, axes);
  if (!found) return recordAside(kernel, call, recorder, target);
  const { axis, lengths } = found;
  for (let begin = 0; begin < axis.size; ) {
    const count = Math.min(axis.size - begin, lengths(begin));
    const problem = recordFitting(kernel, slice(call, axis, begin, count), recorder, target);
    if (problem !== undefined) return problem;
    begin += count;
  }
  return undefined;
}

/**
 * The axis to cut: one along which a step of a too large operand fits; otherwise one that makes such an operand smaller.
 * `lengths(begin)` is the number of slices of the part that begins there.
 */
function choose(call: Call, axes: readonly Axis[]): { axis: Axis; lengths: (begin: number) => number } | undefined {
  let smaller: Axis | undefined;
  for (const axis of axes) {
    const { size, step = 1, parts } = axis;
    if (size <= step) continue;
    const large = Object.entries(parts).flatMap(([i, part]) => (call.operands[Number(i)]!.fits ? [] : [part]));
    if (large.length === 0) continue;
    smaller ??= axis;
    const cutting = large.filter((part) => {
      const one = cut(part, 0, step);
      return one.size <= one.block.binding;
    });
    if (cutting.length === 0) continue;
    return {
      axis,
      lengths: (begin) => Math.min(...cutting.map((part) => longest(part, begin, size - begin, step))),
    };
  }
  return smaller && { axis: smaller, lengths: () => smaller.step ?? 1 };
}

/** The largest number of slices from `begin` on that fits, in steps; one step if not even that fits. */
function longest(part: Part, begin: number, most: number, step: number): number {
  if (cut(part, begin, most).fits) return most;
  let low = 1;
  let high = Math.ceil(most / step);
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (cut(part, begin, Math.min(most, middle * step)).fits) low = middle;
    else high = middle;
  }
  return low * step;
}

/** Records a call that cannot be cut further: operands that span two buffers are copied to scratch. */
function recordAside(kernel: Kernel, call: Call, recorder: CommandRecorder, target: Target): string | undefined {
  const { inputs } = kernel.op.signature;
  const back: (() => void)[] = [];
  const operands: (Operand | undefined)[] = [];
  for (const [i, one] of call.operands.entries()) {
    if (one === undefined || one.fits) {
      operands.push(one);
      continue;
    }
    const { block, start, size, byte, dtype, shape, strides, contiguous } = one;
    if (size > block.binding) {
      const name = [...inputs, ...kernel.op.signature.outputs][i]!.name;
      return `${name} takes ${size} bytes, and this device binds ${block.binding} at once`;
    }
    const aside = recorder.buffers.scratch(`across ${i}`, size);
    const bytes = Math.min(size, block.bytes - start);
    recorder.copy(block, start, aside, 0, bytes);
    if (i >= inputs.length || inputs[i]!.mutated) back.push(() => recorder.copy(aside, 0, block, start, bytes));
    operands.push(operand(aside, byte - start, dtype, shape, strides, contiguous));
  }
  const problem = kernel.record({ ...call, operands }, recorder, target);
  for (const copy of back) copy();
  return problem;
}

/** Cuts operands of one shape along their first dim longer than 1, so that results stay contiguous. */
export function firstDim(operands: Readonly<Record<number, Operand | undefined>>): Axis[] {
  const entries = Object.entries(operands).filter((entry): entry is [string, Operand] => entry[1] !== undefined);
  const { shape } = entries[0]![1];
  const dim = shape.findIndex((size) => size > 1);
  if (dim < 0) return [];
  const parts = Object.fromEntries(entries.map(([i, one]) => [i, { operand: one, dim }]));
  return [{ size: shape[dim]!, parts }];
}

/** Cuts operands along dim `dim` of each. */
export function along(
  size: number,
  operands: Readonly<Record<number, readonly [operand: Operand | undefined, dim: number]>>,
  step = 1,
): Axis {
  const parts: Record<number, Part> = {};
  for (const [i, [one, dim]] of Object.entries(operands)) if (one) parts[Number(i)] = { operand: one, dim };
  return { size, step, parts };
}

/** Number of rows of `columns` elements that fill whole blocks of `blocksize` elements, and whole bytes. */
export function rowsPerCut(columns: number, blocksize: number): number {
  let a = columns;
  let b = blocksize;
  while (b > 0) [a, b] = [b, a % b];
  return blocksize / a;
}
