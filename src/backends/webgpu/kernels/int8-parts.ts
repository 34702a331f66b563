// int8_quantize and int8_matmul: LLM.int8() in its parts, for those who look at codes. Models use the fused product (llm-int8.ts).

import type { DType } from "../../../core/dtype.js";
import { int8MatmulOp, int8QuantizeOp } from "../../../ops/int8.js";
import { groupsFor, type Kernel } from "../kernel.js";
import { asRows, leading } from "../schedule/call.js";
import { along } from "../schedule/split.js";
import { bitsReader, family, reader, reads, WORKGROUP, wordsFor, wordWriter, writes } from "../shader.js";
import { EXACT_DIVIDE, FLOATS, fold, SIZE_OF } from "../wgsl.js";
import { scratchFor } from "./blockwise.js";

const FLOAT = ["f32", "f16", "bf16"] as const satisfies readonly DType[];

/** `outlier(size)`: whether a magnitude (its bits) is at or above the threshold. NaN is none. */
const OUTLIER = `
fn outlier(size: u32) -> bool {
  return P.threshold > 0.0 && size >= bitcast<u32>(P.threshold) && size <= ENDLESS;
}`;

const rowScale = family("int8_quantize", ({ x }: { step: "scale"; x: DType }) => ({
  bindings: [reads("x"), writes("absmax"), writes("inverse")],
  params: ["rows", "columns", "threshold:f32", "x", "absmax"],
  declarations: [
    FLOATS,
    EXACT_DIVIDE,
    SIZE_OF,
    OUTLIER,
    reader("x", x),
    fold("largest", "u32", WORKGROUP, (a, b) => `max(${a}, ${b})`),
  ],
  body: `if (group >= P.rows) { return; }
  var size = 0u;
  for (var k = lid; k < P.columns; k += ${WORKGROUP}u) {
    let one = size_of(x_at(P.x + group * P.columns + k));
    if (!outlier(one)) { size = max(size, one); }
  }
  size = largest(size, lid);
  if (lid == 0u) {
    absmax[P.absmax + group] = bitcast<f32>(size);
    inverse[group] = 0.0;
    if (size > 0u && size < ENDLESS) { inverse[group] = exact_divide(1.0, bitcast<f32>(size)) * 127.0; }
  }`,
}));

const columnMarks = family("int8_quantize", ({ x }: { step: "marks"; x: DType }) => ({
  bindings: [reads("x"), writes("marks", "array<u32>")],
  params: ["count", "offset", "rows", "threshold:f32", "x"],
  declarations: [
    FLOATS,
    SIZE_OF,
    OUTLIER,
    reader("x", x),
    `fn mark_of(k: u32) -> u32 {
  for (var m = 0u; m < P.rows; m++) { if (outlier(size_of(x_at(P.x + m * P.count + k)))) { return 1u; } }
  return 0u;
}`,
  ],
  body: wordWriter("marks", "u8", (e) => `mark_of(${e})`),
}));

const rowCodes = family("int8_quantize", ({ x }: { step: "codes"; x: DType }) => ({
  bindings: [reads("x"), reads("inverse", "array<f32>"), reads("marks"), writes("codes", "array<u32>")],
  params: ["count", "offset", "columns", "x", "marks"],
  declarations: [
    FLOATS,
    reader("x", x),
    bitsReader("marks", "u8"),
    // A row whose scale is not finite has codes of zero: what its NaN would become as an integer is not defined.
    `fn code_of(e: u32) -> u32 {
  let factor = inverse[e / P.columns];
  if (factor == 0.0 || marks_bits(P.marks + e % P.columns) != 0u) { return 0u; }
  return bitcast<u32>(i32(clamp(round(x_at(P.x + e) * factor), -127.0, 127.0))) & 0xffu;
}`,
  ],
  body: wordWriter("codes", "i8", (e) => `code_of(${e})`),
}));

export const int8Quantize: Kernel = {
  op: int8QuantizeOp,
  record({ operands: [x, codes, absmax, marks], attributes: [threshold = 0] }, recorder) {
    const [rows = 0, columns = 0] = x!.shape;
    const type = x!.dtype;
    const inverse = scratchFor(recorder, "inverse", rows);
    const sizes = { rows, columns, threshold, x: x!.offset, absmax: absmax!.offset };
    recorder.dispatch(rowScale({ step: "scale", x: type }), [x!, absmax!, inverse], sizes, rows);
    const wide = { count: columns, offset: marks!.offset, rows, threshold, x: x!.offset };
    const markGroups = groupsFor(wordsFor("u8", marks!.offset, columns), WORKGROUP);
    recorder.dispatch(columnMarks({ step: "marks", x: type }), [x!, marks!], wide, markGroups);
    const { offset } = codes!;
    const numbers = { count: x!.count, offset, columns, x: x!.offset, marks: marks!.offset };
    const groups = groupsFor(wordsFor("i8", offset, x!.count), WORKGROUP);
    recorder.dispatch(rowCodes({ step: "codes", x: type }), [x!, inverse, marks!, codes!], numbers, groups);
    return undefined;
  },
  shaders: () =>
    FLOAT.flatMap((x) => [
      rowScale({ step: "scale", x }),
      columnMarks({ step: "marks", x }),
      rowCodes({ step: "codes", x }),
    ]),
};

const productShader = family("int8_matmul", () => ({
  bindings: [reads("a"), reads("b"), writes("y", "array<i32>")],
  params: ["count", "outputs", "columns", "a", "b", "y"],
  declarations: [
    bitsReader("a", "i8"),
    bitsReader("b", "i8"),
    "fn signed(bits: u32) -> i32 { return extractBits(bitcast<i32>(bits), 0u, 8u); }",
  ],
  body: `if (gid >= P.count) { return; }
  let left = P.a + (gid / P.outputs) * P.columns;
  let right = P.b + (gid % P.outputs) * P.columns;
  var sum = 0;
  for (var k = 0u; k < P.columns; k++) { sum += signed(a_bits(left + k)) * signed(b_bits(right + k)); }
  y[P.y + gid] = sum;`,
}));

export const int8Matmul: Kernel = {
  op: int8MatmulOp,
  record({ operands: [a, b, y] }, recorder) {
    const [outputs = 0, columns = 0] = b!.shape;
    const { count } = y!;
    const numbers = { count, outputs, columns, a: a!.offset, b: b!.offset, y: y!.offset };
    recorder.dispatch(productShader({}), [a!, b!, y!], numbers, groupsFor(count, WORKGROUP));
    return undefined;
  },
  axes: ({ operands: [a, , y] }) => [along(leading(a!.shape), { 0: [asRows(a!), 0], 2: [asRows(y!), 0] })],
  shaders: () => [productShader({})],
};
