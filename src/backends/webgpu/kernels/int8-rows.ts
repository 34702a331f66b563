// Rows of x as LLM.int8() multiplies them: codes, scale and a bitmap of outliers, in scratch memory. A row has codes in
// ceil(K/4) words and a bitmap in ceil(K/32) words, both padded to whole vec4s, then the scale, the number of outliers and
// two words of nothing. Rows for joined products have x itself behind the bitmap, in K words padded in the same way: those
// products bind much else.

import { leading, type Operand, type Piece } from "../call.js";
import type { Queue } from "../queue.js";
import { family, reads, type Shader, WORKGROUP, writes } from "../shader.js";
import { EXACT_DIVIDE, fold } from "../wgsl.js";
import { JOBS, jobName } from "./product.js";

const MARKS = "array<atomic<u32>>";

function marks<T>(count: number, text: (name: string) => T): T[] {
  return Array.from({ length: count }, (_, job) => text(jobName("seen", job)));
}

/** Marks the columns of `bitmap`, word b of a row's, in each of `count` arrays of bytes. */
const marking = (count: number): string => `while (bitmap != 0u) {
      let k = b * 32u + countTrailingZeros(bitmap);
      bitmap &= bitmap - 1u;
      ${marks(count, (name) => `atomicOr(&${name}[(P.${name} + k) / 4u], 1u << (((P.${name} + k) % 4u) * 8u));`).join("\n      ")}
    }`;

/** One workgroup per row of x. Words are owned by one invocation, so bitmap words are built from 32 elements at once. */
const rowsShader = family("llm_int8_linear", ({ kept, seen }: { rows: "quantize"; kept: boolean; seen: number }) => ({
  bindings: [reads("x", "array<f32>"), writes("out", "array<u32>"), ...marks(seen, (name) => writes(name, MARKS))],
  params: ["M", "K", "x", "stride", "words", "bits", "raw", "threshold:f32", ...marks(seen, (name) => name)],
  declarations: [
    EXACT_DIVIDE,
    fold("largest", "f32", WORKGROUP, (a, b) => `max(${a}, ${b})`),
    "var<workgroup> outliers: atomic<u32>;",
  ],
  body: `if (group >= P.M) { return; }
  let source = P.x + group * P.K;
  let row = group * P.stride;
  var size = 0.0;
  for (var k = lid; k < P.K; k += ${WORKGROUP}u) {
    let a = abs(x[source + k]);
    if (P.threshold == 0.0 || a < P.threshold) { size = max(size, a); }
  }
  let scale = largest(size, lid);
  var inverse = 0.0;
  if (scale > 0.0) { inverse = exact_divide(1.0, scale) * 127.0; }
  for (var b = lid; b * 32u < P.K; b += ${WORKGROUP}u) {
    var bitmap = 0u;
    for (var w = 0u; w < 8u && b * 8u + w < P.words; w++) {
      var word = 0u;
      for (var l = 0u; l < 4u; l++) {
        let k = b * 32u + w * 4u + l;
        if (k >= P.K) { break; }
        let value = x[source + k];
        ${kept ? "out[row + P.raw + k] = bitcast<u32>(value);" : ""}
        if (P.threshold > 0.0 && abs(value) >= P.threshold) {
          bitmap |= 1u << (w * 4u + l);
        } else {
          word |= (bitcast<u32>(i32(round(value * inverse))) & 0xffu) << (l * 8u);
        }
      }
      out[row + b * 8u + w] = word;
    }
    out[row + P.bits + b] = bitmap;
    if (bitmap != 0u) { atomicAdd(&outliers, countOneBits(bitmap)); }
    ${seen === 0 ? "" : marking(seen)}
  }
  workgroupBarrier();
  if (lid == 0u) {
    out[row + P.stride - 4u] = bitcast<u32>(scale);
    out[row + P.stride - 3u] = atomicLoad(&outliers);
  }`,
}));

export interface RowsLayout {
  /** Words of a row. */
  readonly stride: number;
  /** Words of codes. */
  readonly words: number;
  /** Where the bitmap begins, and x itself where it is kept. */
  readonly bits: number;
  readonly raw: number;
}

/** @param kept whether the rows hold x itself */
export function rowsLayout(K: number, kept: boolean): RowsLayout {
  const words = Math.ceil(K / 4);
  const bits = Math.ceil(words / 4) * 4;
  const raw = bits + Math.ceil(K / 128) * 4;
  return { stride: raw + (kept ? words * 4 : 0) + 4, words, bits, raw };
}

/** Rows for joined products: with x itself, and arrays in which the columns of outliers are marked. */
export interface Kept {
  readonly seen: readonly Operand[];
}

/** Quantizes the rows of x into scratch, unless they are there from the call before. */
export function quantizeRows(queue: Queue, x: Operand, threshold: number, kept?: Kept): Piece {
  const M = leading(x.shape);
  const K = x.shape.at(-1)!;
  const layout = rowsLayout(K, kept !== undefined);
  const seen = kept?.seen ?? [];
  const size = M * layout.stride * 4;
  const piece = { block: queue.buffers.scratch("rows", size), start: 0, size };
  const key = `${x.block.uid}:${x.byte}:${M}:${K}:${threshold}:${kept !== undefined}`;
  if (seen.length > 0 || !queue.holds(piece.block, key)) {
    const numbers: Record<string, number> = { M, K, x: x.offset, threshold, ...layout };
    seen.forEach(({ offset }, job) => {
      numbers[jobName("seen", job)] = offset;
    });
    const shader = rowsShader({ rows: "quantize", kept: kept !== undefined, seen: seen.length });
    queue.dispatch(shader, [x, piece, ...seen], numbers, M);
    queue.hold(piece.block, key, x.block);
  }
  return piece;
}

/** All shaders that `quantizeRows` can ask for. */
export function rowsShaders(): Shader[] {
  const kept = [0, 2, JOBS].map((seen) => rowsShader({ rows: "quantize", kept: true, seen }));
  return [rowsShader({ rows: "quantize", kept: false, seen: 0 }), ...kept];
}
