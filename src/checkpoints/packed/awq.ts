// AWQ as AutoAWQ stores it, version "gemm" (Lin et al. 2024): 4-bit integers packed along the outputs, eight to a word in an order of
// its own, with a scale and a zero point for each group of inputs and each output.

import type { PackedCodes, PackedMatrix, ReadTensor, StoredTensor } from "../stored.js";
import { wordsOf } from "./bits.js";
import { byGroup, expectTensor, FLOAT_DTYPES, floatsFrom, needed, type PackedFormat } from "./format.js";

/** The lowest bit in a word of output 0, 1, ... of eight. */
const SHIFTS = Uint8Array.of(0, 16, 4, 20, 8, 24, 12, 28);

/** @param group_size inputs that share a scale; -1 for all of them */
export function awqFormat(group_size: number): PackedFormat {
  return {
    name: "awq, 4 bits",
    claim(main, tensors) {
      if (!main.name.endsWith(".qweight")) return undefined;
      const base = main.name.slice(0, -"qweight".length);
      const scales = needed(tensors, `${base}scales`, main);
      const qzeros = tensors.get(`${base}qzeros`);
      const [inputs = 0, words = 0] = main.shape;
      const outputs = 8 * words;
      expectTensor(main, ["I32"], [inputs, words]);
      const size = group_size > 0 ? group_size : inputs;
      const groups = Math.ceil(inputs / size);
      expectTensor(scales, FLOAT_DTYPES, [groups, outputs]);
      if (qzeros) expectTensor(qzeros, ["I32"], [groups, words]);
      const packed = awqMatrix({ qweight: main, qzeros, scales }, { inputs, outputs, groups, size });
      return { name: `${base}weight`, shape: [outputs, inputs], packed };
    },
  };
}

/** The field of output `n` in a row of `wide` words. */
function fieldsOf(wide: number): (words: Uint32Array, row: number, n: number) => number {
  return (words, row, n) => (words[row * wide + (n >>> 3)]! >>> SHIFTS[n & 7]!) & 15;
}

interface Parts {
  readonly qweight: StoredTensor;
  /** Absent: the middle of the range, 8. */
  readonly qzeros: StoredTensor | undefined;
  readonly scales: StoredTensor;
}

interface Sizes {
  readonly inputs: number;
  readonly outputs: number;
  readonly groups: number;
  /** Inputs of a group. */
  readonly size: number;
}

function awqMatrix({ qweight, qzeros, scales }: Parts, sizes: Sizes): PackedMatrix {
  const { inputs, outputs, groups, size } = sizes;
  const wide = outputs / 8;
  const fieldOf = fieldsOf(wide);
  return {
    method: "awq",
    tensors: [qweight, scales, ...(qzeros ? [qzeros] : [])],
    ...(inputs % size === 0 && inputs % 2 === 0 && { codes: awqCodes({ qweight, qzeros, scales }, sizes) }),
    async open(read: ReadTensor) {
      const words = wordsOf(await read(qweight));
      const zeroWords = qzeros && wordsOf(await read(qzeros));
      const factors = floatsFrom(scales, await read(scales));
      return {
        async rows(at, count) {
          const out = new Float32Array(count * inputs);
          const zeros = new Uint8Array(groups * count).fill(8);
          for (let i = 0; zeroWords && i < zeros.length; i++) {
            zeros[i] = fieldOf(zeroWords, Math.floor(i / count), at + (i % count));
          }
          for (let k = 0; k < inputs; k++) {
            const g = Math.floor(k / size);
            const [line, scale, zero] = [k * wide, g * outputs + at, g * count];
            for (let r = 0; r < count; r++) {
              const n = at + r;
              const q = (words[line + (n >>> 3)]! >>> SHIFTS[n & 7]!) & 15;
              out[r * inputs + k] = factors[scale + r]! * (q - zeros[zero + r]!);
            }
          }
          return out;
        },
      };
    },
  };
}

function awqCodes({ qweight, qzeros, scales }: Parts, { inputs, outputs, groups, size }: Sizes): PackedCodes {
  const fieldOf = fieldsOf(outputs / 8);
  return {
    kind: "int4",
    blocksize: size,
    zero_points: qzeros !== undefined,
    async open(read) {
      const words = wordsOf(await read(qweight));
      const zeroWords = qzeros && wordsOf(await read(qzeros));
      const factors = floatsFrom(scales, await read(scales));
      const zeros =
        zeroWords &&
        Int8Array.from(
          { length: groups * outputs },
          (_, i) => 8 - fieldOf(zeroWords, Math.floor(i / outputs), i % outputs),
        );
      const statistics = byGroup({ factors, zeros, groups, outputs });
      return {
        zero_points: statistics.zero_points,
        async rows(at, count) {
          const codes = new Uint8Array((count * inputs) / 2);
          for (let k = 0; k < inputs; k += 2) {
            for (let r = 0; r < count; r++) {
              codes[(r * inputs + k) / 2] = (fieldOf(words, k, at + r) << 4) | fieldOf(words, k + 1, at + r);
            }
          }
          return { codes, ...statistics.rows(at, count) };
        },
      };
    },
  };
}
