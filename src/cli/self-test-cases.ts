// Small, odd-shaped calls of every op for the self-test of `octavo doctor`, with the same numbers every time. A new op needs
// a case here (a test counts them). self-test.ts runs and compares them.

import type { DType } from "../core/dtype.js";
import { ACT } from "../ops/activation.js";
import { FOUR_BIT, FOUR_BIT_ROUNDING } from "../ops/four-bit.js";
import { O4_FIRST_LEVELS, O4_UNIT } from "../ops/o4.js";
import { dynamicMap } from "../quant/_dynamic-map.js";
import { bnbCases } from "./self-test-bnb.js";
import type { CaseOperand, SelfTestCase } from "./self-test-case.js";

export type { CaseOperand, SelfTestCase } from "./self-test-case.js";

/** f32 sums in another order, exp and tanh by polynomials. */
const FLOAT = 2e-5;
/** Attention weights in 65280 steps, where a kernel multiplies codes with codes. */
const STEPS = 1e-4;
/** One rounding to bf16 of operands of a product, where the op allows it. */
const BF16 = 1e-2;
/** One rounding of both operands to 8-bit codes, where the op allows it. */
const CODES = 2e-2;
/** One step of a table of O4: beside the middle of two the order of a sum may decide. */
const LEVEL = 1.001 * O4_UNIT;

/** A small generator (mulberry32): the numbers must be the same on every machine; quality does not matter. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Enough rows for matrix units: AMX runs products of more than 12 rows and attention of 16 rows or more. */
const MANY = 19;

/** All cases. Sizes are no multiples of vector widths, so that tails are tested. */
export function selfTestCases(): SelfTestCase[] {
  const random = generator(20240607);
  const size = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1);
  const floats = (shape: number[], dtype: DType = "f32", scale = 1): CaseOperand => ({
    shape,
    dtype,
    values: Float32Array.from({ length: size(shape) }, () => (random() + random() + random() - 1.5) * 2 * scale),
  });
  const ints = (shape: number[], below: number, dtype: "i32" | "u8" = "i32"): CaseOperand => {
    const draw = { length: size(shape) };
    const next = (): number => Math.floor(random() * below);
    return { shape, dtype, values: dtype === "u8" ? Uint8Array.from(draw, next) : Int32Array.from(draw, next) };
  };
  const none = (count: number): undefined[] => new Array<undefined>(count).fill(undefined);
  /** Lanes [2,B,T] of rows that hold `from` tokens, and the table of a cache that has a page for each. */
  const cached = (rows: number, steps: number, from: number): [lanes: CaseOperand, table: CaseOperand] => {
    const lanes = new Int32Array(2 * rows * steps);
    for (let at = 0; at < rows * steps; at++) {
      lanes[at] = Math.floor(at / steps);
      lanes[rows * steps + at] = from + (at % steps);
    }
    const table = Int32Array.from({ length: 2 * rows }, (_, i) => (i % 2 === 0 ? from : (i - 1) / 2));
    return [
      { shape: [2, rows, steps], dtype: "i32", values: lanes },
      { shape: [rows, 2], dtype: "i32", values: table },
    ];
  };
  const codes8 = (shape: number[]): CaseOperand => ({
    shape,
    dtype: "i8",
    values: Int8Array.from({ length: size(shape) }, () => Math.round(random() * 254 - 127)),
  });
  const codes4 = (shape: number[]): CaseOperand => ({
    shape,
    dtype: "u4",
    values: Uint8Array.from({ length: Math.ceil(size(shape) / 2) }, () => Math.floor(random() * 256)),
  });
  const positive = (shape: number[], scale = 1): CaseOperand => ({
    shape,
    dtype: "f32",
    values: Float32Array.from({ length: size(shape) }, () => (0.1 + random()) * scale),
  });
  const zeros = (shape: number[], dtype: DType): CaseOperand => {
    const n = size(shape);
    const values =
      dtype === "i8"
        ? new Int8Array(n)
        : dtype === "u8"
          ? new Uint8Array(n)
          : dtype === "u4"
            ? new Uint8Array(Math.ceil(n / 2))
            : new Float32Array(n);
    return { shape, dtype, values };
  };
  const packed = (operand: CaseOperand): CaseOperand => ({ ...operand, panels: true });
  /** Activations with a few values far above the threshold of LLM.int8(). */
  const withOutliers = (shape: number[]): CaseOperand => {
    const x = floats(shape);
    for (let i = 3; i < x.values.length; i += 29) x.values[i] = x.values[i]! * 9 + 7;
    return x;
  };
  const map: CaseOperand = { shape: [256], dtype: "f32", values: dynamicMap(true) };

  const cases: SelfTestCase[] = [];
  const add = (
    op: string,
    what: string,
    tolerance: number,
    inputs: readonly (CaseOperand | undefined)[],
    attributes: readonly number[] = [],
  ): void => void cases.push({ op, what, inputs, attributes, tolerance });

  for (const dtype of ["f32", "bf16", "f16"] as const) {
    for (const rows of [1, 5, MANY]) {
      const w = floats([37, 101], dtype, 0.1);
      const x = floats([rows, 101]);
      const parts = [floats([37], dtype), floats([rows, 37])];
      add("linear", `${dtype}, ${rows} rows`, FLOAT, [x, w, ...parts], [ACT.none, 0]);
      add("linear", `${dtype}, ${rows} rows, panels`, FLOAT, [x, packed(w), ...parts], [ACT.silu, 0]);
    }
    const wide = [floats([MANY, 104]), packed(floats([37, 104], dtype, 0.1)), undefined, undefined];
    add("linear", `${dtype}, ${MANY} rows, in bf16`, BF16, wide, [ACT.none, 1]);
    const table = floats([23, 19], dtype);
    add("embedding", dtype, 0, [table, ints([2, 7], 23)]);
    add("embedding", `${dtype}, panels`, 0, [packed(table), ints([2, 7], 23)]);
    add("rms_norm", dtype, FLOAT, [floats([3, 2, 67]), floats([67], dtype)], [1e-5, 0]);
    add("layer_norm", dtype, FLOAT, [floats([5, 67]), floats([67], dtype), floats([67], dtype)], [1e-5]);
    add("kv_append", dtype, 0, [floats([2, 3, 2, 5]), ...cached(2, 3, 4), floats([2, 2, 9, 5], dtype), undefined]);
    add("copy", `f32 to ${dtype}`, 0, [floats([3, 5, 7]), zeros([3, 5, 7], dtype)]);
    add("pack", dtype, 0, [floats([21, 35], dtype), packed(zeros([21, 35], dtype))], [0]);
    add("unpack", dtype, 0, [packed(floats([21, 35], dtype)), zeros([21, 35], dtype)]);
  }

  for (const rows of [1, 6, MANY]) {
    const x = withOutliers([rows, 133]);
    const codes = codes8([39, 133]);
    const parts = [floats([39], "bf16"), floats([rows, 39]), zeros([133], "u8")];
    const scb = positive([39], 0.2);
    add("llm_int8_linear", `${rows} rows`, FLOAT, [x, codes, scb, ...parts], [6, ACT.none, 0]);
    add("llm_int8_linear", `${rows} rows, panels`, FLOAT, [x, packed(codes), scb, ...parts], [6, ACT.gelu, 0]);
  }
  add("llm_int8_quantize", "f32", 0, [floats([18, 45]), zeros([18, 45], "i8"), zeros([18], "f32")], [0]);
  add(
    "llm_int8_quantize",
    "panels",
    0,
    [floats([18, 45], "bf16"), packed(zeros([18, 45], "i8")), zeros([18], "f32")],
    [0],
  );
  add("llm_int8_dequantize", "rows", 0, [codes8([18, 45]), positive([18])]);
  add("llm_int8_dequantize", "panels", 0, [packed(codes8([18, 45])), positive([18])]);

  for (const kind of ["nf4", "fp4"] as const) {
    const code = FOUR_BIT[kind];
    const plain = [undefined, undefined, undefined];
    const twice = [ints([27], 256, "u8"), positive([1]), map, floats([1])];
    for (const rows of [1, 4, MANY]) {
      const x = floats([rows, 192]);
      const codes = codes4([18, 192]);
      const absmax = positive([54], 0.2);
      const out = [floats([18]), floats([rows, 18])];
      add(
        "four_bit_linear",
        `${kind}, ${rows} rows, panels`,
        FLOAT,
        [x, packed(codes), absmax, ...plain, ...out],
        [code, 64, ACT.none, 0, 0],
      );
      add(
        "four_bit_linear",
        `${kind}, ${rows} rows, in bf16`,
        BF16,
        [x, packed(codes), absmax, ...plain, ...out],
        [code, 64, ACT.none, 1, 0],
      );
      add(
        "four_bit_linear",
        `${kind}, ${rows} rows, in 8 bits`,
        CODES,
        [x, packed(codes), absmax, ...plain, ...out],
        [code, 64, ACT.none, 2, 0],
      );
      // Blocks that span two rows, with doubly quantized scales.
      add(
        "four_bit_linear",
        `${kind}, ${rows} rows, double quant`,
        FLOAT,
        [floats([rows, 101]), codes4([17, 101]), ...twice, undefined, undefined],
        [code, 64, ACT.none, 0, 0],
      );
    }
    add(
      "four_bit_quantize",
      kind,
      0,
      [floats([17, 101]), zeros([17, 101], "u4"), zeros([27], "f32")],
      [code, 64, 0, 0],
    );
    add("four_bit_dequantize", kind, 0, [codes4([17, 101]), positive([27]), ...plain], [code, 64, 0]);
    const rounded = [code, 64, FOUR_BIT_ROUNDING.bf16];
    add("four_bit_dequantize", `${kind}, double quant, to bf16`, 0, [codes4([17, 101]), ...twice], rounded);
  }
  // Rows of quantized tables, and matrices chosen per row: three experts, two for each of five tokens.
  add("llm_int8_embedding", "rows", 0, [codes8([18, 45]), positive([18]), ints([2, 5], 18)]);
  add("llm_int8_embedding", "panels", 0, [packed(codes8([18, 45])), positive([18]), ints([2, 5], 18)]);
  const single = [undefined, undefined, undefined];
  const four = [codes4([17, 101]), positive([27]), ...single, ints([7], 17)];
  add("four_bit_embedding", "nf4", 0, four, [FOUR_BIT.nf4, 64, FOUR_BIT_ROUNDING.f16]);
  const chosen = ints([5, 2], 3);
  const token = floats([5, 1, 66]);
  const own = floats([5, 2, 66]);
  add(
    "expert_linear",
    "bf16",
    FLOAT,
    [token, floats([3, 18, 66], "bf16", 0.1), chosen, floats([3, 18])],
    [ACT.silu, 0],
  );
  const int8 = [codes8([3, 18, 66]), positive([3, 18], 0.2), chosen, undefined, zeros([66], "u8")];
  add("llm_int8_expert_linear", "a row for each", FLOAT, [own, ...int8], [6, ACT.none, 0]);
  const stack = [codes4([3, 18, 66]), positive([3, 19], 0.2), ...single, chosen, undefined];
  add("four_bit_expert_linear", "nf4", FLOAT, [token, ...stack], [FOUR_BIT.nf4, 64, ACT.none, 0, 0]);
  add("route", "2 of 7", FLOAT, [floats([5, 7]), zeros([5, 2], "i32"), zeros([5, 2], "f32")], [1]);
  add("mix", "residual", FLOAT, [floats([5, 2, 19]), floats([5, 2]), floats([5, 19])]);
  add("double_quantize", "300 blocks", 0, [
    positive([300]),
    map,
    zeros([300], "u8"),
    zeros([2], "f32"),
    zeros([1], "f32"),
  ]);
  add("pack", "i8", 0, [codes8([21, 35]), packed(zeros([21, 35], "i8"))], [0]);
  add("unpack", "i8", 0, [packed(codes8([21, 35])), zeros([21, 35], "i8")]);
  add("pack", "u4", 0, [codes4([21, 64]), packed(zeros([21, 64], "u4"))], [0]);
  add("unpack", "u4", 0, [packed(codes4([21, 64])), zeros([21, 64], "u4")]);

  for (const dtype of ["f32", "bf16", "f16"] as const) {
    const mask: CaseOperand = { shape: [2, 13], dtype: "u8", values: new Uint8Array(26).fill(1) };
    mask.values.fill(0, 0, 3);
    const kv = (): CaseOperand => floats([2, 2, 13, 17], dtype);
    add(
      "attention",
      `${dtype}, mask and sinks`,
      FLOAT,
      [floats([2, 5, 4, 17]), kv(), kv(), ...none(3), mask, ...none(4), floats([4])],
      [0.25, 1, 0, 0, 0],
    );
    add(
      "attention",
      `${dtype}, one step, ALiBi`,
      FLOAT,
      [floats([2, 1, 4, 17]), kv(), kv(), undefined, ...cached(2, 1, 11), ...none(2), positive([4]), ...none(3)],
      [0.25, 1, 0, 0, 0],
    );
    add(
      "attention",
      `${dtype}, a prompt`,
      FLOAT,
      [floats([1, MANY, 4, 17]), floats([1, 2, MANY, 17], dtype), floats([1, 2, MANY, 21], dtype), ...none(9)],
      [0.25, 1, 0, 0, 0],
    );
  }
  const halves = (): CaseOperand => floats([2, 2, 13, 17], "bf16");
  const few = [undefined, ...cached(2, 5, 6), ...none(6)];
  add("attention", "bf16, in bf16", BF16, [floats([2, 5, 4, 17]), halves(), halves(), ...few], [0.25, 1, 0, 0, 1]);
  add(
    "attention",
    "window, soft cap, bias",
    FLOAT,
    [
      floats([1, 7, 3, 9]),
      floats([1, 3, 7, 9]),
      floats([1, 3, 7, 5]),
      ...none(4),
      ints([1, 7], 2),
      ...none(2),
      floats([1, 3, 7, 7]),
      undefined,
    ],
    [0.3, 1, 4, 20, 0],
  );

  add("rope_table", "positions to 5000", 1e-6, [ints([2, 5], 5000), positive([1, 9]), ...none(1)], [1]);
  add("rope_table", "sets of frequencies", 1e-6, [ints([2, 5], 5000), positive([3, 9]), ints([2, 5], 3)], [1]);
  for (const interleaved of [0, 1]) {
    add(
      "rope",
      interleaved ? "interleaved" : "halves",
      FLOAT,
      [floats([2, 3, 4, 22]), floats([2, 3, 2, 9])],
      [interleaved],
    );
  }
  for (const [name, act] of Object.entries(ACT)) {
    add("activation", name, FLOAT, [floats([7, 19], "f32", 3)], [act]);
  }
  add("gated", "silu", FLOAT, [floats([3, 41]), floats([3, 41])], [ACT.silu]);
  add("add", "odd", 0, [floats([3, 41]), floats([3, 41])]);
  add("scale", "soft cap", FLOAT, [floats([3, 41])], [1.7, 5]);
  add("advance", "positions", 0, [ints([2, 5], 100)], [3]);
  add("advance_lanes", "one step", 0, [cached(5, 1, 11)[0]], [1]);

  const codes = (): CaseOperand => codes8([2, 2, 13, 17]);
  add(
    "attention",
    "i8, cache and ALiBi",
    STEPS,
    [
      floats([2, 1, 4, 17]),
      codes(),
      codes(),
      positive([2, 2, 2, 13]),
      ...cached(2, 1, 11),
      ...none(2),
      positive([4]),
      ...none(3),
    ],
    [0.25, 1, 0, 0, 0],
  );
  add(
    "attention",
    "i8, a prompt",
    STEPS,
    [
      floats([1, MANY, 4, 17]),
      codes8([1, 2, MANY, 17]),
      codes8([1, 2, MANY, 21]),
      positive([2, 1, 2, MANY], 0.02),
      ...none(8),
    ],
    [0.25, 1, 0, 0, 0],
  );
  const scales = zeros([2, 2, 9], "f32");
  add("kv_append", "i8", 0, [floats([2, 3, 2, 5]), ...cached(2, 3, 4), codes8([2, 2, 9, 5]), scales]);

  const logits = floats([3, 203], "f32", 4);
  add("argmax", "203 tokens", 0, [logits]);
  const lengths: CaseOperand = { ...ints([3, 2], 11), values: Int32Array.of(2, 11, 0, 6, -1, -1) };
  const seen = ints([3, 11], 205).values.map((id) => (id > 202 ? -1 : id)) as Int32Array;
  const penalties = { ...floats([3, 3]), values: Float32Array.of(1.3, 0, 0, 1.1, 0.5, 0.2, 1, 0, 0) };
  add("penalize", "rows with padding", FLOAT, [logits, { ...ints([3, 11], 203), values: seen }, lengths, penalties]);
  const named = { ...ints([3, 4], 203), values: Int32Array.of(5, 202, 0, -1, 7, 8, 9, 10, 3, -1, -1, -1) };
  const changes = {
    ...floats([3, 4, 3]),
    values: new Float32Array(36).map((_, i) => [0.5, 1.3, i > 20 ? 0.25 : 0][i % 3]!),
  };
  add("edit", "some, all, only one", FLOAT, [
    logits,
    named,
    changes,
    { ...ints([3], 1), values: Int32Array.of(0, 0, 1) },
  ]);
  const params = { ...floats([3, 4]), values: Float32Array.of(0.8, 40, 0.9, 0.02, 1, 0, 1, 0, 0, 0, 1, 0) };
  const draws = { ...ints([3, 3], 9), values: Int32Array.of(7, 0, 5, -3, 12, 0, 1, 2, 3) };
  add("sample", "filters, none, greedy", 0, [logits, params, draws]);
  const cuts = { ...floats([3, 7]), values: new Float32Array(21) };
  cuts.values.set([0.8, 0, 1, 0, 0.7, 0, 0, 1, 40, 0.9, 0, 1, 0.004, 0.03, 0, 0, 1, 0, 1, 0, 0]);
  add("warp", "typical, cut-offs, greedy", FLOAT, [logits, cuts]);
  add("append_token", "rows", 0, [
    ints([3], 203),
    ints([3, 11], 203),
    { ...lengths, values: Int32Array.of(2, 10, 0, 6, -1, -1) },
  ]);
  add("token_logprobs", "203 tokens", FLOAT, [logits, ints([3], 203)]);

  // Ops that gradients consist of.
  add("fill", "5 x 7", 0, [zeros([5, 7], "f32")], [0.5]);
  add("sum_rows", "70 rows", FLOAT, [floats([70, 37])]);
  add("max_rows", "masked", 0, [floats([2, 9, 37]), ints([2, 9], 2, "u8")]);
  add("max_rows_back", "masked", 0, [floats([2, 9, 37]), ints([2, 9], 2, "u8"), floats([2, 37])]);
  add("embedding_back", "an id more than once", FLOAT, [ints([2, 9], 5), floats([2, 9, 37])], [7]);
  add("activation_back", "silu", FLOAT, [floats([3, 37]), floats([3, 37])], [ACT.silu]);
  add("rms_norm_back", "f32", FLOAT, [floats([3, 67]), floats([67]), floats([3, 67])], [1e-5, 0]);
  add("layer_norm_back", "f32", FLOAT, [floats([3, 67]), floats([67]), floats([3, 67])], [1e-5]);
  for (const [what, place] of [
    ["rows", (operand: CaseOperand) => operand],
    ["panels", packed],
  ] as const) {
    const rounded: readonly (readonly [string, number, number])[] = [
      [what, FLOAT, 0],
      [`${what}, in bf16`, BF16, 1],
    ];
    for (const [name, tolerance, compute] of rounded) {
      const dy = floats([MANY, 40]);
      add("linear_back", name, tolerance, [dy, place(floats([40, 104], "bf16", 0.1))], [compute]);
      add("llm_int8_back", name, tolerance, [dy, place(codes8([40, 104])), positive([40], 0.1)], [compute]);
      const blocks = [positive([80], 0.1), undefined, undefined, undefined];
      const attributes = [FOUR_BIT.nf4, 64, 0, compute];
      add("four_bit_back", name, tolerance, [dy, place(codes4([40, 128])), ...blocks], attributes);
    }
  }
  const back = floats([5, 2, 18]);
  add("expert_linear_back", "bf16", FLOAT, [back, floats([3, 18, 66], "bf16", 0.1), chosen], [0]);
  add("llm_int8_expert_back", "rows", FLOAT, [back, codes8([3, 18, 66]), positive([3, 18], 0.2), chosen], [0]);
  const stacked = [codes4([3, 18, 66]), positive([3, 19], 0.2), ...single, chosen];
  add("four_bit_expert_back", "nf4", FLOAT, [back, ...stacked], [FOUR_BIT.nf4, 64, 0, 0]);
  add("expert_outer", "a row for all", FLOAT, [back, token, chosen], [3]);
  const apart = { ...ints([5, 2], 7), values: Int32Array.of(3, 1, 0, 6, 5, 2, 1, 0, 4, 6) };
  for (const normalize of [0, 1]) {
    const name = normalize ? "among the chosen" : "among all";
    add("route_back", name, FLOAT, [floats([5, 7]), apart, floats([5, 2])], [normalize]);
  }
  add(
    "clamped_gated_back",
    "a limit",
    FLOAT,
    [1, 2, 3].map(() => floats([3, 41], "f32", 5)),
    [7],
  );
  const heads = [
    floats([2, MANY, 4, 17]),
    floats([2, 2, MANY, 17]),
    floats([2, 2, MANY, 21]),
    floats([2, MANY, 4, 21]),
  ];
  add("attention_back", "a prompt", STEPS, heads, [0.25, 1, 0, 0]);
  add("attention_back", "sinks", STEPS, [...heads, ...none(4), floats([4])], [0.25, 1, 0, 0]);
  add("cross_entropy", "203 tokens", FLOAT, [logits, ints([3], 203)], [0.1, -100]);
  const sums = [positive([3], 8), floats([3]), undefined];
  add(
    "cross_entropy_back",
    "203 tokens",
    FLOAT,
    [logits, { shape: [3], dtype: "i32", values: Int32Array.of(7, -100, 202) }, ...sums],
    [0.1, -100],
  );
  add("clamped_gated", "a limit", FLOAT, [floats([3, 41], "f32", 5), floats([3, 41], "f32", 5)], [7]);
  const table = { shape: [16], dtype: "f32" as const, values: Float32Array.from(O4_FIRST_LEVELS, (n) => n * O4_UNIT) };
  add("o4_quantize", "odd", FLOAT, [floats([17, 101]), table, zeros([17, 101], "u4"), zeros([54], "f32")], [0]);
  add("o4_levels", "odd", LEVEL, [floats([17, 101]), codes4([17, 101]), positive([54]), table]);
  const bytes = (shape: number[]): CaseOperand => ints(shape, 256, "u8");
  return [...cases, ...bnbCases({ floats, positive, codes8, bytes, withOutliers, map }, FLOAT)];
}
