// Floats to NF4 and FP4 codes, by bitsandbytes' thresholds: the scale of a block is its absmax, or is found by its error.

import { OptionError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import { type BnbKind, checkStatistics, FOUR_BIT, FOUR_BIT_TABLES, setCode } from "./four-bit.js";
import { Op } from "./op.js";
import { searchedScale } from "./scale-search.js";

const { fround } = Math;

/** The code of a normalised value is the number of these strictly below it. */
export const NF4_THRESHOLDS: Float32Array = Float32Array.of(
  -0.84809637,
  -0.6106329,
  -0.45999527,
  -0.33967942,
  -0.2346074,
  -0.13791174,
  -0.045525018,
  0.03979015,
  0.12025525,
  0.20352125,
  0.29201376,
  0.38931254,
  0.50166345,
  0.6427869,
  0.86147845,
);
/**
 * Magnitudes: the number of these below |x| picks a code of FP4_CODES; negative values add 8. Ties go to the lower value,
 * so a negative number that equals a threshold is beyond it. These are the midpoints in f32, as in bitsandbytes' CPU code
 * (its CUDA code has fewer digits, and is slightly off the midpoints).
 */
export const FP4_THRESHOLDS: Float32Array = Float32Array.of(
  0.0026041667,
  0.0859375,
  0.20833334,
  0.29166669,
  0.4166667,
  0.5833334,
  0.8333334,
);
const FP4_CODES = [0, 1, 6, 7, 4, 5, 2, 3];

function encode(kind: number, x: number): number {
  let below = 0;
  if (kind === FOUR_BIT.nf4) {
    for (const threshold of NF4_THRESHOLDS) if (x > threshold) below++;
    return below;
  }
  const size = Math.abs(x);
  for (const threshold of FP4_THRESHOLDS) if (x < 0 ? size >= threshold : size > threshold) below++;
  return FP4_CODES[below]! + (x < 0 ? 8 : 0);
}

export const fourBitQuantizeOp = new Op({
  signature:
    "four_bit_quantize: w[n,K]:f32|f16|bf16 codes[N,K]:u4! absmax[A]:f32! ; kind:i32 blocksize:i32 row:i32 search:i32 ->",
  check([, codes, absmax], [kind, blocksize]) {
    if (kind !== FOUR_BIT.nf4 && kind !== FOUR_BIT.fp4) {
      throw new OptionError(`floats are quantized to the kinds 0 (nf4) and 1 (fp4), not ${kind}`);
    }
    checkStatistics([codes, absmax], 1, kind!, blocksize!);
  },
  reference({ w, codes, absmax }, { kind, blocksize, row, search }) {
    const inputs = w!.shape[1]!;
    const count = w!.data.length;
    const start = row! * inputs;
    if (start % blocksize! !== 0) return `row ${row} of ${inputs} columns does not begin a block of ${blocksize}`;
    if (row! + w!.shape[0]! > codes!.shape[0]!) return `rows ${row} + ${w!.shape[0]} do not fit ${codes!.shape[0]}`;
    for (let at = 0; at < count; at += blocksize!) {
      const end = Math.min(at + blocksize!, count);
      let largest = 0;
      for (let i = at; i < end; i++) largest = Math.max(largest, Math.abs(w!.data[i]!));
      if (search) {
        const table = FOUR_BIT_TABLES[kind!]!;
        const block = w!.data.subarray(at, end) as Float32Array;
        largest = searchedScale(block, largest, (value) => table[encode(kind!, value)]!);
      }
      absmax!.data[(start + at) / blocksize!] = largest;
      const short = end - at < blocksize!;
      const inverse = largest === 0 ? 0 : fround(1 / largest);
      for (let i = at; i < end; i++) {
        const exact = short && largest > 0 ? fround(w!.data[i]! / largest) : fround(w!.data[i]! * inverse);
        setCode(codes!.data, start + i, encode(kind!, Math.min(1, Math.max(-1, exact))));
      }
    }
    const end = start + count;
    if (end % 2 === 1 && end === codes!.shape[0]! * inputs) setCode(codes!.data, end, encode(kind!, 0));
    return undefined;
  },
});

/**
 * Quantizes rows `w[n,K]` into rows `row` .. `row + n` of `codes` and their blocks of `absmax`.
 * @param search the scale of a block is not its absmax, but that of 16 about it with the least squared error
 */
export function fourBitQuantize(
  w: Tensor,
  codes: Tensor,
  absmax: Tensor,
  kind: BnbKind,
  blocksize: number,
  row: number,
  search = false,
): void {
  fourBitQuantizeOp.run([w, codes, absmax], [FOUR_BIT[kind], blocksize, row, Number(search)]);
}
