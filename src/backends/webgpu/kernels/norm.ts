// rms_norm and layer_norm: one workgroup per row, which can also quantize the row for the products after it (int8-rows.ts).

import type { DType } from "../../../core/dtype.js";
import { layerNormOp } from "../../../ops/layer-norm.js";
import { rmsNormOp } from "../../../ops/rms-norm.js";
import type { CommandRecorder } from "../device/command-recorder.js";
import type { Kernel } from "../kernel.js";
import { asRows, type Call, leading } from "../schedule/call.js";
import { along } from "../schedule/split.js";
import { family, reader, reads, type ShaderSpec, writes } from "../shader.js";
import { FLOATS, fold } from "../wgsl.js";
import { quantizing, type RowsToo } from "./int8-rows.js";
import { JOBS } from "./product.js";

const FLOAT = ["f32", "f16", "bf16"] as const satisfies readonly DType[];
const MAYBE = [...FLOAT, "none"] as const;
type Maybe = (typeof MAYBE)[number];

/** Invocations per row. */
const WIDTH = 128;
const SUM = fold("sum", "f32", WIDTH, (a, b) => `${a} + ${b}`);
const EACH = `for (var k = lid; k < P.columns; k += ${WIDTH}u)`;

/** Number of arrays for marks if the rows of y are quantized as well (see quantizing), else "none". */
type Seen = number | "none";
const SEEN: readonly Seen[] = ["none", ...Array.from({ length: JOBS + 1 }, (_, seen) => seen)];

/** The shader of a norm, extended to quantize the row that it has written. */
function withRows(norm: ShaderSpec, seen: Seen): ShaderSpec {
  if (seen === "none") return norm;
  const rows = quantizing(WIDTH, seen, (k) => `y[out + ${k}]`);
  return {
    ...norm,
    bindings: [...norm.bindings, ...rows.bindings],
    params: [...norm.params, ...rows.params],
    declarations: [...norm.declarations!, ...rows.declarations],
    body: `${norm.body}
  storageBarrier();
  {
  ${rows.body}
  }`,
  };
}

/** 1 / sqrt, NaN if a sum of squares has overflowed: a row of zeros would look like a result. */
const INVERSE_ROOT = `
fn inverse_root(square: f32) -> f32 {
  let size = bitcast<u32>(square) & 0x7fffffffu;
  if (size >= 0x7f800000u) { return bitcast<f32>(size | 1u); }
  return 1.0 / sqrt(square);
}`;

const rmsShader = family("rms_norm", ({ weight, seen }: { weight: DType; seen: Seen }) =>
  withRows(
    {
      bindings: [reads("x", "array<f32>"), reads("w"), writes("y")],
      params: ["M", "columns", "x", "w", "y", "eps:f32", "offset:f32"],
      workgroup: WIDTH,
      declarations: [FLOATS, reader("w", weight), SUM, INVERSE_ROOT],
      body: `if (group >= P.M) { return; }
  let at = P.x + group * P.columns;
  let out = P.y + group * P.columns;
  var squares = 0.0;
  ${EACH} { squares += x[at + k] * x[at + k]; }
  let inverse = inverse_root(sum(squares, lid) / f32(P.columns) + P.eps);
  ${EACH} { y[out + k] = x[at + k] * inverse * (w_at(P.w + k) + P.offset); }`,
    },
    seen,
  ),
);

export function recordRmsNorm(
  { operands: [x, weight, y], attributes }: Call,
  recorder: CommandRecorder,
  rows?: RowsToo,
): void {
  if (y!.count === 0) return;
  const [eps = 0, offset = 0] = attributes;
  const columns = x!.shape.at(-1)!;
  const M = leading(x!.shape);
  const numbers = { M, columns, x: x!.offset, w: weight!.offset, y: y!.offset, eps, offset, ...rows?.numbers };
  const shader = rmsShader({ weight: weight!.dtype, seen: rows?.seen ?? "none" });
  recorder.dispatch(shader, [x!, weight!, y!, ...(rows?.bindings ?? [])], numbers, M);
}

export const rmsNorm: Kernel = {
  op: rmsNormOp,
  record(call, recorder) {
    recordRmsNorm(call, recorder);
    return undefined;
  },
  axes: ({ operands: [x, , y] }) => [along(leading(x!.shape), { 0: [asRows(x!), 0], 2: [asRows(y!), 0] })],
  shaders: () => FLOAT.flatMap((weight) => SEEN.map((seen) => rmsShader({ weight, seen }))),
};

const layerShader = family("layer_norm", ({ weight, bias, seen }: { weight: Maybe; bias: Maybe; seen: Seen }) =>
  withRows(
    {
      bindings: [
        reads("x", "array<f32>"),
        ...(weight === "none" ? [] : [reads("w")]),
        ...(bias === "none" ? [] : [reads("b")]),
        writes("y"),
      ],
      params: ["M", "columns", "x", "w", "b", "y", "eps:f32"],
      workgroup: WIDTH,
      declarations: [
        FLOATS,
        weight === "none" ? "" : reader("w", weight),
        bias === "none" ? "" : reader("b", bias),
        SUM,
        INVERSE_ROOT,
      ],
      body: `if (group >= P.M) { return; }
  let at = P.x + group * P.columns;
  let out = P.y + group * P.columns;
  var total = 0.0;
  ${EACH} { total += x[at + k]; }
  let mean = sum(total, lid) / f32(P.columns);
  var squares = 0.0;
  ${EACH} { let d = x[at + k] - mean; squares += d * d; }
  let inverse = inverse_root(sum(squares, lid) / f32(P.columns) + P.eps);
  ${EACH} {
    y[out + k] = (x[at + k] - mean) * inverse${weight === "none" ? "" : " * w_at(P.w + k)"}${bias === "none" ? "" : " + b_at(P.b + k)"};
  }`,
    },
    seen,
  ),
);

export function recordLayerNorm(
  { operands, attributes: [eps = 0] }: Call,
  recorder: CommandRecorder,
  rows?: RowsToo,
): void {
  const [x, weight, bias, y] = operands;
  if (y!.count === 0) return;
  const columns = x!.shape.at(-1)!;
  const M = leading(x!.shape);
  const shader = layerShader({
    weight: (weight?.dtype ?? "none") as Maybe,
    bias: (bias?.dtype ?? "none") as Maybe,
    seen: rows?.seen ?? "none",
  });
  const bindings = [x!, weight, bias, y!].filter((operand) => operand !== undefined);
  const offsets = { x: x!.offset, w: weight?.offset ?? 0, b: bias?.offset ?? 0, y: y!.offset };
  const numbers = { M, columns, ...offsets, eps, ...rows?.numbers };
  recorder.dispatch(shader, [...bindings, ...(rows?.bindings ?? [])], numbers, M);
}

export const layerNorm: Kernel = {
  op: layerNormOp,
  record(call, recorder) {
    recordLayerNorm(call, recorder);
    return undefined;
  },
  axes: ({ operands: [x, , , y] }) => [along(leading(x!.shape), { 0: [asRows(x!), 0], 3: [asRows(y!), 0] })],
  shaders: () =>
    MAYBE.flatMap((weight) => MAYBE.flatMap((bias) => SEEN.map((seen) => layerShader({ weight, bias, seen })))),
};
