// y = act(x Wᵀ + bias) + residual for weights that decode to floats. Two forms: for few rows of x, a workgroup multiplies
// four weight rows with all of them (vector.ts; the weights are read once, at memory speed); for many rows, it computes a
// tile of results from blocks in workgroup memory (tiles.ts). A Format (format.ts) reads the weight.

import type { DType } from "../../../core/dtype.js";
import type { CommandRecorder } from "../device/command-recorder.js";
import type { Axis, Part, Target } from "../kernel.js";
import { asRows, type Binding, type Call, type Operand } from "../schedule/call.js";
import { along } from "../schedule/split.js";
import { type Option, reader, reads, type Shader, type ShaderSpec, writes } from "../shader.js";
import { ACTIVATIONS, FLOATS, range } from "../wgsl.js";
import type { Format } from "./format.js";
import { MATRIX_TILE, TILE_WIDTH } from "./matrices.js";
import { halveRows, halvesSize, TILE_N, type TileForm, tileDeclarations, tiled } from "./tiles.js";
import { OUTPUTS, streamed, VECTOR_WIDTH } from "./vector.js";

export const FLOAT_TYPES = ["f32", "f16", "bf16"] as const satisfies readonly DType[];
export const BIAS_TYPES = [...FLOAT_TYPES, "none"] as const;
export type BiasType = (typeof BIAS_TYPES)[number];

export interface ProductOptions extends TileForm {
  readonly fast: boolean;
  /** Rows of x that a workgroup takes; 0 for tiles. */
  readonly rows: number;
  readonly bias: BiasType;
  readonly residual: boolean;
  /** Uses subgroups for sums; tiles do so only with subgroup matrices. */
  readonly subgroups: boolean;
  /** Number of stacked matrices that share x: the second begins at row P.n1, the third at row P.n2. */
  readonly jobs?: number;
  /** Also writes act(first) * second of two matrices of one size: see Gate. */
  readonly gated?: boolean;
  readonly [more: string]: Option;
}

/** From this many rows of x on, products use tiles, which sum in another order than the vector form. */
const MANY = 9;
/** Rows of a tile for up to this many rows of x; otherwise a tile has twice as many. */
const LOW_TILE = 32;

/** `width` is the row stride of y and residual: N, unless this is a part of a larger product. */
const NUMBERS = ["M", "N", "K", "width", "x", "bias", "residual", "y", "act:i32", "tiles"];

export function productSpec(format: Format, options: ProductOptions): ShaderSpec {
  const { fast, rows, bias, residual, subgroups, jobs = 1, gated = false, half = false, matrix } = options;
  const bindings = [
    reads("x", half ? "array<vec4<f16>>" : fast ? "array<vec4<f32>>" : "array<f32>"),
    ...format.bindings,
    ...(bias === "none" ? [] : [reads("bias")]),
    ...(residual ? [reads("residual", "array<f32>")] : []),
    ...jobNames(jobs, "y").map((name) => writes(name)),
    ...(gated ? [writes("z")] : []),
  ];
  const joined = `
fn store(m: u32, n: u32, sum: f32) {
  if (m >= P.M || n >= P.N) { return; }
  ${byJob(jobs, (job, n) => `${jobName("y", job)}[P.${jobName("y", job)} + m * (${jobEnd(jobs, job)} - ${jobBegin(job)}) + ${n}] = sum; return;`)}
}`;
  const alone = `
fn store(m: u32, n: u32, sum: f32) {
  if (m >= P.M || n >= P.N) { return; }
  let value = activate(P.act, sum${bias === "none" ? "" : " + bias_at(P.bias + n)"});
  y[P.y + m * P.width + n] = value${residual ? " + residual[P.residual + m * P.width + n]" : ""};
}`;
  return {
    bindings,
    params: [
      ...NUMBERS,
      ...format.params,
      ...(jobs > 1 ? ["n1", ...(jobs > 2 ? ["n2", "y2"] : []), "y1"] : []),
      ...(gated ? ["z"] : []),
    ],
    workgroup: rows === 0 ? TILE_WIDTH : VECTOR_WIDTH,
    subgroups,
    f16: half,
    subgroupMatrix: matrix !== undefined,
    declarations: [
      FLOATS,
      ACTIVATIONS,
      ...format.declarations,
      bias === "none" ? "" : reader("bias", bias),
      jobs > 1 ? joined : alone,
      ...(rows === 0
        ? tileDeclarations(format, options, fast)
        : [`var<workgroup> cells: array<f32, ${VECTOR_WIDTH * OUTPUTS * rows}>;`]),
    ],
    body:
      (format.prologue ?? "") +
      (rows === 0 ? tiled(format, options, fast) : streamed(format, fast, rows, subgroups, gated)),
  };
}

/** The name of an operand of a job: "w", "w1", "w2". */
export function jobName(name: string, job: number): string {
  return job === 0 ? name : `${name}${job}`;
}

/** The names of an operand for all jobs. */
export function jobNames(jobs: number, name: string): string[] {
  return range(jobs).map((job) => jobName(name, job));
}

/** WGSL of the first row of a job, and of the row after its last. */
export const jobBegin = (job: number): string => (job === 0 ? "0u" : `P.n${job}`);
export const jobEnd = (jobs: number, job: number): string => (job + 1 < jobs ? `P.n${job + 1}` : "P.N");

/** WGSL that runs `text` of the job of row `n`, with the row's number in that job. Each text must return. */
export function byJob(jobs: number, text: (job: number, n: string) => string): string {
  return range(jobs)
    .reverse()
    .map((job) => (job === 0 ? text(0, "n") : `if (n >= P.n${job}) { ${text(job, `(n - P.n${job})`)} }`))
    .join("\n  ");
}

/** The options that all formats share. */
export type CommonOptions = Pick<ProductOptions, "fast" | "rows" | "bias" | "residual" | "subgroups"> & TileForm;

/** How a product uses blocks of f16. */
export interface Halving {
  /** Parts of x: one rounds it to the 11 bits of f16; two keep the precision of f32, and pay off with subgroup matrices. */
  readonly parts: 1 | 2;
  /** Gives the exponents of the weight's rows, if the format has `exponents`. */
  readonly exponents?: () => Binding;
}

export interface ProductCall {
  readonly x: Operand;
  readonly bias: Operand | undefined;
  readonly residual: Operand | undefined;
  readonly y: Operand;
  readonly N: number;
  readonly K: number;
  readonly act: number;
  readonly fast: boolean;
  /** How blocks may be f16; absent if they may not. */
  readonly half?: Halving | undefined;
  /** The format's bindings and numbers. */
  readonly bindings: readonly Binding[];
  readonly numbers: Readonly<Record<string, number>>;
}

/** Axes of a product: rows of the weight, which `outputs` cuts, and rows of x. */
export function productAxes(
  { operands }: Call,
  places: { readonly x: number; readonly bias: number; readonly residual: number; readonly y: number },
  outputs: Axis,
): Axis[] {
  const rows = (at: number): Operand | undefined => operands[at] && asRows(operands[at]);
  const x = rows(places.x)!;
  const residual = rows(places.residual);
  const y = rows(places.y)!;
  const { bias } = places;
  const parts: Record<number, Part> = { ...outputs.parts, [places.y]: { operand: y, dim: 1 } };
  if (operands[bias]) parts[bias] = { operand: operands[bias], dim: 0 };
  if (residual) parts[places.residual] = { operand: residual, dim: 1 };
  return [
    { ...outputs, parts },
    along(x.shape[0]!, { [places.x]: [x, 0], [places.residual]: [residual, 0], [places.y]: [y, 0] }),
  ];
}

/** Chooses the options of a product's shader and records it. */
export function recordProduct(
  recorder: CommandRecorder,
  target: Target,
  call: ProductCall,
  shader: (options: CommonOptions) => Shader,
): void {
  const { x, bias, residual, y, N, K, act, bindings } = call;
  if (y.count === 0) return;
  const M = y.count / N;
  const fast = call.fast && K % 4 === 0 && x.offset % 4 === 0;
  const rows = M >= MANY && !target.deterministic ? 0 : M === 1 ? 1 : 4;
  const fits = call.half && halvesSize(M, K, call.half.parts) <= x.block.binding;
  const half = rows === 0 && fast && K > 0 && fits ? halving(target, call.half) : undefined;
  const form = rows > 0 ? {} : tileForm(target, fast, half?.parts, M <= LOW_TILE);
  const made = shader({
    fast,
    rows,
    bias: (bias?.dtype ?? "none") as BiasType,
    residual: residual !== undefined,
    subgroups: target.subgroups && (rows > 0 || form.matrix !== undefined),
    ...form,
  });
  const tiles = Math.ceil(N / (rows === 0 ? TILE_N : OUTPUTS));
  const height = form.tile ?? rows;
  const offsets = { x: x.offset, bias: bias?.offset ?? 0, residual: residual?.offset ?? 0, y: y.offset };
  const all = [
    half ? halveRows(recorder, x, M, K, half.parts) : x,
    ...bindings,
    ...(half?.exponents ? [half.exponents()] : []),
    ...(bias ? [bias] : []),
    ...(residual ? [residual] : []),
    y,
  ];
  const numbers = { M, N, K, width: y.strides.at(-2) ?? N, act, tiles, ...offsets, ...call.numbers };
  recorder.dispatch(made, all, numbers, tiles * Math.ceil(M / height));
}

/** A product that can be joined with others of the same x. */
export interface Joinable {
  readonly x: Operand;
  readonly y: Operand;
  readonly N: number;
  /** Bindings of its weight, in the format's order, and their numbers under the names of job 0. */
  readonly bindings: readonly Binding[];
  readonly numbers: Readonly<Record<string, number>>;
}

/** Most products that are joined. */
export const JOBS = 3;

/** The gated activation of two products of one size: y = act(first) * second. */
export interface Gate {
  readonly y: Operand;
  readonly act: number;
}

/**
 * Records two or three products of few rows with the same x as one dispatch. `common` holds numbers that all jobs share;
 * `gate` needs exactly two products.
 */
export function recordJoined(
  recorder: CommandRecorder,
  target: Target,
  products: readonly Joinable[],
  K: number,
  common: Readonly<Record<string, number>>,
  shader: (options: JoinedOptions) => Shader,
  gate?: Gate,
): void {
  const { x, y, N: first } = products[0]!;
  const jobs = products.length;
  const M = y.count / first;
  const rows = M === 1 ? 1 : 4;
  const N = products.reduce((sum, product) => sum + product.N, 0);
  const { subgroups } = target;
  const made = shader({ fast: true, rows, bias: "none", residual: false, subgroups, jobs, gated: gate !== undefined });
  const unused = { width: N, bias: 0, residual: 0 };
  const act = gate?.act ?? 0;
  const numbers: Record<string, number> = { M, N, K, x: x.offset, act, z: gate?.y.offset ?? 0, ...unused, ...common };
  let row = 0;
  products.forEach((product, job) => {
    if (job > 0) numbers[`n${job}`] = row;
    row += product.N;
    numbers[jobName("y", job)] = product.y.offset;
    for (const [name, value] of Object.entries(product.numbers)) numbers[jobName(name, job)] = value;
  });
  const tiles = gate ? Math.ceil(first / (OUTPUTS / 2)) : Math.ceil(N / OUTPUTS);
  const weights = products[0]!.bindings.flatMap((_, i) => products.map(({ bindings }) => bindings[i]!));
  const bindings = [x, ...weights, ...products.map((product) => product.y), ...(gate ? [gate.y] : [])];
  recorder.dispatch(made, bindings, { ...numbers, tiles }, tiles * Math.ceil(M / rows));
}

/** True if products can be joined: few rows, x read as vec4s, nothing added. */
export function joinable(product: Joinable, act: number, fast: boolean): boolean {
  const rows = product.N > 0 ? product.y.count / product.N : 0;
  const { x } = product;
  return rows > 0 && rows < MANY && fast && act === 0 && x.offset % 4 === 0;
}

export type JoinedOptions = CommonOptions & { readonly jobs: number; readonly gated: boolean };

/** All options that `recordJoined` can use; a job's weight has `each` bindings. */
export function joinedVariants(target: Target, each: number): JoinedOptions[] {
  const { subgroups } = target;
  const forms = [
    ...range(JOBS + 1)
      .slice(2)
      .map((jobs) => ({ jobs, gated: false })),
    { jobs: 2, gated: true },
  ];
  return forms
    .filter(({ jobs, gated }) => 1 + jobs * (each + 1) + (gated ? 1 : 0) <= target.storageBuffers)
    .flatMap((form) =>
      [1, 4].map((rows) => ({ fast: true, rows, bias: "none" as const, residual: false, subgroups, ...form })),
    );
}

/** The form of a low or a high tile. Subgroup matrices have one height: they are so fast that empty rows do not matter. */
function tileForm({ matrix }: Target, fast: boolean, parts: number | undefined, low: boolean): TileForm {
  if (parts && matrix) return { tile: MATRIX_TILE / parts, half: true, ...(parts > 1 ? { parts } : {}), ...matrix };
  const tile = low || !fast ? LOW_TILE : 2 * LOW_TILE;
  return parts ? { tile, half: true } : { tile };
}

/** `wanted`, if this device supports it. */
function halving(target: Target, wanted: Halving | undefined): Halving | undefined {
  return wanted && (wanted.parts === 1 ? target.f16 : target.matrix) ? wanted : undefined;
}

/** All options that `recordProduct` can use; `parts`: possible numbers of parts of x in calls that allow blocks of f16. */
export function productVariants(target: Target, taken: number, parts: readonly (1 | 2)[] = []): CommonOptions[] {
  return [true, false].flatMap((fast) => {
    const ways = [undefined, ...(fast ? parts.filter((count) => halving(target, { parts: count })) : [])];
    const forms = ways.flatMap((way) => [true, false].map((low) => tileForm(target, fast, way, low)));
    const shapes: (TileForm & { rows: number })[] = [{ rows: 1 }, { rows: 4 }];
    for (const form of forms) shapes.push({ rows: 0, ...form });
    return shapes.flatMap((shape) =>
      BIAS_TYPES.flatMap((bias) =>
        [true, false]
          .filter((residual) => taken + (bias === "none" ? 0 : 1) + (residual ? 1 : 0) <= target.storageBuffers)
          .map((residual) => {
            const subgroups = target.subgroups && (shape.rows > 0 || shape.matrix !== undefined);
            const { rows, ...form } = shape;
            return { fast, rows, bias, residual, subgroups, ...form };
          }),
      ),
    );
  });
}
