// The description of one stored tensor, whatever the format of its files: its type, and where its bytes are.

// Bits per element, in the reference writer's order: a file lists tensors from the last of these to the first.
const DTYPES = [
  ["BOOL", 8],
  ["F4", 4],
  ["F6_E2M3", 6],
  ["F6_E3M2", 6],
  ["U8", 8],
  ["I8", 8],
  ["F8_E5M2", 8],
  ["F8_E4M3", 8],
  ["F8_E8M0", 8],
  ["F8_E4M3FNUZ", 8],
  ["F8_E5M2FNUZ", 8],
  ["I16", 16],
  ["U16", 16],
  ["F16", 16],
  ["BF16", 16],
  ["I32", 32],
  ["U32", 32],
  ["F32", 32],
  ["C64", 64],
  ["F64", 64],
  ["I64", 64],
  ["U64", 64],
] as const;

/** Element types of files. */
export type StoredDType = (typeof DTYPES)[number][0];

/** Bits of an element. A Map, because names from files are looked up in it: a dtype called "toString" must not be found. */
export const STORED_BITS: ReadonlyMap<StoredDType, number> = new Map(DTYPES);

export interface StoredTensor {
  readonly name: string;
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  /** Elements between neighbours of each dim; absent: contiguous rows. None is negative. */
  readonly strides?: readonly number[];
  readonly file: string;
  /** Absolute offset of the first element in the file, in bytes. */
  readonly offset: number;
  /** Bytes from the first element to the end of the last. */
  readonly bytes: number;
  /** Its elements are packed, and decoded to f32 while they are read; `bytes` counts all tensors that hold them. */
  readonly packed?: PackedMatrix;
}

/** Bytes of a stored tensor: all of them, or `count` from `at` on. */
export type ReadTensor = (tensor: StoredTensor, at?: number, count?: number) => Promise<Uint8Array>;

/** A matrix that several tensors store in a format of its own (packed/). */
export interface PackedMatrix {
  /** The name of the format. */
  readonly method: string;
  readonly tensors: readonly StoredTensor[];
  /** Reads what all rows need. @throws FormatError; what reading throws */
  open(read: ReadTensor): Promise<RowDecoder>;
  /** Where its values are 4-bit codes with a scale for each block of inputs: the codes as they are. */
  readonly codes?: PackedCodes;
}

export interface PackedCodes {
  /** "int4": code - 8; "e2m1": the floats of MXFP4. */
  readonly kind: "int4" | "e2m1";
  /** Inputs that share a scale; they divide a row. */
  readonly blocksize: number;
  /** Its blocks can have zero points: for plans, before anything is read. */
  readonly zero_points: boolean;
  /** Undefined if it turns out that the groups have another order. */
  open(read: ReadTensor): Promise<CodeReader | undefined>;
}

export interface CodeReader {
  /** Some block has a zero point that is not the middle of the codes. */
  readonly zero_points: boolean;
  /** Codes and statistics of rows `at` to `at + count`. */
  rows(at: number, count: number): Promise<CodeRows>;
}

export interface CodeRows {
  /** The first of two in the high half of a byte. */
  readonly codes: Uint8Array;
  /** Eight times the scale of each block. */
  readonly absmax: Float32Array;
  /** What is added to the values of each block: scale times (8 - zero point). Absent without zero points. */
  readonly shifts?: Float32Array;
}

export interface RowDecoder {
  /** Rows `at` to `at + count`, as f32. */
  rows(at: number, count: number): Promise<Float32Array>;
}

/** What a weight file says before its weights. */
export interface StoredHeader {
  /** In the order of the data. */
  readonly tensors: Map<string, StoredTensor>;
  readonly metadata: Map<string, string>;
  /** Oddities of the file that are not errors. */
  readonly warnings?: readonly string[];
}

/** Elements of a shape. */
export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((n, size) => n * size, 1);
}
