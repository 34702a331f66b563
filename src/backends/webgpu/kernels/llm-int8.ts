// llm_int8_linear: rows of x are quantized first (codes, scale and a bitmap of outliers, in scratch memory), then
// multiplied with the weight codes four at a time in integers; outliers are multiplied as floats in the same kernel.
// Rows of scratch: codes in ceil(K/4) words, a bitmap in ceil(K/32) words, the scale, the number of outliers.

import { llmInt8LinearOp } from "../../../ops/llm-int8.js";
import type { Operand, Piece } from "../call.js";
import { leading } from "../call.js";
import type { Kernel, Target } from "../kernel.js";
import type { Queue } from "../queue.js";
import { family, reader, reads, writes } from "../shader.js";
import { along } from "../split.js";
import { ACTIVATIONS, EXACT_DIVIDE, FLOATS, fold, totals } from "../wgsl.js";
import { BIAS_TYPES, type BiasType, OUTPUTS, productAxes } from "./product.js";

const WIDTH = 64;
const MANY = 9;
const TILE_M = 32;
const TILE_N = 64;
/** Words of codes in a step of the tiled form. */
const TILE_K = 16;
const TILE_WIDTH = 128;

/** One workgroup per row of x. Words are owned by one invocation, so bitmap words are built from 32 elements at once. */
const rowsShader = family("llm_int8_linear", ({ seen }: { rows: "quantize"; seen: boolean }) => ({
  bindings: [
    reads("x", "array<f32>"),
    writes("out", "array<u32>"),
    ...(seen ? [writes("seen", "array<atomic<u32>>")] : []),
  ],
  params: ["M", "K", "x", "stride", "words", "seen", "threshold:f32"],
  workgroup: WIDTH,
  declarations: [
    EXACT_DIVIDE,
    fold("largest", "f32", WIDTH, (a, b) => `max(${a}, ${b})`),
    "var<workgroup> outliers: atomic<u32>;",
  ],
  body: `if (group >= P.M) { return; }
  let source = P.x + group * P.K;
  let row = group * P.stride;
  var size = 0.0;
  for (var k = lid; k < P.K; k += ${WIDTH}u) {
    let a = abs(x[source + k]);
    if (P.threshold == 0.0 || a < P.threshold) { size = max(size, a); }
  }
  let scale = largest(size, lid);
  var inverse = 0.0;
  if (scale > 0.0) { inverse = exact_divide(1.0, scale) * 127.0; }
  for (var b = lid; b * 32u < P.K; b += ${WIDTH}u) {
    var bitmap = 0u;
    for (var w = 0u; w < 8u && b * 8u + w < P.words; w++) {
      var word = 0u;
      for (var l = 0u; l < 4u; l++) {
        let k = b * 32u + w * 4u + l;
        if (k >= P.K) { break; }
        let value = x[source + k];
        if (P.threshold > 0.0 && abs(value) >= P.threshold) {
          bitmap |= 1u << (w * 4u + l);
          ${seen ? "let at = P.seen + k;\n          atomicOr(&seen[at / 4u], 1u << ((at % 4u) * 8u));" : ""}
        } else {
          word |= (bitcast<u32>(i32(round(value * inverse))) & 0xffu) << (l * 8u);
        }
      }
      out[row + b * 8u + w] = word;
    }
    out[row + P.words + b] = bitmap;
    if (bitmap != 0u) { atomicAdd(&outliers, countOneBits(bitmap)); }
  }
  workgroupBarrier();
  if (lid == 0u) {
    out[row + P.stride - 2u] = bitcast<u32>(scale);
    out[row + P.stride - 1u] = atomicLoad(&outliers);
  }`,
}));

interface Options {
  readonly [more: string]: string | number | boolean;
  /** Rows of codes that begin at whole words. */
  readonly aligned: boolean;
  readonly rows: number;
  readonly bias: BiasType;
  readonly residual: boolean;
  readonly dot4: boolean;
  /** Sums go through subgroups; only without tiles. */
  readonly subgroups: boolean;
}

const linearShader = family("llm_int8_linear", (options: Options) => {
  const { aligned, rows, bias, residual, dot4, subgroups } = options;
  return {
    bindings: [
      reads("x", "array<f32>"),
      reads("q"),
      reads("codes"),
      reads("scb", "array<f32>"),
      ...(bias === "none" ? [] : [reads("bias")]),
      ...(residual ? [reads("residual", "array<f32>")] : []),
      writes("y"),
    ],
    params: [
      "M",
      "N",
      "K",
      "width",
      "x",
      "stride",
      "words",
      "codes",
      "scb",
      "bias",
      "residual",
      "y",
      "act:i32",
      "tiles",
    ],
    workgroup: rows === 0 ? TILE_WIDTH : WIDTH,
    subgroups,
    declarations: [
      FLOATS,
      ACTIVATIONS,
      bias === "none" ? "" : reader("bias", bias),
      dot4
        ? "fn dot4(a: u32, b: u32) -> i32 { return dot4I8Packed(a, b); }"
        : `fn dot4(a: u32, b: u32) -> i32 {
  let s = bitcast<i32>(a);
  let t = bitcast<i32>(b);
  return extractBits(s, 0u, 8u) * extractBits(t, 0u, 8u) + extractBits(s, 8u, 8u) * extractBits(t, 8u, 8u)
    + extractBits(s, 16u, 8u) * extractBits(t, 16u, 8u) + extractBits(s, 24u, 8u) * extractBits(t, 24u, 8u);
}`,
      // Rows that begin inside a word are put together from two. What comes behind the row meets codes of zero.
      aligned
        ? "fn codes_word(n: u32, w: u32) -> u32 { return codes[(P.codes + n * P.K) / 4u + w]; }"
        : `fn codes_word(n: u32, w: u32) -> u32 {
  let at = P.codes + n * P.K + w * 4u;
  let shift = (at & 3u) * 8u;
  let low = codes[at / 4u] >> shift;
  if (shift == 0u) { return low; }
  return low | (codes[at / 4u + 1u] << (32u - shift));
}`,
      `fn code_at(n: u32, k: u32) -> f32 {
  let at = P.codes + n * P.K + k;
  return f32(extractBits(bitcast<i32>(codes[at / 4u]), (at & 3u) * 8u, 8u));
}
fn outlier_part(m: u32, n: u32, b: u32) -> f32 {
  var bitmap = q[m * P.stride + P.words + b];
  var sum = 0.0;
  while (bitmap != 0u) {
    let k = b * 32u + countTrailingZeros(bitmap);
    bitmap &= bitmap - 1u;
    sum += x[P.x + m * P.K + k] * code_at(n, k);
  }
  return sum;
}
fn store(m: u32, n: u32, product: i32, outliers: f32) {
  if (m >= P.M || n >= P.N) { return; }
  let scale = bitcast<f32>(q[m * P.stride + P.stride - 2u]);
  let wide = scb[P.scb + n];
  let sum = f32(product) * scale * wide / 16129.0 + outliers * wide / 127.0;
  let value = activate(P.act, sum${bias === "none" ? "" : " + bias_at(P.bias + n)"});
  y[P.y + m * P.width + n] = value${residual ? " + residual[P.residual + m * P.width + n]" : ""};
}`,
      ...(rows === 0
        ? [`var<workgroup> xs: array<u32, ${TILE_M * TILE_K}>;`, `var<workgroup> ws: array<u32, ${TILE_N * TILE_K}>;`]
        : [
            `var<workgroup> cells: array<i32, ${WIDTH * OUTPUTS * rows}>;`,
            `var<workgroup> floats: array<f32, ${WIDTH * OUTPUTS}>;`,
          ]),
    ],
    body: rows === 0 ? tiled() : streamed(rows, subgroups),
  };
});

function range(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i);
}

function streamed(rows: number, subgroups: boolean): string {
  const cells = range(rows).flatMap((m) => range(OUTPUTS).map((n) => ({ m, n })));
  return [
    "let n0 = (group % P.tiles) * 4u;",
    `let m0 = (group / P.tiles) * ${rows}u;`,
    "if (m0 >= P.M) { return; }",
    ...range(OUTPUTS).map((n) => `let row${n} = min(n0 + ${n}u, P.N - 1u);`),
    ...range(rows).map((m) => `let at${m} = min(m0 + ${m}u, P.M - 1u) * P.stride;`),
    ...cells.map(({ m, n }) => `var sum${m}_${n} = 0i;`),
    `for (var w = lid; w < P.words; w += ${WIDTH}u) {`,
    ...range(rows).map((m) => `let v${m} = q[at${m} + w];`),
    ...range(OUTPUTS).flatMap((n) => [
      `let c${n} = codes_word(row${n}, w);`,
      ...range(rows).map((m) => `sum${m}_${n} += dot4(v${m}, c${n});`),
    ]),
    "}",
    totals(
      cells.map(({ m, n }) => `sum${m}_${n}`),
      WIDTH,
      subgroups,
    ),
    // Outliers are few: the invocations share the bitmaps, and only of rows that have some.
    `for (var i = 0u; i < ${rows}u; i++) {`,
    "let m = min(m0 + i, P.M - 1u);",
    "var sum = 0.0;",
    "if (q[m * P.stride + P.stride - 1u] > 0u) {",
    `  let n = min(n0 + lid % ${OUTPUTS}u, P.N - 1u);`,
    `  for (var b = lid / ${OUTPUTS}u; b * 32u < P.K; b += ${WIDTH / OUTPUTS}u) { sum += outlier_part(m, n, b); }`,
    "}",
    "floats[lid] = sum;",
    "workgroupBarrier();",
    `if (lid < ${OUTPUTS}u && m0 + i < P.M) {`,
    "  var total = 0.0;",
    `  for (var j = lid; j < ${WIDTH}u; j += ${OUTPUTS}u) { total += floats[j]; }`,
    `  store(m, n0 + lid, cells[(i * ${OUTPUTS}u + lid) * ${WIDTH}u], total);`,
    "}",
    "workgroupBarrier();",
    "}",
  ].join("\n  ");
}

function tiled(): string {
  const four = range(4);
  return `
  let n0 = (group % P.tiles) * ${TILE_N}u;
  let m0 = (group / P.tiles) * ${TILE_M}u;
  if (m0 >= P.M) { return; }
  let tm = (lid / 16u) * 4u;
  let tn = (lid % 16u) * 4u;
  ${four.map((i) => `var sum${i} = vec4<i32>();`).join(" ")}
  for (var w0 = 0u; w0 < P.words; w0 += ${TILE_K}u) {
    for (var i = lid; i < ${TILE_M * TILE_K}u; i += ${TILE_WIDTH}u) {
      let m = i / ${TILE_K}u;
      let w = i % ${TILE_K}u;
      var v = 0u;
      if (m0 + m < P.M && w0 + w < P.words) { v = q[(m0 + m) * P.stride + w0 + w]; }
      xs[w * ${TILE_M}u + m] = v;
    }
    for (var i = lid; i < ${TILE_N * TILE_K}u; i += ${TILE_WIDTH}u) {
      let n = i / ${TILE_K}u;
      let w = i % ${TILE_K}u;
      var v = 0u;
      if (n0 + n < P.N && w0 + w < P.words) { v = codes_word(n0 + n, w0 + w); }
      ws[w * ${TILE_N}u + n] = v;
    }
    workgroupBarrier();
    for (var w = 0u; w < ${TILE_K}u; w++) {
      let c = w * ${TILE_N}u + tn;
      ${four.map((j) => `let c${j} = ws[c + ${j}u];`).join(" ")}
      ${four
        .map(
          (i) => `let v${i} = xs[w * ${TILE_M}u + tm + ${i}u];
      sum${i} += vec4<i32>(dot4(v${i}, c0), dot4(v${i}, c1), dot4(v${i}, c2), dot4(v${i}, c3));`,
        )
        .join("\n      ")}
    }
    workgroupBarrier();
  }
  // One call site: the epilogue is long, and compilers inline it.
  var sums = array<vec4<i32>, 4>(sum0, sum1, sum2, sum3);
  for (var i = 0u; i < 16u; i++) {
    let m = m0 + tm + i / 4u;
    let n = n0 + tn + i % 4u;
    var extra = 0.0;
    if (m < P.M && n < P.N && q[m * P.stride + P.stride - 1u] > 0u) {
      for (var b = 0u; b * 32u < P.K; b++) { extra += outlier_part(m, n, b); }
    }
    store(m, n, sums[i / 4u][i % 4u], extra);
  }`;
}

/** Quantizes the rows of x into scratch. */
function quantizeRows(
  queue: Queue,
  x: Operand,
  seen: Operand | undefined,
  threshold: number,
): Piece & { stride: number; words: number } {
  const M = leading(x.shape);
  const K = x.shape.at(-1)!;
  const words = Math.ceil(K / 4);
  const stride = words + Math.ceil(K / 32) + 2;
  const bytes = Math.max(16, Math.ceil((M * stride * 4) / 16) * 16);
  const piece = { block: queue.buffers.scratch("rows", bytes), start: 0, size: bytes };
  const numbers = { M, K, x: x.offset, stride, words, seen: seen?.offset ?? 0, threshold };
  const shader = rowsShader({ rows: "quantize", seen: seen !== undefined });
  queue.dispatch(shader, [x, piece, ...(seen ? [seen] : [])], numbers, M);
  return { ...piece, stride, words };
}

function variants(target: Target): Options[] {
  return [true, false].flatMap((aligned) =>
    [0, 1, 4].flatMap((rows) =>
      BIAS_TYPES.flatMap((bias) =>
        [true, false].map((residual) => ({
          aligned,
          rows,
          bias,
          residual,
          dot4: target.dot4,
          subgroups: target.subgroups && rows > 0,
        })),
      ),
    ),
  );
}

export const llmInt8Linear: Kernel = {
  op: llmInt8LinearOp,
  record(call, queue, target) {
    const [x, codes, scb, bias, residual, seen, y] = call.operands;
    const [threshold = 0, act = 0] = call.attributes;
    if (y!.count === 0) return undefined;
    const [N = 0, K = 0] = codes!.shape;
    const M = leading(x!.shape);
    const { stride, words, ...q } = quantizeRows(queue, x!, seen, threshold);
    const rows = M >= MANY ? 0 : M === 1 ? 1 : 4;
    const aligned = K % 4 === 0 && codes!.offset % 4 === 0;
    const shader = linearShader({
      aligned,
      rows,
      bias: (bias?.dtype ?? "none") as BiasType,
      residual: residual !== undefined,
      dot4: target.dot4,
      subgroups: target.subgroups && rows > 0,
    });
    const tiles = Math.ceil(N / (rows === 0 ? TILE_N : OUTPUTS));
    const offsets = { x: x!.offset, codes: codes!.offset, scb: scb!.offset, y: y!.offset };
    const optional = { bias: bias?.offset ?? 0, residual: residual?.offset ?? 0 };
    const pieces = [x!, q, codes!, scb!, ...(bias ? [bias] : []), ...(residual ? [residual] : []), y!];
    const groups = tiles * Math.ceil(M / (rows === 0 ? TILE_M : rows));
    const sizes = { M, N, K, width: y!.strides.at(-2) ?? N, stride, words, act, tiles };
    queue.dispatch(shader, pieces, { ...sizes, ...offsets, ...optional }, groups);
    return undefined;
  },
  axes(call) {
    const [, codes, scb] = call.operands;
    const outputs = along(codes!.shape[0]!, { 1: [codes, 0], 2: [scb, 0] });
    return productAxes(call, { x: 0, bias: 3, residual: 4, y: 6 }, outputs);
  },
  shaders: (target) => [
    rowsShader({ rows: "quantize", seen: true }),
    rowsShader({ rows: "quantize", seen: false }),
    ...variants(target).map(linearShader),
  ],
};
