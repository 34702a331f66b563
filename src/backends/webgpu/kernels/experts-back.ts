// Gradients of products with a matrix chosen per row (ops/experts-back.ts). dx = dy · W of the row's expert: a workgroup computes 64
// columns of one row, whatever the number of rows; an invocation has a column of its own. Stacks are cut as in experts.ts. The
// gradient of a stack: a workgroup computes 64 columns of a row of a matrix from all rows that had its expert.

import {
  expertLinearBackOp,
  expertOuterOp,
  fourBitExpertBackOp,
  llmInt8ExpertBackOp,
} from "../../../ops/experts-back.js";
import type { CommandRecorder } from "../device/command-recorder.js";
import { FAILURE } from "../device/errors.js";
import type { Kernel } from "../kernel.js";
import type { Binding, Call } from "../schedule/call.js";
import { along } from "../schedule/split.js";
import { bitsReader, family, reader, reads, type Shader, type ShaderSpec, writes } from "../shader.js";
import { FLOATS } from "../wgsl.js";
import type { BoundMatrix } from "./back.js";
import { CHOOSE, expertAxes, type Places, ROW } from "./experts.js";
import { ABSMAX, fill, INCOMPLETE, ROUND, TABLE } from "./four-bit.js";
import { FLOAT_TYPES } from "./product.js";
import { absmaxOf, absmaxShader, bindingsOf, type StackAbsmax, stackStatistics } from "./stack-absmax.js";

const COLUMNS = 64;

function spec({ bindings, params, declarations, prologue = "" }: BoundMatrix): ShaderSpec {
  return {
    bindings: [reads("dy", "array<f32>"), ...bindings, reads("experts", "array<i32>"), writes("dx")],
    params: [...["M", "N", "K", "tiles", "dy", "experts", "dx", "first:i32", "size:i32", "total:i32"], ...params],
    workgroup: COLUMNS,
    reports: true,
    declarations: ["var<private> expert: u32;", ...declarations, `var<workgroup> cells: array<f32, ${COLUMNS}>;`],
    body: `${CHOOSE}${prologue}
  let k = (group % P.tiles) * ${COLUMNS}u + lid;
  var sum = 0.0;
  for (var start = 0u; start < P.N; start += ${COLUMNS}u) {
    cells[lid] = 0.0;
    if (start + lid < P.N) { cells[lid] = dy[P.dy + mine * P.N + start + lid]; }
    workgroupBarrier();
    if (k < P.K) {
      for (var i = 0u; i < min(${COLUMNS}u, P.N - start); i++) { sum += cells[i] * one(start + i, k); }
    }
    workgroupBarrier();
  }
  if (k < P.K) { dx[P.dx + mine * P.K + k] = sum; }`,
  };
}

/** Records a product: `bindings` and `numbers` are those of the stack. */
function record(
  { operands, attributes }: Call,
  at: Places,
  shader: Shader,
  bindings: readonly Binding[],
  numbers: Readonly<Record<string, number>>,
  recorder: CommandRecorder,
): undefined {
  const [dy, stack] = operands;
  const [experts, dx] = [operands[at.experts]!, operands[at.y]!];
  const [size = 0, N = 0, K = 0] = stack!.shape;
  if (dx.count === 0) return;
  const M = experts.count;
  const tiles = Math.ceil(K / COLUMNS);
  const [first = 0, total = size] = attributes.slice(at.attributes);
  const places = { dy: dy!.offset, experts: experts.offset, dx: dx.offset };
  const all = { M, N, K, tiles, first, size, total, ...places, ...numbers };
  recorder.dispatch(shader, [dy!, ...bindings, experts, dx], all, tiles * M);
}

const DENSE: Places = { experts: 2, y: 3, stacks: [], attributes: 1 };
const INT8: Places = { experts: 3, y: 4, stacks: [2], attributes: 1 };
const FOUR_BIT: Places = { experts: 6, y: 7, stacks: [2, 3, 5], attributes: 4 };

const denseShader = family("expert_linear_back", ({ weight }: { weight: (typeof FLOAT_TYPES)[number] }) =>
  spec({
    bindings: [reads("w")],
    params: ["w"],
    declarations: [
      FLOATS,
      reader("w", weight),
      `fn one(n: u32, k: u32) -> f32 { return w_at(P.w + ${ROW} * P.K + k); }`,
    ],
  }),
);

export const expertLinearBack: Kernel = {
  op: expertLinearBackOp,
  record(call, recorder) {
    const weight = call.operands[1]!;
    const shader = denseShader({ weight: weight.dtype as (typeof FLOAT_TYPES)[number] });
    return record(call, DENSE, shader, [weight], { w: weight.offset }, recorder);
  },
  axes: (call) => expertAxes(call, DENSE),
  shaders: () => FLOAT_TYPES.map((weight) => denseShader({ weight })),
};

const int8Shader = family("llm_int8_expert_back", () =>
  spec({
    bindings: [reads("codes"), reads("scb", "array<f32>")],
    params: ["codes", "scb"],
    declarations: [
      reader("codes", "i8"),
      `fn one(n: u32, k: u32) -> f32 {
  return codes_at(P.codes + ${ROW} * P.K + k) * (scb[P.scb + ${ROW}] / 127.0);
}`,
    ],
  }),
);

export const llmInt8ExpertBack: Kernel = {
  op: llmInt8ExpertBackOp,
  record(call, recorder) {
    const [, codes, scb] = call.operands;
    return record(call, INT8, int8Shader({}), [codes!, scb!], { codes: codes!.offset, scb: scb!.offset }, recorder);
  },
  axes: (call) => expertAxes(call, INT8),
  shaders: () => [int8Shader({})],
};

const fourBitShader = family("four_bit_expert_back", ({ absmax }: { absmax: StackAbsmax }) => {
  const { bindings, params, declarations } = absmaxOf(absmax);
  return spec({
    bindings: [reads("codes"), ...bindings],
    params: ["codes", ...params],
    declarations: [
      TABLE,
      ...declarations,
      bitsReader("codes", "u4"),
      ROUND,
      `fn one(n: u32, k: u32) -> f32 {
  return round_to(table[codes_bits(P.codes + ${ROW} * P.K + k)] * absmax_of((n * P.K + k) / P.blocksize));
}`,
    ],
    prologue: fill(absmax === "decoded" ? "i8" : absmax),
  });
});

export const fourBitExpertBack: Kernel = {
  op: fourBitExpertBackOp,
  record(call, recorder, target) {
    const [kind = 0, blocksize = 64, rounding = 0] = call.attributes;
    const made = stackStatistics(call.operands, [kind, blocksize, rounding], 0, recorder, target);
    if (!made) return INCOMPLETE;
    const shader = fourBitShader({ absmax: made.absmax });
    return record(call, FOUR_BIT, shader, [call.operands[1]!, ...made.statistics], made.numbers, recorder);
  },
  axes: (call) => expertAxes(call, FOUR_BIT),
  shaders: ({ storageBuffers }) => [
    ...(["u8", "i8"] as const).map((absmax) => absmaxShader({ step: "absmax", absmax })),
    ...[...ABSMAX, "decoded" as const]
      .filter((absmax) => bindingsOf(absmax) <= storageBuffers)
      .map((absmax) => fourBitShader({ absmax })),
  ],
};

const outerShader = family("expert_outer", () => ({
  bindings: [reads("dy", "array<f32>"), reads("x", "array<f32>"), reads("experts", "array<i32>"), writes("dw")],
  params: ["M", "N", "K", "share", "tiles", "groups", "dy", "x", "experts", "dw", "first:i32", "total:i32", "adds"],
  workgroup: COLUMNS,
  reports: true,
  body: `if (group >= P.groups) { return; }
  let row = group / P.tiles;
  let own = P.first + i32(row / P.N);
  let n = row % P.N;
  let k = (group % P.tiles) * ${COLUMNS}u + lid;
  let at = P.dw + row * P.K + k;
  var sum = 0.0;
  if (k < P.K && P.adds != 0u) { sum = dw[at]; }
  for (var m = 0u; m < P.M; m++) {
    let chosen = experts[P.experts + m];
    if (group == 0u && lid == 0u && (chosen < 0 || chosen >= P.total)) {
      report(${FAILURE.expert}u, bitcast<u32>(chosen), bitcast<u32>(P.total), 0u);
    }
    if (chosen == own && k < P.K) { sum += dy[P.dy + m * P.N + n] * x[P.x + (m / P.share) * P.K + k]; }
  }
  if (k < P.K) { dw[at] = sum; }`,
}));

export const expertOuter: Kernel = {
  op: expertOuterOp,
  record({ operands: [dy, x, experts, dw], attributes: [total = 0, first = 0, adds = 0] }, recorder) {
    const [size = 0, N = 0, K = 0] = dw!.shape;
    const tiles = Math.ceil(K / COLUMNS);
    const groups = tiles * size * N;
    if (groups === 0) return undefined;
    const share = x!.shape[1] === 1 ? experts!.shape[1]! : 1;
    const places = { dy: dy!.offset, x: x!.offset, experts: experts!.offset, dw: dw!.offset };
    const numbers = { M: experts!.count, N, K, share, tiles, groups, first, total, adds, ...places };
    recorder.dispatch(outerShader({}), [dy!, x!, experts!, dw!], numbers, groups);
    return undefined;
  },
  axes: ({ operands: [dy, x, experts, dw], attributes: [total = 0, first = 0, adds = 0] }) => [
    { ...along(dw!.shape[0]!, { 3: [dw, 0] }), attributes: (at) => [total, first + at, adds] },
    {
      ...along(dy!.shape[0]!, { 0: [dy, 0], 1: [x, 0], 2: [experts, 0] }),
      attributes: (at) => [total, first, at > 0 ? 1 : adds],
    },
  ],
  shaders: () => [outerShader({})],
};
