// The functions of the flash-attn package, by its names and conventions: heads after tokens, and queries that are the last of the
// keys, however many there are of each.

import { listOf, numbersIn } from "../core/checks.js";
import { isFloat } from "../core/dtype.js";
import { DTypeError, OptionError, ShapeError } from "../core/errors.js";
import { flag, number, type Options, option, readOptions, such, whole } from "../core/options.js";
import * as z from "../core/schema.js";
import { shapeText, show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { type Band, fused } from "./fused-attention.js";
import { weighed } from "./weighed-attention.js";

/** -1 for all keys, or how many. */
const isReach = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= -1;

const FLASH = {
  /** Probability with which a weight becomes 0; the weights are then held. Default 0. */
  dropout_p: number((p) => p >= 0 && p <= 1, "a probability between 0 and 1"),
  /** Factor on the scores; by default 1 / sqrt(D). */
  softmax_scale: such<number | null>((value) => value === null || Number.isFinite(value), "a number"),
  /** Query t sees keys up to t + S - T: the last query sees all of them. */
  causal: flag(),
  /** How many keys a query sees before and after its own place, t + S - T; -1: all. Default [-1, -1]. */
  window_size: such<readonly [left: number, right: number]>(
    (value) => listOf(value, isReach)?.length === 2,
    "two whole numbers, of which -1 means all keys",
  ),
  /** Scores become softcap * tanh(score / softcap); 0, the default, leaves them. */
  softcap: number((cap) => cap >= 0 && cap < Number.POSITIVE_INFINITY, "a number of at least 0"),
  /**
   * f32[H] or f32[B,H]: subtracts slope * distance of a key from a query's place from the score. Only with `causal`, or with a right
   * window of 0, are there gradients.
   */
  alibi_slopes: such<Tensor | null>((value) => value === null || Tensor.is(value), "a Tensor"),
  /** No effect: gradients are always the same from run to run. */
  deterministic: flag(),
  /** Only false: weights are not held. */
  return_attn_probs: option<false>(z.literal(false), "false", { hint: "weights are not held; leave it out" }),
};

export interface FlashOptions extends Options<typeof FLASH> {}

/**
 * Attention of q[B,T,H,D] over k[B,S,G,D] and v[B,S,G,E], of one float dtype, H a multiple of G: [B,T,H,E] in that dtype. Queries
 * that see no key give zeros. Products and sums are f32 (flash-attn itself takes f16 and bf16 alone).
 * @throws ShapeError, DTypeError, OptionError
 */
export function flash_attn_func(q: Tensor, k: Tensor, v: Tensor, options: FlashOptions = {}): Tensor {
  const call = "flash_attn_func";
  const given = readOptions(call, FLASH, options);
  checkInputs(call, 4, q, k, v);
  const rows = q.shape[0]!;
  if (rows !== k.shape[0]) throw new ShapeError(`${call}: q has ${rows} rows, k and v ${k.shape[0]}`);
  const slopes = slopesOf(call, given.alibi_slopes, rows, q.shape[2]!);
  return scope(() => {
    if (slopes?.shape.length !== 2) return contiguous(attended(q, k, v, slopes, given), q.dtype);
    const y = Tensor.empty(q.device, [...q.shape.slice(0, 3), v.shape[3]!], q.dtype, "attention");
    for (let b = 0; b < rows; b++) {
      const [own, keys, values] = [q, k, v].map((x) => x.narrow(0, b, 1)) as [Tensor, Tensor, Tensor];
      scope(() => copyInto(attended(own, keys, values, slopes.select(0, b), given), y.narrow(0, b, 1)));
    }
    return y;
  });
}

const ENDS = "whole numbers from 0 that do not descend, in a list on the host: where each text begins, and the end";
const ends = such<ArrayLike<number>>((value) => endsOf(value) !== undefined, ENDS);

const VARLEN = {
  ...FLASH,
  /** Where texts begin among the queries, and the end: 0 first, ascending. */
  cu_seqlens_q: ends,
  /** The same of the keys. */
  cu_seqlens_k: ends,
  /** Tokens of the longest text, or more; found, if it is left out. */
  max_seqlen_q: whole(0),
  /** The same of the keys. */
  max_seqlen_k: whole(0),
};

export interface FlashVarlenOptions extends Options<typeof VARLEN> {}

/**
 * `flash_attn_func` for texts packed into one row: q[total_q,H,D], k[total_k,G,D], v[total_k,G,E]: [total_q,H,E]. Text i has the queries
 * `cu_seqlens_q[i]` to `cu_seqlens_q[i + 1]`, and the keys that `cu_seqlens_k` says in the same way; both must be given.
 * @throws ShapeError, DTypeError, OptionError
 */
export function flash_attn_varlen_func(q: Tensor, k: Tensor, v: Tensor, options: FlashVarlenOptions): Tensor {
  const call = "flash_attn_varlen_func";
  const given = readOptions(call, VARLEN, options);
  checkInputs(call, 3, q, k, v);
  const ofQueries = placesOf(call, "q", q, given.cu_seqlens_q, given.max_seqlen_q);
  const ofKeys = placesOf(call, "k", k, given.cu_seqlens_k, given.max_seqlen_k);
  const texts = ofQueries.length - 1;
  if (ofKeys.length - 1 !== texts) {
    throw new OptionError(`${call}: cu_seqlens_q has ${texts} texts, cu_seqlens_k ${ofKeys.length - 1}`);
  }
  const slopes = slopesOf(call, given.alibi_slopes, texts, q.shape[1]!);
  return scope(() => {
    const [rows, keys, values] = [q, k, v].map((x) => contiguous(x).view(1, ...x.shape)) as [Tensor, Tensor, Tensor];
    const y = Tensor.empty(q.device, [1, ...q.shape.slice(0, 2), v.shape[2]!], q.dtype, "attention");
    for (let text = 0; text < texts; text++) {
      const [first, last] = [ofQueries[text]!, ofQueries[text + 1]!];
      if (first === last) continue;
      scope(() => {
        const of = (x: Tensor): Tensor => x.narrow(1, ofKeys[text]!, ofKeys[text + 1]! - ofKeys[text]!);
        const own = slopes?.shape.length === 2 ? slopes.select(0, text) : slopes;
        const out = attended(rows.narrow(1, first, last - first), of(keys), of(values), own, given);
        copyInto(out, y.narrow(1, first, last - first));
      });
    }
    return y.view(...y.shape.slice(1));
  });
}

/** @throws OptionError, ShapeError, DTypeError */
function checkInputs(call: string, dims: number, ...all: readonly [q: Tensor, k: Tensor, v: Tensor]): void {
  const odd = all.findIndex((one) => !Tensor.is(one));
  if (odd >= 0) throw new OptionError(`${call}: q, k and v must be Tensors, got ${show(all[odd])}`);
  const [q, k, v] = all;
  const shapes = all.map(({ shape }) => shapeText(shape)).join(", ");
  if (all.some(({ shape }) => shape.length !== dims)) {
    throw new ShapeError(`${call}: q, k and v must have ${dims} dims, got ${shapes}`);
  }
  if (!isFloat(q.dtype) || k.dtype !== q.dtype || v.dtype !== q.dtype) {
    throw new DTypeError(`${call}: q, k and v need one float dtype, got ${all.map(({ dtype }) => dtype).join(", ")}`);
  }
  const same = k.shape.slice(0, -1).every((size, d) => v.shape[d] === size) && k.shape.at(-1) === q.shape.at(-1);
  if (!same) throw new ShapeError(`${call}: q, k and v do not fit each other: ${shapes}`);
  const [heads, groups] = [q.shape.at(-2)!, k.shape.at(-2)!];
  if (groups === 0 || heads % groups !== 0) {
    throw new ShapeError(`${call}: Number of heads in key/value must divide number of heads in query, got ${shapes}`);
  }
}

/** ALiBi slopes, f32[H] or f32[rows,H]. @throws ShapeError, DTypeError */
function slopesOf(call: string, slopes: Tensor | null | undefined, rows: number, heads: number): Tensor | undefined {
  if (!slopes) return undefined;
  const { shape, dtype } = slopes;
  const fits = shape.at(-1) === heads && (shape.length === 1 || (shape.length === 2 && shape[0] === rows));
  if (!fits) {
    throw new ShapeError(`${call}: alibi_slopes must be [${heads}] or [${rows}, ${heads}], got ${shapeText(shape)}`);
  }
  if (dtype !== "f32") throw new DTypeError(`${call}: alibi_slopes must be f32, got ${dtype}`);
  return slopes;
}

/** A copy of a list of ends; undefined for anything else, whatever it does when it is read. */
function endsOf(value: unknown): readonly number[] | undefined {
  const all = numbersIn(value, Number.isSafeInteger);
  return all?.[0] === 0 && all.every((end, i) => i === 0 || end >= all[i - 1]!) ? all : undefined;
}

/** @throws OptionError */
function placesOf(
  call: string,
  of: "q" | "k",
  { shape }: Tensor,
  given: ArrayLike<number> | undefined,
  longest: number | undefined,
): readonly number[] {
  const places = endsOf(given);
  const refuse = (problem: string, option: string): never => {
    throw new OptionError(`${call}: ${problem}`, { details: { option } });
  };
  if (!places) return refuse(`cu_seqlens_${of} is missing; it must be ${ENDS}`, `cu_seqlens_${of}`);
  if (places.at(-1) !== shape[0]) {
    refuse(`cu_seqlens_${of} ends at ${places.at(-1)}, ${of} at ${shape[0]}`, `cu_seqlens_${of}`);
  }
  const most = places.slice(1).reduce((top, end, i) => Math.max(top, end - places[i]!), 0);
  if (longest !== undefined && longest < most) {
    refuse(`max_seqlen_${of} is ${longest}, but a text has ${most} tokens`, `max_seqlen_${of}`);
  }
  return places;
}

/** Attention of q[B,T,H,D] over k[B,S,G,D] and v[B,S,G,E] as the options say: f32[B,T,H,E]. */
function attended(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | undefined, given: FlashOptions): Tensor {
  const { dropout_p = 0, softmax_scale, causal = false, window_size: [left, right] = [-1, -1], softcap } = given;
  const bound = (reach: number): number | undefined => (reach < 0 ? undefined : reach);
  const band: Band = {
    diagonal: k.shape[1]! - q.shape[1]!,
    left: bound(left),
    right: causal ? 0 : bound(right),
  };
  const how = {
    scale: softmax_scale ?? 1 / Math.sqrt(Math.max(1, q.shape[3]!)),
    softcap,
    band,
    slopes: slopes && contiguous(slopes),
  };
  const [keys, values] = [k.permute(0, 2, 1, 3), v.permute(0, 2, 1, 3)]; // [B,G,S,D]
  return dropout_p > 0 ? weighed(q, keys, values, how, dropout_p) : fused(q, keys, values, how);
}
