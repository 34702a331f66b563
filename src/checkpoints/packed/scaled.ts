// Matrices of one byte per value, in rows: 8-bit floats or integers, with scales for the whole matrix, for each output, for groups of
// inputs, or for blocks of both. So store "fp8" (DeepSeek, Qwen), "fbgemm_fp8", and compressed-tensors.

import { FLOAT_FORMATS, numbersOf } from "../../core/float-formats.js";
import { elementsOf, type PackedMatrix, type ReadTensor, type StoredDType, type StoredTensor } from "../stored.js";
import { expectTensor, floatsFrom, SCALE_DTYPES } from "./format.js";

/** Rows and columns that share a scale. */
export type Block = readonly [rows: number, columns: number];

/** The values of all codes, by the stored dtype of one byte. */
const TABLES: Partial<Readonly<Record<StoredDType, Float32Array>>> = {
  F8_E4M3: numbersOf(FLOAT_FORMATS.float8_e4m3fn),
  F8_E5M2: numbersOf(FLOAT_FORMATS.float8_e5m2),
  I8: Float32Array.from({ length: 256 }, (_, code) => (code << 24) >> 24),
};

/** The table of a stored dtype of one byte; undefined for others. */
export function tableOf({ dtype }: Pick<StoredTensor, "dtype">): Float32Array | undefined {
  return TABLES[dtype];
}

/** Scales of a matrix [N, K] and the block that each is for: found from their shape. @throws FormatError */
export function blockOf(main: StoredTensor, scales: StoredTensor, block: Block | undefined): Block {
  const [outputs = 0, inputs = 0] = main.shape;
  if (block) {
    const across = [Math.ceil(outputs / block[0]), Math.ceil(inputs / block[1])];
    expectTensor(scales, SCALE_DTYPES, across);
    return block;
  }
  const { shape } = scales;
  if (shape.every((size) => size === 1)) {
    expectTensor(scales, SCALE_DTYPES, [], [1], [1, 1]);
    return [outputs, inputs];
  }
  const groups = shape.length === 2 && shape[0] === outputs && inputs % shape[1]! === 0 ? shape[1]! : 1;
  expectTensor(scales, SCALE_DTYPES, [1], [outputs], [outputs, groups]);
  return [1, inputs / groups];
}

/** @param zeros I8 zero points, of the shape of the scales */
export function scaledMatrix(
  method: string,
  main: StoredTensor,
  scales: StoredTensor,
  block: Block,
  zeros?: StoredTensor,
): PackedMatrix {
  const [, inputs = 0] = main.shape;
  const table = tableOf(main)!;
  const across = Math.ceil(inputs / block[1]);
  if (zeros) expectTensor(zeros, ["I8"], scales.shape);
  return {
    method,
    tensors: [main, scales, ...(zeros ? [zeros] : [])],
    async open(read: ReadTensor) {
      const factors = floatsFrom(scales, await read(scales));
      const offsets = zeros && new Int8Array((await read(zeros)).slice().buffer);
      return {
        async rows(at, count) {
          const codes = await read(main, at * inputs, count * inputs);
          const out = new Float32Array(count * inputs);
          for (let r = 0; r < count; r++) {
            const line = Math.floor((at + r) / block[0]) * across;
            for (let begin = 0, b = line; begin < inputs; begin += block[1], b++) {
              const end = Math.min(inputs, begin + block[1]);
              const [factor, zero] = [factors[b]!, offsets ? offsets[b]! : 0];
              for (let i = r * inputs + begin; i < r * inputs + end; i++) out[i] = (table[codes[i]!]! - zero) * factor;
            }
          }
          return out;
        },
      };
    },
  };
}

/**
 * "fp8" and "fbgemm_fp8".
 * @param blocks of the scales, if config.json names them; "128 x 128": it does not, and scales that are not one alone are for such
 */
export function float8Format(method: string, blocks: Block | "128 x 128" | undefined) {
  const assumed = blocks === "128 x 128";
  const block: Block | undefined = assumed ? [128, 128] : blocks;
  return {
    name: `${method}${block && !assumed ? ` in blocks of ${block.join(" x ")}` : ""}`,
    claim(main: StoredTensor, tensors: ReadonlyMap<string, StoredTensor>) {
      if (!main.name.endsWith(".weight") || !/^F8_E(4M3|5M2)$/.test(main.dtype) || main.shape.length !== 2)
        return undefined;
      const scales = tensors.get(`${main.name}_scale_inv`) ?? tensors.get(`${main.name}_scale`);
      if (!scales) return undefined;
      const alone = assumed && elementsOf(scales.shape) === 1;
      const own = scales.name.endsWith("_inv") && !alone ? block : undefined;
      const packed = scaledMatrix(method, main, scales, blockOf(main, scales, own));
      const base = main.name.slice(0, -"weight".length);
      const unused = [`${base}input_scale`, `${main.name}_scale`, `${base}activation_scale`].filter(
        (name) => name !== scales.name && tensors.has(name),
      );
      return { name: main.name, shape: main.shape, packed, unused };
    },
  };
}
