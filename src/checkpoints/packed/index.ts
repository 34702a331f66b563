// Checkpoints that others have quantized: which format a `quantization_config` names, and the checkpoint as if its matrices were floats.

import { ConfigError, UnsupportedModelError } from "../../core/errors.js";
import { listed, show } from "../../core/show.js";
import type { Checkpoint } from "../checkpoint.js";
import type { StoredTensor } from "../stored.js";
import { awqFormat } from "./awq.js";
import { type CompressedGroup, compressedFormat } from "./compressed.js";
import type { PackedFormat } from "./format.js";
import { gptqFormat } from "./gptq.js";
import type { PackedMethod } from "./methods.js";
import { MXFP4 } from "./mxfp4.js";
import { type Block, float8Format } from "./scaled.js";

export type { PackedFormat } from "./format.js";

type Fields = Readonly<Record<string, unknown>>;

const FORMATS: Readonly<Record<PackedMethod, (fields: Fields, location: string) => PackedFormat>> = {
  gptq: readGptq,
  awq: readAwq,
  fp8: readFp8,
  fbgemm_fp8: () => float8Format("fbgemm_fp8", undefined),
  "compressed-tensors": readCompressed,
  mxfp4: () => MXFP4,
};

/**
 * How the matrices of a checkpoint are packed.
 * @param fields `quantization_config` of its config.json, with a method of PACKED_METHODS
 * @throws ConfigError for fields that are not of this method; UnsupportedModelError for a variant that is not read
 */
export function packedFormat(fields: Fields, location: string): PackedFormat {
  return FORMATS[fields.quant_method as PackedMethod](fields, location);
}

/** A field of the block that must be one of a few values. @throws UnsupportedModelError */
function oneOf<T extends string | number>(fields: Fields, key: string, known: readonly T[], location: string): T {
  const value = fields[key];
  if ((known as readonly unknown[]).includes(value)) return value as T;
  throw new UnsupportedModelError(
    `${location}: ${show(fields.quant_method)} with ${key} ${show(value)} is not read; known are ${listed(known)}`,
    { details: { key, got: show(value) }, hint: "load the original checkpoint with load_in_8bit or load_in_4bit" },
  );
}

/** The error of a block of this method that cannot be followed. */
function misread(method: string, what: string): ConfigError {
  return new ConfigError(`config.json: quantization_config of ${method}: ${what}`);
}

/** @throws ConfigError */
function whole(method: string, fields: Fields, key: string, least: number): number {
  const value = fields[key];
  if (Number.isSafeInteger(value) && (value as number) >= least && value !== 0) return value as number;
  throw misread(method, `${key} must be a whole number, got ${show(value)}`);
}

function lowerCase(value: unknown): unknown {
  return typeof value === "string" ? value.toLowerCase() : value;
}

function readGptq(fields: Fields, location: string): PackedFormat {
  const bits = oneOf(fields, "bits", [2, 3, 4, 8], location);
  const group_size = whole("gptq", { group_size: -1, ...fields }, "group_size", -1);
  // Its older name has precedence, as in transformers.
  const key = fields.checkpoint_format == null ? "format" : "checkpoint_format";
  const named = { ...fields, [key]: lowerCase(fields[key] ?? "gptq") };
  const version = oneOf(named, key, ["gptq", "gptq_v2"], location);
  return gptqFormat({ bits, group_size, zero_offset: version === "gptq_v2" ? 0 : 1, sym: fields.sym === true });
}

function readAwq(fields: Fields, location: string): PackedFormat {
  oneOf({ bits: fields.w_bit ?? 4, ...fields }, "bits", [4], location);
  // `version` is the older name, and has precedence; llm-awq has a layout of its own.
  const key = fields.backend === "llm-awq" ? "backend" : fields.version == null ? "format" : "version";
  oneOf({ ...fields, [key]: lowerCase(fields[key] ?? "gemm") }, key, ["gemm"], location);
  const group_size = fields.group_size ?? fields.q_group_size ?? 128;
  return awqFormat(whole("awq", { group_size }, "group_size", -1));
}

/** Blocks are of 128 x 128 where none are named; null is one scale for a matrix, or for each output. */
function readFp8({ weight_block_size }: Fields): PackedFormat {
  return float8Format("fp8", weight_block_size === undefined ? "128 x 128" : blockFrom("fp8", weight_block_size));
}

/** [rows, columns] of blocks; older files have them as a text, "128x128". @throws ConfigError */
function blockFrom(method: string, value: unknown): Block | undefined {
  if (value === undefined || value === null) return undefined;
  const text = typeof value === "string" ? /^(\d+)x(\d+)$/.exec(value) : null;
  const [rows, columns] = text ? text.slice(1).map(Number) : Array.isArray(value) ? (value as unknown[]) : [];
  const fits = [rows, columns].every((size) => Number.isSafeInteger(size) && (size as number) > 0);
  if (fits) return [rows as number, columns as number];
  throw misread(method, `a block must be [rows, columns], got ${show(value)}`);
}

const COMPRESSED = [
  "pack-quantized",
  "int-quantized",
  "float-quantized",
  "naive-quantized",
  "mixed-precision",
] as const;

function readCompressed(fields: Fields, location: string): PackedFormat {
  const named = { quant_method: "compressed-tensors" };
  const sparsity = fields.sparsity_config as Fields | null | undefined;
  if (sparsity?.format !== undefined) oneOf({ ...named, format: sparsity.format }, "format", ["dense"], location);
  const formats = [...COMPRESSED];
  oneOf({ ...named, format: fields.format ?? "pack-quantized" }, "format", formats, location);
  const blocks = typeof fields.config_groups === "object" && fields.config_groups !== null ? fields.config_groups : {};
  const groups = Object.entries(blocks as Fields).map(([key, group]): CompressedGroup => {
    const own = (group ?? {}) as Fields;
    if (own.format !== undefined && own.format !== null)
      oneOf({ ...named, format: own.format }, "format", formats, location);
    const weights = own.weights as Fields | null | undefined;
    if (typeof weights !== "object" || weights === null) {
      throw misread(named.quant_method, `config_groups.${key} names no weights`);
    }
    const type = oneOf({ ...named, type: weights.type ?? "int" }, "type", ["int", "float"] as const, location);
    const bits = { ...named, num_bits: weights.num_bits };
    const num_bits = oneOf(bits, "num_bits", type === "float" ? [8] : [4, 8], location);
    const size = weights.group_size;
    const group_size =
      size === undefined || size === null || size === -1
        ? undefined
        : whole(named.quant_method, weights, "group_size", 1);
    return { num_bits, type, group_size, block: blockFrom(named.quant_method, weights.block_structure) };
  });
  if (groups.length === 0) throw misread(named.quant_method, "config_groups names no weights");
  return compressedFormat(groups);
}

/** Scales of activations and of caches, which are not used: both stay floats. */
const ACTIVATIONS = /\.(input|output|[kqv])_(scale|zero_point|global_scale)$/;

export interface Unpacked {
  readonly checkpoint: Checkpoint;
  /** Number of packed matrices. */
  readonly matrices: number;
}

/**
 * The checkpoint with each packed matrix as one tensor, which is decoded while it is read.
 * @throws FormatError for tensors that do not fit each other
 */
export function unpackCheckpoint(checkpoint: Checkpoint, format: PackedFormat): Unpacked {
  const { tensors } = checkpoint;
  const parts = new Set<string>();
  const whole = new Map<string, StoredTensor>();
  for (const main of tensors.values()) {
    const claim = format.claim(main, tensors);
    if (!claim) continue;
    const { name, shape, packed, unused = [] } = claim;
    for (const part of [...packed.tensors.map((tensor) => tensor.name), ...unused]) parts.add(part);
    const { file, offset } = main;
    const bytes = packed.tensors.reduce((sum, tensor) => sum + tensor.bytes, 0);
    whole.set(main.name, { name, dtype: "F32", shape, file, offset, bytes, packed });
  }
  const all = new Map<string, StoredTensor>();
  for (const [name, tensor] of tensors) {
    const packed = whole.get(name);
    if (packed) all.set(packed.name, packed);
    else if (!parts.has(name) && !ACTIVATIONS.test(name)) all.set(name, tensor);
  }
  return { checkpoint: { ...checkpoint, tensors: all }, matrices: whole.size };
}
