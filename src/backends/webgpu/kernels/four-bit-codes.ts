// WGSL for the choice of 4-bit codes: the thresholds between them, and the search for a block's scale (ops/scale-search.ts).

import { FOUR_BIT, FOUR_BIT_TABLES } from "../../../ops/four-bit.js";
import { FP4_THRESHOLDS, NF4_THRESHOLDS } from "../../../ops/four-bit-quantize.js";
import { SCALES_TRIED } from "../../../ops/scale-search.js";
import { literal } from "../wgsl.js";

const numbers = (name: string, values: ArrayLike<number>): string =>
  `const ${name} = array<f32, ${values.length}>(${Array.from(values, literal).join(", ")});`;

/** The steps from one value to the next larger one. */
const steps = (values: readonly number[]): number[] =>
  values.slice(1).map((value, i) => Math.fround(value - values[i]!));
/** The magnitudes of FP4 in order. */
const FP4_SIZES = [...FOUR_BIT_TABLES[FOUR_BIT.fp4]!.subarray(0, 8)].sort((a, b) => a - b);

/** `NF4` and `FP4`: between the values of NF4, and between the magnitudes of FP4. */
export const THRESHOLDS = `${numbers("NF4", NF4_THRESHOLDS)}
${numbers("FP4", FP4_THRESHOLDS)}`;

/**
 * `searched(first, end, absmax)`: the scale of a block. It reads `w_at(P.w + i)` and `P.kind`, and needs EXACT_DIVIDE. Values are
 * sums of steps, so their last bit may be off.
 */
export const SCALE_SEARCH = `${THRESHOLDS}
${numbers("NF4_STEPS", steps([...FOUR_BIT_TABLES[FOUR_BIT.nf4]!]))}
${numbers("FP4_STEPS", steps(FP4_SIZES))}
${numbers("TRIED", SCALES_TRIED)}
fn error_of(first: u32, end: u32, scale: f32) -> f32 {
  let inverse = exact_divide(1.0, scale);
  var sum = 0.0;
  for (var i = first; i < end; i++) {
    var value = w_at(P.w + i) * inverse;
    var near = 0.0;
    if (P.kind == ${FOUR_BIT.nf4}u) {
      near = -1.0;
      for (var j = 0u; j < 15u; j++) { near += select(0.0, NF4_STEPS[j], value > NF4[j]); }
    } else {
      value = abs(value);
      for (var j = 0u; j < 7u; j++) { near += select(0.0, FP4_STEPS[j], value > FP4[j]); }
    }
    sum += (value - near) * (value - near);
  }
  return sum * scale * scale;
}
fn searched(first: u32, end: u32, absmax: f32) -> f32 {
  if (!(absmax > 1e-30 && absmax < 1e30)) { return absmax; }
  var best = absmax;
  var least = error_of(first, end, absmax);
  for (var i = 0u; i < 16u; i++) {
    let scale = absmax * TRIED[i];
    let error = error_of(first, end, scale);
    if (error < least) { least = error; best = scale; }
  }
  return best;
}`;
