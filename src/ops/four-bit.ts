// 4-bit weights (Dettmers et al. 2023, "QLoRA"): NF4 and FP4 codes over blocks of the flattened matrix, with one absmax
// per block, itself in f32 or quantized to 8 bits (double quantization). Tables and thresholds are bitsandbytes'. Two more tables
// hold what other quantizers store: integers with a scale per group, and the 4-bit floats of MXFP4. O4 (o4.ts) has a table of its own
// for each matrix.

import { fromBf16, fromF16, toBf16, toF16 } from "../core/dtype.js";
import { OptionError, ShapeError } from "../core/errors.js";
import type { Tensor } from "../core/tensor.js";
import { ACT, type Act, activate, activationBack } from "./activation.js";
import { COMPUTE, checkCompute, type LinearOptions, productKeeps } from "./linear.js";
import { quantizeRow, roundHalfEven } from "./llm-int8.js";
import { type HostTensor, Op, rowsOf } from "./op.js";
import { sumRows } from "./sum-rows.js";

const fround = Math.fround;

/**
 * Codes of the `kind` attribute. "int4" are integers from -8 to 7 stored above zero, with 8 times their scale as absmax; "e2m1" the
 * floats of MXFP4, likewise: so both are exact. "o4" has no table here: its values are the operand `map`.
 */
export const FOUR_BIT = { nf4: 0, fp4: 1, int4: 2, e2m1: 3, o4: 4 } as const;
export type FourBitKind = keyof typeof FOUR_BIT;
/** The kinds that floats are quantized to; codes of the others come from files. */
export const BNB_KINDS = ["nf4", "fp4"] as const satisfies readonly FourBitKind[];
export type BnbKind = (typeof BNB_KINDS)[number];

/**
 * Codes of the `rounding` attribute: the dtype that decoded values are rounded to before use. bitsandbytes decodes to the
 * dtype that a matrix had when it was quantized, which its checkpoints record; f32 rounds nothing.
 */
export const FOUR_BIT_ROUNDING = { f32: 0, f16: 1, bf16: 2 } as const;
export type FourBitRounding = keyof typeof FOUR_BIT_ROUNDING;

/** Block sizes that the formats allow. */
export const BLOCK_SIZES = [32, 64, 128, 256, 512, 1024, 2048, 4096] as const;
export type BlockSize = (typeof BLOCK_SIZES)[number];

/** Blocks of absmax values per block of the second quantization. */
export const NESTED_BLOCK = 256;

/** Blocks under one scale of O4: those of a row if rows of `inputs` are whole blocks, else 256. */
export function o4Group(inputs: number, blocksize: number): number {
  return inputs > 0 && inputs % blocksize === 0 ? inputs / blocksize : NESTED_BLOCK;
}

/** The value of each code, by kind; O4's are an operand. */
export const FOUR_BIT_TABLES: readonly Float32Array[] = [
  Float32Array.of(
    -1,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1,
  ),
  Float32Array.of(
    0,
    0.0052083335,
    0.6666667,
    1,
    0.33333334,
    0.5,
    0.16666667,
    0.25,
    0,
    -0.0052083335,
    -0.6666667,
    -1,
    -0.33333334,
    -0.5,
    -0.16666667,
    -0.25,
  ),
  Float32Array.from({ length: 16 }, (_, code) => (code - 8) / 8),
  Float32Array.from({ length: 16 }, (_, code) => ((code & 8 ? -1 : 1) * [0, 0.5, 1, 1.5, 2, 3, 4, 6][code & 7]!) / 8),
];

/** Code of element `i` of packed data: even elements are in the high nibble. */
export function codeAt(packed: ArrayLike<number>, i: number): number {
  const byte = packed[i >>> 1]!;
  return i & 1 ? byte & 15 : byte >>> 4;
}

export function setCode(packed: HostTensor["data"], i: number, code: number): void {
  const at = i >>> 1;
  packed[at] = i & 1 ? (packed[at]! & 0xf0) | code : (packed[at]! & 0x0f) | (code << 4);
}

/** Blocks have scales absmax: f32, or in 8 bits: u8 by map and offset over blocks of blocks, or those of O4, i8 over its groups. */
interface Statistics {
  readonly absmax: HostTensor;
  readonly nested?: HostTensor | undefined;
  /** What u8 absmax mean; of O4 what its codes mean. */
  readonly map?: HostTensor | undefined;
  readonly offset?: HostTensor | undefined;
}

/** The f32 absmax of block `j`, undoing double quantization if there is one. `group`: blocks under one scale of O4. */
function absmaxAt({ absmax, nested, map, offset }: Statistics, j: number, group: number): number {
  const value = absmax.data[j]!;
  if (absmax.dtype === "f32") return value;
  if (absmax.dtype === "i8") return fround(value * nested!.data[Math.floor(j / group)]!);
  const scaled = fround(map!.data[value]! * nested!.data[Math.floor(j / NESTED_BLOCK)]!);
  return fround(scaled + offset!.data[0]!);
}

/** Element `i` of a 4-bit matrix. */
type Decoder = (i: number) => number;

/** The values of the codes. */
function tableOf(kind: number, { map }: Statistics): ArrayLike<number> {
  return kind === FOUR_BIT.o4 ? map!.data : FOUR_BIT_TABLES[kind]!;
}

function decoder(
  codes: HostTensor,
  statistics: Statistics,
  kind: number,
  blocksize: number,
  rounding: number,
): Decoder {
  const table = tableOf(kind, statistics);
  const group = o4Group(codes.shape[1]!, blocksize);
  const exact: Decoder = (i) =>
    fround(table[codeAt(codes.data, i)]! * absmaxAt(statistics, Math.floor(i / blocksize), group));
  if (rounding === FOUR_BIT_ROUNDING.f16) return (i) => fromF16(toF16(exact(i)));
  if (rounding === FOUR_BIT_ROUNDING.bf16) return (i) => fromBf16(toBf16(exact(i)));
  return exact;
}

/** A row of activations times row `n` of a matrix. */
type RowProduct = (n: number) => number;

/** Products with decoded weights, exact. */
function exactProducts(weight: Decoder): (row: HostTensor["data"]) => RowProduct {
  return (row) => (n) => {
    let sum = 0;
    for (let k = 0; k < row.length; k++) sum += row[k]! * weight(n * row.length + k);
    return sum;
  };
}

/** Blocks for products in 8-bit codes are multiples of this. */
const CODED_UNIT = 32;

/** Whether products that may be in 8-bit codes are, rather than exact. */
export function inCodes(compute: number, inputs: number, blocksize: number): boolean {
  return compute === COMPUTE.int8 && inputs % blocksize === 0 && blocksize % CODED_UNIT === 0;
}

/** The values of the codes in 8-bit codes. Only a half lies between two of them, and becomes 64. */
function codedTable(table: ArrayLike<number>): Int8Array {
  return Int8Array.from(table, (value) => roundHalfEven(127 * value));
}

/** Products in 8-bit codes, as FourBitCompute defines them. */
function codedProducts(
  codes: HostTensor,
  statistics: Statistics,
  kind: number,
  blocksize: number,
): (row: HostTensor["data"]) => RowProduct {
  const inputs = codes.shape[1]!;
  const blocks = inputs / blocksize; // of a row
  const weights = codedTable(tableOf(kind, statistics));
  const group = o4Group(inputs, blocksize);
  return (row) => {
    const rowCodes = new Int8Array(inputs);
    const scales = Float32Array.from({ length: blocks }, (_, block) => {
      const [begin, end] = [block * blocksize, (block + 1) * blocksize];
      return quantizeRow(row.subarray(begin, end), 0, rowCodes.subarray(begin, end));
    });
    return (n) => {
      let sum = 0;
      for (let block = 0; block < blocks; block++) {
        let whole = 0;
        for (let k = block * blocksize; k < (block + 1) * blocksize; k++) {
          whole += rowCodes[k]! * weights[codeAt(codes.data, n * inputs + k)]!;
        }
        sum += (whole * scales[block]! * absmaxAt(statistics, n * blocks + block, group)) / 127 ** 2;
      }
      return sum;
    };
  };
}

/**
 * @param experts matrices in `codes`, each with blocks of its own
 * @throws ShapeError unless there is an absmax for each block, and the operands that give its value; OptionError unless it is of the kind
 */
export function checkStatistics(
  inputs: readonly (Tensor | undefined)[],
  at: number,
  kind: number,
  blocksize: number,
  experts = 1,
): void {
  const codes = inputs[at - 1]!; // the statistics follow the codes
  const [absmax, nested, map, offset] = inputs.slice(at, at + 4);
  if (!(blocksize >= 1)) throw new ShapeError(`a block of 4-bit codes has at least one element, not ${blocksize}`);
  const each = experts === 1 ? "" : " for each expert";
  const [elements, all] = [codes.size / experts || 0, absmax!.size / experts || 0];
  const blocks = Math.ceil(elements / blocksize);
  if (all < blocks) throw new ShapeError(`absmax wants [${blocks}]${each} for ${elements} codes, got [${all}]`);
  if ((absmax!.dtype === "i8") !== (kind === FOUR_BIT.o4)) {
    throw new OptionError(`the absmax of kind ${FOUR_BIT.o4} (o4) are i8, those of others f32 or u8`);
  }
  if (absmax!.dtype === "f32") return;
  const own = kind === FOUR_BIT.o4;
  if (!nested || !map || !(own || offset)) {
    throw new ShapeError(own ? "an i8 absmax needs nested and map" : "a u8 absmax needs nested, map and offset");
  }
  if (map.size !== (own ? 16 : 256)) throw new ShapeError(`map wants [${own ? 16 : 256}], got [${map.size}]`);
  const outer = Math.ceil(all / (own ? o4Group(codes.shape.at(-1)!, blocksize) : NESTED_BLOCK));
  if (nested.size / experts < outer) {
    throw new ShapeError(`nested wants [${outer}]${each} for ${all} blocks, got [${nested.size / experts}]`);
  }
}

/** @throws OptionError for an invalid code, or with a `compute` that rounds differently */
export function checkRounding(rounding: number, compute: number = COMPUTE.f32): void {
  if (rounding !== 0 && rounding !== 1 && rounding !== 2) {
    throw new OptionError(`rounding of 4-bit values is 0 (none), 1 (f16) or 2 (bf16), not ${rounding}`);
  }
  if (rounding !== 0 && compute !== COMPUTE.f32) {
    throw new OptionError("only exact products of 4-bit matrices round the decoded values");
  }
}

export const fourBitLinearOp = new Op({
  signature:
    "four_bit_linear: x[..,K]:f32 codes[N,K]:u4@ absmax[A]:f32|u8|i8 nested[B]:f32? map[T]:f32? offset[1]:f32? bias[N]:f32|f16|bf16? residual[..,N]:f32? ; kind:i32 blocksize:i32 act:i32 compute:i32 rounding:i32 -> y[..,N]:f32",
  check(inputs, [kind, blocksize, , compute, rounding]) {
    checkStatistics(inputs, 2, kind!, blocksize!);
    checkCompute("four_bit_linear", compute!, 3);
    checkRounding(rounding!, compute);
  },
  reference({ x, codes, absmax, nested, map, offset, bias, residual, y }, { kind, blocksize, act, compute, rounding }) {
    const [outputs = 0, inputs = 0] = codes!.shape;
    const statistics = { absmax: absmax!, nested, map, offset };
    const products = inCodes(compute!, inputs, blocksize!)
      ? codedProducts(codes!, statistics, kind!, blocksize!)
      : exactProducts(decoder(codes!, statistics, kind!, blocksize!, rounding!));
    for (let m = 0; m < rowsOf(x!.shape); m++) {
      const product = products(x!.data.subarray(m * inputs, (m + 1) * inputs));
      for (let n = 0; n < outputs; n++) {
        const sum = product(n) + (bias ? bias.data[n]! : 0);
        y!.data[m * outputs + n] = activate(act!, sum) + (residual ? residual.data[m * outputs + n]! : 0);
      }
    }
    return undefined;
  },
  // The weights as decoded, whatever the forward computed in.
  gradient({ inputs, attributes: [kind = 0, blocksize = 0, act = 0, compute = 0, rounding = 0], dy: [dy], wanted }) {
    const matrix = inputs.slice(1, 6);
    const before = (): Tensor =>
      fourBitLinearOp.run(inputs.slice(0, 7), [kind, blocksize, ACT.none, compute, rounding]);
    const g = act === ACT.none ? dy! : activationBack(before(), dy!, act);
    const dx = wanted[0] ? fourBitBackOp.run([g, ...matrix], [kind, blocksize, rounding, compute]) : undefined;
    return [dx, ...matrix.map(() => undefined), wanted[6] ? sumRows(g) : undefined, dy];
  },
  keeps: ([x = false], [, , act]) => productKeeps(["codes", "absmax", "nested", "map", "offset"])([x], [], act),
});

/**
 * `dy · dequantized(codes)` for `dy[..,N]`: [..,K], without a decoded matrix. Sums in f32; products are exact unless
 * `compute` is another than f32: kernels may then round both operands to bf16.
 */
export const fourBitBackOp = new Op({
  signature:
    "four_bit_back: dy[..,N]:f32 codes[N,K]:u4@ absmax[A]:f32|u8|i8 nested[B]:f32? map[T]:f32? offset[1]:f32? ; kind:i32 blocksize:i32 rounding:i32 compute:i32 -> dx[..,K]:f32",
  check(inputs, [kind, blocksize, rounding, compute]) {
    checkStatistics(inputs, 2, kind!, blocksize!);
    checkCompute("four_bit_back", compute!, 3);
    checkRounding(rounding!, compute);
  },
  reference({ dy, codes, absmax, nested, map, offset, dx }, { kind, blocksize, rounding }) {
    const [outputs = 0, inputs = 0] = codes!.shape;
    const weight = decoder(codes!, { absmax: absmax!, nested, map, offset }, kind!, blocksize!, rounding!);
    for (let m = 0; m < rowsOf(dy!.shape); m++) {
      for (let k = 0; k < inputs; k++) {
        let sum = 0;
        for (let n = 0; n < outputs; n++) sum += dy!.data[m * outputs + n]! * weight(n * inputs + k);
        dx!.data[m * inputs + k] = sum;
      }
    }
    return undefined;
  },
});

/**
 * How 4-bit weights are multiplied. "f32" is exact. "bf16" lets kernels round both operands to bf16 where that is faster.
 * "int8" is in 8-bit codes if no block spans two rows and blocks are multiples of 32: activations as round(127 x / m) with m
 * their largest magnitude in each block of a row (the weights' own blocks, so an outlier costs precision in its block only),
 * the table as round(127 t), exact sums over a block, sums of blocks in f32. Other matrices are multiplied exactly. Kernels that
 * would not be faster with codes round less instead: as for "bf16", or not at all.
 */
export type FourBitCompute = keyof typeof COMPUTE;

/**
 * The operands of a 4-bit matrix. absmax is f32, or u8 with the three operands of double quantization; of O4 i8 over `nested`, with the
 * table of 16 values as `map`.
 */
export interface FourBitOperands {
  readonly codes: Tensor;
  readonly absmax: Tensor;
  readonly nested?: Tensor;
  readonly map?: Tensor;
  readonly offset?: Tensor;
  readonly kind: FourBitKind;
  readonly blocksize: number;
  readonly compute: FourBitCompute;
  /** Dtype that decoded values are rounded to; products that are not exact ignore it. */
  readonly rounding: FourBitRounding;
}

type Decoded = Omit<FourBitOperands, "compute">;

/** The attributes for decoding. */
const decoding = ({ kind, blocksize, rounding }: Decoded): number[] => [
  FOUR_BIT[kind],
  blocksize,
  FOUR_BIT_ROUNDING[rounding],
];

/** The attributes of a product. */
export function fourBitProduct(w: FourBitOperands, act: Act = "none"): number[] {
  const rounding = w.compute === "f32" ? FOUR_BIT_ROUNDING[w.rounding] : 0;
  return [FOUR_BIT[w.kind], w.blocksize, ACT[act], COMPUTE[w.compute], rounding];
}

/** `act(x · dequantized(codes)ᵀ + bias) + residual`. */
export function fourBitLinear(x: Tensor, w: FourBitOperands, options: LinearOptions = {}): Tensor {
  return fourBitLinearOp.run(
    [x, w.codes, w.absmax, w.nested, w.map, w.offset, options.bias, options.residual],
    fourBitProduct(w, options.act),
  );
}

export const fourBitDequantizeOp = new Op({
  signature:
    "four_bit_dequantize: codes[N,K]:u4@ absmax[A]:f32|u8|i8 nested[B]:f32? map[T]:f32? offset[1]:f32? ; kind:i32 blocksize:i32 rounding:i32 -> w[N,K]:f32",
  check(inputs, [kind, blocksize, rounding]) {
    checkStatistics(inputs, 1, kind!, blocksize!);
    checkRounding(rounding!);
  },
  reference({ codes, absmax, nested, map, offset, w }, { kind, blocksize, rounding }) {
    const weight = decoder(codes!, { absmax: absmax!, nested, map, offset }, kind!, blocksize!, rounding!);
    for (let i = 0; i < w!.data.length; i++) w!.data[i] = weight(i);
    return undefined;
  },
});

/** `table[code] * absmax`, rounded as the operands specify, in f32. */
export function fourBitDequantize(w: Decoded): Tensor {
  return fourBitDequantizeOp.run([w.codes, w.absmax, w.nested, w.map, w.offset], decoding(w));
}

export const fourBitEmbeddingOp = new Op({
  signature:
    "four_bit_embedding: codes[V,K]:u4@ absmax[A]:f32|u8|i8 nested[B]:f32? map[T]:f32? offset[1]:f32? ids[..]:i32 ; kind:i32 blocksize:i32 rounding:i32 -> y[..,K]:f32",
  check(inputs, [kind, blocksize, rounding]) {
    checkStatistics(inputs, 1, kind!, blocksize!);
    checkRounding(rounding!);
  },
  reference({ codes, absmax, nested, map, offset, ids, y }, { kind, blocksize, rounding }) {
    const [vocabulary = 0, columns = 0] = codes!.shape;
    const weight = decoder(codes!, { absmax: absmax!, nested, map, offset }, kind!, blocksize!, rounding!);
    for (let i = 0; i < ids!.data.length; i++) {
      const id = ids!.data[i]!;
      if (id < 0 || id >= vocabulary) return `token id ${id} is outside the vocabulary of ${vocabulary}`;
      for (let k = 0; k < columns; k++) y!.data[i * columns + k] = weight(id * columns + k);
    }
    return undefined;
  },
});

/** Rows `ids` of `table[code] * absmax`, rounded as the operands specify, in f32. An id outside the table rejects reads. */
export function fourBitEmbedding(w: Decoded, ids: Tensor): Tensor {
  return fourBitEmbeddingOp.run([w.codes, w.absmax, w.nested, w.map, w.offset, ids], decoding(w));
}
