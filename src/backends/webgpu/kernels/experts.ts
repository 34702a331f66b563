// Products with a matrix chosen per row (ops/experts.ts). A workgroup computes four outputs of one row with the matrix of
// the row's expert, whatever the number of rows. A stack that is too large for a binding is cut between experts; each part
// writes the rows of its own experts.

import { expertLinearOp, fourBitExpertLinearOp, llmInt8ExpertLinearOp } from "../../../ops/experts.js";
import type { CommandRecorder } from "../device/command-recorder.js";
import { FAILURE } from "../device/errors.js";
import type { Axis, Kernel, Target } from "../kernel.js";
import type { Binding, Call, Operand } from "../schedule/call.js";
import { along } from "../schedule/split.js";
import { type BindingSpec, bitsReader, family, reader, reads, type ShaderSpec, writes } from "../shader.js";
import { ACTIVATIONS, FLOATS } from "../wgsl.js";
import type { Format } from "./format.js";
import { ABSMAX, PART as FOUR_BIT_PART, fill, INCOMPLETE, ROUND, ROUNDED_PART, TABLE } from "./four-bit.js";
import { quantizeRows, rowsInScratch } from "./int8-rows.js";
import { streamed as streamedCodes } from "./int8-vector.js";
import { type Float, PART } from "./linear.js";
import { dotFour, OUTLIER_PART } from "./llm-int8.js";
import { BIAS_TYPES, type BiasType, FLOAT_TYPES } from "./product.js";
import { absmaxOf, absmaxShader, bindingsOf, type StackAbsmax, stackStatistics } from "./stack-absmax.js";
import { OUTPUTS, streamed, VECTOR_WIDTH } from "./vector.js";

/** `share` rows of results share one row of x; the stack holds `size` experts from `first` on, of `total`. */
const NUMBERS = [
  ...["M", "N", "K", "share", "x", "experts", "bias", "y"],
  ...["act:i32", "tiles", "first:i32", "size:i32", "total:i32"],
];

/** The row of x of a result. */
const source = (m: string): string => `(${m}) / P.share`;

/** Sets `expert` to the expert of the workgroup's row, `mine`; returns if it is invalid or not in this part of the stack. */
export const CHOOSE = `let mine = group / P.tiles;
  if (mine >= P.M) { return; }
  let chosen = experts[P.experts + mine];
  if (chosen < 0 || chosen >= P.total) {
    if (lid == 0u) { report(${FAILURE.expert}u, bitcast<u32>(chosen), bitcast<u32>(P.total), 0u); }
    return;
  }
  if (chosen < P.first || chosen >= P.first + P.size) { return; }
  expert = u32(chosen - P.first);
  `;

/** Row n of the workgroup's expert, among all rows of the stack. */
export const ROW = "(expert * P.N + n)";

function spec(
  bindings: readonly BindingSpec[],
  params: readonly string[],
  bias: BiasType,
  subgroups: boolean,
  declarations: readonly string[],
  body: string,
): ShaderSpec {
  return {
    bindings: [...bindings, reads("experts", "array<i32>"), ...(bias === "none" ? [] : [reads("bias")]), writes("y")],
    params: [...NUMBERS, ...params],
    workgroup: VECTOR_WIDTH,
    subgroups,
    reports: true,
    declarations: [
      "var<private> expert: u32;",
      FLOATS,
      ACTIVATIONS,
      bias === "none" ? "" : reader("bias", bias),
      ...declarations,
    ],
    body: CHOOSE + body,
  };
}

const withBias = (bias: BiasType): string => (bias === "none" ? "" : ` + bias_at(P.bias + ${ROW})`);

interface Options {
  readonly fast: boolean;
  readonly bias: BiasType;
  readonly subgroups: boolean;
}

function floatSpec(format: Format, { fast, bias, subgroups }: Options): ShaderSpec {
  return spec(
    [reads("x", fast ? "array<vec4<f32>>" : "array<f32>"), ...format.bindings],
    format.params,
    bias,
    subgroups,
    [
      ...format.declarations,
      `fn store(m: u32, n: u32, sum: f32) {
  if (m < P.M && n < P.N) { y[P.y + m * P.N + n] = activate(P.act, sum${withBias(bias)}); }
}
var<workgroup> cells: array<f32, ${VECTOR_WIDTH * OUTPUTS}>;`,
    ],
    (format.prologue ?? "") + streamed(format, fast, 1, subgroups, false, source),
  );
}

const denseShader = family(
  "expert_linear",
  ({ weight, ...options }: Options & { [name: string]: string | boolean; weight: Float }) => {
    const chunk = weight === "f32" ? 4 : 8;
    const format: Format = {
      bindings: [reads("w", options.fast ? "array<vec4<u32>>" : "array<u32>")],
      params: ["w"],
      chunk,
      declarations: options.fast
        ? [
            `fn raw(n: u32, c: u32) -> vec4<u32> { return w[(P.w + ${ROW} * P.K) / ${chunk}u + c]; }
fn part(raw: vec4<u32>, i: u32) -> vec4<f32> { ${PART[weight]} }
fn weight(n: u32, c: u32) -> f32 { return 1.0; }`,
          ]
        : [reader("w", weight), `fn one(n: u32, k: u32) -> f32 { return w_at(P.w + ${ROW} * P.K + k); }`],
    };
    return floatSpec(format, options);
  },
);

const fourBitShader = family(
  "four_bit_expert_linear",
  ({
    absmax,
    rounds,
    ...options
  }: Options & { [name: string]: string | boolean; absmax: StackAbsmax; rounds: boolean }) => {
    const statistics = absmaxOf(absmax);
    const { fast } = options;
    const format: Format = {
      bindings: [reads("codes", fast ? "array<vec4<u32>>" : "array<u32>"), ...statistics.bindings],
      params: ["codes", ...statistics.params],
      chunk: 32,
      prologue: fill(absmax === "decoded" ? "i8" : absmax),
      rounds: fast && rounds,
      declarations: [
        TABLE,
        ...statistics.declarations,
        ...(fast
          ? [
              `fn raw(n: u32, c: u32) -> vec4<u32> { return codes[(P.codes + ${ROW} * P.K) / 32u + c]; }`,
              FOUR_BIT_PART,
              ...(rounds ? [ROUNDED_PART] : []),
              "fn weight(n: u32, c: u32) -> f32 { return absmax_of((n * P.K + c * 32u) / P.blocksize); }",
            ]
          : [
              bitsReader("codes", "u4"),
              ROUND,
              `fn one(n: u32, k: u32) -> f32 {
  return round_to(table[codes_bits(P.codes + ${ROW} * P.K + k)] * absmax_of((n * P.K + k) / P.blocksize));
}`,
            ]),
      ],
    };
    return floatSpec(format, options);
  },
);

const int8Shader = family(
  "llm_int8_expert_linear",
  ({ aligned, dot4, bias, subgroups }: { aligned: boolean; dot4: boolean; bias: BiasType; subgroups: boolean }) =>
    spec(
      [
        reads("x", "array<f32>"),
        reads("q", aligned ? "array<vec4<u32>>" : "array<u32>"),
        reads("codes", aligned ? "array<vec4<u32>>" : "array<u32>"),
        reads("scb", "array<f32>"),
      ],
      ["stride", "words", "bits", "raw", "codes", "scb"],
      bias,
      subgroups,
      [
        dotFour(dot4),
        rowsInScratch(aligned, false, source("m")),
        aligned
          ? `fn codes_quad(n: u32, c: u32) -> vec4<u32> { return codes[(P.codes + ${ROW} * P.K) / 16u + c]; }`
          : `fn codes_word(n: u32, w: u32) -> u32 {
  let at = P.codes + ${ROW} * P.K + w * 4u;
  let shift = (at & 3u) * 8u;
  let low = codes[at / 4u] >> shift;
  if (shift == 0u) { return low; }
  return low | (codes[at / 4u + 1u] << (32u - shift));
}`,
        `fn code_at(n: u32, k: u32) -> f32 {
  let at = P.codes + ${ROW} * P.K + k;
  return f32(extractBits(bitcast<i32>(codes${aligned ? "[at / 16u][(at / 4u) & 3u]" : "[at / 4u]"}), (at & 3u) * 8u, 8u));
}`,
        OUTLIER_PART,
        `fn store(m: u32, n: u32, product: i32, outliers: f32) -> f32 {
  if (m >= P.M || n >= P.N) { return 0.0; }
  let wide = scb[P.scb + ${ROW}];
  let sum = f32(product) * scale_of(m) * wide / 16129.0 + outliers * wide / 127.0;
  let value = activate(P.act, sum${withBias(bias)});
  y[P.y + m * P.N + n] = value;
  return value;
}
var<workgroup> cells: array<i32, ${VECTOR_WIDTH * OUTPUTS}>;
var<workgroup> floats: array<f32, ${VECTOR_WIDTH * OUTPUTS}>;`,
      ],
      streamedCodes({ rows: 1, aligned, subgroups, inside: false, gated: false, source }),
    ),
);

/** Places of the operands that all ops with a stack have. */
export interface Places {
  readonly experts: number;
  readonly bias?: number;
  readonly y: number;
  /** Operands besides the stack whose first dim is the expert. */
  readonly stacks: readonly number[];
  /** Number of attributes of the op; those of a part of a stack follow them. */
  readonly attributes: number;
}

/** Records a product: `bindings` and `numbers` are those of the stack. Returns a sentence if this device cannot. */
function record(
  { operands, attributes }: Call,
  at: Places,
  shader: ReturnType<typeof denseShader>,
  act: number,
  bindings: readonly Binding[],
  numbers: Readonly<Record<string, number>>,
  recorder: CommandRecorder,
  target: Target,
): string | undefined {
  const [x, stack] = operands;
  const [experts, bias, y] = [operands[at.experts]!, operands[at.bias!], operands[at.y]!];
  const [size = 0, N = 0, K = 0] = stack!.shape;
  if (y.count === 0) return undefined;
  const bound = [x!, ...bindings, experts, ...(bias ? [bias] : []), y];
  if (bound.length + 1 > target.storageBuffers) {
    return `this call binds ${bound.length + 1} storage buffers, and this device ${target.storageBuffers}`;
  }
  const M = experts.count;
  const share = x!.shape[1] === 1 ? experts.shape[1]! : 1;
  const tiles = Math.ceil(N / OUTPUTS);
  const [first = 0, total = size] = attributes.slice(at.attributes);
  const offsets = { x: x!.offset, experts: experts.offset, bias: bias?.offset ?? 0, y: y.offset };
  recorder.dispatch(
    shader,
    bound,
    { M, N, K, share, act, tiles, first, size, total, ...offsets, ...numbers },
    tiles * M,
  );
  return undefined;
}

/** Axes: experts, and tokens. */
export function expertAxes({ operands, attributes }: Call, at: Places): Axis[] {
  const [x, stack] = operands;
  const own = attributes.slice(0, at.attributes);
  const [before = 0, total = stack!.shape[0]!] = attributes.slice(at.attributes);
  const stacks: Record<number, readonly [Operand | undefined, number]> = { 1: [stack, 0] };
  for (const i of [...at.stacks, ...(at.bias === undefined ? [] : [at.bias])]) stacks[i] = [operands[i], 0];
  return [
    { ...along(stack!.shape[0]!, stacks), attributes: (begin) => [...own, before + begin, total] },
    along(x!.shape[0]!, { 0: [x, 0], [at.experts]: [operands[at.experts], 0], [at.y]: [operands[at.y], 0] }),
  ];
}

const DENSE: Places = { experts: 2, bias: 3, y: 4, stacks: [], attributes: 2 };
const INT8: Places = { experts: 3, bias: 4, y: 6, stacks: [2], attributes: 3 };
const FOUR_BIT: Places = { experts: 6, bias: 7, y: 8, stacks: [2, 3, 5], attributes: 5 };

const biasOf = (operand: Operand | undefined): BiasType => (operand?.dtype ?? "none") as BiasType;
const BOTH = [true, false] as const;

export const expertLinear: Kernel = {
  op: expertLinearOp,
  record(call, recorder, target) {
    const [x, weight, , bias] = call.operands;
    const chunk = weight!.dtype === "f32" ? 4 : 8;
    const fast = weight!.shape[2]! % chunk === 0 && weight!.offset % chunk === 0 && x!.offset % 4 === 0;
    const { subgroups } = target;
    const shader = denseShader({ weight: weight!.dtype as Float, fast, bias: biasOf(bias), subgroups });
    return record(call, DENSE, shader, call.attributes[0]!, [weight!], { w: weight!.offset }, recorder, target);
  },
  axes: (call) => expertAxes(call, DENSE),
  shaders: ({ subgroups }) =>
    FLOAT_TYPES.flatMap((weight) =>
      BOTH.flatMap((fast) => BIAS_TYPES.map((bias) => denseShader({ weight, fast, bias, subgroups }))),
    ),
};

export const fourBitExpertLinear: Kernel = {
  op: fourBitExpertLinearOp,
  record(call, recorder, target) {
    const [x, codes, , , , , , bias] = call.operands;
    const [kind = 0, blocksize = 64, act = 0, , rounding = 0] = call.attributes;
    const made = stackStatistics(call.operands, [kind, blocksize, rounding], bias ? 1 : 0, recorder, target);
    if (!made) return INCOMPLETE;
    const aligned = codes!.shape[2]! % 32 === 0 && codes!.offset % 32 === 0 && x!.offset % 4 === 0;
    const fast = aligned && blocksize % 32 === 0;
    const options = { fast, rounds: fast && rounding !== 0, bias: biasOf(bias), subgroups: target.subgroups };
    const shader = fourBitShader({ absmax: made.absmax, ...options });
    return record(call, FOUR_BIT, shader, act, [codes!, ...made.statistics], made.numbers, recorder, target);
  },
  axes: (call) => expertAxes(call, FOUR_BIT),
  shaders: ({ subgroups, storageBuffers }) => [
    ...(["u8", "i8"] as const).map((absmax) => absmaxShader({ step: "absmax", absmax })),
    ...[...ABSMAX, "decoded" as const].flatMap((absmax) =>
      BOTH.flatMap((fast) =>
        BIAS_TYPES.filter((bias) => bindingsOf(absmax) + (bias === "none" ? 0 : 1) <= storageBuffers).flatMap((bias) =>
          (fast ? BOTH : [false]).map((rounds) => fourBitShader({ absmax, fast, rounds, bias, subgroups })),
        ),
      ),
    ),
  ],
};

export const llmInt8ExpertLinear: Kernel = {
  op: llmInt8ExpertLinearOp,
  record(call, recorder, target) {
    const [x, codes, scb, , bias, seen, y] = call.operands;
    const [threshold = 0, act = 0] = call.attributes;
    if (y!.count === 0) return undefined;
    const { binding, layout } = quantizeRows(recorder, x!, threshold, seen && threshold > 0 ? [seen] : []);
    const aligned = codes!.shape[2]! % 16 === 0 && codes!.offset % 16 === 0;
    const shader = int8Shader({ aligned, dot4: target.dot4, bias: biasOf(bias), subgroups: target.subgroups });
    const numbers = { codes: codes!.offset, scb: scb!.offset, ...layout };
    return record(call, INT8, shader, act, [binding, codes!, scb!], numbers, recorder, target);
  },
  axes: (call) => expertAxes(call, INT8),
  shaders: ({ dot4, subgroups }) =>
    BOTH.flatMap((aligned) => BIAS_TYPES.map((bias) => int8Shader({ aligned, dot4, bias, subgroups }))),
};
