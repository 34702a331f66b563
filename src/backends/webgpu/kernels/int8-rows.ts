// Rows of x quantized for LLM.int8(): codes, scale and a bitmap of outliers, in scratch memory. A row has codes in
// ceil(K/4) words and a bitmap in ceil(K/32) words, both padded to whole vec4s, then the scale, the number of outliers and
// two words of padding; rows without outliers have no bitmap. If there are few rows, x itself follows the bitmap, in K
// words with the same padding, so that joined products need no binding for x. A norm can quantize the rows that it writes
// (fusions.ts).

import type { CommandRecorder } from "../device/command-recorder.js";
import type { Kernel } from "../kernel.js";
import { type Binding, type Call, leading, type Operand } from "../schedule/call.js";
import type { Fusion } from "../schedule/fusion.js";
import { same } from "../schedule/horizontal-fusion.js";
import { type BindingSpec, family, reads, type Shader, WORKGROUP, writes } from "../shader.js";
import { EXACT_DIVIDE, fold, SIZE_OF } from "../wgsl.js";
import { JOBS, jobName } from "./product.js";

/** From this many rows of x on, products use tiles, and rows are stored without x itself. */
export const MANY = 9;

const MARKS = "array<atomic<u32>>";

function marks<T>(count: number, text: (name: string) => T): T[] {
  return Array.from({ length: count }, (_, job) => text(jobName("seen", job)));
}

/** Marks the columns of `bitmap` (word b of a row's bitmap) in each of `count` arrays of bytes. */
const marking = (count: number): string => `while (bitmap != 0u) {
      let k = b * 32u + countTrailingZeros(bitmap);
      bitmap &= bitmap - 1u;
      ${marks(count, (name) => `atomicOr(&${name}[(P.${name} + k) / 4u], 1u << (((P.${name} + k) % 4u) * 8u));`).join("\n      ")}
    }`;

/** Magnitudes, and whether one is an outlier. */
export const SIZES = `${SIZE_OF}
fn beyond(value: f32) -> bool {
  let size = size_of(value);
  return P.threshold > 0.0 && size >= bitcast<u32>(P.threshold) && size <= ENDLESS;
}`;

/** Parts of a shader that quantizes rows. */
interface Quantizing {
  readonly bindings: readonly BindingSpec[];
  readonly params: readonly string[];
  readonly declarations: readonly string[];
  /** Quantizes row `group`, in a workgroup of its own. */
  readonly body: string;
}

/**
 * Shader text that quantizes each row with `width` invocations.
 * @param seen number of arrays in which columns with outliers are marked
 * @param value WGSL of element `k` of row `group`
 */
export function quantizing(width: number, seen: number, value: (k: string) => string): Quantizing {
  const each = (index: string, end: string): string => `for (var ${index} = lid; ${end}; ${index} += ${width}u)`;
  return {
    bindings: [writes("rows", "array<u32>"), ...marks(seen, (name) => writes(name, MARKS))],
    params: ["K", "stride", "words", "bits", "raw", "threshold:f32", ...marks(seen, (name) => name)],
    declarations: [
      EXACT_DIVIDE,
      fold("largest", "u32", width, (a, b) => `max(${a}, ${b})`),
      "var<workgroup> outliers: atomic<u32>;",
      SIZES,
    ],
    body: `let row = group * P.stride;
  var size = 0u;
  var count = 0u;
  ${each("k", "k < P.K")} {
    let a = ${value("k")};
    if (beyond(a)) { count++; } else { size = max(size, size_of(a)); }
  }
  if (count > 0u) { atomicAdd(&outliers, count); }
  let scale = largest(size, lid);
  var inverse = 0.0;
  if (scale > 0u && scale <= ENDLESS) { inverse = exact_divide(1.0, bitcast<f32>(scale)) * 127.0; }
  ${each("w", "w < P.words")} {
    var word = 0u;
    for (var l = 0u; l < 4u && w * 4u + l < P.K; l++) {
      let value = ${value("w * 4u + l")};
      if (P.raw > 0u) { rows[row + P.raw + w * 4u + l] = bitcast<u32>(value); }
      if (!beyond(value)) { word |= (bitcast<u32>(i32(round(value * inverse))) & 0xffu) << (l * 8u); }
    }
    rows[row + w] = word;
  }
  let all = atomicLoad(&outliers);
  if (all > 0u) {
    ${each("b", "b * 32u < P.K")} {
      var bitmap = 0u;
      for (var l = 0u; l < 32u && b * 32u + l < P.K; l++) {
        if (beyond(${value("b * 32u + l")})) { bitmap |= 1u << l; }
      }
      rows[row + P.bits + b] = bitmap;
      ${seen === 0 ? "" : marking(seen)}
    }
  }
  if (lid == 0u) {
    rows[row + P.stride - 4u] = scale;
    rows[row + P.stride - 3u] = all;
  }`,
  };
}

/** One workgroup per row of x. */
const rowsShader = family("llm_int8_linear", ({ seen }: { rows: "quantize"; seen: number }) => {
  const { bindings, params, declarations, body } = quantizing(WORKGROUP, seen, (k) => `x[source + ${k}]`);
  return {
    bindings: [reads("x", "array<f32>"), ...bindings],
    params: ["M", "x", ...params],
    declarations,
    body: `if (group >= P.M) { return; }
  let source = P.x + group * P.K;
  ${body}`,
  };
});

interface RowsLayout {
  /** Words of a row. */
  readonly stride: number;
  /** Words of codes. */
  readonly words: number;
  /** Where the bitmap begins, and where x itself begins (0 if it is not stored). */
  readonly bits: number;
  readonly raw: number;
}

function layoutOf(K: number, kept: boolean): RowsLayout {
  const words = Math.ceil(K / 4);
  const bits = Math.ceil(words / 4) * 4;
  const end = bits + Math.ceil(K / 128) * 4;
  return { stride: end + (kept ? bits * 4 : 0) + 4, words, bits, raw: kept ? end : 0 };
}

/** Layout of the rows of x: with x itself if there are few rows and it fits; undefined if nothing fits. */
function layoutFor(x: Operand): RowsLayout | undefined {
  const M = leading(x.shape);
  const fitting = ({ stride }: RowsLayout): boolean => M * stride * 4 <= x.block.binding;
  return [true, false]
    .filter((kept) => !kept || M < MANY)
    .map((kept) => layoutOf(x.shape.at(-1)!, kept))
    .find(fitting);
}

/** True if the rows of x store x itself. */
export function keepsX(x: Operand): boolean {
  return (layoutFor(x)?.raw ?? 0) > 0;
}

/**
 * WGSL that reads rows `q`, an array of words or (aligned) of vec4s: scale, number of outliers, word `b` of the bitmap and
 * element `k` of x, which is stored in the rows if `kept`. `source` gives the row of x for a row of results.
 */
export function rowsInScratch(aligned: boolean, kept: boolean, source = "m"): string {
  const row = `${source} * P.stride`;
  return `fn q_word(i: u32) -> u32 { return ${aligned ? "q[i >> 2u][i & 3u]" : "q[i]"}; }
fn scale_of(m: u32) -> f32 { return bitcast<f32>(q_word(${row} + P.stride - 4u)); }
fn outliers_of(m: u32) -> u32 { return q_word(${row} + P.stride - 3u); }
fn bitmap_of(m: u32, b: u32) -> u32 { return q_word(${row} + P.bits + b); }
fn value_of(m: u32, k: u32) -> f32 {
  return ${kept ? `bitcast<f32>(q_word(${row} + P.raw + k))` : `x[P.x + ${source} * P.K + k]`};
}`;
}

/** The quantized rows of an x in scratch. */
export interface Rows {
  readonly binding: Binding;
  readonly layout: RowsLayout;
  /** Identifies x and the threshold. */
  readonly key: string;
}

function rowsOf(recorder: CommandRecorder, x: Operand, threshold: number): Rows {
  const M = leading(x.shape);
  const K = x.shape.at(-1)!;
  const layout = layoutFor(x) ?? layoutOf(K, false); // if nothing fits, allocating scratch throws
  const size = M * layout.stride * 4;
  const binding = { block: recorder.buffers.scratch("rows", size), start: 0, size };
  return { binding, layout, key: `${x.block.uid}:${x.byte}:${M}:${K}:${threshold}` };
}

/**
 * Quantizes the rows of x into scratch, unless the previous call or a norm has done so.
 * @param seen arrays in which columns with outliers must be marked
 */
export function quantizeRows(
  recorder: CommandRecorder,
  x: Operand,
  threshold: number,
  seen: readonly Operand[] = [],
): Rows {
  const rows = rowsOf(recorder, x, threshold);
  const { block } = rows.binding;
  if (recorder.contents.holds(block, rows.key) && seen.every((one) => recorder.contents.holds(block, rows.key, one)))
    return rows;
  const M = leading(x.shape);
  const numbers = { M, x: x.offset, ...numbersOf(rows, x, threshold, seen) };
  recorder.dispatch(rowsShader({ rows: "quantize", seen: seen.length }), [x, rows.binding, ...seen], numbers, M);
  recorder.contents.hold(block, rows.key, x.block, seen);
  return rows;
}

/** True if the rows of x are in scratch. */
export function rowsHeld(recorder: CommandRecorder, x: Operand, threshold: number): boolean {
  const { binding, key } = rowsOf(recorder, x, threshold);
  return recorder.contents.holds(binding.block, key);
}

/** Values for the params of `quantizing`. */
function numbersOf({ layout }: Rows, x: Operand, threshold: number, seen: readonly Operand[]): Record<string, number> {
  const numbers: Record<string, number> = { K: x.shape.at(-1)!, threshold, ...layout };
  seen.forEach(({ offset }, job) => {
    numbers[jobName("seen", job)] = offset;
  });
  return numbers;
}

/** The request to a kernel that writes x to quantize its rows as well. */
export interface RowsToo {
  /** Number of arrays in which columns with outliers are marked. */
  readonly seen: number;
  /** Bindings after the kernel's own, and values for the params of `quantizing`. */
  readonly bindings: readonly Binding[];
  readonly numbers: Readonly<Record<string, number>>;
}

/**
 * Fuses a kernel that writes each row in one workgroup with the products that quantize those rows.
 */
export function quantizingToo(
  first: Kernel,
  next: Kernel,
  record: (call: Call, recorder: CommandRecorder, rows: RowsToo) => void,
): Fusion {
  return {
    first,
    next,
    prepares: true,
    record([producer], products, recorder) {
      const y = producer!.call.operands.at(-1)!;
      const [threshold = 0] = products[0]!.call.attributes;
      const alike = products.filter(({ call }) => call.attributes[0] === threshold);
      if (y.count === 0 || !layoutFor(y) || !alike.every(({ call }) => same(call.operands[0]!, y))) return false;
      const seen = threshold > 0 ? distinct(alike.map(({ call }) => call.operands[5])) : [];
      const rows = rowsOf(recorder, y, threshold);
      const numbers = numbersOf(rows, y, threshold, seen);
      record(producer!.call, recorder, { seen: seen.length, bindings: [rows.binding, ...seen], numbers });
      recorder.contents.hold(rows.binding.block, rows.key, y.block, seen);
      return true;
    },
  };
}

/** One operand per block, because a dispatch may write a block through one binding only. */
function distinct(operands: readonly (Operand | undefined)[]): Operand[] {
  return [...new Map(operands.flatMap((one) => (one ? [[one.block, one] as const] : []))).values()];
}

/** All shaders that `quantizeRows` can use. */
export function rowsShaders(): Shader[] {
  return [0, 2, JOBS].map((seen) => rowsShader({ rows: "quantize", seen }));
}
