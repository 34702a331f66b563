// Numbers cut off at a limit, made of other ops.

import { scope, type Tensor } from "../core/tensor.js";
import { activation } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { filled } from "../ops/fill.js";
import { scale } from "../ops/scale.js";

/** Finite `x` with what lies beyond `-limit` and `limit` moved there: x - relu(x - limit) + relu(-x - limit). Exact inside. */
export function clip(x: Tensor, limit: number): Tensor {
  return scope(() => {
    const less = filled(x.device, x.shape, -limit);
    const above = activation(add(x, less), "relu");
    const below = activation(add(scale(x, -1), less), "relu");
    return add(x, add(below, scale(above, -1)));
  });
}
