// linear: products with f32, f16 and bf16 matrices. If the device supports them, large products with the latter two use
// blocks of f16 (tiles.ts): with bf16 matrices if the call allows bf16 products; with f16 matrices exactly, with x in two
// parts.

import { COMPUTE, linearOp } from "../../../ops/linear.js";
import type { CommandRecorder } from "../device/command-recorder.js";
import type { Kernel, Target } from "../kernel.js";
import type { Binding, Call, Operand } from "../schedule/call.js";
import { along } from "../schedule/split.js";
import { family, reader, reads, type Shader, writes } from "../shader.js";
import { FLOATS, fold } from "../wgsl.js";
import type { Format } from "./format.js";
import {
  byJob,
  FLOAT_TYPES,
  type Gate,
  type Halving,
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
import { HALVES, HALVES_IN_TWO, POWERS } from "./tiles.js";

export type Float = (typeof FLOAT_TYPES)[number];

/** Body of `part(raw, i)`, by dtype. */
export const PART: Readonly<Record<Float, string>> = {
  f32: "return bitcast<vec4<f32>>(raw);",
  bf16: `let words = select(raw.xy, raw.zw, i == 1u);
  return bitcast<vec4<f32>>(vec4<u32>(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u));`,
  f16: `let words = select(raw.xy, raw.zw, i == 1u);
  return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));`,
};

function format(dtype: Float, { fast, jobs = 1, half = false }: ProductOptions): Format {
  const chunk = dtype === "f32" ? 4 : 8;
  const names = Array.from({ length: jobs }, (_, job) => jobName("w", job));
  return {
    bindings: [
      ...names.map((name) => reads(name, fast ? "array<vec4<u32>>" : "array<u32>")),
      ...(half ? [reads("exponents", "array<i32>")] : []),
    ],
    exponents: half,
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
  productSpec(format(options.weight, options), options),
);

/** Records products that share x as one dispatch, if it can; with `gate`, the gated activation too. */
export function joinLinear(calls: readonly Call[], recorder: CommandRecorder, target: Target, gate?: Gate): boolean {
  const products: Joinable[] = [];
  for (const call of calls) {
    const [x, weight, bias, residual, y] = call.operands;
    const [N = 0, K = 0] = weight!.shape;
    const product = { x: x!, y: y!, N, bindings: [weight!], numbers: { w: weight!.offset } };
    const chunk = weight!.dtype === "f32" ? 4 : 8;
    const fast = K % chunk === 0 && weight!.offset % chunk === 0 && weight!.dtype === calls[0]!.operands[1]!.dtype;
    if (bias || residual || !joinable(product, call.attributes[0]!, fast)) return false;
    products.push(product);
  }
  if (1 + 2 * products.length + (gate ? 1 : 0) > target.storageBuffers) return false;
  const { dtype, shape } = calls[0]!.operands[1]!;
  const weight = dtype as Float;
  recordJoined(recorder, target, products, shape[1]!, {}, (options) => shader({ weight, ...options }), gate);
  return true;
}

type Narrow = "f16" | "bf16";

/**
 * For each row of a matrix, twice the exponent of its largest finite magnitude, plus one if the row holds an infinity or
 * NaN. Magnitudes are compared as integers.
 */
const exponentsShader = family("exponents", ({ weight }: { readonly weight: Narrow }) => ({
  bindings: [reads("w", "array<vec4<u32>>"), writes("out", "array<i32>")],
  params: ["N", "K", "w"],
  declarations: [
    FLOATS,
    POWERS,
    fold("largest", "u32", 64, (a, b) => `max(${a}, ${b})`),
    `const ENDLESS = vec4<u32>(${weight === "bf16" ? "0x7f80u" : "0x7c00u"});
fn finite(size: vec4<u32>) -> vec4<u32> { return select(size, vec4<u32>(), size >= ENDLESS); }
fn most_of(v: vec4<u32>) -> u32 { return max(max(v.x, v.y), max(v.z, v.w)); }`,
  ],
  body: `if (group >= P.N) { return; }
  let row = (P.w + group * P.K) / 8u;
  var most = vec4<u32>();
  var all = vec4<u32>();
  for (var i = lid; i < P.K / 8u; i += 64u) {
    let low = w[row + i] & vec4<u32>(0x7fffu);
    let high = (w[row + i] >> vec4<u32>(16u)) & vec4<u32>(0x7fffu);
    most = max(most, max(finite(low), finite(high)));
    all = max(all, max(low, high));
  }
  let bits = largest(most_of(most), lid);
  let endless = largest(most_of(all), lid) >= ENDLESS.x;
  let exponent = exponent_of(${weight === "bf16" ? "bits << 16u" : "bitcast<u32>(from_f16(bits))"});
  if (lid == 0u) { out[group] = exponent * 2 + select(0, 1, endless); }`,
}));

/** The exponents of weight[N,K], computed once and kept until the weight is written. */
function exponentsOf(recorder: CommandRecorder, weight: Operand): Binding {
  const [N = 0, K = 0] = weight.shape;
  const dtype = weight.dtype as Narrow;
  const size = N * 4;
  const block = recorder.derived(weight.block, `exponents ${dtype} ${weight.byte}:${N}:${K}`, size, (block) => {
    const bindings = [weight, { block, start: 0, size }];
    recorder.dispatch(exponentsShader({ weight: dtype }), bindings, { N, K, w: weight.offset }, N);
  });
  return { block, start: 0, size };
}

/** How products with a weight may use blocks of f16; undefined if they may not. */
function halvingOf(recorder: CommandRecorder, weight: Operand, compute: number): Halving | undefined {
  if (weight.dtype === "f32" || (weight.dtype === "bf16" && compute !== COMPUTE.bf16)) return undefined;
  return { parts: weight.dtype === "bf16" ? 1 : 2, exponents: () => exponentsOf(recorder, weight) };
}

/** Possible numbers of parts of x, by dtype of the weight. */
const PARTS: Readonly<Record<Float, readonly (1 | 2)[]>> = { f32: [], f16: [2], bf16: [1] };

function helpers(target: Target): Shader[] {
  if (!target.f16) return [];
  const exponents = (["f16", "bf16"] as const).map((weight) => exponentsShader({ weight }));
  return [HALVES, HALVES_IN_TWO, ...exponents];
}

export const linear: Kernel = {
  op: linearOp,
  record({ operands: [x, weight, bias, residual, y], attributes: [act = 0, compute = 0] }, recorder, target) {
    const [N = 0, K = 0] = weight!.shape;
    const dtype = weight!.dtype as Float;
    const chunk = dtype === "f32" ? 4 : 8;
    const fast = K % chunk === 0 && weight!.offset % chunk === 0;
    const half = halvingOf(recorder, weight!, compute);
    const numbers = { w: weight!.offset };
    const call = { x: x!, bias, residual, y: y!, N, K, act, fast, half, bindings: [weight!], numbers };
    recordProduct(recorder, target, call, (options) => shader({ weight: dtype, ...options }));
    return undefined;
  },
  join: (calls, recorder, target) => joinLinear(calls, recorder, target),
  axes(call) {
    const weight = call.operands[1]!;
    return productAxes(call, { x: 0, bias: 2, residual: 3, y: 4 }, along(weight.shape[0]!, { 1: [weight, 0] }));
  },
  shaders: (target) => [
    ...helpers(target),
    ...FLOAT_TYPES.flatMap((weight) =>
      [...productVariants(target, 4, PARTS[weight]), ...joinedVariants(target, 1)].map((options) =>
        shader({ weight, ...options }),
      ),
    ),
  ],
};
