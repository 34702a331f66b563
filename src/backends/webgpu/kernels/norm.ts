// rms_norm and layer_norm: one workgroup per row.

import type { DType } from "../../../core/dtype.js";
import { layerNormOp } from "../../../ops/layer-norm.js";
import { rmsNormOp } from "../../../ops/rms-norm.js";
import { asRows, leading } from "../call.js";
import type { Kernel } from "../kernel.js";
import { family, reader, reads, writes } from "../shader.js";
import { firstDim } from "../split.js";
import { FLOATS, fold } from "../wgsl.js";

const FLOAT = ["f32", "f16", "bf16"] as const satisfies readonly DType[];
const MAYBE = [...FLOAT, "none"] as const;
type Maybe = (typeof MAYBE)[number];

/** Invocations per row. */
const WIDTH = 128;
const SUM = fold("sum", "f32", WIDTH, (a, b) => `${a} + ${b}`);
const EACH = `for (var k = lid; k < P.columns; k += ${WIDTH}u)`;

const rmsShader = family("rms_norm", ({ weight }: { weight: DType }) => ({
  bindings: [reads("x", "array<f32>"), reads("w"), writes("y")],
  params: ["rows", "columns", "x", "w", "y", "eps:f32", "offset:f32"],
  workgroup: WIDTH,
  declarations: [FLOATS, reader("w", weight), SUM],
  body: `if (group >= P.rows) { return; }
  let at = P.x + group * P.columns;
  let out = P.y + group * P.columns;
  var squares = 0.0;
  ${EACH} { squares += x[at + k] * x[at + k]; }
  let inverse = 1.0 / sqrt(sum(squares, lid) / f32(P.columns) + P.eps);
  ${EACH} { y[out + k] = x[at + k] * inverse * (w_at(P.w + k) + P.offset); }`,
}));

export const rmsNorm: Kernel = {
  op: rmsNormOp,
  record({ operands: [x, weight, y], attributes: [eps = 0, offset = 0] }, queue) {
    const columns = x!.shape.at(-1)!;
    const rows = leading(x!.shape);
    const numbers = { rows, columns, x: x!.offset, w: weight!.offset, y: y!.offset, eps, offset };
    if (y!.count > 0) queue.dispatch(rmsShader({ weight: weight!.dtype }), [x!, weight!, y!], numbers, rows);
    return undefined;
  },
  axes: ({ operands: [x, , y] }) => firstDim({ 0: asRows(x!), 2: asRows(y!) }),
  shaders: () => FLOAT.map((weight) => rmsShader({ weight })),
};

const layerShader = family("layer_norm", ({ weight, bias }: { weight: Maybe; bias: Maybe }) => ({
  bindings: [
    reads("x", "array<f32>"),
    ...(weight === "none" ? [] : [reads("w")]),
    ...(bias === "none" ? [] : [reads("b")]),
    writes("y"),
  ],
  params: ["rows", "columns", "x", "w", "b", "y", "eps:f32"],
  workgroup: WIDTH,
  declarations: [FLOATS, weight === "none" ? "" : reader("w", weight), bias === "none" ? "" : reader("b", bias), SUM],
  body: `if (group >= P.rows) { return; }
  let at = P.x + group * P.columns;
  let out = P.y + group * P.columns;
  var total = 0.0;
  ${EACH} { total += x[at + k]; }
  let mean = sum(total, lid) / f32(P.columns);
  var squares = 0.0;
  ${EACH} { let d = x[at + k] - mean; squares += d * d; }
  let inverse = 1.0 / sqrt(sum(squares, lid) / f32(P.columns) + P.eps);
  ${EACH} {
    y[out + k] = (x[at + k] - mean) * inverse${weight === "none" ? "" : " * w_at(P.w + k)"}${bias === "none" ? "" : " + b_at(P.b + k)"};
  }`,
}));

export const layerNorm: Kernel = {
  op: layerNormOp,
  record({ operands: [x, weight, bias, y], attributes: [eps = 0] }, queue) {
    if (y!.count === 0) return undefined;
    const columns = x!.shape.at(-1)!;
    const rows = leading(x!.shape);
    const shader = layerShader({ weight: (weight?.dtype ?? "none") as Maybe, bias: (bias?.dtype ?? "none") as Maybe });
    const pieces = [x, weight, bias, y].filter((operand) => operand !== undefined);
    const offsets = { x: x!.offset, w: weight?.offset ?? 0, b: bias?.offset ?? 0, y: y!.offset };
    queue.dispatch(shader, pieces, { rows, columns, ...offsets, eps }, rows);
    return undefined;
  },
  axes: ({ operands: [x, , , y] }) => firstDim({ 0: asRows(x!), 3: asRows(y!) }),
  shaders: () => MAYBE.flatMap((weight) => MAYBE.map((bias) => layerShader({ weight, bias }))),
};
