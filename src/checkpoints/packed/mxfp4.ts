// MXFP4 (OCP Microscaling 1.0) as gpt-oss stores it: 4-bit floats E2M1, two to a byte with the first in the low half, and for each 32 of
// them an exponent. `NAME_blocks` u8[.., N, K/32, 16] and `NAME_scales` u8[.., N, K/32] hold the matrix NAME.

import type { ReadTensor } from "../stored.js";
import { elementsOf } from "../stored.js";
import { expectTensor, needed, type PackedFormat } from "./format.js";

const VALUES = [0, 0.5, 1, 1.5, 2, 3, 4, 6];
const TABLE = Float32Array.from({ length: 16 }, (_, code) => (code & 8 ? -1 : 1) * VALUES[code & 7]!);
/** Values that share an exponent. */
const GROUP = 32;

export const MXFP4: PackedFormat = {
  name: "mxfp4",
  claim(main, tensors) {
    if (!main.name.endsWith("_blocks")) return undefined;
    const name = main.name.slice(0, -"_blocks".length);
    const scales = needed(tensors, `${name}_scales`, main);
    const lines = main.shape.slice(0, -2);
    const groups = main.shape.at(-2) ?? 0;
    expectTensor(main, ["U8"], [...lines, groups, GROUP / 2]);
    expectTensor(scales, ["U8"], [...lines, groups]);
    const inputs = groups * GROUP;
    const packed = {
      method: "mxfp4",
      tensors: [main, scales],
      codes: {
        kind: "e2m1" as const,
        blocksize: GROUP,
        zero_points: false,
        async open(read: ReadTensor) {
          return {
            zero_points: false,
            async rows(at: number, count: number) {
              const codes = await read(main, (at * inputs) / 2, (count * inputs) / 2);
              for (let i = 0; i < codes.length; i++) codes[i] = (codes[i]! << 4) | (codes[i]! >> 4);
              const exponents = await read(scales, at * groups, count * groups);
              return { codes, absmax: Float32Array.from(exponents, (exponent) => 8 * 2 ** (exponent - 127)) };
            },
          };
        },
      },
      async open(read: ReadTensor) {
        return {
          async rows(at: number, count: number) {
            const codes = await read(main, (at * inputs) / 2, (count * inputs) / 2);
            const exponents = await read(scales, at * groups, count * groups);
            const out = new Float32Array(count * inputs);
            for (let b = 0; b < exponents.length; b++) {
              const factor = 2 ** (exponents[b]! - 127);
              for (let i = b * (GROUP / 2); i < (b + 1) * (GROUP / 2); i++) {
                const pair = codes[i]!;
                out[2 * i] = TABLE[pair & 15]! * factor;
                out[2 * i + 1] = TABLE[pair >> 4]! * factor;
              }
            }
            return out;
          },
        };
      },
    };
    return { name, shape: [...(lines.length > 0 ? lines : [elementsOf(lines)]), inputs], packed };
  },
};
