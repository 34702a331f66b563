// four_bit_linear and four_bit_dequantize: 4-bit codes with one absmax per block, which double quantization and O4 store in
// 8 bits. The product in `map * nested + offset` passes through an integer, so that compilers cannot contract both
// operations into one rounding.

import {
  FOUR_BIT_ROUNDING,
  FOUR_BIT_TABLES,
  fourBitDequantizeOp,
  fourBitLinearOp,
  inCodes,
  NESTED_BLOCK,
  o4Group,
} from "../../../ops/four-bit.js";
import { COMPUTE } from "../../../ops/linear.js";
import type { CommandRecorder } from "../device/command-recorder.js";
import { type Axis, groupsFor, type Kernel, type Part, type Target } from "../kernel.js";
import type { Binding, Call, Operand } from "../schedule/call.js";
import { rowsPerCut } from "../schedule/split.js";
import { type BindingSpec, bitsReader, family, reader, reads, type Shader, WORKGROUP, writes } from "../shader.js";
import { literal } from "../wgsl.js";
import { addInPlace } from "./elementwise.js";
import type { Format } from "./format.js";
import {
  byJob,
  type Gate,
  type Joinable,
  type JoinedOptions,
  jobName,
  joinable,
  joinedVariants,
  type ProductOptions,
  productAxes,
  productSpec,
  productVariants,
  recordJoined,
  recordProduct,
} from "./product.js";
import { HALVES } from "./tiles.js";

/** dtypes of absmax; i8 are O4's. */
export const ABSMAX = ["f32", "u8", "i8"] as const;
export type Absmax = (typeof ABSMAX)[number];

/**
 * A function that rounds decoded values half to even, by the code of the attribute, for one value or four. Short, and
 * without branches that data decide: a product inlines it once for each quad of each output.
 */
function rounding(name: string, value: string, bits: string): string {
  return `fn ${name}(value: ${value}) -> ${value} {
  let exact = bitcast<${bits}>(value);
  let size = exact & ${bits}(0x7fffffffu);
  let drop = select(16u, 13u, P.rounding == ${FOUR_BIT_ROUNDING.f16}u);
  let odd = (size >> ${bits}(drop)) & ${bits}(1u);
  var near = (size + ${bits}((1u << (drop - 1u)) - 1u) + odd) & ${bits}(0xffffffffu << drop);
  if (P.rounding == ${FOUR_BIT_ROUNDING.f16}u) {
    // Below the smallest normal f16, in units of 2^-24; beyond the largest, infinity.
    let small = bitcast<${bits}>(round(abs(value) * 16777216.0) * ${2 ** -24});
    near = select(near, small, size < ${bits}(0x38800000u));
    near = select(near, ${bits}(0x7f800000u), size >= ${bits}(0x477ff000u));
  }
  let kept = P.rounding == ${FOUR_BIT_ROUNDING.f32}u;
  let all = select(near, size, size > ${bits}(0x7f800000u));
  return bitcast<${value}>(select(all, size, kept) | (exact & ${bits}(0x80000000u)));
}`;
}

/** `round_to(value)`: a decoded value as the attribute rounds it. */
export const ROUND = rounding("round_to", "f32", "u32");

/** Elements 4i to 4i+3 of a chunk with their factor, rounded. */
export const ROUNDED_PART = `${rounding("round_four", "vec4<f32>", "vec4<u32>")}
fn rounded_part(raw: vec4<u32>, i: u32, factor: f32) -> vec4<f32> { return round_four(part(raw, i) * factor); }`;

/** Bindings and functions that give `absmax_of(block)`. */
export function statistics(absmax: Absmax): { bindings: BindingSpec[]; params: string[]; declarations: string[] } {
  if (absmax === "f32") {
    return {
      bindings: [reads("absmax", "array<f32>")],
      params: ["kind", "blocksize", "rounding", "absmax"],
      declarations: ["fn absmax_of(block: u32) -> f32 { return absmax[P.absmax + block]; }"],
    };
  }
  if (absmax === "i8") {
    return {
      bindings: [reads("absmax"), reads("nested", "array<f32>"), reads("map", "array<f32>")],
      params: ["kind", "blocksize", "rounding", "absmax", "nested", "map", "phase", "group"],
      declarations: [
        reader("absmax", "i8"),
        `fn absmax_of(block: u32) -> f32 {
  return absmax_at(P.absmax + block) * nested[P.nested + (P.phase + block) / P.group];
}`,
      ],
    };
  }
  return {
    bindings: [reads("absmax"), reads("nested", "array<f32>"), reads("map", "array<f32>"), reads("mean", "array<f32>")],
    params: ["kind", "blocksize", "rounding", "absmax", "nested", "map", "mean", "zero", "phase"],
    declarations: [
      bitsReader("absmax", "u8"),
      `fn absmax_of(block: u32) -> f32 {
  let scaled = map[P.map + absmax_bits(P.absmax + block)] * nested[P.nested + (P.phase + block) / ${NESTED_BLOCK}u];
  return bitcast<f32>(bitcast<u32>(scaled) ^ P.zero) + mean[P.mean];
}`,
    ],
  };
}

export const TABLE = `
const TABLES = array<f32, ${16 * FOUR_BIT_TABLES.length}>(${FOUR_BIT_TABLES.flatMap((table) => [...table].map(literal)).join(", ")});
var<workgroup> table: array<f32, 16>;`;

/** Fills the table with the values of the kind, or O4's with its own. */
export function fill(absmax: Absmax): string {
  return `
  if (lid < 16u) { table[lid] = ${absmax === "i8" ? "map[P.map + lid]" : "TABLES[16u * P.kind + lid]"}; }
  workgroupBarrier();
  `;
}

/** Elements 4i to 4i+3 of a chunk. */
export const PART = `fn part(raw: vec4<u32>, i: u32) -> vec4<f32> {
  let word = raw[i / 2u] >> ((i % 2u) * 16u);
  return vec4<f32>(table[(word >> 4u) & 15u], table[word & 15u], table[(word >> 12u) & 15u], table[(word >> 8u) & 15u]);
}`;

/** Several matrices that are read four elements at a time, with absmax in f32. */
function joinedFormat(jobs: number): Format {
  const names = (name: string): string[] => Array.from({ length: jobs }, (_, job) => jobName(name, job));
  const [codes, absmax] = [names("codes"), names("absmax")];
  const scale = (job: number, n: string): string =>
    `return ${absmax[job]}[P.${absmax[job]} + (${n} * P.K + c * 32u) / P.blocksize];`;
  return {
    bindings: [
      ...codes.map((name) => reads(name, "array<vec4<u32>>")),
      ...absmax.map((name) => reads(name, "array<f32>")),
    ],
    params: [...codes, "kind", "blocksize", ...absmax],
    chunk: 32,
    prologue: fill("f32"),
    declarations: [
      TABLE,
      `fn raw(n: u32, c: u32) -> vec4<u32> {
  ${byJob(jobs, (job, n) => `return ${codes[job]}[(P.${codes[job]} + ${n} * P.K) / 32u + c];`)}
}`,
      PART,
      `fn weight(n: u32, c: u32) -> f32 {
  ${byJob(jobs, scale)}
}`,
    ],
  };
}

function format(absmax: Absmax, fast: boolean, rounds: boolean): Format {
  const { bindings, params, declarations } = statistics(absmax);
  const shared = [TABLE, ...declarations];
  return {
    bindings: [reads("codes", fast ? "array<vec4<u32>>" : "array<u32>"), ...bindings],
    params: ["codes", ...params],
    chunk: 32,
    prologue: fill(absmax),
    rounds: fast && rounds,
    declarations: fast
      ? [
          ...shared,
          "fn raw(n: u32, c: u32) -> vec4<u32> { return codes[(P.codes + n * P.K) / 32u + c]; }",
          PART,
          ...(rounds ? [ROUNDED_PART] : []),
          "fn weight(n: u32, c: u32) -> f32 { return absmax_of((n * P.K + c * 32u) / P.blocksize); }",
          // No magnitude in a table is above one.
          `fn share_of_largest(n: u32, i: u32, count: u32) -> f32 {
  let last = (n * P.K + P.K - 1u) / P.blocksize;
  var largest = 0.0;
  for (var block = n * P.K / P.blocksize + i; block <= last; block += count) {
    largest = max(largest, abs(absmax_of(block)));
  }
  return largest;
}`,
        ]
      : [
          ...shared,
          bitsReader("codes", "u4"),
          ROUND,
          `fn one(n: u32, k: u32) -> f32 {
  let i = n * P.K + k;
  return round_to(table[codes_bits(P.codes + i)] * absmax_of(i / P.blocksize));
}`,
        ],
  };
}

interface LinearOptions extends ProductOptions {
  readonly absmax: Absmax;
  /** Decoded values are rounded. Variants that are not fast read P.rounding instead. */
  readonly rounds: boolean;
}

const linearShader = family("four_bit_linear", (options: LinearOptions) =>
  productSpec(
    options.jobs ? joinedFormat(options.jobs) : format(options.absmax, options.fast, options.rounds),
    options,
  ),
);

/** Bindings and numbers of the statistics, which `operands` are, behind the codes. */
export function parts(
  [codes, absmax, nested, map, mean]: readonly (Operand | undefined)[],
  blocksize: number,
  phase: number,
): { bindings: Binding[]; numbers: Record<string, number> } | undefined {
  if (absmax!.dtype === "f32") return { bindings: [absmax!], numbers: { absmax: absmax!.offset } };
  if (!nested || !map) return undefined;
  if (absmax!.dtype === "i8") {
    const group = o4Group(codes!.shape.at(-1)!, blocksize);
    const numbers = { absmax: absmax!.offset, nested: nested.offset, map: map.offset, phase, group };
    return { bindings: [absmax!, nested, map], numbers };
  }
  if (!mean) return undefined;
  const numbers = { absmax: absmax!.offset, nested: nested.offset, map: map.offset, mean: mean.offset, zero: 0, phase };
  return { bindings: [absmax!, nested, map, mean], numbers };
}

/**
 * The axis of rows of codes with their statistics, cut where blocks begin. `phase` becomes the index of the first block in
 * its nested block.
 */
export function codeRows(
  [codes, absmax, nested]: readonly (Operand | undefined)[],
  at: number,
  attributes: readonly number[],
  blocksize: number,
): Axis {
  const [N = 0, K = 0] = codes!.shape;
  const group = absmax!.dtype === "i8" ? o4Group(K, blocksize) : NESTED_BLOCK;
  const first = (row: number): number => (row * K) / blocksize;
  const blocks = (row: number, count: number): [number, number] => [first(row), Math.ceil((count * K) / blocksize)];
  const parts: Record<number, Part> = {
    [at]: { operand: codes!, dim: 0 },
    [at + 1]: { operand: absmax!, dim: 0, range: blocks },
  };
  if (nested) {
    const range = (row: number, count: number): [number, number] => {
      const begin = Math.floor(first(row) / group);
      return [begin, Math.ceil((first(row) + (count * K) / blocksize) / group) - begin];
    };
    parts[at + 2] = { operand: nested, dim: 0, range };
  }
  return {
    size: N,
    step: rowsPerCut(K, blocksize),
    parts,
    attributes: (row) => [...attributes, first(row) % group],
  };
}

export const INCOMPLETE = "absmax in 8 bits needs nested and map, in u8 offset too";

/** Records products that share x as one dispatch, if it can; with `gate`, the gated activation too. */
export function joinFourBit(calls: readonly Call[], recorder: CommandRecorder, target: Target, gate?: Gate): boolean {
  const products: Joinable[] = [];
  const [kind = 0, blocksize = 64, , , rounding] = calls[0]!.attributes;
  if (rounding !== 0) return false;
  for (const call of calls) {
    const [x, codes, absmax, , , , bias, residual, y] = call.operands;
    const [N = 0, K = 0] = codes!.shape;
    const numbers = { codes: codes!.offset, absmax: absmax!.offset };
    const product = { x: x!, y: y!, N, bindings: [codes!, absmax!], numbers };
    const same = call.attributes[0] === kind && call.attributes[1] === blocksize && call.attributes[4] === 0;
    const alike = same && absmax!.dtype === "f32";
    const fast = alike && K % 32 === 0 && blocksize % 32 === 0 && codes!.offset % 32 === 0;
    if (bias || residual || !joinable(product, call.attributes[2]!, fast)) return false;
    products.push(product);
  }
  if (1 + 3 * products.length + (gate ? 1 : 0) > target.storageBuffers) return false;
  const K = calls[0]!.operands[1]!.shape[1]!;
  const made = (options: JoinedOptions): Shader => linearShader({ absmax: "f32", rounds: false, ...options });
  recordJoined(recorder, target, products, K, { kind, blocksize }, made, gate);
  return true;
}

export const fourBitLinear: Kernel = {
  op: fourBitLinearOp,
  record(call, recorder, target) {
    const [x, codes, absmax, , , , bias, residual, y] = call.operands;
    const [kind = 0, blocksize = 64, act = 0, compute = 0, rounding = 0, phase = 0] = call.attributes;
    const [N = 0, K = 0] = codes!.shape;
    // Where codes in 8 bits are asked for, f16 will do too: it rounds less.
    const halves = compute === COMPUTE.bf16 || inCodes(compute, K, blocksize);
    const statistics = parts(call.operands.slice(1), blocksize, phase);
    if (!statistics) return INCOMPLETE;
    const bindings = [codes!, ...statistics.bindings];
    const numbers = { kind, blocksize, rounding, codes: codes!.offset, ...statistics.numbers };
    const fast = K % 32 === 0 && blocksize % 32 === 0 && codes!.offset % 32 === 0;
    // If the device cannot bind all operands at once, the residual is added afterwards.
    const apart = residual !== undefined && bindings.length + 3 + (bias ? 1 : 0) > target.storageBuffers;
    const product = {
      x: x!,
      bias,
      residual: apart ? undefined : residual,
      y: y!,
      N,
      K,
      act,
      fast,
      half: halves ? ({ parts: 1 } as const) : undefined,
      bindings,
      numbers,
    };
    recordProduct(recorder, target, product, (options) =>
      linearShader({ absmax: absmax!.dtype as Absmax, rounds: options.fast && rounding !== 0, ...options }),
    );
    if (apart) {
      addInPlace(recorder, residual, y!);
    }
    return undefined;
  },
  join: (calls, recorder, target) => joinFourBit(calls, recorder, target),
  axes(call) {
    const outputs = codeRows(call.operands.slice(1), 1, call.attributes.slice(0, 5), call.attributes[1]!);
    return productAxes(call, { x: 0, bias: 6, residual: 7, y: 8 }, outputs);
  },
  shaders: (target) => [
    ...(target.f16 ? [HALVES] : []),
    ...ABSMAX.flatMap((absmax) =>
      [
        ...productVariants(target, 3 + statistics(absmax).bindings.length, [1]).flatMap((options) =>
          (options.fast && !options.half ? [false, true] : [false]).map((rounds) => ({ rounds, ...options })),
        ),
        ...(absmax === "f32" ? joinedVariants(target, 2) : []).map((options) => ({ rounds: false, ...options })),
      ].map((options) => linearShader({ absmax, ...options })),
    ),
  ],
};

const dequantizeShader = family("four_bit_dequantize", ({ absmax }: { absmax: Absmax }) => {
  const { bindings, params, declarations } = statistics(absmax);
  return {
    bindings: [reads("codes"), ...bindings, writes("y")],
    params: ["count", "codes", "y", ...params],
    declarations: [TABLE, ...declarations, bitsReader("codes", "u4"), ROUND],
    body: `${fill(absmax)}
  if (gid >= P.count) { return; }
  y[P.y + gid] = round_to(table[codes_bits(P.codes + gid)] * absmax_of(gid / P.blocksize));`,
  };
});

export const fourBitDequantize: Kernel = {
  op: fourBitDequantizeOp,
  record({ operands, attributes: [kind = 0, blocksize = 64, rounding = 0, phase = 0] }, recorder) {
    const statistics = parts(operands, blocksize, phase);
    if (!statistics) return INCOMPLETE;
    const [codes, absmax, , , , w] = operands;
    const { count } = w!;
    const numbers = { count, kind, blocksize, rounding, codes: codes!.offset, y: w!.offset, ...statistics.numbers };
    const shader = dequantizeShader({ absmax: absmax!.dtype as Absmax });
    recorder.dispatch(shader, [codes!, ...statistics.bindings, w!], numbers, groupsFor(count, WORKGROUP));
    return undefined;
  },
  axes({ operands, attributes }) {
    const rows = codeRows(operands, 0, attributes.slice(0, 3), attributes[1]!);
    return [{ ...rows, parts: { ...rows.parts, 5: { operand: operands[5]!, dim: 0 } } }];
  },
  shaders: () => ABSMAX.map((absmax) => dequantizeShader({ absmax })),
};
