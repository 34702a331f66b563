// The tiled form of products of many rows: a workgroup builds 64 columns of results for 32 or 64 rows, from blocks of x
// and of the decoded weight that it lays out row by row in workgroup memory. Blocks are f32, or f16 where the call
// allows operands to be rounded; sums are f32 always. Blocks of f16 may be multiplied by subgroup matrices.
//
// f16 ends at 65504, and activations do not: each row of x, and each row of the weight, is scaled by the power of two
// that brings its largest magnitude into [2^14, 2^15). Scaling by it is exact, and what is rounded away of an element is
// 2^-12 of itself, or 2^-29 of the largest of its row if that is more (f16 without subnormals). Both powers come back
// on the f32 sums. bf16 rounds to 2^-9, so calls that allow bf16 allow this.

import type { Operand, Piece } from "../call.js";
import type { Queue } from "../queue.js";
import { family, reads, writes } from "../shader.js";
import { FLOATS, fold } from "../wgsl.js";
import type { Format } from "./product.js";

/** Columns of results, and invocations, of a workgroup. */
export const TILE_N = 64;
export const TILE_WIDTH = 128;
/** Invocations lie as 8 x 16: each has every eighth row and every sixteenth column of the tile. */
const DOWN = 8;
const ACROSS = 16;
/** Subgroup matrices: a tile is four squares of this edge, one for each of four subgroups. */
const SQUARE = 32;
/** Floats of a square that go through workgroup memory at once, on their way out of subgroup matrices. */
const STAGE = 256;
/** Rows of workgroup memory begin this many f16 apart, for subgroup matrices: in whole 16 bytes, and not in one bank. */
const MATRIX_STRIDE = 40;

/** How a tile is built. As options of a shader: absent means no. */
export interface TileForm {
  /** Rows of results, 32 or 64. */
  readonly tile?: number;
  /** Blocks are f16; x is what `halveRows` made. */
  readonly half?: boolean;
  /** Subgroup matrices, as "MxNxK". */
  readonly matrix?: string;
  /** Squares that a subgroup may have to take: two if subgroups may have more than 32 invocations. */
  readonly squares?: number;
}

function range(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i);
}

/** Elements along K of a block: as much as 16 KiB hold, WebGPU's default limit. */
const stepOf = (half: boolean): number => (half ? 32 : 16);

/** Powers of two: `power(e)` for |e| < 127, and the exponent that `halveRows` and the loads scale down by. */
const POWERS = `
fn power(e: i32) -> f32 { return bitcast<f32>(u32(e + 127) << 23u); }
fn exponent_of(largest: f32) -> i32 { return clamp(i32(bitcast<u32>(largest) >> 23u) - 127, -100, 127) - 14; }`;

const halvesShader = family("halves", (_: Record<never, never>) => ({
  bindings: [reads("x", "array<vec4<f32>>"), writes("out", "array<u32>")],
  params: ["M", "K", "x"],
  declarations: [FLOATS, POWERS, fold("largest", "f32", 64, (a, b) => `max(${a}, ${b})`)],
  body: `if (group >= P.M) { return; }
  let quads = P.K / 4u;
  let row = P.x / 4u + group * quads;
  var most = vec4<f32>();
  for (var i = lid; i < quads; i += 64u) { most = max(most, abs(x[row + i])); }
  let exponent = exponent_of(largest(max(max(most.x, most.y), max(most.z, most.w)), lid));
  let scale = power(-exponent);
  for (var i = lid; i < quads; i += 64u) {
    let v = x[row + i] * scale;
    let to = (group * quads + i) * 2u;
    out[to] = to_f16(v.x) | (to_f16(v.y) << 16u);
    out[to + 1u] = to_f16(v.z) | (to_f16(v.w) << 16u);
  }
  if (lid == 0u) { out[P.M * quads * 2u + group] = to_f16(f32(exponent)); }`,
}));

/** The shader of `halveRows`. */
export const HALVES = halvesShader({});

/**
 * Rounds x[M,K] to f16 into scratch, unless it is there from the call before: rows of K halves, then a word per row that
 * holds its exponent as f16; an element is its half times two to that power. K is a multiple of 4, and x begins at one.
 * All of it reads as f16: naga, the compiler of Firefox and Deno, has no bitcast that changes the number of components.
 */
export function halveRows(queue: Queue, x: Operand, M: number, K: number): Piece {
  const size = M * K * 2 + Math.ceil(M / 2) * 8;
  const piece = { block: queue.buffers.scratch("halves", size), start: 0, size };
  const key = `halves ${x.block.uid}:${x.byte}:${M}:${K}`;
  if (!queue.holds(piece.block, key)) {
    queue.dispatch(HALVES, [x, piece], { M, K, x: x.offset }, M);
    queue.hold(piece.block, key, x.block);
  }
  return piece;
}

/** `x_quad(m, k)`: four elements of row m of x from k on, zeros outside. */
function readX(fast: boolean, half: boolean): string {
  const type = half ? "vec4<f16>" : "vec4<f32>";
  const one = (i: number): string => `select(0.0, x[at + ${i}u], k + ${i}u < P.K)`;
  const read = half
    ? "return x[(m * P.K + k) / 4u];"
    : fast
      ? "return x[(P.x + m * P.K + k) / 4u];"
      : `let at = P.x + m * P.K + k;\n  return vec4<f32>(${range(4).map(one).join(", ")});`;
  return `fn x_quad(m: u32, k: u32) -> ${type} {
  if (m >= P.M || k >= P.K) { return ${type}(); }
  ${read}
}`;
}

/** Workgroup memory and functions of a tile. */
export function tileDeclarations({ tile = 32, half = false, matrix }: TileForm, fast: boolean): string[] {
  const step = stepOf(half);
  // An odd number of vec4s from row to row: neighbours of a column lie in different banks.
  const stride = step / 4 + 1;
  const rows = (name: string, count: number): string =>
    matrix
      ? `var<workgroup> ${name}: array<f16, ${count * MATRIX_STRIDE}>;`
      : `var<workgroup> ${name}: array<vec4<${half ? "f16" : "f32"}>, ${count * stride}>;`;
  return [
    rows("xs", tile),
    rows("ws", TILE_N),
    readX(fast, half),
    ...(half
      ? [
          POWERS,
          `var<workgroup> most: array<atomic<u32>, ${TILE_N}>;
fn w_exponent(r: u32) -> i32 { return exponent_of(bitcast<f32>(atomicLoad(&most[r]))); }
fn rescaled(sum: f32, m: u32, r: u32) -> f32 {
  let row = min(m, P.M - 1u);
  let both = i32(x[P.M * P.K / 4u + row / 2u][row % 2u * 2u]) + w_exponent(r);
  return sum * power(both / 2) * power(both - both / 2);
}`,
        ]
      : []),
    ...(matrix ? [drain(matrix)] : []),
  ];
}

/** Edges of subgroup matrices: rows and columns of the result, and what is summed over. */
function edges(matrix: string): readonly [number, number, number] {
  const [M = 0, N = 0, K = 0] = matrix.split("x").map(Number);
  return [M, N, K];
}

/** `drain(first, lid, m0, n0)`: stores what the stage holds: some matrices of each square, from the one of number `first` on. */
function drain(matrix: string): string {
  const [M, N] = edges(matrix);
  return `var<workgroup> stage: array<f32, ${4 * STAGE}>;
fn drain(first: u32, lid: u32, m0: u32, n0: u32) {
  for (var i = lid; i < ${4 * STAGE}u; i += ${TILE_WIDTH}u) {
    let square = i / ${STAGE}u;
    let at = first + (i % ${STAGE}u) / ${M * N}u;
    let cell = i % ${M * N}u;
    let m = m0 + (square / 2u) * ${SQUARE}u + (at / ${SQUARE / N}u) * ${M}u + cell / ${N}u;
    let r = (square % 2u) * ${SQUARE}u + (at % ${SQUARE / N}u) * ${N}u + cell % ${N}u;
    store(m, n0 + r, rescaled(stage[i], m, r));
  }
}`;
}

/** A tile of results; calls `store(m, n, sum)` for each. P.tiles is the number of tiles along N. */
export function tiled(format: Format, form: TileForm, fast: boolean): string {
  const { tile = 32, half = false, matrix } = form;
  const step = stepOf(half);
  const quads = step / 4;
  const unit = fast ? Math.min(format.chunk, 8) : 4;
  const put = (name: string, row: string, quad: string, value: string): string =>
    matrix
      ? range(4)
          .map((j) => `${name}[${row} * ${MATRIX_STRIDE}u + (${quad}) * 4u + ${j}u] = ${value}[${j}];`)
          .join(" ")
      : `${name}[${row} * ${quads + 1}u + ${quad}] = ${value};`;
  const type = half ? "vec4<f16>" : "vec4<f32>";
  const one = (j: number): string => `select(0.0, one(n0 + r, min(k + ${j}u, P.K - 1u)), k + ${j}u < P.K)`;
  const decode = fast
    ? `let words = raw(n0 + r, k / ${format.chunk}u);
        let factor = weight(n0 + r, k / ${format.chunk}u)${half ? " * power(-w_exponent(r))" : ""};
        for (var q = 0u; q < ${unit / 4}u; q++) {
          let w = ${type}(part(words, (k % ${format.chunk}u) / 4u + q) * factor);
          ${put("ws", "r", `u * ${unit / 4}u + q`, "w")}
        }`
    : `let w = vec4<f32>(${range(4).map(one).join(", ")});
        ${put("ws", "r", "u", "w")}`;
  const load = `
    for (var i = lid; i < ${tile * quads}u; i += ${TILE_WIDTH}u) {
      let r = i / ${quads}u;
      let q = i % ${quads}u;
      let v = x_quad(m0 + r, k0 + q * 4u);
      ${put("xs", "r", "q", "v")}
    }
    for (var i = lid; i < ${(TILE_N * step) / unit}u; i += ${TILE_WIDTH}u) {
      let r = i / ${step / unit}u;
      let u = i % ${step / unit}u;
      let k = k0 + u * ${unit}u;
      if (n0 + r < P.N && k < P.K) {
        ${decode}
      } else {
        let none = ${type}();
        for (var q = 0u; q < ${unit / 4}u; q++) { ${put("ws", "r", `u * ${unit / 4}u + q`, "none")} }
      }
    }
    workgroupBarrier();`;
  return `
  let n0 = (group % P.tiles) * ${TILE_N}u;
  let m0 = (group / P.tiles) * ${tile}u;
  if (m0 >= P.M) { return; }
  ${half ? SURVEY : ""}
  ${matrix ? matrices(form, matrix, load) : registers(tile, half, load)}`;
}

/** The largest magnitude of each row of the tile's weights. */
const SURVEY = `{
    let r = lid % ${TILE_N}u;
    let largest = share_of_largest(min(n0 + r, P.N - 1u), lid / ${TILE_N}u, ${TILE_WIDTH / TILE_N}u);
    atomicMax(&most[r], bitcast<u32>(largest));
  }
  workgroupBarrier();`;

/** Sums in registers: 4 columns of 4 or 8 rows per invocation. */
function registers(tile: number, half: boolean, load: string): string {
  const step = stepOf(half);
  const stride = step / 4 + 1;
  const rows = range(tile / DOWN);
  const columns = range(TILE_N / ACROSS);
  const quad = (text: string): string => (half ? `vec4<f32>(${text})` : text);
  return `let tm = lid / ${ACROSS}u;
  let tn = lid % ${ACROSS}u;
  ${rows.map((i) => `var sum${i} = vec4<f32>();`).join(" ")}
  for (var k0 = 0u; k0 < P.K; k0 += ${step}u) {
    ${load}
    for (var q = 0u; q < ${step / 4}u; q++) {
      let w = mat4x4<f32>(${columns.map((j) => quad(`ws[(tn + ${j * ACROSS}u) * ${stride}u + q]`)).join(", ")});
      ${rows.map((i) => `sum${i} += ${quad(`xs[(tm + ${i * DOWN}u) * ${stride}u + q]`)} * w;`).join("\n      ")}
    }
    workgroupBarrier();
  }
  // One call site: the epilogue is long, and compilers inline it.
  var sums = array<vec4<f32>, ${rows.length}>(${rows.map((i) => `sum${i}`).join(", ")});
  for (var i = 0u; i < ${rows.length * 4}u; i++) {
    let m = m0 + tm + (i / 4u) * ${DOWN}u;
    let r = tn + (i % 4u) * ${ACROSS}u;
    store(m, n0 + r, ${half ? "rescaled(sums[i / 4u][i % 4u], m, r)" : "sums[i / 4u][i % 4u]"});
  }`;
}

/** Sums in subgroup matrices. How many subgroups there are is known when it runs: four squares are dealt out to them. */
function matrices({ squares = 1 }: TileForm, matrix: string, load: string): string {
  const [M, N, K] = edges(matrix);
  const step = stepOf(true);
  const down = range(SQUARE / M);
  const across = range(SQUARE / N);
  const cells = down.flatMap((i) => across.map((j) => ({ i, j })));
  const name = (p: number, { i, j }: { i: number; j: number }): string => `sum${p}_${i}_${j}`;
  const own = (p: number, text: string): string => `if (square${p} < 4u) {\n      ${text}\n    }`;
  const at = (square: string, edge: number): string => `(${square} * ${SQUARE}u + ${edge}u) * ${MATRIX_STRIDE}u + k`;
  const multiply = (p: number): string =>
    [
      ...down.map(
        (i) =>
          `let a${i} = subgroupMatrixLoad<subgroup_matrix_left<f16, ${K}, ${M}>, row_major>(&xs, ${at(`(square${p} / 2u)`, i * M)}, ${MATRIX_STRIDE}u);`,
      ),
      ...across.flatMap((j) => [
        `let b${j} = subgroupMatrixLoad<subgroup_matrix_right<f16, ${N}, ${K}>, col_major>(&ws, ${at(`(square${p} % 2u)`, j * N)}, ${MATRIX_STRIDE}u);`,
        ...down.map((i) => {
          const sum = name(p, { i, j });
          return `${sum} = subgroupMatrixMultiplyAccumulate(a${i}, b${j}, ${sum});`;
        }),
      ]),
    ].join("\n      ");
  const batch = STAGE / (M * N);
  const rounds = range(cells.length / batch).map((round) => {
    const leave = (p: number): string =>
      cells
        .slice(round * batch, (round + 1) * batch)
        .map(
          (cell, at) =>
            `subgroupMatrixStore<row_major>(&stage, square${p} * ${STAGE}u + ${at * M * N}u, ${name(p, cell)}, ${N}u);`,
        )
        .join("\n      ");
    return `${range(squares)
      .map((p) => own(p, leave(p)))
      .join("\n    ")}
  workgroupBarrier();
  drain(${round * batch}u, lid, m0, n0);
  workgroupBarrier();`;
  });
  return `${range(squares)
    .map((p) => `let square${p} = sg + ${p}u * sgs;`)
    .join(" ")}
  ${range(squares)
    .flatMap((p) => cells.map((cell) => `var ${name(p, cell)}: subgroup_matrix_result<f32, ${N}, ${M}>;`))
    .join("\n  ")}
  for (var k0 = 0u; k0 < P.K; k0 += ${step}u) {
    ${load}
    ${range(squares)
      .map((p) => own(p, `for (var k = 0u; k < ${step}u; k += ${K}u) {\n      ${multiply(p)}\n      }`))
      .join("\n    ")}
    workgroupBarrier();
  }
  ${rounds.join("\n  ")}`;
}
