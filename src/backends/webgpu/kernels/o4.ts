// Quantizing to O4 (ops/o4.ts): o4_quantize finds scales with one invocation per block, then codes with one per word; o4_levels is
// one workgroup, in which sixteen invocations sum each code's part of a sixteenth of the blocks.

import type { DType } from "../../../core/dtype.js";
import {
  O4_BLOCK,
  O4_LARGEST_COUNTED,
  O4_RANGE,
  O4_SCALES_TRIED,
  O4_UNIT,
  o4LevelsOp,
  o4QuantizeOp,
} from "../../../ops/o4.js";
import { groupsFor, type Kernel } from "../kernel.js";
import { rowsPerCut } from "../schedule/split.js";
import { bitsReader, family, reader, reads, WORKGROUP, wordsFor, wordWriter, writes } from "../shader.js";
import { EXACT_DIVIDE, FLOATS, literal, SIZE_OF } from "../wgsl.js";
import { FLOAT, misplaced, scratch } from "./quantize.js";

/** `code_for(value)`: the number of middles between neighbours in the table below a value. */
const NEAREST = `
var<workgroup> level: array<f32, 16>;
fn code_for(value: f32) -> u32 {
  var below = 0u;
  for (var i = 0u; i < 15u; i++) { below += select(0u, 1u, value > (level[i] + level[i + 1u]) * 0.5); }
  return below;
}`;
const FILL = `
  if (lid < 16u) { level[lid] = levels[P.levels + lid]; }
  workgroupBarrier();
  `;

const blockScale = family("o4_quantize", ({ w }: { step: "scale"; w: DType }) => ({
  bindings: [reads("w"), reads("levels", "array<f32>"), writes("scales"), writes("inverses")],
  params: ["count", "elements", "w", "levels", "scales"],
  declarations: [
    FLOATS,
    EXACT_DIVIDE,
    SIZE_OF,
    reader("w", w),
    NEAREST,
    `const TRIED = array<f32, ${O4_SCALES_TRIED.length}>(${Array.from(O4_SCALES_TRIED, literal).join(", ")});`,
  ],
  body: `${FILL}
  if (gid >= P.count) { return; }
  let first = gid * ${O4_BLOCK}u;
  let end = min(first + ${O4_BLOCK}u, P.elements);
  var size = 0u;
  for (var i = first; i < end; i++) { size = max(size, size_of(w_at(P.w + i))); }
  let absmax = bitcast<f32>(size);
  inverses[gid] = 0.0;
  if (size >= ENDLESS || absmax >= ${literal(O4_RANGE[1])}) {
    scales[P.scales + gid] = bitcast<f32>(size | 0x7fc00000u);
    return;
  }
  if (absmax <= ${literal(O4_RANGE[0])}) {
    scales[P.scales + gid] = 0.0;
    return;
  }
  var best = 0.0;
  var least = 0.0;
  for (var t = 0u; t < ${O4_SCALES_TRIED.length}u; t++) {
    let inverse = sign(TRIED[t]) * exact_divide(1.0, absmax * abs(TRIED[t])); // of magnitudes alone
    var sum = 0.0;
    for (var i = first; i < end; i++) {
      let value = w_at(P.w + i) * inverse;
      let off = value - level[code_for(value)];
      sum += off * off;
    }
    sum *= TRIED[t] * TRIED[t];
    if (t == 0u || sum < least) { least = sum; best = inverse; }
  }
  var products = 0.0;
  var squares = 0.0;
  for (var i = first; i < end; i++) {
    let x = w_at(P.w + i);
    let near = level[code_for(x * best)];
    products += x * near;
    squares += near * near;
  }
  inverses[gid] = best;
  // With these codes no scale is better than this one.
  scales[P.scales + gid] = 0.0;
  if (squares > 0.0) { scales[P.scales + gid] = products / squares; }`,
}));

const blockCodes = family("o4_quantize", ({ w }: { step: "codes"; w: DType }) => ({
  bindings: [reads("w"), reads("levels", "array<f32>"), reads("inverses", "array<f32>"), writes("codes", "array<u32>")],
  // If the matrix ends in half a byte, `count` includes the other half, which gets the code 0.
  params: ["count", "offset", "elements", "w", "levels"],
  declarations: [
    FLOATS,
    reader("w", w),
    NEAREST,
    `fn code_of(e: u32) -> u32 {
  if (e >= P.elements) { return 0u; }
  let inverse = inverses[e / ${O4_BLOCK}u];
  if (inverse == 0.0) { return 0u; }
  return code_for(w_at(P.w + e) * inverse);
}`,
  ],
  body: `${FILL}${wordWriter("codes", "u4", (e) => `code_of(${e})`)}`,
}));

export const o4Quantize: Kernel = {
  op: o4QuantizeOp,
  record({ operands: [w, table, codes, scales], attributes: [row = 0] }, recorder) {
    const problem = misplaced(w!, codes!, O4_BLOCK, row);
    if (problem) return problem;
    const begin = row * w!.shape[1]!;
    const elements = w!.count;
    if (elements === 0) return undefined;
    const blocks = Math.ceil(elements / O4_BLOCK);
    const inverses = scratch(recorder, "inverse", blocks);
    const type = w!.dtype;
    const common = { elements, w: w!.offset, levels: table!.offset };
    const sizes = { count: blocks, ...common, scales: scales!.offset + begin / O4_BLOCK };
    const first = [w!, table!, scales!, inverses];
    recorder.dispatch(blockScale({ step: "scale", w: type }), first, sizes, groupsFor(blocks, WORKGROUP));
    const end = begin + elements;
    const count = elements + (end % 2 === 1 && end === codes!.count ? 1 : 0);
    const offset = codes!.offset + begin;
    const groups = groupsFor(wordsFor("u4", offset, count), WORKGROUP);
    const second = [w!, table!, inverses, codes!];
    recorder.dispatch(blockCodes({ step: "codes", w: type }), second, { count, offset, ...common }, groups);
    return undefined;
  },
  axes({ operands: [w, , codes, scales], attributes: [row = 0] }) {
    const problem = misplaced(w!, codes!, O4_BLOCK, row);
    if (problem) return problem;
    const [rows = 0, columns = 0] = w!.shape;
    const range = (begin: number, count: number): [number, number] => [row + begin, count];
    const blocks = (begin: number, count: number): [number, number] => [
      ((row + begin) * columns) / O4_BLOCK,
      Math.ceil((count * columns) / O4_BLOCK),
    ];
    const parts = {
      0: { operand: w!, dim: 0 },
      2: { operand: codes!, dim: 0, range },
      3: { operand: scales!, dim: 0, range: blocks },
    };
    return [{ size: rows, step: rowsPerCut(columns, O4_BLOCK), parts, attributes: () => [0] }];
  },
  shaders: () => FLOAT.flatMap((w) => [blockScale({ step: "scale", w }), blockCodes({ step: "codes", w })]),
};

const WIDTH = 256;

const levelsShader = family("o4_levels", ({ w }: { w: DType }) => ({
  bindings: [reads("w"), reads("codes"), reads("scales"), reads("levels", "array<f32>"), writes("y")],
  params: ["elements", "w", "codes", "scales", "levels", "y"],
  workgroup: WIDTH,
  declarations: [
    FLOATS,
    SIZE_OF,
    reader("w", w),
    bitsReader("codes", "u4"),
    `var<workgroup> all_products: array<f32, ${WIDTH}>;
var<workgroup> all_squares: array<f32, ${WIDTH}>;`,
  ],
  body: `let mine = lid % 16u;
  var products = 0.0;
  var squares = 0.0;
  for (var first = lid / 16u * ${O4_BLOCK}u; first < P.elements; first += ${WIDTH / 16}u * ${O4_BLOCK}u) {
    let scale = bitcast<f32>(scales[P.scales + first / ${O4_BLOCK}u]);
    if (size_of(scale) >= bitcast<u32>(${literal(O4_LARGEST_COUNTED)})) { continue; }
    let end = min(first + ${O4_BLOCK}u, P.elements);
    for (var i = first; i < end; i++) {
      if (codes_bits(P.codes + i) != mine) { continue; }
      products += w_at(P.w + i) * scale;
      squares += scale * scale;
    }
  }
  all_products[lid] = products;
  all_squares[lid] = squares;
  workgroupBarrier();
  if (lid >= 16u) { return; }
  for (var i = lid + 16u; i < ${WIDTH}u; i += 16u) {
    products += all_products[i];
    squares += all_squares[i];
  }
  var value = levels[P.levels + lid];
  if (squares > 0.0 && value != 0.0) { value = floor(clamp(products / squares * 127.0, -127.0, 127.0) + 0.5) * ${literal(O4_UNIT)}; }
  y[P.y + lid] = value;`,
}));

export const o4Levels: Kernel = {
  op: o4LevelsOp,
  record({ operands: [w, codes, scales, table, levels] }, recorder) {
    const numbers = {
      elements: w!.count,
      w: w!.offset,
      codes: codes!.offset,
      scales: scales!.offset,
      levels: table!.offset,
      y: levels!.offset,
    };
    recorder.dispatch(levelsShader({ w: w!.dtype }), [w!, codes!, scales!, table!, levels!], numbers, 1);
    return undefined;
  },
  shaders: () => FLOAT.map((w) => levelsShader({ w })),
};
