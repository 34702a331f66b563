// Where the first number arises that is none: every result of a pass is read, in the order in which it is recorded.

import { isFunction } from "../core/checks.js";
import { isFloat } from "../core/dtype.js";
import { OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import { scope, type Tensor } from "../core/tensor.js";
import { contiguous } from "../ops/copy.js";
import { taping } from "../ops/tape.js";
import { watching } from "../ops/watch.js";
import type { Module } from "./module.js";
import { Matrix, Parameter } from "./parameter.js";

/** The first result that holds an infinity or a NaN. */
export interface NonFinite {
  /** Path of the module that computed it; "" outside of all modules. */
  readonly module: string;
  /** What it computed. */
  readonly op: string;
  readonly value: "infinity" | "NaN";
  /** How many of its numbers are not finite, and of how many. */
  readonly count: number;
  readonly elements: number;
  readonly shape: readonly number[];
  /** The name of a parameter of that module that is not finite itself; undefined if all are, or were not looked at. */
  readonly parameter?: string;
}

/** A result that is being read. */
interface Heard {
  readonly module: string;
  readonly op: string;
  readonly shape: readonly number[];
  readonly flaw: Promise<Flaw | undefined>;
}

type Flaw = Pick<NonFinite, "value" | "count" | "elements">;

/** The numbers of a tensor, whatever its strides. */
function valuesOf(tensor: Tensor): Promise<Float32Array> {
  let values!: Promise<Float32Array>;
  scope(() => {
    values = contiguous(tensor).readFloats();
  });
  return values;
}

/** What is wrong with numbers; undefined if all are finite. */
function flawOf(values: Float32Array): Flaw | undefined {
  let count = 0;
  let first = 0;
  for (const value of values) {
    if (Number.isFinite(value)) continue;
    if (count === 0) first = value;
    count++;
  }
  if (count === 0) return undefined;
  return { value: Number.isNaN(first) ? "NaN" : "infinity", count, elements: values.length };
}

/**
 * Runs `body`, such as `() => net.forward(x)`, and says where the first infinity or NaN arose: in which module, by which op; undefined
 * if all results are finite. Tensors that `body` makes are freed, those that it keeps aside. Every result is read, so the pass is slow
 * and takes as much memory on the host as all its results together; nothing is recorded for gradients.
 * @throws OptionError for a body that is no function or asynchronous; what `body` throws
 */
export async function check_finite(body: () => unknown): Promise<NonFinite | undefined> {
  if (!isFunction(body)) throw new OptionError(`check_finite: body must be a function, got ${show(body)}`);
  const heard: Heard[] = [];
  let promised = false;
  const hear = (op: string, module: string, written: readonly Tensor[]): void => {
    for (const tensor of written) {
      if (!isFloat(tensor.dtype) || tensor.panels) continue;
      heard.push({ op, module, shape: tensor.shape, flaw: watching(undefined, () => valuesOf(tensor)).then(flawOf) });
    }
  };
  try {
    taping(undefined, () =>
      watching(
        (op, device, written) => hear(op, device.path, written),
        () =>
          scope(() => {
            promised = isPromise(body());
          }),
      ),
    );
    if (promised) throw new OptionError("check_finite: the body must not be asynchronous", { hint: "await before it" });
    for (const { flaw, ...place } of heard) {
      const found = await flaw;
      if (found) return { ...place, ...found };
    }
    return undefined;
  } finally {
    await Promise.allSettled(heard.map(({ flaw }) => flaw));
  }
}

function isPromise(value: unknown): boolean {
  try {
    return typeof (value as { then?: unknown } | null | undefined)?.then === "function";
  } catch {
    return false; // a proxy
  }
}

/**
 * `check_finite` of a tree, which looks at the parameters of the module as well.
 * @throws as there
 */
export async function checkTree(tree: Module, body: () => unknown): Promise<NonFinite | undefined> {
  const found = await check_finite(body);
  if (!found) return undefined;
  const at = [...tree.named_modules()].find(([path]) => path === found.module);
  for (const [name, value] of Object.entries(at?.[1] ?? {})) {
    if (!(value instanceof Parameter || value instanceof Matrix) || !value.filled) continue;
    if (value.tensors.some(({ resident }) => !resident)) continue; // offloaded
    using floats = value instanceof Matrix ? value.dequantize() : value.value.alias();
    if (!isFloat(floats.dtype) || !flawOf(await floats.readFloats())) continue;
    return { ...found, parameter: found.module ? `${found.module}.${name}` : name };
  }
  return found;
}
