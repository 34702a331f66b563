// fill, sum_rows, embedding_back, activation_back, clamped_gated_back and the gradients of the norms.

import type { DType } from "../../../core/dtype.js";
import { ACT, activationBackOp } from "../../../ops/activation.js";
import { embeddingBackOp } from "../../../ops/embedding.js";
import { fillOp } from "../../../ops/fill.js";
import { clampedGatedBackOp } from "../../../ops/gated.js";
import { layerNormBackOp } from "../../../ops/layer-norm.js";
import { rmsNormBackOp } from "../../../ops/rms-norm.js";
import { sumRowsOp } from "../../../ops/sum-rows.js";
import type { CommandRecorder } from "../device/command-recorder.js";
import { FAILURE } from "../device/errors.js";
import { groupsFor, type Kernel } from "../kernel.js";
import { asFlat, asRows, type Operand } from "../schedule/call.js";
import { along, firstDim } from "../schedule/split.js";
import { family, reader, reads, WORKGROUP, writes } from "../shader.js";
import { ACTIVATIONS, FLOATS, fold, SLOPES } from "../wgsl.js";
import { DIMS, fourDims, locate, strideParams } from "./elementwise.js";

const GUARD = "if (gid >= P.count) { return; }";

const fillShader = family("fill", () => ({
  bindings: [writes("y")],
  params: ["count", "value:f32", ...DIMS, ...strideParams("y")],
  declarations: [locate("y")],
  body: `${GUARD}
  y[y_index(gid)] = P.value;`,
}));

export const fill: Kernel = {
  op: fillOp,
  record({ operands: [y], attributes: [value = 0] }, recorder) {
    const dims = fourDims({ y: y! });
    if (!dims) return "more than four dims that do not fold";
    recorder.dispatch(fillShader({}), [y!], { ...dims, count: y!.count, value }, groupsFor(y!.count, WORKGROUP));
    return undefined;
  },
  axes: ({ operands: [y] }) => y!.shape.map((size, dim) => along(size, { 0: [y, dim] })),
  shaders: () => [fillShader({})],
};

/** Rows per partial sum. */
const BLOCK = 64;

const sumShader = family("sum_rows", () => ({
  bindings: [reads("x", "array<f32>"), writes("y")],
  params: ["count", "rows", "stride", "x", "y", "adds"],
  body: `${GUARD}
  var total = 0.0;
  if (P.adds != 0u) { total = y[P.y + gid]; }
  for (var first = 0u; first < P.rows; first += ${BLOCK}u) {
    var sum = 0.0;
    for (var m = first; m < min(first + ${BLOCK}u, P.rows); m++) { sum += x[P.x + m * P.stride + gid]; }
    total += sum;
  }
  y[P.y + gid] = total;`,
}));

export const sumRows: Kernel = {
  op: sumRowsOp,
  record({ operands: [x, y], attributes: [adds = 0] }, recorder) {
    const from = asRows(x!);
    const { count } = y!;
    const numbers = { count, rows: from.shape[0]!, stride: from.strides[0]!, x: x!.offset, y: y!.offset, adds };
    recorder.dispatch(sumShader({}), [x!, y!], numbers, groupsFor(count, WORKGROUP));
    return undefined;
  },
  axes({ operands: [x, y], attributes: [adds = 0] }) {
    const rows = asRows(x!);
    const across = along(rows.shape[0]!, { 0: [rows, 0] });
    return [
      { ...across, attributes: (at: number) => [at > 0 ? 1 : adds] },
      { ...along(y!.count, { 0: [rows, 1], 1: [y, 0] }), attributes: () => [adds] },
    ];
  },
  shaders: () => [sumShader({})],
};

// One workgroup per row of the table; it searches the ids for its own. Most rows have none.
const tableShader = family("embedding_back", () => ({
  bindings: [reads("ids", "array<i32>"), reads("dy", "array<f32>"), writes("dw")],
  params: ["rows", "tokens", "columns", "vocabulary:i32", "first", "ids", "dy", "dw", "adds"],
  reports: true,
  declarations: ["var<workgroup> met: atomic<u32>;"],
  body: `if (group >= P.rows) { return; }
  let own = i32(P.first + group);
  for (var i = lid; i < P.tokens; i += ${WORKGROUP}u) {
    let id = ids[P.ids + i];
    if (id == own) { atomicStore(&met, 1u); }
    if (group == 0u && (id < 0 || id >= P.vocabulary)) {
      report(${FAILURE.tokenId}u, bitcast<u32>(id), bitcast<u32>(P.vocabulary), 0u);
    }
  }
  workgroupBarrier();
  let some = atomicLoad(&met) != 0u;
  for (var k = lid; k < P.columns; k += ${WORKGROUP}u) {
    let at = P.dw + group * P.columns + k;
    var sum = 0.0;
    if (P.adds != 0u) { sum = dw[at]; }
    if (some) {
      for (var i = 0u; i < P.tokens; i++) {
        if (ids[P.ids + i] == own) { sum += dy[P.dy + i * P.columns + k]; }
      }
    }
    dw[at] = sum;
  }`,
}));

export const embeddingBack: Kernel = {
  op: embeddingBackOp,
  record({ operands: [ids, dy, dw], attributes: [vocabulary = 0, first = 0, adds = 0] }, recorder) {
    const [rows = 0, columns = 0] = dw!.shape;
    const places = { ids: ids!.offset, dy: dy!.offset, dw: dw!.offset };
    const numbers = { rows, tokens: ids!.count, columns, vocabulary, first, ...places, adds };
    recorder.dispatch(tableShader({}), [ids!, dy!, dw!], numbers, rows);
    return undefined;
  },
  axes({ operands: [ids, dy, dw], attributes: [vocabulary = 0, first = 0, adds = 0] }) {
    const rows = along(dw!.shape[0]!, { 2: [dw, 0] });
    const tokens = along(ids!.count, { 0: [asFlat(ids!), 0], 1: [asRows(dy!), 0] });
    return [
      { ...rows, attributes: (at: number) => [vocabulary, first + at, adds] },
      { ...tokens, attributes: (at: number) => [vocabulary, first, at > 0 ? 1 : adds] },
    ];
  },
  shaders: () => [tableShader({})],
};

const activationShader = family("activation_back", () => ({
  bindings: [reads("x", "array<f32>"), reads("dy", "array<f32>"), writes("dx")],
  params: ["count", "x", "dy", "dx", "act:i32"],
  declarations: [ACTIVATIONS, SLOPES],
  body: `${GUARD}
  dx[P.dx + gid] = slope(P.act, x[P.x + gid]) * dy[P.dy + gid];`,
}));

export const activationBack: Kernel = {
  op: activationBackOp,
  record({ operands: [x, dy, dx], attributes: [act = 0] }, recorder) {
    const { count } = dx!;
    const numbers = { count, x: x!.offset, dy: dy!.offset, dx: dx!.offset, act };
    recorder.dispatch(activationShader({}), [x!, dy!, dx!], numbers, groupsFor(count, WORKGROUP));
    return undefined;
  },
  axes: ({ operands: [x, dy, dx] }) => firstDim({ 0: asFlat(x!), 1: asFlat(dy!), 2: asFlat(dx!) }),
  shaders: () => [activationShader({})],
};

const clampedShader = family("clamped_gated_back", () => ({
  bindings: [
    ...["gate", "up", "dy"].map((name) => reads(name, "array<f32>")),
    ...["dgate", "dup"].map((name) => writes(name)),
  ],
  params: ["count", "limit:f32", ...DIMS, ...strideParams("g"), ...strideParams("u"), "dy", "dgate", "dup"],
  declarations: [ACTIVATIONS, SLOPES, locate("g"), locate("u")],
  body: `${GUARD}
  let g = gate[g_index(gid)];
  let u = up[u_index(gid)];
  let open = min(g, P.limit);
  let d = dy[P.dy + gid];
  // At a limit itself the gradient passes.
  let by_gate = slope(${ACT.quick_gelu}, open) * (clamp(u, -P.limit, P.limit) + 1.0) * d;
  dgate[P.dgate + gid] = select(0.0, by_gate, g <= P.limit);
  dup[P.dup + gid] = select(0.0, activate(${ACT.quick_gelu}, open) * d, abs(u) <= P.limit);`,
}));

export const clampedGatedBack: Kernel = {
  op: clampedGatedBackOp,
  record({ operands: [gate, up, dy, dgate, dup], attributes: [limit = 0] }, recorder) {
    const dims = fourDims({ g: gate!, u: up! });
    if (!dims) return "more than four dims that do not fold";
    const { count } = dy!;
    const numbers = { ...dims, count, limit, dy: dy!.offset, dgate: dgate!.offset, dup: dup!.offset };
    recorder.dispatch(clampedShader({}), [gate!, up!, dy!, dgate!, dup!], numbers, groupsFor(count, WORKGROUP));
    return undefined;
  },
  axes: ({ operands: [gate, up, dy, dgate, dup] }) => firstDim({ 0: gate, 1: up, 2: dy, 3: dgate, 4: dup }),
  shaders: () => [clampedShader({})],
};

type Weight = "f32" | "f16" | "bf16" | "none";
const WEIGHTS: readonly Weight[] = ["f32", "f16", "bf16", "none"];
/** Invocations per row. */
const WIDTH = 128;
const EACH = `for (var k = lid; k < P.columns; k += ${WIDTH}u)`;

/** With g = dy (w + offset): `r (g - shift - (x - mean) r² mean(g (x - mean)))`; mean and shift are 0 for rms_norm. */
const normShader = family("norm_back", ({ weight, centered }: { weight: Weight; centered: boolean }) => ({
  bindings: [
    reads("x", "array<f32>"),
    ...(weight === "none" ? [] : [reads("w")]),
    reads("dy", "array<f32>"),
    writes("dx"),
  ],
  params: ["M", "columns", "x", "w", "dy", "dx", "eps:f32", "offset:f32"],
  workgroup: WIDTH,
  declarations: [
    FLOATS,
    weight === "none" ? "" : reader("w", weight as DType),
    fold("sum", "f32", WIDTH, (a, b) => `${a} + ${b}`),
    `fn g(row: u32, k: u32) -> f32 {
  return dy[P.dy + row * P.columns + k]${weight === "none" ? "" : " * (w_at(P.w + k) + P.offset)"};
}`,
  ],
  body: `if (group >= P.M) { return; }
  let at = P.x + group * P.columns;
  let count = f32(P.columns);
  var mean = 0.0;
  var shift = 0.0;
  ${
    centered
      ? `var values = 0.0;
  var gradients = 0.0;
  ${EACH} { values += x[at + k]; gradients += g(group, k); }
  mean = sum(values, lid) / count;
  shift = sum(gradients, lid) / count;`
      : ""
  }
  var squares = 0.0;
  var products = 0.0;
  ${EACH} {
    let d = x[at + k] - mean;
    squares += d * d;
    products += g(group, k) * d;
  }
  let r = 1.0 / sqrt(sum(squares, lid) / count + P.eps);
  let along = sum(products, lid) / count * r * r;
  ${EACH} { dx[P.dx + group * P.columns + k] = (g(group, k) - shift - (x[at + k] - mean) * along) * r; }`,
}));

function recordNorm(
  recorder: CommandRecorder,
  operands: readonly (Operand | undefined)[],
  eps: number,
  offset: number,
  centered: boolean,
): void {
  const [x, weight, dy, dx] = operands;
  if (dx!.count === 0) return;
  const { shape } = asRows(x!);
  const [M = 0, columns = 0] = shape;
  const shader = normShader({ weight: (weight?.dtype ?? "none") as Weight, centered });
  const places = { x: x!.offset, w: weight?.offset ?? 0, dy: dy!.offset, dx: dx!.offset };
  const bindings = [x!, weight, dy!, dx!].filter((operand) => operand !== undefined);
  recorder.dispatch(shader, bindings, { M, columns, ...places, eps, offset }, M);
}

// Never cut along a row: its sums need all of it.
const normAxes: Kernel["axes"] = ({ operands: [x, , dy, dx] }) => [
  along(asRows(x!).shape[0]!, { 0: [asRows(x!), 0], 2: [asRows(dy!), 0], 3: [asRows(dx!), 0] }),
];

export const rmsNormBack: Kernel = {
  op: rmsNormBackOp,
  record({ operands, attributes: [eps = 0, offset = 0] }, recorder) {
    recordNorm(recorder, operands, eps, offset, false);
    return undefined;
  },
  axes: normAxes,
  shaders: () => WEIGHTS.filter((weight) => weight !== "none").map((weight) => normShader({ weight, centered: false })),
};

export const layerNormBack: Kernel = {
  op: layerNormBackOp,
  record({ operands, attributes: [eps = 0] }, recorder) {
    recordNorm(recorder, operands, eps, 0, true);
    return undefined;
  },
  axes: normAxes,
  shaders: () => WEIGHTS.map((weight) => normShader({ weight, centered: true })),
};
