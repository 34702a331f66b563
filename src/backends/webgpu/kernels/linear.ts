// linear: products with f32, f16 and bf16 matrices.

import { linearOp } from "../../../ops/linear.js";
import type { Call } from "../call.js";
import type { Kernel, Target } from "../kernel.js";
import type { Queue } from "../queue.js";
import { family, reader, reads } from "../shader.js";
import { along } from "../split.js";
import {
  byJob,
  FLOAT_TYPES,
  type Format,
  type Gate,
  type Joinable,
  jobName,
  joinable,
  joinedVariants,
  type ProductOptions,
  productAxes,
  productSpec,
  productVariants,
  recordJoined,
  recordProduct,
} from "./product.js";

type Float = (typeof FLOAT_TYPES)[number];

/** What `part(raw, i)` is, by dtype. */
const PART: Readonly<Record<Float, string>> = {
  f32: "return bitcast<vec4<f32>>(raw);",
  bf16: `let words = select(raw.xy, raw.zw, i == 1u);
  return bitcast<vec4<f32>>(vec4<u32>(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u));`,
  f16: `let words = select(raw.xy, raw.zw, i == 1u);
  return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));`,
};

function format(dtype: Float, fast: boolean, jobs = 1): Format {
  const chunk = dtype === "f32" ? 4 : 8;
  const names = Array.from({ length: jobs }, (_, job) => jobName("w", job));
  return {
    bindings: names.map((name) => reads(name, fast ? "array<vec4<u32>>" : "array<u32>")),
    params: names,
    chunk,
    declarations: fast
      ? [
          `fn raw(n: u32, c: u32) -> vec4<u32> {
  ${byJob(jobs, (job, n) => `return ${names[job]}[(P.${names[job]} + ${n} * P.K) / ${chunk}u + c];`)}
}`,
          `fn part(raw: vec4<u32>, i: u32) -> vec4<f32> { ${PART[dtype]} }`,
          "fn weight(n: u32, c: u32) -> f32 { return 1.0; }",
        ]
      : [reader("w", dtype), "fn one(n: u32, k: u32) -> f32 { return w_at(P.w + n * P.K + k); }"],
  };
}

const shader = family("linear", (options: ProductOptions & { readonly weight: Float }) =>
  productSpec(format(options.weight, options.fast, options.jobs), options),
);

/** Records products that share x as one dispatch, if it can; with a gate, what they are for as well. */
export function joinLinear(calls: readonly Call[], queue: Queue, target: Target, gate?: Gate): boolean {
  const products: Joinable[] = [];
  for (const call of calls) {
    const [x, weight, bias, residual, y] = call.operands;
    const [N = 0, K = 0] = weight!.shape;
    const product = { x: x!, y: y!, N, pieces: [weight!], numbers: { w: weight!.offset } };
    const chunk = weight!.dtype === "f32" ? 4 : 8;
    const fast = K % chunk === 0 && weight!.offset % chunk === 0 && weight!.dtype === calls[0]!.operands[1]!.dtype;
    if (bias || residual || !joinable(product, call.attributes[0]!, fast)) return false;
    products.push(product);
  }
  if (1 + 2 * products.length + (gate ? 1 : 0) > target.storageBuffers) return false;
  const { dtype, shape } = calls[0]!.operands[1]!;
  const weight = dtype as Float;
  recordJoined(queue, target, products, shape[1]!, {}, (options) => shader({ weight, ...options }), gate);
  return true;
}

export const linear: Kernel = {
  op: linearOp,
  record({ operands: [x, weight, bias, residual, y], attributes: [act = 0] }, queue, target) {
    const [N = 0, K = 0] = weight!.shape;
    const dtype = weight!.dtype as Float;
    const chunk = dtype === "f32" ? 4 : 8;
    const fast = K % chunk === 0 && weight!.offset % chunk === 0;
    const call = { x: x!, bias, residual, y: y!, N, K, act, fast, pieces: [weight!], numbers: { w: weight!.offset } };
    recordProduct(queue, target, call, (options) => shader({ weight: dtype, ...options }));
    return undefined;
  },
  join: (calls, queue, target) => joinLinear(calls, queue, target),
  axes(call) {
    const weight = call.operands[1]!;
    return productAxes(call, { x: 0, bias: 2, residual: 3, y: 4 }, along(weight.shape[0]!, { 1: [weight, 0] }));
  },
  shaders: (target) =>
    FLOAT_TYPES.flatMap((weight) =>
      [...productVariants(target, 3), ...joinedVariants(target, 1)].map((options) => shader({ weight, ...options })),
    ),
};
