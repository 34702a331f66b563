// What positions become in attention, by transformers' names: frequencies of rotary embeddings, ALiBi, buckets of T5. Plain
// numbers on the host; models have the same from rope.ts, alibi.ts and buckets.ts.

import { listOf, numbersIn } from "../core/checks.js";
import { fromBf16, toBf16 } from "../core/dtype.js";
import { ConfigError, OptionError } from "../core/errors.js";
import { flag, type Options, readOptions, whole } from "../core/options.js";
import { show } from "../core/show.js";
import type { FloatTensor } from "../media/image-processor.js";
import { alibiSlopes, mptAlibiSlopes } from "./alibi.js";
import { bucketOf } from "./buckets.js";
import { ropeFields, ropeFrequencies } from "./rope.js";

/** Most heads, dims and tokens: what they make is host memory. */
const MOST = 2 ** 16;

/** Inverse frequencies f32[dim / 2], and the factor on cos and sin. */
export type RopeParameters = readonly [inv_freq: Float32Array, attention_factor: number];

/**
 * Rotary frequencies of a config.json, in either of its layouts, for a text of `seq_len` tokens (by default one that the model was
 * trained for). The device that Python takes between the two is not there.
 * @throws OptionError, ConfigError
 */
export type RopeInit = (config: Readonly<Record<string, unknown>>, seq_len?: number | null) => RopeParameters;

/** Rotary frequencies by type of scaling: transformers' table, with "default" and "su" (longrope's name in the first files). */
export const ROPE_INIT_FUNCTIONS = /* @__PURE__ */ Object.freeze({
  default: rope("default"),
  linear: rope("linear"),
  dynamic: rope("dynamic"),
  yarn: rope("yarn"),
  longrope: rope("longrope"),
  su: rope("su"),
  llama3: rope("llama3"),
  proportional: rope("proportional"),
});

function rope(kind: string): RopeInit {
  return (config, seq_len) => {
    const call = `ROPE_INIT_FUNCTIONS.${kind}`;
    if (typeof config !== "object" || config === null) {
      throw new OptionError(`${call}: config must be the fields of a config.json, got ${show(config)}`);
    }
    const length = seq_len ?? 0;
    if (!Number.isSafeInteger(length) || length < 0) {
      throw new OptionError(`${call}: seq_len must be a whole number, got ${show(seq_len)}`);
    }
    const own = readFields(call, config);
    const fields = ropeFields(own);
    const head = own.head_dim === undefined || own.head_dim === null ? headOf(call, own) : own.head_dim;
    if (typeof head !== "number" || !Number.isSafeInteger(head) || head < 1 || head > MOST) {
      throw new ConfigError(`${call}: head_dim must be a whole number from 1 to ${MOST}, got ${show(head)}`);
    }
    const partial = fields.scaling?.partial_rotary_factor ?? own.partial_rotary_factor ?? 1;
    if (typeof partial !== "number" || !(partial > 0 && partial <= 1)) {
      throw new ConfigError(`${call}: partial_rotary_factor must be above 0 and at most 1, got ${show(partial)}`);
    }
    if (kind === "proportional") {
      // All of a head rotates; the angles beyond its share are zero.
      const angles = Math.trunc((partial * head) / 2);
      const factor = positive(fields.scaling?.factor ?? 1);
      if (factor === undefined) {
        throw new ConfigError(`${call}: factor must be a positive number, got ${show(fields.scaling?.factor)}`);
      }
      const { inverse } = ropeFrequencies({ ...fields, dim: head, scaling: null });
      return [inverse.map((f, i) => (i < angles ? f / factor : 0)), 1];
    }
    const scaling = kind === "default" ? null : (fields.scaling ?? {});
    const dim = Math.trunc(head * partial);
    if (dim % 2 !== 0) throw new ConfigError(`${call}: rotating dims come in pairs, got ${dim}`);
    const found = ropeFrequencies({ ...fields, dim, scaling, kind });
    return [found.ofLength?.(length) ?? found.inverse, found.scale];
  };
}

/** A copy of the fields that are read. @throws OptionError if they cannot be */
function readFields(call: string, config: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  try {
    return structuredClone({ ...config });
  } catch (cause) {
    throw new OptionError(`${call}: the config cannot be read`, { cause });
  }
}

const positive = (value: unknown): number | undefined =>
  typeof value === "number" && value > 0 && Number.isFinite(value) ? value : undefined;

function headOf(call: string, { hidden_size, num_attention_heads }: Readonly<Record<string, unknown>>): number {
  const [hidden, heads] = [positive(hidden_size), positive(num_attention_heads)];
  if (hidden !== undefined && heads !== undefined) return Math.floor(hidden / heads);
  throw new ConfigError(`${call}: config needs head_dim, or hidden_size and num_attention_heads`);
}

/** @throws OptionError */
function checkCount(call: string, name: string, count: number): void {
  if (Number.isSafeInteger(count) && count > 0 && count <= MOST) return;
  throw new OptionError(`${call}: ${name} must be a whole number from 1 to ${MOST}, got ${show(count)}`);
}

/** Rows of a mask [B,S] of zeros and ones. @throws OptionError */
function rowsOf(call: string, mask: unknown): readonly (readonly number[])[] {
  const rows: number[][] = [];
  const isRow = (value: unknown): value is ArrayLike<number> => {
    const row = numbersIn(value, (one) => one === 0 || one === 1);
    if (!row?.length || row.length !== (rows[0] ?? row).length) return false;
    rows.push(row);
    return true;
  };
  if (listOf(mask, isRow)?.length) return rows;
  throw new OptionError(`${call}: attention_mask must be rows of zeros and ones, of one length, got ${show(mask)}`);
}

/** Position of each real token in its row; 0 for padding. */
function placesOf(row: readonly number[]): readonly number[] {
  let count = 0;
  return row.map((real) => (real ? count++ : 0));
}

/** [B * H, 1, S]: `of(slope, position)` for each row, head and token. */
function table(
  call: string,
  attention_mask: unknown,
  num_heads: number,
  of: (slope: number, position: number) => number,
): FloatTensor {
  const rows = rowsOf(call, attention_mask);
  checkCount(call, "num_heads", num_heads);
  const slopes = [...alibiSlopes(num_heads)];
  const data = rows.flatMap((row) => {
    const places = placesOf(row);
    return slopes.flatMap((slope) => places.map((position) => of(slope, position)));
  });
  return { data: Float32Array.from(data), shape: [rows.length * num_heads, 1, rows[0]!.length] };
}

/**
 * ALiBi as BLOOM adds it (Press et al. 2022): slope of the head * position of the key, [B * H, 1, S].
 * @param attention_mask [B,S], 1 for real tokens
 * @throws OptionError
 */
export function build_alibi_tensor(attention_mask: readonly ArrayLike<number>[], num_heads: number): FloatTensor {
  return table("build_alibi_tensor", attention_mask, num_heads, (slope, position) => slope * position);
}

/**
 * The same as Falcon adds it: slope, position and their product are rounded to bf16.
 * @throws OptionError
 */
export function build_falcon_alibi_tensor(
  attention_mask: readonly ArrayLike<number>[],
  num_heads: number,
): FloatTensor {
  const rounded = (value: number): number => fromBf16(toBf16(value));
  return table("build_falcon_alibi_tensor", attention_mask, num_heads, (slope, position) =>
    rounded(rounded(slope) * rounded(position)),
  );
}

/**
 * ALiBi as MPT adds it: slope of the head * distance from the last key, [H, 1, S]; `alibi_bias_max` gives the slopes.
 * @throws OptionError
 */
export function build_mpt_alibi_tensor(num_heads: number, sequence_length: number, alibi_bias_max = 8): FloatTensor {
  const call = "build_mpt_alibi_tensor";
  checkCount(call, "num_heads", num_heads);
  checkCount(call, "sequence_length", sequence_length);
  if (positive(alibi_bias_max) === undefined) {
    throw new OptionError(`${call}: alibi_bias_max must be a positive number, got ${show(alibi_bias_max)}`);
  }
  const slopes = mptAlibiSlopes(num_heads, alibi_bias_max);
  const data = new Float32Array(num_heads * sequence_length);
  for (let h = 0; h < num_heads; h++) {
    for (let j = 0; j < sequence_length; j++) data[h * sequence_length + j] = slopes[h]! * (j + 1 - sequence_length);
  }
  return { data, shape: [num_heads, 1, sequence_length] };
}

const BUCKETS = {
  /** Keys before and after the query have separate buckets; else those after it are in the first. Default true. */
  bidirectional: flag(),
  /** Default 32. */
  num_buckets: whole(1),
  /** Distances from here on share a bucket. Default 128. */
  max_distance: whole(1),
};

/**
 * Buckets of T5's relative positions (Raffel et al. 2020): i32, one for each of `relative_position`, key - query.
 * @throws OptionError
 */
export function relative_position_bucket(
  relative_position: ArrayLike<number>,
  options: Options<typeof BUCKETS> = {},
): Int32Array {
  const call = "relative_position_bucket";
  const { bidirectional = true, num_buckets = 32, max_distance = 128 } = readOptions(call, BUCKETS, options);
  const distances = numbersIn(relative_position, Number.isSafeInteger);
  if (!distances) {
    throw new OptionError(`${call}: relative_position must be whole numbers, got ${show(relative_position)}`);
  }
  const exact = Math.floor((bidirectional ? Math.floor(num_buckets / 2) : num_buckets) / 2);
  if (exact < 1 || max_distance <= exact) {
    throw new OptionError(`${call}: ${num_buckets} buckets do not divide distances up to ${max_distance}`, {
      hint: `a distance has a bucket of its own below ${Math.max(1, exact)}; max_distance lies beyond`,
    });
  }
  const buckets = { count: num_buckets, max: max_distance, both: bidirectional };
  return Int32Array.from(distances, (distance) => bucketOf(distance, buckets));
}
