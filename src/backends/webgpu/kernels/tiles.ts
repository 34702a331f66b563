// The tiled form of products of many rows: a workgroup computes 64 columns of results for 32 or 64 rows, from blocks of x
// and of the decoded weight that lie row by row in workgroup memory. Blocks are f32, or f16 if the call allows rounded
// operands; sums are always f32. Blocks of f16 may be multiplied with subgroup matrices (matrices.ts).
//
// f16 ends at 65504, but activations can be larger. So each row of x, and each row of the weight, is scaled by the power of
// two that brings its largest finite magnitude into [2^14, 2^15). The scaling is exact. Rounding an element loses 2^-12 of
// itself, or 2^-28 of the largest of its row if that is more (f16 without subnormals). The f32 sums are scaled back. bf16
// rounds to 2^-9, so calls that allow bf16 allow this; and weights that are bf16 or f16 lose nothing of the first kind.
//
// If the call allows no rounding and the weight is f16, x is split into two parts: the rest that rounding to f16 leaves is
// rounded to f16 too, scaled by another 2^12. So an element loses 2^-24 of itself, as in f32, or 2^-40 of the largest of
// its row. Both parts are rows of one block, and are multiplied with the same block of the weight; their sums are added at
// the end. If a row of the weight has infinities or NaN, only the upper part counts, because the lower may have the other
// sign.

import type { CommandRecorder } from "../device/command-recorder.js";
import type { Binding, Operand } from "../schedule/call.js";
import { family, reads, writes } from "../shader.js";
import { FLOATS, fold } from "../wgsl.js";
import type { Format } from "./format.js";
import { MATRIX_TILE, type MatrixTile, matrixDeclarations, multiplied, TILE_WIDTH } from "./matrices.js";

/** Columns of results per workgroup. */
export const TILE_N = 64;
/** Invocations form a grid of 8 x 16: each has every eighth row and every sixteenth column of the tile. */
const DOWN = 8;
const ACROSS = 16;
/** Row stride of blocks for subgroup matrices, in elements. */
const MATRIX_STRIDE = 40;
/** The lower part of x is scaled by two to this power. */
const BELOW = 12;

/** Form of a tile, as options of a shader; absent means no. */
export interface TileForm {
  /** Rows of results, 32 or 64. */
  readonly tile?: number;
  /** Blocks are f16; x is the result of `halveRows`. */
  readonly half?: boolean;
  /** Parts of x: two if it may not be rounded to f16, else absent. Only with subgroup matrices; tiles then have 32 rows. */
  readonly parts?: number;
  /** Subgroup matrices, as "MxNxK". */
  readonly matrix?: string;
  /** Most squares per subgroup. */
  readonly squares?: number;
}

function range(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i);
}

/** Elements of a block along K: as many as fit 16 KiB, WebGPU's default limit. */
const stepOf = (half: boolean): number => (half ? 32 : 16);

/**
 * `power(e)`: 2^e for |e| < 127; `exponent_of`: the exponent that a row is scaled down by, from the bits of its largest.
 */
export const POWERS = `
fn power(e: i32) -> f32 { return bitcast<f32>(u32(e + 127) << 23u); }
fn exponent_of(largest: u32) -> i32 { return clamp(i32(largest >> 23u) - 127, -100, 127) - 14; }`;

/** Each of two parts is a normal f16 or zero, because devices treat subnormals differently. */
const TWO_PARTS = `
fn upper(v: f32) -> u32 {
  let h = to_f16(v);
  return select(h, h & 0x8000u, (h & 0x7c00u) == 0u);
}
fn lower(v: f32, h: u32) -> u32 { return select(to_f16((v - from_f16(h)) * ${2 ** BELOW}.0), 0u, (h & 0x7c00u) == 0x7c00u); }`;

const halvesShader = family("halves", ({ parts }: { readonly parts: number }) => {
  const quad = (text: (i: number) => string): string => `vec4<u32>(${range(4).map(text).join(", ")})`;
  const put = (at: string, h: string): string =>
    `out[${at}] = ${h}.x | (${h}.y << 16u);\n    out[${at} + 1u] = ${h}.z | (${h}.w << 16u);`;
  return {
    bindings: [reads("x", "array<vec4<f32>>"), writes("out", "array<u32>")],
    params: ["M", "K", "x"],
    declarations: [
      FLOATS,
      POWERS,
      parts === 2 ? TWO_PARTS : "",
      fold("largest", "u32", 64, (a, b) => `max(${a}, ${b})`),
    ],
    body: `if (group >= P.M) { return; }
  let quads = P.K / 4u;
  let row = P.x / 4u + group * quads;
  var most = vec4<u32>();
  for (var i = lid; i < quads; i += 64u) {
    let size = bitcast<vec4<u32>>(x[row + i]) & vec4<u32>(0x7fffffffu);
    most = max(most, select(size, vec4<u32>(), size >= vec4<u32>(0x7f800000u)));
  }
  let exponent = exponent_of(largest(max(max(most.x, most.y), max(most.z, most.w)), lid));
  let scale = power(-exponent);
  for (var i = lid; i < quads; i += 64u) {
    let v = x[row + i] * scale;
    let high = ${quad((i) => `${parts === 2 ? "upper" : "to_f16"}(v[${i}])`)};
    let to = (group * quads + i) * 2u;
    ${
      parts === 2
        ? `let low = ${quad((i) => `lower(v[${i}], high[${i}])`)};
    ${put("to + P.M * quads * 2u", "low")}`
        : ""
    }
    ${put("to", "high")}
  }
  if (lid == 0u) { out[P.M * quads * ${2 * parts}u + group] = to_f16(f32(exponent)); }`,
  };
});

/** The shaders of `halveRows`. */
export const HALVES = halvesShader({ parts: 1 });
export const HALVES_IN_TWO = halvesShader({ parts: 2 });

/** Size of the result of `halveRows`, in bytes. */
export function halvesSize(M: number, K: number, parts: number): number {
  return M * K * 2 * parts + Math.ceil(M / 2) * 8;
}

/**
 * Converts x[M,K] to f16 in scratch, unless the previous call has done so: for each part, the upper first, rows of K
 * halves, then a word per row that holds its exponent as f16. An element is the upper half plus 2^-12 times the lower half
 * (if there is one), all times two to that power. K and the offset of x are multiples of 4. All of it is bound as f16:
 * naga, the compiler of Firefox and Deno, has no bitcast that changes the number of components.
 */
export function halveRows(recorder: CommandRecorder, x: Operand, M: number, K: number, parts: number): Binding {
  const size = halvesSize(M, K, parts);
  const binding = { block: recorder.buffers.scratch("halves", size), start: 0, size };
  const key = `halves ${x.block.uid}:${x.byte}:${M}:${K}:${parts}`;
  if (!recorder.contents.holds(binding.block, key)) {
    recorder.dispatch(parts === 2 ? HALVES_IN_TWO : HALVES, [x, binding], { M, K, x: x.offset }, M);
    recorder.contents.hold(binding.block, key, x.block);
  }
  return binding;
}

/** `x_quad(m, k, lower)`: four elements of row m of x from k on, of its lower part if `lower` is 1; zeros outside. */
function readX(fast: boolean, half: boolean): string {
  const type = half ? "vec4<f16>" : "vec4<f32>";
  const one = (i: number): string => `select(0.0, x[at + ${i}u], k + ${i}u < P.K)`;
  const read = half
    ? "return x[((lower * P.M + m) * P.K + k) / 4u];"
    : fast
      ? "return x[(P.x + m * P.K + k) / 4u];"
      : `let at = P.x + m * P.K + k;\n  return vec4<f32>(${range(4).map(one).join(", ")});`;
  return `fn x_quad(m: u32, k: u32, lower: u32) -> ${type} {
  if (m >= P.M || k >= P.K) { return ${type}(); }
  ${read}
}`;
}

/** The tile's layout for subgroup matrices. */
function matrixTile({ matrix = "", squares = 1, parts }: TileForm): MatrixTile {
  return { element: "f16", matrix, squares, step: stepOf(true), stride: MATRIX_STRIDE, paired: parts === 2 };
}

/** Workgroup memory and functions of a tile. */
export function tileDeclarations({ exponents }: Format, form: TileForm, fast: boolean): string[] {
  const { tile = 32, half = false, parts = 1, matrix } = form;
  const step = stepOf(half);
  // The row stride is an odd number of vec4s, so that neighbours in a column lie in different banks.
  const stride = step / 4 + 1;
  const rows = (name: string, count: number): string =>
    `var<workgroup> ${name}: array<vec4<${half ? "f16" : "f32"}>, ${count * stride}>;`;
  return [
    readX(fast, half),
    ...(half
      ? [
          POWERS,
          exponents
            ? `var<workgroup> exponents_of: array<i32, ${TILE_N}>;
fn w_exponent(r: u32) -> i32 { return exponents_of[r] >> 1u; }
fn w_endless(r: u32) -> bool { return (exponents_of[r] & 1) != 0; }`
            : `var<workgroup> most: array<atomic<u32>, ${TILE_N}>;
fn w_exponent(r: u32) -> i32 { return exponent_of(atomicLoad(&most[r])); }`,
          `fn rescaled(sum: f32, m: u32, r: u32) -> f32 {
  let row = min(m, P.M - 1u);
  let both = i32(x[P.M * P.K * ${parts}u / 4u + row / 2u][row % 2u * 2u]) + w_exponent(r);
  return sum * power(both / 2) * power(both - both / 2);
}`,
        ]
      : []),
    ...(matrix
      ? matrixDeclarations(matrixTile(form), `store(m, n, rescaled(${parts === 2 ? BOTH : "sum"}, m, r));`)
      : [rows("xs", tile), rows("ws", TILE_N)]),
  ];
}

/** The sum of both parts. */
const BOTH = `sum + select(second * ${2 ** -BELOW}, 0.0, w_endless(r))`;

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
  const part = (i: string): string =>
    format.rounds ? `rounded_part(words, ${i}, factor)` : `part(words, ${i}) * factor`;
  const decode = fast
    ? `let words = raw(n0 + r, k / ${format.chunk}u);
        let factor = weight(n0 + r, k / ${format.chunk}u)${half ? " * power(-w_exponent(r))" : ""};
        for (var q = 0u; q < ${unit / 4}u; q++) {
          let w = ${type}(${part(`(k % ${format.chunk}u) / 4u + q`)});
          ${put("ws", "r", `u * ${unit / 4}u + q`, "w")}
        }`
    : `let w = vec4<f32>(${range(4).map(one).join(", ")});
        ${put("ws", "r", "u", "w")}`;
  const load = `
    for (var i = lid; i < ${(matrix ? MATRIX_TILE : tile) * quads}u; i += ${TILE_WIDTH}u) {
      let r = i / ${quads}u;
      let q = i % ${quads}u;
      let v = x_quad(m0 + r % ${tile}u, k0 + q * 4u, r / ${tile}u);
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
  ${half ? (format.exponents ? KNOWN : SURVEY) : ""}
  ${
    matrix
      ? multiplied(
          matrixTile(form),
          (multiply) => `for (var k0 = 0u; k0 < P.K; k0 += ${step}u) {
    ${load}
    ${multiply}
    workgroupBarrier();
  }`,
        )
      : registers(tile, half, load)
  }`;
}

/** Loads the known exponents of the tile's weight rows. */
const KNOWN = `if (lid < ${TILE_N}u) { exponents_of[lid] = exponents[min(n0 + lid, P.N - 1u)]; }
  workgroupBarrier();`;

/** Finds the largest magnitude of each of the tile's weight rows. */
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
