// compressed-tensors (llm-compressor, vLLM), formats pack-quantized, int-quantized and float-quantized: integers packed along the
// inputs, or one byte per value in rows. Weights alone: activations stay floats here, whatever the config says of them.

import { FormatError } from "../../core/errors.js";
import { shapeText } from "../../core/show.js";
import type { PackedCodes, PackedMatrix, ReadTensor, StoredTensor } from "../stored.js";
import { fieldAt, swapped, wordsFor, wordsOf } from "./bits.js";
import {
  expectTensor,
  FLOAT_DTYPES,
  floatsFrom,
  groupsFrom,
  integersFrom,
  needed,
  type PackedFormat,
  plainGroups,
} from "./format.js";
import { type Block, blockOf, scaledMatrix, tableOf } from "./scaled.js";

/** How a group of modules is stored: `config_groups.*.weights`. */
export interface CompressedGroup {
  readonly num_bits: number;
  readonly type: "int" | "float";
  /** Inputs that share a scale; undefined for all of them. */
  readonly group_size: number | undefined;
  readonly block: Block | undefined;
}

/** @param groups of which at least one is there */
export function compressedFormat(groups: readonly CompressedGroup[]): PackedFormat {
  const bits = [...new Set(groups.map(({ num_bits }) => num_bits))];
  return {
    name: `compressed-tensors, ${bits.join(" or ")} bits`,
    claim(main, tensors) {
      if (main.name.endsWith(".weight_packed")) return packedClaim(main, tensors, groups);
      if (!main.name.endsWith(".weight") || !tableOf(main) || main.shape.length !== 2) return undefined;
      const scales = tensors.get(`${main.name}_scale`);
      if (!scales) return undefined;
      const block = groups.find((group) => group.block)?.block;
      const blocks = block && scales.shape.length === 2 && scales.shape[0] !== main.shape[0] ? block : undefined;
      const zeros = tensors.get(`${main.name}_zero_point`);
      const packed = scaledMatrix("compressed-tensors", main, scales, blockOf(main, scales, blocks), zeros);
      return { name: main.name, shape: main.shape, packed };
    },
  };
}

function packedClaim(
  main: StoredTensor,
  tensors: ReadonlyMap<string, StoredTensor>,
  groups: readonly CompressedGroup[],
): ReturnType<PackedFormat["claim"]> {
  const base = main.name.slice(0, -"_packed".length);
  const scales = needed(tensors, `${base}_scale`, main);
  const [outputs = 0, columns = 0] = main.shape;
  expectTensor(main, ["I32"], [outputs, columns]);
  const [, across = 0] = expectTensor(scales, FLOAT_DTYPES, [outputs, scales.shape[1] ?? 0]).shape;
  // Groups name their modules by patterns; the shapes say as well which one it is, and need no pattern from a file.
  const fits = groups.filter(({ type, num_bits, group_size }) => {
    const most = Math.floor(columns * (32 / num_bits));
    const size = group_size ?? most;
    return type === "int" && across === Math.ceil(most / size);
  });
  const widths = [...new Set(fits.map(({ num_bits }) => num_bits))];
  if (widths.length !== 1) {
    const expected = groups.map(({ num_bits, group_size }) => `${num_bits} bits in groups of ${group_size ?? "all"}`);
    throw new FormatError(
      `tensor ${main.name}: words ${shapeText(main.shape)} with scales ${shapeText(scales.shape)} fit ${widths.length} of the config's groups (${expected.join(", ")})`,
      { details: { file: main.file, key: main.name, expected, got: main.shape } },
    );
  }
  const [bits] = widths as [number];
  const { group_size } = fits[0]!;
  const most = columns * (32 / bits);
  const inputs = group_size === undefined ? most : Math.min(most, across * group_size);
  const zeros = tensors.get(`${base}_zero_point`);
  if (zeros?.dtype === "I32") expectTensor(zeros, ["I32"], [wordsFor(outputs, bits), across]);
  else if (zeros) expectTensor(zeros, ["I8"], [outputs, across]);
  const g_idx = tensors.get(`${base}_g_idx`);
  if (g_idx) expectTensor(g_idx, ["I32"], [inputs]);
  const shape = tensors.get(`${base}_shape`);
  if (shape) expectTensor(shape, ["I64", "I32"], [2]);
  const packed = packedMatrix(
    { main, scales, zeros, g_idx, shape },
    { bits, outputs, inputs, columns, across, size: group_size ?? inputs },
  );
  return { name: base, shape: [outputs, inputs], packed };
}

interface Parts {
  readonly main: StoredTensor;
  readonly scales: StoredTensor;
  readonly zeros: StoredTensor | undefined;
  readonly g_idx: StoredTensor | undefined;
  readonly shape: StoredTensor | undefined;
}

interface Sizes {
  readonly bits: number;
  readonly outputs: number;
  readonly inputs: number;
  readonly columns: number;
  /** Groups. */
  readonly across: number;
  /** Inputs of a group. */
  readonly size: number;
}

function packedMatrix({ main, scales, zeros, g_idx, shape }: Parts, sizes: Sizes): PackedMatrix {
  const { bits, outputs, inputs, columns, across, size } = sizes;
  /** Codes are stored above zero: less this, they are signed. */
  const middle = 1 << (bits - 1);
  const each = 32 / bits;
  const mask = (1 << bits) - 1;
  const others = [zeros, g_idx, shape].filter((tensor) => tensor !== undefined);
  return {
    method: "compressed-tensors",
    tensors: [main, scales, ...others],
    ...(bits === 4 && !g_idx && inputs % size === 0 && columns * 8 === inputs
      ? { codes: packedCodes({ main, scales, zeros, shape }, sizes) }
      : {}),
    async open(read: ReadTensor) {
      if (shape) await checkShape(shape, await read(shape), outputs, inputs);
      const factors = floatsFrom(scales, await read(scales));
      const zeroAt = zeros ? zeroPoints(zeros, await read(zeros), sizes) : () => 0;
      const group = g_idx ? groupsFrom(integersFrom(await read(g_idx)), across, g_idx) : plainGroups(inputs, size);
      return {
        async rows(at, count) {
          const words = wordsOf(await read(main, 4 * at * columns, 4 * count * columns));
          const out = new Float32Array(count * inputs);
          for (let r = 0; r < count; r++) {
            const own = Float32Array.from({ length: across }, (_, g) => zeroAt(at + r, g));
            const scale = (at + r) * across;
            for (let k = 0; k < inputs; k++) {
              const g = group[k]!;
              const q = (words[r * columns + Math.floor(k / each)]! >>> ((k % each) * bits)) & mask;
              out[r * inputs + k] = (q - middle - own[g]!) * factors[scale + g]!;
            }
          }
          return out;
        },
      };
    },
  };
}

/** The signed zero point of output `n` in group `g`. */
function zeroPoints(zeros: StoredTensor, bytes: Uint8Array, { bits, across }: Sizes): (n: number, g: number) => number {
  if (zeros.dtype === "I32") {
    const words = wordsOf(bytes);
    return (n, g) => fieldAt(words, g, across, n, bits) - (1 << (bits - 1));
  }
  const codes = new Int8Array(bytes.slice().buffer);
  return (n, g) => codes[n * across + g]!;
}

/** The codes where groups are of neighbours. */
function packedCodes(
  { main, scales, zeros, shape }: Pick<Parts, "main" | "scales" | "zeros" | "shape">,
  sizes: Sizes,
): PackedCodes {
  const { outputs, inputs, columns, across, size } = sizes;
  return {
    kind: "int4",
    blocksize: size,
    zero_points: zeros !== undefined,
    async open(read) {
      if (shape) await checkShape(shape, await read(shape), outputs, inputs);
      const factors = floatsFrom(scales, await read(scales));
      const zeroAt = zeros && zeroPoints(zeros, await read(zeros), sizes);
      const all = factors.map((scale, i) => (zeroAt ? -scale * zeroAt(Math.floor(i / across), i % across) : 0));
      const zero_points = all.some((shift) => shift !== 0);
      return {
        zero_points,
        async rows(at, count) {
          const words = wordsOf(await read(main, 4 * at * columns, 4 * count * columns));
          for (let i = 0; i < words.length; i++) words[i] = swapped(words[i]!);
          const absmax = factors.slice(at * across, (at + count) * across).map((scale) => 8 * scale);
          const shifts = zero_points ? { shifts: all.slice(at * across, (at + count) * across) } : {};
          return { codes: new Uint8Array(words.buffer), absmax, ...shifts };
        },
      };
    },
  };
}

/** @throws FormatError if the stored shape is another */
async function checkShape({ name, file, dtype }: StoredTensor, bytes: Uint8Array, outputs: number, inputs: number) {
  const buffer = bytes.slice().buffer;
  const got = dtype === "I64" ? Array.from(new BigInt64Array(buffer), Number) : [...new Int32Array(buffer)];
  if (got[0] === outputs && got[1] === inputs) return;
  throw new FormatError(
    `tensor ${name}: expected ${outputs} x ${inputs}, as the packed words have it, got ${got.join(" x ")}`,
    {
      details: { file, key: name, expected: [outputs, inputs], got },
    },
  );
}
