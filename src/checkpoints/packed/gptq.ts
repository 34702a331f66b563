// GPTQ as AutoGPTQ and GPTQModel store it (Frantar et al. 2023): integers of 2, 3, 4 or 8 bits packed along the inputs, with a
// scale and a zero point for each group of inputs and each output. With "act-order" an input's group is in g_idx.

import type { PackedCodes, PackedMatrix, ReadTensor, StoredTensor } from "../stored.js";
import { fieldAt, swapped, wordsFor, wordsOf } from "./bits.js";
import {
  byGroup,
  expectTensor,
  FLOAT_DTYPES,
  floatsFrom,
  groupsFrom,
  integersFrom,
  needed,
  type PackedFormat,
  plainGroups,
} from "./format.js";

export interface GptqConfig {
  readonly bits: number;
  /** Inputs that share a scale; -1 for all of them. */
  readonly group_size: number;
  /** Added to stored zero points: the first version of the format stored them less one. */
  readonly zero_offset: 0 | 1;
  /** The file says that all zero points are the middle of the range: for plans. */
  readonly sym: boolean;
}

export function gptqFormat(config: GptqConfig): PackedFormat {
  const { bits } = config;
  return {
    name: `gptq, ${bits} bits`,
    claim(main, tensors) {
      if (!main.name.endsWith(".qweight")) return undefined;
      const base = main.name.slice(0, -"qweight".length);
      const qzeros = needed(tensors, `${base}qzeros`, main);
      const scales = needed(tensors, `${base}scales`, main);
      const g_idx = tensors.get(`${base}g_idx`);
      const [words = 0, outputs = 0] = main.shape;
      const inputs = Math.floor((words * 32) / bits);
      expectTensor(main, ["I32"], [wordsFor(inputs, bits), outputs]);
      const size = config.group_size > 0 ? config.group_size : inputs;
      const groups = Math.ceil(inputs / size);
      expectTensor(scales, FLOAT_DTYPES, [groups, outputs]);
      expectTensor(qzeros, ["I32"], [groups, wordsFor(outputs, bits)]);
      if (g_idx) expectTensor(g_idx, ["I32"], [inputs]);
      const parts = { qweight: main, qzeros, scales, g_idx };
      const packed = gptqMatrix(parts, { ...config, inputs, outputs, groups, size });
      return { name: `${base}weight`, shape: [outputs, inputs], packed };
    },
  };
}

interface Sizes extends GptqConfig {
  readonly inputs: number;
  readonly outputs: number;
  readonly groups: number;
  readonly size: number;
}

interface Parts {
  readonly qweight: StoredTensor;
  readonly qzeros: StoredTensor;
  readonly scales: StoredTensor;
  readonly g_idx: StoredTensor | undefined;
}

function gptqMatrix({ qweight, qzeros, scales, g_idx }: Parts, sizes: Sizes): PackedMatrix {
  const { bits, inputs, outputs, groups, size, zero_offset } = sizes;
  return {
    method: "gptq",
    tensors: [qweight, qzeros, scales, ...(g_idx ? [g_idx] : [])],
    ...(bits === 4 && inputs % size === 0 && { codes: gptqCodes({ qweight, qzeros, scales, g_idx }, sizes) }),
    async open(read: ReadTensor) {
      // Words run along the inputs, so that any row needs all of them.
      const words = wordsOf(await read(qweight));
      const zeroWords = wordsOf(await read(qzeros));
      const factors = floatsFrom(scales, await read(scales));
      const group = g_idx ? groupsFrom(integersFrom(await read(g_idx)), groups, g_idx) : plainGroups(inputs, size);
      const each = wordsFor(outputs, bits);
      const mask = (1 << bits) - 1;
      /** Fields of a word; 1 where they cross the ends of words. */
      const step = 32 % bits === 0 ? 32 / bits : 1;
      /** The fields of a word are of one group. */
      const whole = !g_idx && size % step === 0;
      return {
        async rows(at, count) {
          const out = new Float32Array(count * inputs);
          const zeros = new Uint8Array(groups * count);
          for (let g = 0; g < groups; g++) {
            for (let r = 0; r < count; r++) {
              zeros[g * count + r] = (fieldAt(zeroWords, g * each, 1, at + r, bits) + zero_offset) & mask;
            }
          }
          // Sixteen rows at a time: their words share a line of the cache.
          for (let first = 0; first < count; first += 16) {
            const last = Math.min(count, first + 16);
            for (let k = 0; k < inputs; k += step) {
              for (let r = first; r < last; r++) {
                const word =
                  step === 1 ? fieldAt(words, at + r, outputs, k, bits) : words[(k / step) * outputs + at + r]!;
                const to = r * inputs + k;
                if (whole) {
                  const g = group[k]!;
                  const factor = factors[g * outputs + at + r]!;
                  const zero = zeros[g * count + r]!;
                  for (let i = 0; i < step; i++) out[to + i] = factor * (((word >>> (i * bits)) & mask) - zero);
                  continue;
                }
                for (let i = 0; i < step; i++) {
                  const g = group[k + i]!;
                  const q = (word >>> (i * bits)) & mask;
                  out[to + i] = factors[g * outputs + at + r]! * (q - zeros[g * count + r]!);
                }
              }
            }
          }
          return out;
        },
      };
    },
  };
}

/** The codes where groups are of neighbours. */
function gptqCodes({ qweight, qzeros, scales, g_idx }: Parts, sizes: Sizes): PackedCodes {
  const { inputs, outputs, groups, size, zero_offset, sym } = sizes;
  return {
    kind: "int4",
    blocksize: size,
    zero_points: !sym,
    async open(read) {
      const stored = wordsOf(await read(qzeros));
      const wide = wordsFor(outputs, 4);
      const zeros = Int8Array.from({ length: groups * outputs }, (_, i) => {
        return 8 - ((fieldAt(stored, Math.floor(i / outputs) * wide, 1, i % outputs, 4) + zero_offset) & 15);
      });
      const plain = plainGroups(inputs, size);
      const group = g_idx && groupsFrom(integersFrom(await read(g_idx)), groups, g_idx);
      if (group?.some((g, k) => g !== plain[k])) return undefined;
      const words = wordsOf(await read(qweight));
      const factors = floatsFrom(scales, await read(scales));
      const each = inputs / 8;
      const statistics = byGroup({ factors, zeros, groups, outputs });
      return {
        zero_points: statistics.zero_points,
        async rows(at, count) {
          const codes = new Uint32Array(count * each);
          for (let p = 0; p < each; p++) {
            for (let r = 0; r < count; r++) codes[r * each + p] = swapped(words[p * outputs + at + r]!);
          }
          return { codes: new Uint8Array(codes.buffer), ...statistics.rows(at, count) };
        },
      };
    },
  };
}
