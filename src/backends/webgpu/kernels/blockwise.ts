// 8-bit codes by blocks: blockwise_quantize, blockwise_dequantize (a map of 256 values), affine_quantize, affine_dequantize (a zero
// point). Quotients that decide codes are correctly rounded, so codes equal the reference's bit for bit.

import type { DType } from "../../../core/dtype.js";
import { affineDequantizeOp, affineQuantizeOp } from "../../../ops/affine.js";
import { blockwiseDequantizeOp, blockwiseQuantizeOp } from "../../../ops/blockwise.js";
import type { CommandRecorder } from "../device/command-recorder.js";
import { type Axis, groupsFor, type Kernel } from "../kernel.js";
import type { Binding, Operand } from "../schedule/call.js";
import { family, reader, reads, WORKGROUP, wordsFor, wordWriter, writes } from "../shader.js";
import { EXACT_DIVIDE, FLOATS, fold, SIZE_OF } from "../wgsl.js";

const FLOAT = ["f32", "f16", "bf16"] as const satisfies readonly DType[];
/** Bits of the smallest normal number. */
const LEAST = "0x00800000u";
const LARGEST = fold("largest", "u32", WORKGROUP, (a, b) => `max(${a}, ${b})`);

export function scratchFor(recorder: CommandRecorder, slot: string, words: number): Binding {
  const size = Math.max(16, Math.ceil(words / 4) * 16);
  return { block: recorder.buffers.scratch(slot, size), start: 0, size };
}

/** The axis of blocks: `flat` are operands with an element for each of the tensor's, `each` those with one for each block. */
function blocksOf(
  blocksize: number,
  count: number,
  flat: Readonly<Record<number, Operand>>,
  each: Readonly<Record<number, Operand>>,
): Axis[] {
  const size = Math.ceil(count / blocksize);
  const range = (begin: number, blocks: number): [number, number] => {
    const at = begin * blocksize;
    return [at, Math.min(blocks * blocksize, count - at)];
  };
  const parts = {
    ...Object.fromEntries(Object.entries(flat).map(([i, operand]) => [i, { operand, dim: 0, range }])),
    ...Object.fromEntries(Object.entries(each).map(([i, operand]) => [i, { operand, dim: 0 }])),
  };
  return [{ size, parts }];
}

/** Walks the elements of block `group`, one workgroup a block. */
const EACH = `let end = min((group + 1u) * P.blocksize, P.elements);
  for (var i = group * P.blocksize + lid; i < end; i += ${WORKGROUP}u)`;

const mapScale = family("blockwise_quantize", ({ x }: { step: "scale"; x: DType }) => ({
  bindings: [reads("x"), writes("absmax"), writes("inverse")],
  params: ["count", "elements", "blocksize", "x", "absmax"],
  declarations: [FLOATS, EXACT_DIVIDE, SIZE_OF, reader("x", x), LARGEST],
  body: `if (group >= P.count) { return; }
  var size = 0u;
  ${EACH} { size = max(size, size_of(x_at(P.x + i))); }
  size = largest(size, lid);
  if (lid == 0u) {
    absmax[P.absmax + group] = bitcast<f32>(size);
    inverse[group] = 0.0;
    if (size >= ${LEAST} && size < ENDLESS) { inverse[group] = exact_divide(1.0, bitcast<f32>(size)); }
  }`,
}));

const mapCodes = family("blockwise_quantize", ({ x }: { step: "codes"; x: DType }) => ({
  bindings: [
    reads("x"),
    reads("map", "array<f32>"),
    reads("absmax", "array<f32>"),
    reads("inverse", "array<f32>"),
    writes("codes", "array<u32>"),
  ],
  params: ["count", "offset", "blocksize", "x", "map", "absmax"],
  declarations: [
    FLOATS,
    SIZE_OF,
    reader("x", x),
    `fn code_of(e: u32) -> u32 {
  let block = e / P.blocksize;
  let given = x_at(P.x + e);
  // NaN compares as below all midpoints: all of a block that holds one, and x / infinity for an infinite x.
  if (size_of(absmax[P.absmax + block]) > ENDLESS || size_of(given) >= ENDLESS) { return 0u; }
  let value = clamp(given * inverse[block], -1.0, 1.0);
  // The number of midpoints below the value: they ascend.
  var first = 0u;
  var last = 255u;
  while (first < last) {
    let i = (first + last) / 2u;
    if (value > (map[P.map + i] + map[P.map + i + 1u]) * 0.5) { first = i + 1u; } else { last = i; }
  }
  return first;
}`,
  ],
  body: wordWriter("codes", "u8", (e) => `code_of(${e})`),
}));

export const blockwiseQuantize: Kernel = {
  op: blockwiseQuantizeOp,
  record({ operands: [x, map, codes, absmax], attributes: [blocksize = 1] }, recorder) {
    const elements = x!.count;
    const blocks = Math.ceil(elements / blocksize);
    const inverse = scratchFor(recorder, "inverse", blocks);
    const type = x!.dtype;
    const sizes = { count: blocks, elements, blocksize, x: x!.offset, absmax: absmax!.offset };
    recorder.dispatch(mapScale({ step: "scale", x: type }), [x!, absmax!, inverse], sizes, blocks);
    const { offset } = codes!;
    const places = { x: x!.offset, map: map!.offset, absmax: absmax!.offset };
    const numbers = { count: elements, offset, blocksize, ...places };
    const groups = groupsFor(wordsFor("u8", offset, elements), WORKGROUP);
    recorder.dispatch(mapCodes({ step: "codes", x: type }), [x!, map!, absmax!, inverse, codes!], numbers, groups);
    return undefined;
  },
  axes: ({ operands: [x, , codes, absmax], attributes: [blocksize = 1] }) =>
    blocksOf(blocksize, x!.count, { 0: x!, 2: codes! }, { 3: absmax! }),
  shaders: () => FLOAT.flatMap((x) => [mapScale({ step: "scale", x }), mapCodes({ step: "codes", x })]),
};

const mapValues = family("blockwise_dequantize", () => ({
  bindings: [reads("codes"), reads("absmax", "array<f32>"), reads("map", "array<f32>"), writes("y")],
  params: ["count", "blocksize", "codes", "absmax", "map", "y"],
  declarations: [reader("codes", "u8")],
  body: `if (gid >= P.count) { return; }
  y[P.y + gid] = map[P.map + codes_bits(P.codes + gid)] * absmax[P.absmax + gid / P.blocksize];`,
}));

export const blockwiseDequantize: Kernel = {
  op: blockwiseDequantizeOp,
  record({ operands: [codes, absmax, map, y], attributes: [blocksize = 1] }, recorder) {
    const { count } = y!;
    const places = { codes: codes!.offset, absmax: absmax!.offset, map: map!.offset, y: y!.offset };
    const bound = [codes!, absmax!, map!, y!];
    recorder.dispatch(mapValues({}), bound, { count, blocksize, ...places }, groupsFor(count, WORKGROUP));
    return undefined;
  },
  axes: ({ operands: [codes, absmax, , y], attributes: [blocksize = 1] }) =>
    blocksOf(blocksize, y!.count, { 0: codes!, 3: y! }, { 1: absmax! }),
  shaders: () => [mapValues({})],
};

const affineScale = family("affine_quantize", ({ x }: { step: "scale"; x: DType }) => ({
  bindings: [reads("x"), writes("scale"), writes("zero", "array<i32>")],
  params: ["count", "elements", "blocksize", "symmetric", "ranged", "low:f32", "high:f32", "x", "scale", "zero"],
  declarations: [FLOATS, EXACT_DIVIDE, SIZE_OF, reader("x", x), LARGEST],
  body: `if (group >= P.count) { return; }
  // Magnitudes of negative and other numbers, as integers; NaN is the highest of either.
  var below = 0u;
  var above = 0u;
  ${EACH} {
    let v = x_at(P.x + i);
    let size = size_of(v);
    if ((bitcast<u32>(v) >> 31u) == 1u) { below = max(below, size); } else { above = max(above, size); }
  }
  below = largest(below, lid);
  above = largest(above, lid);
  if (lid != 0u) { return; }
  zero[P.zero + group] = 0;
  let most = max(below, above);
  if (most > ENDLESS || (most == ENDLESS && P.ranged == 0u)) {
    scale[P.scale + group] = bitcast<f32>(most);
    return;
  }
  var low = -bitcast<f32>(below);
  var high = bitcast<f32>(above);
  if (P.ranged != 0u) {
    low = P.low;
    high = P.high;
  }
  var s = 0.0;
  if (P.symmetric != 0u) { s = exact_divide(max(-low, high), 127.0); } else { s = exact_divide(high - low, 255.0); }
  scale[P.scale + group] = s;
  if (P.symmetric == 0u && size_of(s) >= ${LEAST} && size_of(s) < ENDLESS) {
    zero[P.zero + group] = i32(clamp(round(-128.0 - exact_divide(low, s)), -128.0, 127.0));
  }`,
}));

const affineCodes = family("affine_quantize", ({ x }: { step: "codes"; x: DType }) => ({
  bindings: [reads("x"), reads("scale", "array<f32>"), reads("zero", "array<i32>"), writes("codes", "array<u32>")],
  params: ["count", "offset", "blocksize", "symmetric", "x", "scale", "zero"],
  declarations: [
    FLOATS,
    EXACT_DIVIDE,
    SIZE_OF,
    reader("x", x),
    `fn code_of(e: u32) -> u32 {
  let block = e / P.blocksize;
  let s = scale[P.scale + block];
  if (size_of(s) < ${LEAST} || size_of(s) >= ENDLESS) { return 0u; }
  let given = x_at(P.x + e);
  var value = 512.0;
  if (size_of(given) < ENDLESS) { value = clamp(exact_divide(given, s), -512.0, 512.0); }
  else if ((bitcast<u32>(given) >> 31u) == 1u) { value = -512.0; }
  let code = i32(round(value)) + zero[P.zero + block];
  return bitcast<u32>(clamp(code, select(-128, -127, P.symmetric != 0u), 127)) & 0xffu;
}`,
  ],
  body: wordWriter("codes", "i8", (e) => `code_of(${e})`),
}));

export const affineQuantize: Kernel = {
  op: affineQuantizeOp,
  record({ operands: [x, codes, scale, zero], attributes }, recorder) {
    const [blocksize = 1, symmetric = 0, ranged = 0, low = 0, high = 0] = attributes;
    const elements = x!.count;
    const count = Math.ceil(elements / blocksize);
    const type = x!.dtype;
    const places = { x: x!.offset, scale: scale!.offset, zero: zero!.offset };
    const sizes = { count, elements, blocksize, symmetric, ranged, low, high, ...places };
    recorder.dispatch(affineScale({ step: "scale", x: type }), [x!, scale!, zero!], sizes, count);
    const { offset } = codes!;
    const numbers = { count: elements, offset, blocksize, symmetric, ...places };
    const groups = groupsFor(wordsFor("i8", offset, elements), WORKGROUP);
    recorder.dispatch(affineCodes({ step: "codes", x: type }), [x!, scale!, zero!, codes!], numbers, groups);
    return undefined;
  },
  axes: ({ operands: [x, codes, scale, zero], attributes: [blocksize = 1] }) =>
    blocksOf(blocksize, x!.count, { 0: x!, 1: codes! }, { 2: scale!, 3: zero! }),
  shaders: () => FLOAT.flatMap((x) => [affineScale({ step: "scale", x }), affineCodes({ step: "codes", x })]),
};

const affineValues = family("affine_dequantize", () => ({
  bindings: [reads("codes"), reads("scale", "array<f32>"), reads("zero", "array<i32>"), writes("y")],
  params: ["count", "blocksize", "codes", "scale", "zero", "y"],
  declarations: [reader("codes", "i8")],
  body: `if (gid >= P.count) { return; }
  let block = gid / P.blocksize;
  y[P.y + gid] = (codes_at(P.codes + gid) - f32(zero[P.zero + block])) * scale[P.scale + block];`,
}));

export const affineDequantize: Kernel = {
  op: affineDequantizeOp,
  record({ operands: [codes, scale, zero, y], attributes: [blocksize = 1] }, recorder) {
    const { count } = y!;
    const places = { codes: codes!.offset, scale: scale!.offset, zero: zero!.offset, y: y!.offset };
    const bound = [codes!, scale!, zero!, y!];
    recorder.dispatch(affineValues({}), bound, { count, blocksize, ...places }, groupsFor(count, WORKGROUP));
    return undefined;
  },
  axes: ({ operands: [codes, scale, zero, y], attributes: [blocksize = 1] }) =>
    blocksOf(blocksize, y!.count, { 0: codes!, 3: y! }, { 1: scale!, 2: zero! }),
  shaders: () => [affineValues({})],
};
