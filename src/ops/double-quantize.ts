// Double quantization (Dettmers et al. 2023, "QLoRA", section 3): the absmax values of 4-bit blocks in 8 bits, by a map of 256
// values over blocks of their own, with the mean taken off first.

import { ShapeError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import { NESTED_BLOCK } from "./four-bit.js";
import { Op } from "./op.js";

const fround = Math.fround;

export const doubleQuantizeOp = new Op({
  signature: "double_quantize: absmax[A]:f32 map[256]:f32 codes[A]:u8!! nested[B]:f32!! offset[1]:f32!! ->",
  check([absmax, , , nested]) {
    const outer = Math.ceil(absmax!.size / NESTED_BLOCK);
    if (nested!.size < outer) throw new ShapeError(`double_quantize: nested wants [${outer}], got [${nested!.size}]`);
  },
  reference({ absmax, map, codes, nested, offset }) {
    const count = absmax!.data.length;
    let sum = 0;
    for (let j = 0; j < count; j++) sum += absmax!.data[j]!;
    const mean = count === 0 ? 0 : fround(sum / count);
    offset!.data[0] = mean;
    const midpoints = new Float32Array(255);
    for (let i = 0; i < 255; i++) midpoints[i] = fround(fround(map!.data[i]! + map!.data[i + 1]!) / 2);
    for (let at = 0; at < count; at += NESTED_BLOCK) {
      const end = Math.min(at + NESTED_BLOCK, count);
      let largest = 0;
      for (let j = at; j < end; j++) largest = Math.max(largest, Math.abs(fround(absmax!.data[j]! - mean)));
      nested!.data[at / NESTED_BLOCK] = largest;
      const inverse = largest === 0 ? 0 : fround(1 / largest);
      for (let j = at; j < end; j++) {
        const value = fround(fround(absmax!.data[j]! - mean) * inverse);
        const x = Math.min(1, Math.max(-1, value));
        let code = 0;
        while (code < 255 && x > midpoints[code]!) code++;
        codes!.data[j] = code;
      }
    }
    return undefined;
  },
});

/** Quantizes absmax values to 8 bits: codes u8[A], nested absmax f32[ceil(A/256)], offset (their mean) f32[1]. */
export function doubleQuantize(absmax: Tensor, map: Tensor, codes: Tensor, nested: Tensor, offset: Tensor): void {
  doubleQuantizeOp.run([absmax, map, codes, nested, offset], []);
}
