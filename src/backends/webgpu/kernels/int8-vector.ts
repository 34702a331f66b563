// LLM.int8() for few rows of x: the work of a workgroup on the weight rows that it streams (llm-int8.ts). A single row that
// is not quantized yet is quantized by every workgroup for itself: rereading x from the cache costs less than a dispatch
// that everything else waits for.

import type { CommandRecorder } from "../device/command-recorder.js";
import { leading, type Operand } from "../schedule/call.js";
import { EXACT_DIVIDE, fold, range, totals } from "../wgsl.js";
import { rowsHeld, SIZES } from "./int8-rows.js";
import { OUTPUTS, outputRows, VECTOR_WIDTH } from "./vector.js";

/** Partial sums of outliers per result, one for each invocation that reads bitmaps for it. */
export const OUTLIER_SUMS = VECTOR_WIDTH / OUTPUTS;
/** Most words of the bitmap of a row that workgroups quantize themselves. */
const BITMAP = 512;
/** Most bytes of x that all workgroups together may read to quantize it themselves. */
const REREAD = 32 << 20;

/** True if each of `groups` workgroups should quantize the row of x itself. */
export function quantizesInside(recorder: CommandRecorder, x: Operand, threshold: number, groups: number): boolean {
  const K = x.shape.at(-1)!;
  const small = leading(x.shape) === 1 && K <= BITMAP * 32 && groups * K * 4 <= REREAD;
  return small && x.offset % 4 === 0 && !rowsHeld(recorder, x, threshold);
}

/**
 * The functions of rowsInScratch for one row that the workgroup quantizes itself; call `quantized(c)` once per 16 codes.
 */
export const ROW_INSIDE = `${EXACT_DIVIDE}
${SIZES}
${fold("largest", "u32", VECTOR_WIDTH, (a, b) => `max(${a}, ${b})`)}
var<workgroup> loud: atomic<u32>;
var<workgroup> bitmaps: array<atomic<u32>, ${BITMAP}>;
var<private> row_scale: f32;
var<private> inverse: f32;
fn scale_of(m: u32) -> f32 { return row_scale; }
fn outliers_of(m: u32) -> u32 { return atomicLoad(&loud); }
fn bitmap_of(m: u32, b: u32) -> u32 { return atomicLoad(&bitmaps[b]); }
fn value_of(m: u32, k: u32) -> f32 { return x[(P.x + k) / 4u][k & 3u]; }
fn all_beyond(v: vec4<f32>) -> vec4<bool> { return vec4<bool>(beyond(v.x), beyond(v.y), beyond(v.z), beyond(v.w)); }
fn quantized(c: u32) -> vec4<u32> {
  var quad: vec4<u32>;
  var bits = 0u;
  for (var i = 0u; i < 4u; i++) {
    let v = x[P.x / 4u + c * 4u + i];
    let far = all_beyond(v);
    let codes = bitcast<vec4<u32>>(vec4<i32>(round(v * inverse))) & vec4<u32>(0xffu);
    let kept = select(codes, vec4<u32>(), far);
    quad[i] = kept.x | (kept.y << 8u) | (kept.z << 16u) | (kept.w << 24u);
    let marks = select(vec4<u32>(), vec4<u32>(1u, 2u, 4u, 8u), far);
    bits |= (marks.x | marks.y | marks.z | marks.w) << (i * 4u);
  }
  if (bits != 0u) { atomicOr(&bitmaps[c / 2u], bits << ((c % 2u) * 16u)); }
  return quad;
}`;

/** Finds scale and outliers of the row. */
const MEASURE = `var size = 0u;
  var count = 0u;
  for (var c = lid; c < P.K / 4u; c += ${VECTOR_WIDTH}u) {
    let v = x[P.x / 4u + c];
    let far = all_beyond(v);
    let a = select(bitcast<vec4<u32>>(v) & vec4<u32>(0x7fffffffu), vec4<u32>(), far);
    size = max(size, max(max(a.x, a.y), max(a.z, a.w)));
    if (any(far)) { count++; }
  }
  if (count > 0u) { atomicAdd(&loud, count); }
  let most = largest(size, lid);
  row_scale = bitcast<f32>(most);
  if (most > 0u && most <= ENDLESS) { inverse = exact_divide(1.0, row_scale) * 127.0; }`;

/**
 * Marks the columns with outliers of `rows` rows of x. The last workgroup of each row of workgroups does it, because it has
 * the least other work.
 */
export const marking = (rows: number, width: number): string => `
  if (group % P.tiles == P.tiles - 1u) {
    for (var m = m0; m < min(m0 + ${rows}u, P.M); m++) {
      if (outliers_of(m) == 0u) { continue; }
      for (var b = lid; b * 32u < P.K; b += ${width}u) {
        var bitmap = bitmap_of(m, b);
        while (bitmap != 0u) {
          let at = P.seen + b * 32u + countTrailingZeros(bitmap);
          bitmap &= bitmap - 1u;
          atomicOr(&seen[at / 4u], 1u << ((at % 4u) * 8u));
        }
      }
    }
  }`;

export function four(text: (i: number) => string): string[] {
  return range(4).map(text);
}

interface Form {
  readonly rows: number;
  readonly aligned: boolean;
  readonly subgroups: boolean;
  readonly inside: boolean;
  readonly gated: boolean;
  /** The row of x for a row of results; the same row if absent. */
  readonly source?: (m: string) => string;
}

/** The body of the matrix-vector form. */
export function streamed({ rows, aligned, subgroups, inside, gated, source = (m) => m }: Form): string {
  const cells = range(rows).flatMap((m) => range(OUTPUTS).map((n) => ({ m, n })));
  const half = OUTPUTS / 2;
  // The weight row of output i.
  const row = (i: string): string =>
    gated ? `select(0u, P.n1, ${i} >= ${half}u) + min(n0 + ${i} % ${half}u, P.n1 - 1u)` : `min(n0 + ${i}, P.N - 1u)`;
  return [
    `let m0 = (group / P.tiles) * ${rows}u;`,
    "if (m0 >= P.M) { return; }",
    ...outputRows(gated),
    inside ? MEASURE : "",
    ...range(rows).map((m) => `let at${m} = ${source(`min(m0 + ${m}u, P.M - 1u)`)} * P.stride;`),
    ...cells.map(({ m, n }) => `var sum${m}_${n} = 0i;`),
    ...(aligned
      ? [
          `for (var c = lid; c < P.words / 4u; c += ${VECTOR_WIDTH}u) {`,
          ...range(rows).map((m) => `let v${m} = ${inside ? "quantized(c)" : `q[at${m} / 4u + c]`};`),
          ...range(OUTPUTS).flatMap((n) => [
            `let c${n} = codes_quad(row${n}, c);`,
            ...range(rows).map((m) => `sum${m}_${n} += ${four((i) => `dot4(v${m}[${i}], c${n}[${i}])`).join(" + ")};`),
          ]),
          "}",
        ]
      : [
          `for (var w = lid; w < P.words; w += ${VECTOR_WIDTH}u) {`,
          ...range(rows).map((m) => `let v${m} = q[at${m} + w];`),
          ...range(OUTPUTS).flatMap((n) => [
            `let c${n} = codes_word(row${n}, w);`,
            ...range(rows).map((m) => `sum${m}_${n} += dot4(v${m}, c${n});`),
          ]),
          "}",
        ]),
    totals(
      cells.map(({ m, n }) => `sum${m}_${n}`),
      VECTOR_WIDTH,
      subgroups,
    ),
    // Outliers are few: the invocations share the bitmaps, and skip rows without outliers.
    `for (var i = 0u; i < ${rows}u; i++) {`,
    "let m = min(m0 + i, P.M - 1u);",
    `let n = ${row(`(lid % ${OUTPUTS}u)`)};`,
    "var sum = 0.0;",
    "if (outliers_of(m) > 0u) {",
    `  for (var b = lid / ${OUTPUTS}u; b * 32u < P.K; b += ${OUTLIER_SUMS}u) { sum += outlier_part(m, n, b); }`,
    "}",
    "floats[lid] = sum;",
    "workgroupBarrier();",
    `let mine = m0 + i < P.M && ${gated ? `n0 + lid % ${half}u < P.n1` : `n0 + lid % ${OUTPUTS}u < P.N`};`,
    `if (lid < ${OUTPUTS}u && mine) {`,
    "  var total = 0.0;",
    `  for (var j = lid; j < ${VECTOR_WIDTH}u; j += ${OUTPUTS}u) { total += floats[j]; }`,
    `  let result = store(m, n, cells[(i * ${OUTPUTS}u + lid) * ${VECTOR_WIDTH}u], total);`,
    gated ? "  results[lid] = result;" : "",
    "}",
    "workgroupBarrier();",
    gated
      ? `if (lid < ${half}u && mine) { z[P.z + m * P.n1 + n] = activate(P.act, results[lid]) * results[lid + ${half}u]; }`
      : "",
    "}",
  ].join("\n  ");
}
