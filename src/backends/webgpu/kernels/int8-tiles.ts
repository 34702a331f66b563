// The tiled form of LLM.int8() products of many rows. A tile has 64 columns of results: for 32 rows, with the dot product
// of four codes at a time, or for 64 rows, with subgroup matrices of i8 if rows of codes begin at whole vec4s. Sums are i32
// and exact, so both forms give equal results.

import type { Target } from "../kernel.js";
import { OUTLIER_SUMS } from "./int8-vector.js";
import { MATRIX_TILE, type MatrixTile, matrixDeclarations, multiplied, TILE_WIDTH } from "./matrices.js";

/** Columns of results per workgroup. */
export const CODE_TILE_N = 64;
const LOW_TILE = 32;
/** Words of codes per step. */
const STEP = 16;
/** Row stride of blocks for subgroup matrices, in words. */
const MATRIX_STRIDE = 20;

/** Form of a tile, as options of a shader; absent means no. */
export interface CodeTile {
  /** Rows of results; absent without tiles. */
  readonly tile?: number;
  /** Subgroup matrices, and the most squares per subgroup: see matrices.ts. */
  readonly matrix?: string;
  readonly squares?: number;
}

/** The form of tiles on a device; `aligned` if rows of codes begin at whole vec4s. */
export function codeTiles({ matrix8 }: Target, aligned: boolean): CodeTile {
  return aligned && matrix8 ? { tile: MATRIX_TILE, ...matrix8 } : { tile: LOW_TILE };
}

function matrixTile({ matrix = "", squares = 1 }: CodeTile): MatrixTile {
  return { element: "i8", matrix, squares, step: 4 * STEP, stride: 4 * MATRIX_STRIDE };
}

/**
 * WGSL that stores `sum` and the outliers' contribution for row m and column n. Contributions are added in the order of
 * int8-vector.ts, where invocations share the bitmaps, so that a row's bits do not depend on the other rows.
 */
const FINISH = `var extra = 0.0;
    if (m < P.M && n < P.N && outliers_of(m) > 0u) {
      for (var j = 0u; j < ${OUTLIER_SUMS}u; j++) {
        var part = 0.0;
        for (var b = j; b * 32u < P.K; b += ${OUTLIER_SUMS}u) { part += outlier_part(m, n, b); }
        extra += part;
      }
    }
    store(m, n, sum, extra);`;

/** Workgroup memory and functions of a tile. */
export function codeTileDeclarations(form: CodeTile): string[] {
  if (form.matrix) return matrixDeclarations(matrixTile(form), FINISH);
  return [
    `var<workgroup> xs: array<u32, ${LOW_TILE * STEP}>;`,
    `var<workgroup> ws: array<u32, ${CODE_TILE_N * STEP}>;`,
  ];
}

function four(text: (i: number) => string): string[] {
  return [0, 1, 2, 3].map(text);
}

/** A tile of results; P.tiles is the number of tiles along N. */
export function tiledCodes(aligned: boolean, form: CodeTile): string {
  const { tile = LOW_TILE, matrix } = form;
  // Column-major for sums in registers; row-major for subgroup matrices.
  const put = (name: string, rows: number, word: string, value: string): string =>
    matrix
      ? `${name}[r * ${MATRIX_STRIDE}u + ${word}] = bitcast<i32>(${value});`
      : `${name}[(${word}) * ${rows}u + r] = ${value};`;
  const load = (name: string, rows: number, guard: string, one: string, quad: string): string =>
    aligned
      ? `for (var i = lid; i < ${(rows * STEP) / 4}u; i += ${TILE_WIDTH}u) {
      let r = i / ${STEP / 4}u;
      let c = i % ${STEP / 4}u;
      var v = vec4<u32>();
      if (${guard} && w0 + c * 4u < P.words) { v = ${quad}; }
      ${four((j) => put(name, rows, `c * 4u + ${j}u`, `v[${j}]`)).join(" ")}
    }`
      : `for (var i = lid; i < ${rows * STEP}u; i += ${TILE_WIDTH}u) {
      let r = i / ${STEP}u;
      let w = i % ${STEP}u;
      var v = 0u;
      if (${guard} && w0 + w < P.words) { v = ${one}; }
      ${put(name, rows, "w", "v")}
    }`;
  const steps = (multiply: string): string => `for (var w0 = 0u; w0 < P.words; w0 += ${STEP}u) {
    ${load("xs", tile, "m0 + r < P.M", "q[(m0 + r) * P.stride + w0 + w]", "q[((m0 + r) * P.stride + w0) / 4u + c]")}
    ${load("ws", CODE_TILE_N, "n0 + r < P.N", "codes_word(n0 + r, w0 + w)", "codes_quad(n0 + r, w0 / 4u + c)")}
    workgroupBarrier();
    ${multiply}
    workgroupBarrier();
  }`;
  return `
  let n0 = (group % P.tiles) * ${CODE_TILE_N}u;
  let m0 = (group / P.tiles) * ${tile}u;
  if (m0 >= P.M) { return; }
  ${matrix ? multiplied(matrixTile(form), steps) : registers(steps)}`;
}

/** Sums in registers: 4 x 4 per invocation. */
function registers(steps: (multiply: string) => string): string {
  return `let tm = (lid / 16u) * 4u;
  let tn = (lid % 16u) * 4u;
  ${four((i) => `var sum${i} = vec4<i32>();`).join(" ")}
  ${steps(`for (var w = 0u; w < ${STEP}u; w++) {
      let c = w * ${CODE_TILE_N}u + tn;
      ${four((j) => `let c${j} = ws[c + ${j}u];`).join(" ")}
      ${four(
        (i) => `let v${i} = xs[w * ${LOW_TILE}u + tm + ${i}u];
      sum${i} += vec4<i32>(dot4(v${i}, c0), dot4(v${i}, c1), dot4(v${i}, c2), dot4(v${i}, c3));`,
      ).join("\n      ")}
    }`)}
  // One call site: the epilogue is long, and compilers inline it.
  var sums = array<vec4<i32>, 4>(sum0, sum1, sum2, sum3);
  for (var i = 0u; i < 16u; i++) {
    let m = m0 + tm + i / 4u;
    let n = n0 + tn + i % 4u;
    let sum = sums[i / 4u][i % 4u];
    ${FINISH}
  }`;
}
