// linear_back, llm_int8_back and four_bit_back: dx = dy · W. A workgroup computes 16 rows of 64 columns, and decodes each
// element of W once for them. Matrices above the limit of a binding are cut along their outputs, and the parts are added.

import { fourBitBackOp } from "../../../ops/four-bit.js";
import { linearBackOp } from "../../../ops/linear.js";
import { llmInt8BackOp } from "../../../ops/llm-int8.js";
import type { CommandRecorder } from "../device/command-recorder.js";
import type { Axis, Kernel } from "../kernel.js";
import { asRows, type Binding, type Call } from "../schedule/call.js";
import { along } from "../schedule/split.js";
import {
  type BindingSpec,
  bitsReader,
  family,
  reader,
  reads,
  type Shader,
  type ShaderSpec,
  writes,
} from "../shader.js";
import { FLOATS, range } from "../wgsl.js";
import { ABSMAX, type Absmax, codeRows, fill, INCOMPLETE, parts, ROUND, statistics, TABLE } from "./four-bit.js";
import { FLOAT_TYPES } from "./product.js";

const COLUMNS = 64;
const ROWS = 16;
const QUADS = range(ROWS / 4);

/** How a matrix, or that of a workgroup's expert, is bound and read; `one(n, k)` gives an element. */
export interface BoundMatrix {
  readonly bindings: readonly BindingSpec[];
  readonly params: readonly string[];
  readonly declarations: readonly string[];
  readonly prologue?: string;
}

/** Index of this invocation's element in row `m` of the workgroup's rows of dx. */
const place = (m: number): string => `P.dx + (first + ${m}u) * P.width + k`;

function spec({ bindings, params, declarations, prologue = "" }: BoundMatrix): ShaderSpec {
  return {
    bindings: [reads("dy", "array<f32>"), ...bindings, writes("dx")],
    params: ["M", "N", "K", "tiles", "dy", "stride", "dx", "width", "adds", ...params],
    workgroup: COLUMNS,
    declarations: [
      ...declarations,
      `var<workgroup> cells: array<vec4<f32>, ${ROWS * QUADS.length}>;
fn dy_at(m: u32, n: u32) -> f32 {
  if (m >= P.M || n >= P.N) { return 0.0; }
  return dy[P.dy + m * P.stride + n];
}`,
    ],
    body: `${prologue}
  let k = (group % P.tiles) * ${COLUMNS}u + lid;
  let first = (group / P.tiles) * ${ROWS}u;
  ${QUADS.map((q) => `var sum${q} = vec4<f32>();`).join(" ")}
  for (var n = 0u; n < P.N; n += ${ROWS}u) {
    let row = first + (lid / ${ROWS}u) * 4u;
    let at = n + lid % ${ROWS}u;
    cells[lid] = vec4<f32>(dy_at(row, at), dy_at(row + 1u, at), dy_at(row + 2u, at), dy_at(row + 3u, at));
    workgroupBarrier();
    if (k < P.K) {
      for (var i = 0u; i < min(${ROWS}u, P.N - n); i++) {
        let w = one(n + i, k);
        ${QUADS.map((q) => `sum${q} += cells[${q * ROWS}u + i] * w;`).join(" ")}
      }
    }
    workgroupBarrier();
  }
  if (k >= P.K) { return; }
  ${range(ROWS)
    .map((m) => {
      const sum = `sum${Math.floor(m / 4)}[${m % 4}]`;
      return `if (first + ${m}u < P.M) { dx[${place(m)}] = select(0.0, dx[${place(m)}], P.adds != 0u) + ${sum}; }`;
    })
    .join("\n  ")}`,
  };
}

/** Records a product; if `adds` is not 0, dx already holds the sums over earlier outputs. */
function record(
  recorder: CommandRecorder,
  shader: Shader,
  { operands }: Call,
  dxAt: number,
  bindings: readonly Binding[],
  numbers: Readonly<Record<string, number>>,
  adds: number,
): undefined {
  const dy = asRows(operands[0]!);
  const dx = asRows(operands[dxAt]!);
  const [M = 0, N = 0] = dy.shape;
  const K = dx.shape[1]!;
  if (M === 0 || K === 0) return;
  const tiles = Math.ceil(K / COLUMNS);
  const places = { dy: dy.offset, stride: dy.strides[0]!, dx: dx.offset, width: dx.strides[0]!, adds };
  const all = [dy, ...bindings, dx];
  recorder.dispatch(shader, all, { M, N, K, tiles, ...places, ...numbers }, tiles * Math.ceil(M / ROWS));
}

/** Axes: outputs, along which `outputs` cuts the matrix and `attributes` gives each part's; and rows of dy and dx. */
function axes(
  operands: Call["operands"],
  dxAt: number,
  outputs: Axis,
  attributes: (at: number) => readonly number[],
): Axis[] {
  const dy = asRows(operands[0]!);
  const dx = asRows(operands[dxAt]!);
  const cut: Axis = { ...outputs, parts: { ...outputs.parts, 0: { operand: dy, dim: 1 } }, attributes };
  return [cut, along(dy.shape[0]!, { 0: [dy, 0], [dxAt]: [dx, 0] })];
}

const linearShader = family("linear_back", ({ weight }: { weight: (typeof FLOAT_TYPES)[number] }) =>
  spec({
    bindings: [reads("w")],
    params: ["w"],
    declarations: [FLOATS, reader("w", weight), "fn one(n: u32, k: u32) -> f32 { return w_at(P.w + n * P.K + k); }"],
  }),
);

export const linearBack: Kernel = {
  op: linearBackOp,
  record(call, recorder) {
    const weight = call.operands[1]!;
    const shader = linearShader({ weight: weight.dtype as (typeof FLOAT_TYPES)[number] });
    return record(recorder, shader, call, 2, [weight], { w: weight.offset }, call.attributes[1] ?? 0);
  },
  axes({ operands, attributes: [compute = 0, adds = 0] }) {
    const weight = operands[1]!;
    return axes(operands, 2, along(weight.shape[0]!, { 1: [weight, 0] }), (at) => [compute, at > 0 ? 1 : adds]);
  },
  shaders: () => FLOAT_TYPES.map((weight) => linearShader({ weight })),
};

const int8Shader = family("llm_int8_back", () =>
  spec({
    bindings: [reads("codes"), reads("scb", "array<f32>")],
    params: ["codes", "scb"],
    declarations: [
      reader("codes", "i8"),
      "fn one(n: u32, k: u32) -> f32 { return codes_at(P.codes + n * P.K + k) * (scb[P.scb + n] / 127.0); }",
    ],
  }),
);

export const llmInt8Back: Kernel = {
  op: llmInt8BackOp,
  record(call, recorder) {
    const [, codes, scb] = call.operands;
    const numbers = { codes: codes!.offset, scb: scb!.offset };
    return record(recorder, int8Shader({}), call, 3, [codes!, scb!], numbers, call.attributes[1] ?? 0);
  },
  axes({ operands, attributes: [compute = 0, adds = 0] }) {
    const [, codes, scb] = operands;
    const outputs = along(codes!.shape[0]!, { 1: [codes, 0], 2: [scb, 0] });
    return axes(operands, 3, outputs, (at) => [compute, at > 0 ? 1 : adds]);
  },
  shaders: () => [int8Shader({})],
};

const fourBitShader = family("four_bit_back", ({ absmax }: { absmax: Absmax }) => {
  const { bindings, params, declarations } = statistics(absmax);
  return spec({
    bindings: [reads("codes"), ...bindings],
    params: ["codes", ...params],
    declarations: [
      TABLE,
      ...declarations,
      bitsReader("codes", "u4"),
      ROUND,
      `fn one(n: u32, k: u32) -> f32 {
  let i = n * P.K + k;
  return round_to(table[codes_bits(P.codes + i)] * absmax_of(i / P.blocksize));
}`,
    ],
    prologue: fill(absmax),
  });
});

export const fourBitBack: Kernel = {
  op: fourBitBackOp,
  record(call, recorder) {
    const [, codes, absmax] = call.operands;
    const [kind = 0, blocksize = 64, rounding = 0, , phase = 0, adds = 0] = call.attributes;
    const made = parts(call.operands.slice(1), blocksize, phase);
    if (!made) return INCOMPLETE;
    const numbers = { kind, blocksize, rounding, codes: codes!.offset, ...made.numbers };
    const shader = fourBitShader({ absmax: absmax!.dtype as Absmax });
    return record(recorder, shader, call, 6, [codes!, ...made.bindings], numbers, adds);
  },
  axes({ operands, attributes: [kind = 0, blocksize = 64, rounding = 0, compute = 0, , adds = 0] }) {
    const rows = codeRows(operands.slice(1), 1, [kind, blocksize, rounding, compute], blocksize);
    return axes(operands, 6, rows, (at) => [...rows.attributes!(at), at > 0 ? 1 : adds]);
  },
  shaders: () => ABSMAX.map((absmax) => fourBitShader({ absmax })),
};
