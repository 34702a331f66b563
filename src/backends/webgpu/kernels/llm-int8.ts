// llm_int8_linear: rows of x are quantized first (codes, scale and a bitmap of outliers, in scratch memory), then
// multiplied with the weight codes four at a time in integers; outliers are multiplied as floats in the same kernel.
// Products that share their x share its quantized rows, and those of few rows are one dispatch. See int8-rows.ts.

import { llmInt8LinearOp } from "../../../ops/llm-int8.js";
import { type Call, leading, type Operand } from "../call.js";
import type { Kernel, Target } from "../kernel.js";
import { family, type Option, reader, reads, writes } from "../shader.js";
import { along } from "../split.js";
import { ACTIVATIONS, FLOATS, totals } from "../wgsl.js";
import { quantizeRows, rowsLayout, rowsShaders } from "./int8-rows.js";
import { CODE_TILE_N, type CodeTile, codeTileDeclarations, codeTiles, tiledCodes } from "./int8-tiles.js";
import { TILE_WIDTH } from "./matrices.js";
import { BIAS_TYPES, type BiasType, byJob, JOBS, jobBegin, jobEnd, jobName, OUTPUTS, productAxes } from "./product.js";

const WIDTH = 64;
/** From this many rows of x on, tiles. */
const MANY = 9;

/** What the device, the number of rows and the codes make of a shader. */
interface Shape extends CodeTile {
  /** Rows of codes that begin at whole vec4s. */
  readonly aligned: boolean;
  /** Rows of x that a workgroup takes; 0 for tiles. */
  readonly rows: number;
  readonly dot4: boolean;
  /** Sums go through subgroups; with tiles only in subgroup matrices. */
  readonly subgroups: boolean;
}

interface Options extends Shape {
  readonly [more: string]: Option;
  readonly bias: BiasType;
  readonly residual: boolean;
  /** Marks the columns that held outliers. */
  readonly seen: boolean;
}

/** Matrices that share x, one below the other, without bias or residual: see product.ts. */
interface Joined extends Options {
  readonly jobs: number;
}

const linearShader = family("llm_int8_linear", (options: Options | Joined) => {
  const { aligned, rows, bias, residual, seen, dot4, subgroups } = options;
  const jobs = Number(options.jobs ?? 1);
  const names = (name: string): string[] => range(jobs).map((job) => jobName(name, job));
  const later = (name: string): string[] => names(name).slice(1);
  return {
    bindings: [
      ...(jobs === 1 ? [reads("x", "array<f32>")] : []),
      reads("q", aligned ? "array<vec4<u32>>" : "array<u32>"),
      ...names("codes").map((name) => reads(name, aligned ? "array<vec4<u32>>" : "array<u32>")),
      ...names("scb").map((name) => reads(name, "array<f32>")),
      ...(bias === "none" ? [] : [reads("bias")]),
      ...(residual ? [reads("residual", "array<f32>")] : []),
      ...(seen ? [writes("seen", "array<atomic<u32>>")] : []),
      ...names("y").map((name) => writes(name)),
    ],
    params: [
      ...[
        "M",
        "N",
        "K",
        "width",
        "x",
        "stride",
        "words",
        "bits",
        "raw",
        "codes",
        "scb",
        "bias",
        "residual",
        "seen",
        "y",
      ],
      ...["act:i32", "tiles", ...["n", "codes", "scb", "y"].flatMap(later)],
    ],
    workgroup: rows === 0 ? TILE_WIDTH : WIDTH,
    subgroups,
    subgroupMatrix: options.matrix !== undefined,
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
      aligned ? "fn q_word(i: u32) -> u32 { return q[i >> 2u][i & 3u]; }" : "fn q_word(i: u32) -> u32 { return q[i]; }",
      // Rows that begin inside a word are put together from two. What comes behind the row meets codes of zero.
      aligned
        ? `fn codes_quad(n: u32, c: u32) -> vec4<u32> {
  ${byJob(jobs, (job, n) => `return ${jobName("codes", job)}[(P.${jobName("codes", job)} + ${n} * P.K) / 16u + c];`)}
}`
        : `fn codes_word(n: u32, w: u32) -> u32 {
  let at = P.codes + n * P.K + w * 4u;
  let shift = (at & 3u) * 8u;
  let low = codes[at / 4u] >> shift;
  if (shift == 0u) { return low; }
  return low | (codes[at / 4u + 1u] << (32u - shift));
}`,
      `fn code_at(n: u32, k: u32) -> f32 {
  ${byJob(
    jobs,
    (job, n) => `let at = P.${jobName("codes", job)} + ${n} * P.K + k;
  return f32(extractBits(bitcast<i32>(${jobName("codes", job)}${aligned ? "[at / 16u][(at / 4u) & 3u]" : "[at / 4u]"}), (at & 3u) * 8u, 8u));`,
  )}
}
fn outliers_of(m: u32) -> u32 { return q_word(m * P.stride + P.stride - 3u); }
fn outlier_part(m: u32, n: u32, b: u32) -> f32 {
  var bitmap = q_word(m * P.stride + P.bits + b);
  var sum = 0.0;
  while (bitmap != 0u) {
    let k = b * 32u + countTrailingZeros(bitmap);
    bitmap &= bitmap - 1u;
    sum += ${jobs === 1 ? "x[P.x + m * P.K + k]" : "bitcast<f32>(q_word(m * P.stride + P.raw + k))"} * code_at(n, k);
  }
  return sum;
}
fn store(m: u32, n: u32, product: i32, outliers: f32) {
  if (m >= P.M || n >= P.N) { return; }
  let scale = bitcast<f32>(q_word(m * P.stride + P.stride - 4u));
  ${byJob(jobs, (job, n) => finish(jobs, job, n, bias, residual))}
}`,
      ...(rows === 0
        ? codeTileDeclarations(options)
        : [
            `var<workgroup> cells: array<i32, ${WIDTH * OUTPUTS * rows}>;`,
            `var<workgroup> floats: array<f32, ${WIDTH * OUTPUTS}>;`,
          ]),
    ],
    body:
      (rows === 0 ? tiledCodes(aligned, options) : streamed(rows, aligned, subgroups)) +
      (seen ? mark(rows === 0 ? options.tile! : rows, rows === 0 ? TILE_WIDTH : WIDTH) : ""),
  };
});

/** WGSL that scales the sums of row `n` of a job's matrix and stores the result. */
function finish(jobs: number, job: number, n: string, bias: BiasType, residual: boolean): string {
  const [scb, y] = [jobName("scb", job), jobName("y", job)];
  const value = `let wide = ${scb}[P.${scb} + ${n}];
  let sum = f32(product) * scale * wide / 16129.0 + outliers * wide / 127.0;`;
  if (jobs > 1) {
    return `${value}
  ${y}[P.${y} + m * (${jobEnd(jobs, job)} - ${jobBegin(job)}) + ${n}] = sum;
  return;`;
  }
  return `${value}
  let value = activate(P.act, sum${bias === "none" ? "" : " + bias_at(P.bias + n)"});
  y[P.y + m * P.width + n] = value${residual ? " + residual[P.residual + m * P.width + n]" : ""};`;
}

/** The last workgroup of each row of workgroups has the least to do: it marks the columns of its rows. */
const mark = (rows: number, width: number): string => `
  if (group % P.tiles == P.tiles - 1u) {
    for (var m = m0; m < min(m0 + ${rows}u, P.M); m++) {
      if (outliers_of(m) == 0u) { continue; }
      for (var b = lid; b * 32u < P.K; b += ${width}u) {
        var bitmap = q_word(m * P.stride + P.bits + b);
        while (bitmap != 0u) {
          let at = P.seen + b * 32u + countTrailingZeros(bitmap);
          bitmap &= bitmap - 1u;
          atomicOr(&seen[at / 4u], 1u << ((at % 4u) * 8u));
        }
      }
    }
  }`;

function range(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i);
}

function four(text: (i: number) => string): string[] {
  return range(4).map(text);
}

function streamed(rows: number, aligned: boolean, subgroups: boolean): string {
  const cells = range(rows).flatMap((m) => range(OUTPUTS).map((n) => ({ m, n })));
  return [
    "let n0 = (group % P.tiles) * 4u;",
    `let m0 = (group / P.tiles) * ${rows}u;`,
    "if (m0 >= P.M) { return; }",
    ...range(OUTPUTS).map((n) => `let row${n} = min(n0 + ${n}u, P.N - 1u);`),
    ...range(rows).map((m) => `let at${m} = min(m0 + ${m}u, P.M - 1u) * P.stride;`),
    ...cells.map(({ m, n }) => `var sum${m}_${n} = 0i;`),
    ...(aligned
      ? [
          `for (var c = lid; c < P.words / 4u; c += ${WIDTH}u) {`,
          ...range(rows).map((m) => `let v${m} = q[at${m} / 4u + c];`),
          ...range(OUTPUTS).flatMap((n) => [
            `let c${n} = codes_quad(row${n}, c);`,
            ...range(rows).map((m) => `sum${m}_${n} += ${four((i) => `dot4(v${m}[${i}], c${n}[${i}])`).join(" + ")};`),
          ]),
          "}",
        ]
      : [
          `for (var w = lid; w < P.words; w += ${WIDTH}u) {`,
          ...range(rows).map((m) => `let v${m} = q[at${m} + w];`),
          ...range(OUTPUTS).flatMap((n) => [
            `let c${n} = codes_word(row${n}, w);`,
            ...range(rows).map((m) => `sum${m}_${n} += dot4(v${m}, c${n});`),
          ]),
          "}",
        ]),
    totals(
      cells.map(({ m, n }) => `sum${m}_${n}`),
      WIDTH,
      subgroups,
    ),
    // Outliers are few: the invocations share the bitmaps, and only of rows that have some.
    `for (var i = 0u; i < ${rows}u; i++) {`,
    "let m = min(m0 + i, P.M - 1u);",
    "var sum = 0.0;",
    "if (outliers_of(m) > 0u) {",
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

/** Most products that this device joins: it binds the rows, and of each product codes, scb and y. */
function mostJobs(target: Target): number {
  return Math.min(JOBS, Math.floor((target.storageBuffers - 1) / 3));
}

function joinedVariants(target: Target): Joined[] {
  const { dot4, subgroups } = target;
  const fixed = { aligned: true, bias: "none", residual: false, seen: false, dot4, subgroups } as const;
  return [2, JOBS]
    .filter((jobs) => jobs <= mostJobs(target))
    .flatMap((jobs) => [1, 4].map((rows) => ({ ...fixed, rows, jobs })));
}

function shapeOf(target: Target, aligned: boolean, rows: number): Shape {
  const tile = rows === 0 ? codeTiles(target, aligned) : {};
  const { dot4 } = target;
  return { aligned, rows, dot4, subgroups: target.subgroups && (rows > 0 || tile.matrix !== undefined), ...tile };
}

function variants(target: Target): Options[] {
  return [true, false].flatMap((aligned) =>
    [0, 1, 4].flatMap((rows) =>
      BIAS_TYPES.flatMap((bias) =>
        [true, false].flatMap((residual) =>
          [true, false].map((seen) => ({ ...shapeOf(target, aligned, rows), bias, residual, seen })),
        ),
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
    const piece = quantizeRows(queue, x!, threshold);
    const rows = M >= MANY ? 0 : M === 1 ? 1 : 4;
    const aligned = K % 16 === 0 && codes!.offset % 16 === 0;
    const marks = threshold > 0 ? seen : undefined;
    const shape = shapeOf(target, aligned, rows);
    const shader = linearShader({
      ...shape,
      bias: (bias?.dtype ?? "none") as BiasType,
      residual: residual !== undefined,
      seen: marks !== undefined,
    });
    const tiles = Math.ceil(N / (rows === 0 ? CODE_TILE_N : OUTPUTS));
    const offsets = { x: x!.offset, codes: codes!.offset, scb: scb!.offset, y: y!.offset };
    const optional = { bias: bias?.offset ?? 0, residual: residual?.offset ?? 0, seen: seen?.offset ?? 0 };
    const extra = [bias, residual, marks].filter((operand) => operand !== undefined);
    const pieces = [x!, piece, codes!, scb!, ...extra, y!];
    const groups = tiles * Math.ceil(M / (shape.tile ?? rows));
    const sizes = { M, N, K, width: y!.strides.at(-2) ?? N, act, tiles, ...rowsLayout(K, false) };
    queue.dispatch(shader, pieces, { ...sizes, ...offsets, ...optional }, groups);
    return undefined;
  },
  join(calls, queue, target) {
    const [x, first] = calls[0]!.operands;
    const [threshold = 0] = calls[0]!.attributes;
    const K = first!.shape[1]!;
    const M = leading(x!.shape);
    const seen = calls[0]!.operands[5] !== undefined;
    const marks = threshold > 0 && seen;
    const alike = ({ operands, attributes: [limit, act] }: Call): boolean => {
      const [, codes, , bias, residual, marked] = operands;
      if (bias || residual || act !== 0 || limit !== threshold || (marked !== undefined) !== seen) return false;
      return codes!.offset % 16 === 0 && codes!.shape[0]! > 0;
    };
    if (M === 0 || M >= MANY || K % 16 !== 0 || !calls.every(alike)) return false;
    const layout = rowsLayout(K, true);
    if (calls.length > mostJobs(target) || M * layout.stride * 4 > x!.block.binding) return false;
    const every = (at: number): Operand[] => calls.map(({ operands }) => operands[at]!);
    const rows = quantizeRows(queue, x!, threshold, { seen: marks ? every(5) : [] });
    const N = every(1).reduce((sum, { shape }) => sum + shape[0]!, 0);
    const tiles = Math.ceil(N / OUTPUTS);
    const unused = { width: N, x: 0, bias: 0, residual: 0, seen: 0, act: 0 };
    const numbers: Record<string, number> = { M, N, K, tiles, ...unused, ...layout };
    let row = 0;
    calls.forEach(({ operands: [, codes, scb, , , , y] }, job) => {
      if (job > 0) numbers[`n${job}`] = row;
      row += codes!.shape[0]!;
      for (const [name, { offset }] of Object.entries({ codes: codes!, scb: scb!, y: y! })) {
        numbers[jobName(name, job)] = offset;
      }
    });
    const { dot4, subgroups } = target;
    const kind = { aligned: true, bias: "none", residual: false, seen: false, dot4, subgroups } as const;
    const shader = linearShader({ ...kind, rows: M === 1 ? 1 : 4, jobs: calls.length });
    const pieces = [rows, ...every(1), ...every(2), ...every(6)];
    queue.dispatch(shader, pieces, numbers, tiles * Math.ceil(M / (M === 1 ? 1 : 4)));
    return true;
  },
  axes(call) {
    const [, codes, scb] = call.operands;
    const outputs = along(codes!.shape[0]!, { 1: [codes, 0], 2: [scb, 0] });
    return productAxes(call, { x: 0, bias: 3, residual: 4, y: 6 }, outputs);
  },
  shaders: (target) => [
    ...rowsShaders(),
    ...variants(target).map(linearShader),
    ...joinedVariants(target).map(linearShader),
  ],
};
