// llm_int8_linear: rows of x are quantized first (codes, scale and a bitmap of outliers, in scratch memory), then
// multiplied with the weight codes four at a time in integers; outliers are multiplied as floats in the same kernel.
// Products with the same x share its quantized rows, and become one dispatch if the rows are few. See int8-rows.ts.

import { llmInt8LinearOp } from "../../../ops/llm-int8.js";
import type { CommandRecorder } from "../device/command-recorder.js";
import type { Kernel, Target } from "../kernel.js";
import { type Call, leading, type Operand } from "../schedule/call.js";
import { along } from "../schedule/split.js";
import { family, type Option, reader, reads, writes } from "../shader.js";
import { ACTIVATIONS, FLOATS, range } from "../wgsl.js";
import { keepsX, MANY, quantizeRows, rowsInScratch, rowsShaders } from "./int8-rows.js";
import { CODE_TILE_N, type CodeTile, codeTileDeclarations, codeTiles, tiledCodes } from "./int8-tiles.js";
import { marking, quantizesInside, ROW_INSIDE, streamed } from "./int8-vector.js";
import { TILE_WIDTH } from "./matrices.js";
import {
  BIAS_TYPES,
  type BiasType,
  byJob,
  type Gate,
  JOBS,
  jobBegin,
  jobEnd,
  jobName,
  productAxes,
} from "./product.js";
import { OUTPUTS, VECTOR_WIDTH } from "./vector.js";

/** Options of a shader that follow from the device, the number of rows and the codes. */
interface Shape extends CodeTile {
  /** Rows of codes that begin at whole vec4s. */
  readonly aligned: boolean;
  /** Rows of x that a workgroup takes; 0 for tiles. */
  readonly rows: number;
  readonly dot4: boolean;
  /** Uses subgroups for sums; tiles do so only with subgroup matrices. */
  readonly subgroups: boolean;
}

interface Options extends Shape {
  readonly [more: string]: Option;
  readonly bias: BiasType;
  readonly residual: boolean;
  /** Marks the columns that held outliers. */
  readonly seen: boolean;
  /** Every workgroup quantizes the single row of x: see int8-vector.ts. */
  readonly inside: boolean;
}

/** Stacked matrices that share x, without bias or residual: see product.ts. */
interface Joined extends Options {
  readonly jobs: number;
  /** Also writes the gated activation: see Gate. */
  readonly gated: boolean;
}

const linearShader = family("llm_int8_linear", (options: Options | Joined) => {
  const { aligned, rows, bias, residual, seen, dot4, subgroups, inside } = options;
  const jobs = Number(options.jobs ?? 1);
  const gated = options.gated === true;
  const names = (name: string): string[] => range(jobs).map((job) => jobName(name, job));
  const later = (name: string): string[] => names(name).slice(1);
  return {
    bindings: [
      ...(jobs === 1 ? [reads("x", inside ? "array<vec4<f32>>" : "array<f32>")] : []),
      ...(inside ? [] : [reads("q", aligned ? "array<vec4<u32>>" : "array<u32>")]),
      ...names("codes").map((name) => reads(name, aligned ? "array<vec4<u32>>" : "array<u32>")),
      ...names("scb").map((name) => reads(name, "array<f32>")),
      ...(bias === "none" ? [] : [reads("bias")]),
      ...(residual ? [reads("residual", "array<f32>")] : []),
      ...(seen ? [writes("seen", "array<atomic<u32>>")] : []),
      ...names("y").map((name) => writes(name)),
      ...(gated ? [writes("z")] : []),
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
      ...["act:i32", "tiles", "threshold:f32", "z", ...["n", "codes", "scb", "y"].flatMap(later)],
    ],
    workgroup: rows === 0 ? TILE_WIDTH : VECTOR_WIDTH,
    subgroups,
    subgroupMatrix: options.matrix !== undefined,
    declarations: [
      FLOATS,
      ACTIVATIONS,
      bias === "none" ? "" : reader("bias", bias),
      dotFour(dot4),
      inside ? ROW_INSIDE : rowsInScratch(aligned, jobs > 1),
      // Rows that begin inside a word are assembled from two words. Bytes beyond the row are multiplied with zero codes.
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
${OUTLIER_PART}
fn store(m: u32, n: u32, product: i32, outliers: f32) -> f32 {
  if (m >= P.M || n >= P.N) { return 0.0; }
  let scale = scale_of(m);
  ${byJob(jobs, (job, n) => finish(jobs, job, n, bias, residual))}
}`,
      ...(rows === 0
        ? codeTileDeclarations(options)
        : [
            `var<workgroup> cells: array<i32, ${VECTOR_WIDTH * OUTPUTS * rows}>;`,
            `var<workgroup> floats: array<f32, ${VECTOR_WIDTH * OUTPUTS}>;`,
            gated ? `var<workgroup> results: array<f32, ${OUTPUTS}>;` : "",
          ]),
    ],
    body:
      (rows === 0 ? tiledCodes(aligned, options) : streamed({ rows, aligned, subgroups, inside, gated })) +
      (seen ? (rows === 0 ? marking(options.tile!, TILE_WIDTH) : marking(rows, VECTOR_WIDTH)) : ""),
  };
});

/** `dot4(a, b)`: the sum of the products of four signed bytes. */
export function dotFour(dot4: boolean): string {
  if (dot4) return "fn dot4(a: u32, b: u32) -> i32 { return dot4I8Packed(a, b); }";
  return `fn dot4(a: u32, b: u32) -> i32 {
  let s = bitcast<i32>(a);
  let t = bitcast<i32>(b);
  return extractBits(s, 0u, 8u) * extractBits(t, 0u, 8u) + extractBits(s, 8u, 8u) * extractBits(t, 8u, 8u)
    + extractBits(s, 16u, 8u) * extractBits(t, 16u, 8u) + extractBits(s, 24u, 8u) * extractBits(t, 24u, 8u);
}`;
}

/** `outlier_part(m, n, b)`: the contribution of the outliers of word b of a row's bitmap. */
export const OUTLIER_PART = `fn outlier_part(m: u32, n: u32, b: u32) -> f32 {
  var bitmap = bitmap_of(m, b);
  var sum = 0.0;
  while (bitmap != 0u) {
    let k = b * 32u + countTrailingZeros(bitmap);
    bitmap &= bitmap - 1u;
    sum += value_of(m, k) * code_at(n, k);
  }
  return sum;
}`;

/** WGSL that scales the sums of row `n` of a job's matrix, stores the result and returns it. */
function finish(jobs: number, job: number, n: string, bias: BiasType, residual: boolean): string {
  const [scb, y] = [jobName("scb", job), jobName("y", job)];
  const value = `let wide = ${scb}[P.${scb} + ${n}];
  let sum = f32(product) * scale * wide / 16129.0 + outliers * wide / 127.0;`;
  if (jobs > 1) {
    return `${value}
  ${y}[P.${y} + m * (${jobEnd(jobs, job)} - ${jobBegin(job)}) + ${n}] = sum;
  return sum;`;
  }
  return `${value}
  var value = activate(P.act, sum${bias === "none" ? "" : " + bias_at(P.bias + n)"});
  ${residual ? "value += residual[P.residual + m * P.width + n];" : ""}
  y[P.y + m * P.width + n] = value;
  return value;`;
}

/** Most products that this device can join: it binds the rows, and codes, scb and y of each product. */
function mostJobs(target: Target): number {
  return Math.min(JOBS, Math.floor((target.storageBuffers - 1) / 3));
}

/** Options that all joined products have in common. */
function joinedOptions({ dot4, subgroups }: Target) {
  return { aligned: true, bias: "none", residual: false, seen: false, dot4, subgroups, inside: false } as const;
}

function joinedVariants(target: Target): Joined[] {
  const fixed = joinedOptions(target);
  return [2, JOBS]
    .filter((jobs) => jobs <= mostJobs(target))
    .flatMap((jobs) => [
      ...[1, 4].map((rows) => ({ ...fixed, rows, jobs, gated: false })),
      ...(jobs === 2 ? [1, 4].map((rows) => ({ ...fixed, rows, jobs, gated: true })) : []),
    ]);
}

function shapeOf(target: Target, aligned: boolean, rows: number): Shape {
  const tile = rows === 0 ? codeTiles(target, aligned) : {};
  const { dot4 } = target;
  return { aligned, rows, dot4, subgroups: target.subgroups && (rows > 0 || tile.matrix !== undefined), ...tile };
}

function variants(target: Target): Options[] {
  const forms = [0, 1, 4].flatMap((rows) => [true, false].map((aligned) => ({ rows, aligned, inside: false })));
  return [...forms, { rows: 1, aligned: true, inside: true }].flatMap(({ rows, aligned, inside }) =>
    BIAS_TYPES.flatMap((bias) =>
      [true, false].flatMap((residual) =>
        [true, false].map((seen) => ({ ...shapeOf(target, aligned, rows), bias, residual, seen, inside })),
      ),
    ),
  );
}

/** Records products that share x as one dispatch, if it can; with `gate`, the gated activation too. */
export function joinInt8(calls: readonly Call[], recorder: CommandRecorder, target: Target, gate?: Gate): boolean {
  const [x, first] = calls[0]!.operands;
  const [threshold = 0] = calls[0]!.attributes;
  const K = first!.shape[1]!;
  const M = leading(x!.shape);
  const seen = calls[0]!.operands[5] !== undefined;
  const alike = ({ operands, attributes: [limit, act] }: Call): boolean => {
    const [, codes, , bias, residual, marked] = operands;
    if (bias || residual || act !== 0 || limit !== threshold || (marked !== undefined) !== seen) return false;
    return codes!.offset % 16 === 0 && codes!.shape[0]! > 0;
  };
  if (M === 0 || M >= MANY || K % 16 !== 0 || !calls.every(alike)) return false;
  if (calls.length > mostJobs(target) || !keepsX(x!)) return false;
  const every = (at: number): Operand[] => calls.map(({ operands }) => operands[at]!);
  const quantized = quantizeRows(recorder, x!, threshold, seen && threshold > 0 ? every(5) : []);
  const N = every(1).reduce((sum, { shape }) => sum + shape[0]!, 0);
  const tiles = Math.ceil(gate ? first!.shape[0]! / (OUTPUTS / 2) : N / OUTPUTS);
  const unused = { width: N, x: 0, bias: 0, residual: 0, seen: 0, threshold };
  const written = { act: gate?.act ?? 0, z: gate?.y.offset ?? 0 };
  const numbers: Record<string, number> = { M, N, K, tiles, ...unused, ...written, ...quantized.layout };
  let row = 0;
  calls.forEach(({ operands: [, codes, scb, , , , y] }, job) => {
    if (job > 0) numbers[`n${job}`] = row;
    row += codes!.shape[0]!;
    for (const [name, { offset }] of Object.entries({ codes: codes!, scb: scb!, y: y! })) {
      numbers[jobName(name, job)] = offset;
    }
  });
  const rows = M === 1 ? 1 : 4;
  const shader = linearShader({ ...joinedOptions(target), rows, jobs: calls.length, gated: gate !== undefined });
  const bindings = [quantized.binding, ...every(1), ...every(2), ...every(6), ...(gate ? [gate.y] : [])];
  recorder.dispatch(shader, bindings, numbers, tiles * Math.ceil(M / rows));
  return true;
}

export const llmInt8Linear: Kernel = {
  op: llmInt8LinearOp,
  record(call, recorder, target) {
    const [x, codes, scb, bias, residual, seen, y] = call.operands;
    const [threshold = 0, act = 0] = call.attributes;
    if (y!.count === 0) return undefined;
    const [N = 0, K = 0] = codes!.shape;
    const M = leading(x!.shape);
    const rows = M >= MANY ? 0 : M === 1 ? 1 : 4;
    const aligned = K % 16 === 0 && codes!.offset % 16 === 0;
    const shape = shapeOf(target, aligned, rows);
    const tiles = Math.ceil(N / (rows === 0 ? CODE_TILE_N : OUTPUTS));
    const inside = aligned && quantizesInside(recorder, x!, threshold, tiles);
    const quantized = inside ? undefined : quantizeRows(recorder, x!, threshold);
    const made = quantized && seen && recorder.contents.holds(quantized.binding.block, quantized.key, seen);
    const marks = threshold > 0 && !made ? seen : undefined;
    const shader = linearShader({
      ...shape,
      bias: (bias?.dtype ?? "none") as BiasType,
      residual: residual !== undefined,
      seen: marks !== undefined,
      inside,
    });
    const offsets = { x: x!.offset, codes: codes!.offset, scb: scb!.offset, y: y!.offset, z: 0 };
    const optional = { bias: bias?.offset ?? 0, residual: residual?.offset ?? 0, seen: seen?.offset ?? 0 };
    const extra = [bias, residual, marks].filter((operand) => operand !== undefined);
    const bindings = [x!, ...(quantized ? [quantized.binding] : []), codes!, scb!, ...extra, y!];
    const groups = tiles * Math.ceil(M / (shape.tile ?? rows));
    const layout = quantized?.layout ?? { stride: 0, words: K / 4, bits: 0, raw: 0 };
    const sizes = { M, N, K, width: y!.strides.at(-2) ?? N, act, threshold, tiles, ...layout };
    recorder.dispatch(shader, bindings, { ...sizes, ...offsets, ...optional }, groups);
    return undefined;
  },
  join: (calls, recorder, target) => joinInt8(calls, recorder, target),
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
