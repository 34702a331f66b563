// The norm of gradients, and gradients that are cut to one. Squares are summed in f32 over a row, and rows in f64 on the host, so
// the result does not depend on threads.

import { gradOf, listFrom, type Trainable, type Trained, tensorOf } from "../bnb/optim/parameter.js";
import { listOf } from "../core/checks.js";
import type { Device } from "../core/device.js";
import { OctavoError, OptionError } from "../core/errors.js";
import { flag, type Options, readOptions } from "../core/options.js";
import { show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { filled } from "../ops/fill.js";
import { multiply } from "../ops/gated.js";
import { linear } from "../ops/linear.js";
import { scale } from "../ops/scale.js";
import { taping } from "../ops/tape.js";

/** The sums of squares of each row of gradients on a device, one after the other: f32[rows]. */
function rowSums(device: Device, gradients: readonly Tensor[]): Tensor {
  return taping(undefined, () =>
    scope(() => {
      const rows = gradients.map(({ shape, size }) => size / (shape.at(-1) ?? 1));
      const sums = Tensor.empty(device, [rows.reduce((n, one) => n + one, 0)], "f32", "norms");
      let at = 0;
      gradients.forEach((gradient, i) => {
        scope(() => {
          const g = contiguous(gradient, "f32").view(rows[i]!, -1);
          const [R = 0, K = 0] = g.shape;
          const one = linear(multiply(g, g), filled(device, [1, K], 1));
          return copyInto(one.view(R), sums.narrow(0, at, R));
        });
        at += rows[i]!;
      });
      return sums;
    }),
  );
}

/** The sum of squares of each gradient, in order. Waits for the device. */
export async function squaredNorms(gradients: readonly Tensor[]): Promise<number[]> {
  const result = new Array<number>(gradients.length).fill(0);
  const devices = new Set(gradients.map(({ device }) => device));
  for (const device of devices) {
    const here = gradients.flatMap((gradient, i) => (gradient.device === device && gradient.size > 0 ? [i] : []));
    if (here.length === 0) continue;
    const sums = rowSums(
      device,
      here.map((i) => gradients[i]!),
    );
    let at = 0;
    const values = await sums.readFloats();
    sums.dispose();
    for (const i of here) {
      const { shape, size } = gradients[i]!;
      const end = at + size / (shape.at(-1) ?? 1);
      for (; at < end; at++) result[i]! += values[at]!;
    }
  }
  return result;
}

const CLIP = {
  /** Throw if the norm is no finite number. */
  error_if_nonfinite: flag(),
};

/** Scales the gradients of parameters, whose norm together is `norm`, so that it is at most `most`. */
export function scaleGradients(params: readonly Trained[], norm: number, most: number): void {
  const factor = most / (norm + 1e-6);
  if (factor >= 1) return;
  for (const param of params) {
    const gradient = gradOf(param) as Tensor;
    (param as Trainable).grad = taping(undefined, () => scope(() => scale(contiguous(gradient, "f32"), factor))).keep();
  }
}

/**
 * Cuts the gradients of all parameters together to a length (Pascanu et al. 2013), as torch's function of that name. Parameters
 * without a gradient count for nothing.
 * @returns the norm before
 * @throws OptionError; OctavoError with `error_if_nonfinite`; what went wrong on the device
 */
export async function clip_grad_norm_(
  parameters: Trained | Iterable<Trained>,
  max_norm: number,
  options: Options<typeof CLIP> = {},
): Promise<number> {
  const { error_if_nonfinite = false } = readOptions("clip_grad_norm_", CLIP, options);
  const list = tensorOf(parameters) ? [parameters as Trained] : listFrom(parameters);
  const params = listOf(list, (one): one is Trained => typeof one === "object" && one !== null);
  if (!params) {
    throw new OptionError(`clip_grad_norm_: expected parameters, got ${show(parameters)}`, {
      hint: "clip_grad_norm_(model.parameters(), 1)",
    });
  }
  if (typeof max_norm !== "number" || !(max_norm >= 0)) {
    throw new OptionError(`clip_grad_norm_: max_norm must be a number of at least 0, got ${show(max_norm)}`);
  }
  const having = params.filter((param) => Tensor.is(gradOf(param)));
  const squares = await squaredNorms(having.map((param) => gradOf(param) as Tensor));
  const norm = Math.sqrt(squares.reduce((sum, one) => sum + one, 0));
  if (error_if_nonfinite && !Number.isFinite(norm)) {
    throw new OctavoError("ERR_NOT_FINITE", `clip_grad_norm_: the norm of the gradients is ${norm}`);
  }
  scaleGradients(having, norm, max_norm);
  return norm;
}
