// The functions that a forward of one's own needs beside modules: recorded, and differentiated, like everything else.

import { OptionError, ShapeError } from "../core/errors.js";
import { shapeText, show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import { type Act, activation } from "../ops/activation.js";
import { add as addOp } from "../ops/add.js";
import { contiguous } from "../ops/copy.js";
import { crossEntropy, crossEntropyBackOp, IGNORED } from "../ops/cross-entropy.js";
import { filled } from "../ops/fill.js";
import { multiply as multiplyOp } from "../ops/gated.js";
import { rowsOf } from "../ops/op.js";
import { scale as scaleOp } from "../ops/scale.js";
import { sumRows } from "../ops/sum-rows.js";
import { inFloats } from "./module.js";

export { flash_attn_func, flash_attn_varlen_func } from "./flash-attn.js";
export { scaled_dot_product_attention } from "./sdpa.js";

const elementwise =
  (act: Act) =>
  (x: Tensor): Tensor =>
    inFloats(act, x, (floats) => activation(floats, act));

export const relu = elementwise("relu");
export const gelu = elementwise("gelu");
export const silu = elementwise("silu");
export const tanh = elementwise("tanh");
export const sigmoid = elementwise("sigmoid");

/** Two tensors of one shape; the result has the dtype of the first. @throws ShapeError, OptionError */
function pair(call: string, a: Tensor, b: Tensor, op: (a: Tensor, b: Tensor) => Tensor): Tensor {
  if (!Tensor.is(b)) throw new OptionError(`${call}: it takes two Tensors, got ${show(b)}`);
  return inFloats(call, a, (x) => {
    if (shapeText(x.shape) !== shapeText(b.shape)) {
      throw new ShapeError(`${call}: ${shapeText(x.shape)} and ${shapeText(b.shape)} differ`);
    }
    return scope(() => op(x, contiguous(b, "f32")));
  });
}

/** a + b, elementwise. @throws ShapeError, OptionError */
export function add(a: Tensor, b: Tensor): Tensor {
  return pair("add", a, b, addOp);
}

/** a * b, elementwise. @throws ShapeError, OptionError */
export function multiply(a: Tensor, b: Tensor): Tensor {
  return pair("multiply", a, b, multiplyOp);
}

/** x * factor. @throws OptionError */
export function scale(x: Tensor, factor: number): Tensor {
  if (typeof factor !== "number") throw new OptionError(`scale: factor must be a number, got ${show(factor)}`);
  return inFloats("scale", x, (floats) => scaleOp(floats, factor));
}

/** The mean of all elements: f32 [1]. @throws OptionError, ShapeError (none) */
export function mean(x: Tensor): Tensor {
  return scope(() => {
    if (!Tensor.is(x)) throw new OptionError(`mean: x must be a Tensor, got ${show(x)}`);
    if (x.size === 0) throw new ShapeError("mean: there are no elements");
    return scaleOp(sumRows(contiguous(x, "f32").view(x.size, 1)), 1 / x.size);
  });
}

/** The mean of (x - target)²: f32 [1]. @throws ShapeError, OptionError */
export function mse_loss(x: Tensor, target: Tensor): Tensor {
  return scope(() => {
    const difference = add(x, scale(target, -1));
    return mean(multiply(difference, difference));
  });
}

/** Times any label but a class, minus infinity. */
const BEYOND = 3e38;

/**
 * What each row counts in the mean: 1 / n if its class is not -100, of which there are n, else 0; NaN if there are none. Labels are on
 * the device, which has no division: this is a softmax, of 0 and minus infinity, from the gradient of its log-sum-exp.
 */
function sharesOf(labels: Tensor): Tensor {
  const { device, size } = labels;
  const below = activation(scaleOp(contiguous(labels, "f32"), -1), "relu");
  const scores = scaleOp(below, -BEYOND).view(1, size);
  const one = (value: number) => filled(device, [1], value);
  const first = Tensor.from(device, Int32Array.of(0), [1]);
  const { lse } = crossEntropy(scores, first);
  return crossEntropyBackOp.run([scores, first, lse, one(0), one(1)], [0, IGNORED]).view(size);
}

/**
 * The mean cross-entropy of logits[..,V] against the classes target[..], i32, over the rows whose class is not -100: as in torch, NaN
 * if there is none (on WebGPU, whose shaders need not know NaN, it may be 0). Gradients of other rows are 0.
 * @throws ShapeError, OptionError
 */
export function cross_entropy(logits: Tensor, target: Tensor): Tensor {
  if (!Tensor.is(target)) throw new OptionError(`cross_entropy: target must be a Tensor, got ${show(target)}`);
  return scope(() =>
    inFloats("cross_entropy", logits, (floats) => {
      const rows = rowsOf(floats.shape);
      if (rows === 0) throw new ShapeError("cross_entropy: there are no rows");
      const labels = target.view(rows);
      const { loss } = crossEntropy(floats.view(rows, -1), labels);
      return sumRows(multiplyOp(loss, sharesOf(labels)).view(rows, 1));
    }),
  );
}
