// Quantizing while loading: llm_int8_quantize, llm_int8_dequantize, four_bit_quantize, double_quantize. Quotients that
// decide codes are correctly rounded, so codes equal the reference's bit for bit.

import type { DType } from "../../../core/dtype.js";
import { doubleQuantizeOp } from "../../../ops/double-quantize.js";
import { FOUR_BIT, NESTED_BLOCK } from "../../../ops/four-bit.js";
import { fourBitQuantizeOp } from "../../../ops/four-bit-quantize.js";
import { llmInt8DequantizeOp, llmInt8QuantizeOp } from "../../../ops/llm-int8.js";
import type { CommandRecorder } from "../device/command-recorder.js";
import { groupsFor, type Kernel } from "../kernel.js";
import type { Binding, Operand } from "../schedule/call.js";
import { along, rowsPerCut } from "../schedule/split.js";
import { family, reader, reads, WORKGROUP, wordsFor, wordWriter, writes } from "../shader.js";
import { EXACT_DIVIDE, FLOATS, fold, SIZE_OF } from "../wgsl.js";
import { SCALE_SEARCH, THRESHOLDS } from "./four-bit-codes.js";

export const FLOAT = ["f32", "f16", "bf16"] as const satisfies readonly DType[];

export function scratch(recorder: CommandRecorder, slot: string, words: number): Binding {
  const size = Math.max(16, Math.ceil(words / 4) * 16);
  return { block: recorder.buffers.scratch(slot, size), start: 0, size };
}

const LARGEST = fold("largest", "u32", WORKGROUP, (a, b) => `max(${a}, ${b})`);

const rowScale = family("llm_int8_quantize", ({ w }: { step: "scale"; w: DType }) => ({
  bindings: [reads("w"), writes("scb"), writes("inverse")],
  params: ["rows", "columns", "w", "scb"],
  declarations: [FLOATS, EXACT_DIVIDE, SIZE_OF, reader("w", w), LARGEST],
  body: `if (group >= P.rows) { return; }
  var size = 0u;
  for (var k = lid; k < P.columns; k += ${WORKGROUP}u) { size = max(size, size_of(w_at(P.w + group * P.columns + k))); }
  size = largest(size, lid);
  if (lid == 0u) {
    let scale = bitcast<f32>(size);
    scb[P.scb + group] = scale;
    inverse[group] = 0.0;
    if (size > 0u && size < ENDLESS) { inverse[group] = exact_divide(1.0, scale) * 127.0; }
  }`,
}));

const rowCodes = family("llm_int8_quantize", ({ w }: { step: "codes"; w: DType }) => ({
  bindings: [reads("w"), reads("inverse", "array<f32>"), writes("codes", "array<u32>")],
  params: ["count", "offset", "columns", "w"],
  declarations: [
    FLOATS,
    reader("w", w),
    // A row whose scale is not finite has codes of zero: what its NaN would become as an integer is not defined.
    `fn code_of(e: u32) -> u32 {
  let factor = inverse[e / P.columns];
  if (factor == 0.0) { return 0u; }
  return bitcast<u32>(i32(clamp(round(w_at(P.w + e) * factor), -127.0, 127.0))) & 0xffu;
}`,
  ],
  body: wordWriter("codes", "i8", (e) => `code_of(${e})`),
}));

export const llmInt8Quantize: Kernel = {
  op: llmInt8QuantizeOp,
  record({ operands: [w, codes, scb], attributes: [row = 0] }, recorder) {
    const [rows = 0, columns = 0] = w!.shape;
    if (row + rows > codes!.shape[0]!) return `rows ${row} + ${rows} do not fit ${codes!.shape[0]}`;
    if (rows === 0) return undefined;
    const inverse = scratch(recorder, "inverse", rows);
    const type = w!.dtype;
    const sizes = { rows, columns, w: w!.offset, scb: scb!.offset + row };
    recorder.dispatch(rowScale({ step: "scale", w: type }), [w!, scb!, inverse], sizes, rows);
    const offset = codes!.offset + row * columns;
    const numbers = { count: w!.count, offset, columns, w: w!.offset };
    const groups = groupsFor(wordsFor("i8", offset, w!.count), WORKGROUP);
    recorder.dispatch(rowCodes({ step: "codes", w: type }), [w!, inverse, codes!], numbers, groups);
    return undefined;
  },
  axes({ operands: [w, codes, scb], attributes: [row = 0] }) {
    const [rows = 0] = w!.shape;
    if (row + rows > codes!.shape[0]!) return `rows ${row} + ${rows} do not fit ${codes!.shape[0]}`;
    const range = (begin: number, count: number): [number, number] => [row + begin, count];
    const parts = {
      0: { operand: w!, dim: 0 },
      1: { operand: codes!, dim: 0, range },
      2: { operand: scb!, dim: 0, range },
    };
    return [{ size: rows, parts, attributes: () => [0] }];
  },
  shaders: () => FLOAT.flatMap((w) => [rowScale({ step: "scale", w }), rowCodes({ step: "codes", w })]),
};

const rowValues = family("llm_int8_dequantize", () => ({
  bindings: [reads("codes"), reads("scb", "array<f32>"), writes("w")],
  // The unit is no constant, because some drivers (Mesa's) would multiply by a constant first, which rounds differently.
  params: ["count", "columns", "codes", "scb", "w", "unit:f32"],
  declarations: [reader("codes", "i8")],
  body: `if (gid >= P.count) { return; }
  w[P.w + gid] = codes_at(P.codes + gid) * scb[P.scb + gid / P.columns] * P.unit;`,
}));

export const llmInt8Dequantize: Kernel = {
  op: llmInt8DequantizeOp,
  record({ operands: [codes, scb, w] }, recorder) {
    const { count } = w!;
    const places = { codes: codes!.offset, scb: scb!.offset, w: w!.offset };
    const numbers = { count, columns: w!.shape[1]!, ...places, unit: Math.fround(1 / 127) };
    recorder.dispatch(rowValues({}), [codes!, scb!, w!], numbers, groupsFor(count, WORKGROUP));
    return undefined;
  },
  axes: ({ operands: [codes, scb, w] }) => [along(codes!.shape[0]!, { 0: [codes, 0], 1: [scb, 0], 2: [w, 0] })],
  shaders: () => [rowValues({})],
};

const blockScale = family("four_bit_quantize", ({ w }: { step: "scale"; w: DType }) => ({
  bindings: [reads("w"), writes("absmax"), writes("inverse")],
  params: ["count", "elements", "blocksize", "w", "absmax", "kind", "search"],
  declarations: [FLOATS, EXACT_DIVIDE, SIZE_OF, reader("w", w), SCALE_SEARCH],
  body: `if (gid >= P.count) { return; }
  let end = min((gid + 1u) * P.blocksize, P.elements);
  var size = 0u;
  for (var i = gid * P.blocksize; i < end; i++) { size = max(size, size_of(w_at(P.w + i))); }
  var high = bitcast<f32>(size);
  if (P.search != 0u && size < ENDLESS) { high = searched(gid * P.blocksize, end, high); }
  absmax[P.absmax + gid] = high;
  inverse[2u * gid] = high;
  inverse[2u * gid + 1u] = 0.0;
  if (size > 0u && size < ENDLESS) { inverse[2u * gid + 1u] = exact_divide(1.0, high); }`,
}));

const blockCodes = family("four_bit_quantize", ({ w }: { step: "codes"; w: DType }) => ({
  bindings: [reads("w"), reads("inverse", "array<f32>"), writes("codes", "array<u32>")],
  // If the matrix ends in half a byte, `count` includes the other half, which gets the code of zero.
  params: ["count", "offset", "elements", "blocksize", "kind", "w"],
  declarations: [
    FLOATS,
    EXACT_DIVIDE,
    SIZE_OF,
    reader("w", w),
    THRESHOLDS,
    "const FP4_CODES = array<u32, 8>(0u, 1u, 6u, 7u, 4u, 5u, 2u, 3u);",
    `fn code_of(e: u32) -> u32 {
  var value = 0.0;
  if (e < P.elements) {
    let block = e / P.blocksize;
    let size = inverse[2u * block];
    value = w_at(P.w + e);
    // NaN compares as below all thresholds: all of a block that holds one, and x / infinity for an infinite x.
    if (size_of(size) > ENDLESS || size_of(value) >= ENDLESS) { return 0u; }
    if (size_of(size) == ENDLESS) { value = 0.0; }
    else if ((block + 1u) * P.blocksize > P.elements && size > 0.0) { value = exact_divide(value, size); }
    else { value = value * inverse[2u * block + 1u]; }
    value = clamp(value, -1.0, 1.0);
  }
  var below = 0u;
  if (P.kind == ${FOUR_BIT.nf4}u) {
    for (var i = 0u; i < 15u; i++) { below += select(0u, 1u, value > NF4[i]); }
    return below;
  }
  for (var i = 0u; i < 7u; i++) {
    below += select(0u, 1u, abs(value) > FP4[i] || (value < 0.0 && abs(value) == FP4[i]));
  }
  return FP4_CODES[below] + select(0u, 8u, value < 0.0);
}`,
  ],
  body: wordWriter("codes", "u4", (e) => `code_of(${e})`),
}));

export function misplaced(w: Operand, codes: Operand, blocksize: number, row: number): string | undefined {
  const [rows = 0, columns = 0] = w.shape;
  if ((row * columns) % blocksize !== 0) {
    return `row ${row} of ${columns} columns does not begin a block of ${blocksize}`;
  }
  return row + rows > codes.shape[0]! ? `rows ${row} + ${rows} do not fit ${codes.shape[0]}` : undefined;
}

export const fourBitQuantize: Kernel = {
  op: fourBitQuantizeOp,
  record({ operands: [w, codes, absmax], attributes: [kind = 0, blocksize = 64, row = 0, search = 0] }, recorder) {
    const problem = misplaced(w!, codes!, blocksize, row);
    if (problem) return problem;
    const columns = w!.shape[1]!;
    const begin = row * columns;
    const elements = w!.count;
    if (elements === 0) return undefined;
    const blocks = Math.ceil(elements / blocksize);
    const inverse = scratch(recorder, "inverse", 2 * blocks);
    const type = w!.dtype;
    const places = { w: w!.offset, absmax: absmax!.offset + begin / blocksize };
    const sizes = { count: blocks, elements, blocksize, ...places, kind, search };
    const first = [w!, absmax!, inverse];
    recorder.dispatch(blockScale({ step: "scale", w: type }), first, sizes, groupsFor(blocks, WORKGROUP));
    const end = begin + elements;
    const count = elements + (end % 2 === 1 && end === codes!.count ? 1 : 0);
    const offset = codes!.offset + begin;
    const numbers = { count, offset, elements, blocksize, kind, w: w!.offset };
    const groups = groupsFor(wordsFor("u4", offset, count), WORKGROUP);
    recorder.dispatch(blockCodes({ step: "codes", w: type }), [w!, inverse, codes!], numbers, groups);
    return undefined;
  },
  axes({ operands: [w, codes, absmax], attributes: [kind = 0, blocksize = 64, row = 0, search = 0] }) {
    const problem = misplaced(w!, codes!, blocksize, row);
    if (problem) return problem;
    const [rows = 0, columns = 0] = w!.shape;
    const range = (begin: number, count: number): [number, number] => [row + begin, count];
    const blocks = (begin: number, count: number): [number, number] => [
      ((row + begin) * columns) / blocksize,
      Math.ceil((count * columns) / blocksize),
    ];
    const parts = {
      0: { operand: w!, dim: 0 },
      1: { operand: codes!, dim: 0, range },
      2: { operand: absmax!, dim: 0, range: blocks },
    };
    return [
      { size: rows, step: rowsPerCut(columns, blocksize), parts, attributes: () => [kind, blocksize, 0, search] },
    ];
  },
  shaders: () => FLOAT.flatMap((w) => [blockScale({ step: "scale", w }), blockCodes({ step: "codes", w })]),
};

// The mean of all absmax values, exact to the last bit: values are added in fixed point, in units of 2^-40 of the largest's
// power of two.
const WIDTH = 256;
const meanShader = family("double_quantize", (_: { step: "mean" }) => ({
  bindings: [reads("absmax", "array<f32>"), writes("mean")],
  params: ["count", "absmax", "mean"],
  workgroup: WIDTH,
  declarations: [
    fold("largest", "u32", WIDTH, (a, b) => `max(${a}, ${b})`),
    `var<workgroup> low: array<u32, ${WIDTH}>;
var<workgroup> high: array<u32, ${WIDTH}>;`,
  ],
  body: `var size = 0u;
  for (var j = lid; j < P.count; j += ${WIDTH}u) { size = max(size, bitcast<u32>(absmax[P.absmax + j])); }
  let most = largest(size, lid);
  let top = most >> 23u;
  var l = 0u;
  var h = 0u;
  for (var j = lid; j < P.count; j += ${WIDTH}u) {
    let bits = bitcast<u32>(absmax[P.absmax + j]);
    let mantissa = select(0u, (bits & 0x7fffffu) | 0x800000u, (bits >> 23u) != 0u);
    // mantissa * 2^(16 - distance), in 64 bits
    let distance = top - (bits >> 23u);
    var vl = 0u;
    var vh = 0u;
    if (distance <= 16u) {
      let s = 16u - distance;
      vl = mantissa << s;
      if (s > 0u) { vh = mantissa >> (32u - s); }
    } else if (distance < 40u) { vl = mantissa >> (distance - 16u); }
    let sum = l + vl;
    h += vh + select(0u, 1u, sum < l);
    l = sum;
  }
  low[lid] = l;
  high[lid] = h;
  workgroupBarrier();
  if (lid != 0u) { return; }
  if (top == 255u) { mean[P.mean] = bitcast<f32>(most); return; } // one is NaN or infinite: so is the mean
  for (var i = 1u; i < ${WIDTH}u; i++) {
    let sum = l + low[i];
    h += high[i] + select(0u, 1u, sum < l);
    l = sum;
  }
  if (P.count == 0u || (h == 0u && l == 0u)) { mean[P.mean] = 0.0; return; }
  // Long division of the 64-bit sum by the count, most significant bit first, with 32 fraction bits behind it; the
  // quotient keeps 25 bits and whether anything is left.
  var rest = 0u;
  var quotient = 0u;
  var taken = 0u;
  var point = 0i;
  var sticky = false;
  for (var bit = 0u; bit < 96u; bit++) {
    var next = 0u;
    if (bit < 32u) { next = (h >> (31u - bit)) & 1u; } else if (bit < 64u) { next = (l >> (63u - bit)) & 1u; }
    let over = rest >> 31u;
    rest = (rest << 1u) | next;
    var digit = 0u;
    if (over == 1u || rest >= P.count) { rest -= P.count; digit = 1u; }
    if (taken < 25u) {
      quotient = (quotient << 1u) | digit;
      if (quotient != 0u) { taken += 1u; }
      if (taken == 1u && digit == 1u && quotient == 1u) { point = 63 - i32(bit); }
    } else if (digit == 1u) { sticky = true; }
  }
  if (rest != 0u) { sticky = true; }
  // value = quotient * 2^(point - 24) in units of 2^(top - 127 - 23 - 16)
  var rounded = quotient >> 1u;
  if ((quotient & 1u) == 1u && (sticky || (rounded & 1u) == 1u)) { rounded += 1u; }
  var exponent = i32(top) - 39 + point;
  if (rounded == 0x1000000u) { rounded = 0x800000u; exponent += 1; }
  mean[P.mean] = 0.0;
  if (exponent > 0) { mean[P.mean] = bitcast<f32>((u32(exponent) << 23u) | (rounded & 0x7fffffu)); }`,
}));

const nestedScale = family("double_quantize", (_: { step: "scale" }) => ({
  bindings: [reads("absmax", "array<f32>"), reads("mean", "array<f32>"), writes("nested"), writes("inverse")],
  params: ["count", "absmax", "mean", "nested"],
  declarations: [EXACT_DIVIDE, SIZE_OF, LARGEST],
  body: `if (group * ${NESTED_BLOCK}u >= P.count) { return; }
  let end = min((group + 1u) * ${NESTED_BLOCK}u, P.count);
  var size = 0u;
  for (var j = group * ${NESTED_BLOCK}u + lid; j < end; j += ${WORKGROUP}u) {
    size = max(size, size_of(absmax[P.absmax + j] - mean[P.mean]));
  }
  size = largest(size, lid);
  if (lid == 0u) {
    let scale = bitcast<f32>(size);
    nested[P.nested + group] = scale;
    inverse[group] = 0.0;
    if (size > 0u && size < ENDLESS) { inverse[group] = exact_divide(1.0, scale); }
  }`,
}));

const nestedCodes = family("double_quantize", (_: { step: "codes" }) => ({
  bindings: [
    reads("absmax", "array<f32>"),
    reads("mean", "array<f32>"),
    reads("map", "array<f32>"),
    reads("inverse", "array<f32>"),
    writes("codes", "array<u32>"),
  ],
  params: ["count", "offset", "absmax", "mean", "map"],
  declarations: [
    SIZE_OF,
    `fn code_of(j: u32) -> u32 {
  if (size_of(mean[P.mean]) >= ENDLESS) { return 0u; }
  let x = clamp((absmax[P.absmax + j] - mean[P.mean]) * inverse[j / ${NESTED_BLOCK}u], -1.0, 1.0);
  // The number of midpoints below x: they ascend.
  var first = 0u;
  var last = 255u;
  while (first < last) {
    let i = (first + last) / 2u;
    if (x > (map[P.map + i] + map[P.map + i + 1u]) * 0.5) { first = i + 1u; } else { last = i; }
  }
  return first;
}`,
  ],
  body: wordWriter("codes", "u8", (e) => `code_of(${e})`),
}));

export const doubleQuantize: Kernel = {
  op: doubleQuantizeOp,
  record({ operands: [absmax, map, codes, nested, mean] }, recorder) {
    const { count, offset: at } = absmax!;
    const blocks = Math.ceil(count / NESTED_BLOCK);
    const offsets = { count, absmax: at, mean: mean!.offset };
    recorder.dispatch(meanShader({ step: "mean" }), [absmax!, mean!], offsets, 1);
    const inverse = scratch(recorder, "inverse", blocks);
    const sizes = { ...offsets, nested: nested!.offset };
    recorder.dispatch(nestedScale({ step: "scale" }), [absmax!, mean!, nested!, inverse], sizes, blocks);
    const numbers = { ...offsets, offset: codes!.offset, map: map!.offset };
    const groups = groupsFor(wordsFor("u8", codes!.offset, count), WORKGROUP);
    recorder.dispatch(nestedCodes({ step: "codes" }), [absmax!, mean!, map!, inverse, codes!], numbers, groups);
    return undefined;
  },
  shaders: () => [meanShader({ step: "mean" }), nestedScale({ step: "scale" }), nestedCodes({ step: "codes" })],
};
