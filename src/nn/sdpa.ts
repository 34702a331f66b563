// torch.nn.functional.scaled_dot_product_attention: its arguments, checks and rules, over the kernels that are here.

import { isFloat } from "../core/dtype.js";
import { DTypeError, OptionError, ShapeError } from "../core/errors.js";
import { flag, number, type Options, readOptions, such } from "../core/options.js";
import { shapeText, show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import { contiguous } from "../ops/copy.js";
import { type FusedOptions, fused } from "./fused-attention.js";
import { chosenKernel, SDPBackend } from "./kernel-choice.js";
import { hiding, weighed } from "./weighed-attention.js";

const SDPA = {
  /**
   * [..,H,T,S], or what broadcasts to it. u8: boolean, 0 hides a key from a query; floats, f32 or of the queries' dtype: added to the
   * scores.
   */
  attn_mask: such<Tensor | null>((value) => value === null || Tensor.is(value), "a Tensor"),
  /** Probability with which a weight becomes 0; the masks come from the generator of `manual_seed`. Default 0. */
  dropout_p: number((p) => p >= 0 && p <= 1, "a probability between 0 and 1"),
  /** Query t sees keys 0 to t, however many there are. Not with a mask. */
  is_causal: flag(),
  /** Factor on the scores; by default 1 / sqrt(D). */
  scale: such<number | null>((value) => value === null || Number.isFinite(value), "a number"),
  /** Heads of key and value are each shared by as many heads of the query as there are more of those. */
  enable_gqa: flag(),
  /** Octavo's own: scores become softcap * tanh(score / softcap) before a mask is added; 0, the default, leaves them. */
  softcap: number((cap) => cap >= 0 && cap < Number.POSITIVE_INFINITY, "a number of at least 0"),
};

export interface SDPAOptions extends Options<typeof SDPA> {}

const NAME = "scaled_dot_product_attention";

/**
 * softmax(q kᵀ * scale + mask) v for query[..,H,T,D], key[..,H,S,D], value[..,H,S,E], of one float dtype: [..,H,T,E] in it. Leading
 * dims broadcast; tensors of 3 dims are one row of heads, of 2 dims one head. Products and sums are f32. Rows that see no key are
 * zeros. The fused kernel (Dao et al. 2022), which holds no T x S matrix beside the mask, serves everything but dropout. Gradients
 * flow to query, key, value and a mask of floats. `sdpa_kernel` chooses among kernels.
 * @throws ShapeError, DTypeError, OptionError; OctavoError where no kernel is allowed that can serve the call
 */
export function scaled_dot_product_attention(
  query: Tensor,
  key: Tensor,
  value: Tensor,
  options: SDPAOptions = {},
): Tensor {
  const given = readOptions(NAME, SDPA, options);
  const { attn_mask, dropout_p = 0, is_causal = false, enable_gqa = false, softcap } = given;
  checkInputs(query, key, value, enable_gqa);
  const mask = attn_mask ?? undefined;
  if (mask && is_causal) {
    throw new OptionError(`${NAME}: Explicit attn_mask should not be set when is_causal=True`, {
      details: { option: "attn_mask" },
      hint: "put the causal order into the mask, or leave the mask out",
    });
  }
  const sizes = sizesOf(query, key, value, enable_gqa);
  if (mask) checkMask(mask, query, sizes);
  const keysOnly = mask !== undefined && isKeyMask(mask, sizes);
  const kernel = chosenKernel({
    ...(mask && !keysOnly
      ? { [SDPBackend.FLASH_ATTENTION]: "Flash Attention does not support non-null attn_mask." }
      : {}),
    ...(dropout_p > 0
      ? { [SDPBackend.FLASH_ATTENTION]: NO_DROPOUT, [SDPBackend.EFFICIENT_ATTENTION]: NO_DROPOUT }
      : {}),
  });
  return scope(() => {
    const { lead, heads, steps, size } = sizes;
    const q = withHeads(folded(query, lead), heads);
    const [k, v] = groupsOf(folded(key, lead), folded(value, lead), heads);
    const how: FusedOptions = {
      scale: given.scale ?? 1 / Math.sqrt(Math.max(1, query.shape.at(-1)!)),
      softcap,
      band: is_causal ? { diagonal: 0, right: 0 } : undefined,
      ...(mask && (keysOnly ? { mask: keyMask(mask, sizes) } : { bias: biasOf(mask, sizes) })),
    };
    const rows = q.permute(0, 2, 1, 3); // [B,T,H,D]
    const y = kernel === SDPBackend.MATH ? weighed(rows, k, v, how, dropout_p) : fused(rows, k, v, how);
    return contiguous(y.permute(0, 2, 1, 3), query.dtype).view(...lead, ...sizes.ownHeads, steps, size);
  });
}

const NO_DROPOUT = "Both fused kernels do not support non-zero dropout.";

/** Sizes of a call, with all dims before the heads as one. */
interface Sizes {
  /** The dims before the heads. */
  readonly lead: readonly number[];
  readonly batch: number;
  readonly heads: number;
  /** The heads as a dim of the result: none for tensors of two dims. */
  readonly ownHeads: readonly number[];
  readonly steps: number;
  readonly keys: number;
  /** Of a value. */
  readonly size: number;
}

function checkInputs(query: Tensor, key: Tensor, value: Tensor, gqa: boolean): void {
  const all = [query, key, value];
  const odd = all.findIndex((one) => !Tensor.is(one));
  if (odd >= 0) throw new OptionError(`${NAME}: query, key and value must be Tensors, got ${show(all[odd])}`);
  const shapes = (): string => all.map(({ shape }) => shapeText(shape)).join(", ");
  const least = gqa ? 3 : 2;
  if (all.some(({ shape }) => shape.length < least)) {
    throw new ShapeError(
      `${NAME}: Expected query, key, and value to all be at least ${least} dimensional, got ${shapes()}`,
    );
  }
  if (all.some(({ dtype }) => dtype !== query.dtype)) {
    const dtypes = all.map(({ dtype }) => dtype).join(", ");
    throw new DTypeError(`${NAME}: Expected query, key, and value to have the same dtype, got ${dtypes}`);
  }
  if (!isFloat(query.dtype)) throw new DTypeError(`${NAME}: query, key and value must hold floats, not ${query.dtype}`);
  if (query.shape.at(-1) !== key.shape.at(-1) || key.shape.at(-2) !== value.shape.at(-2)) {
    throw new ShapeError(
      `${NAME}: query and key need one head size, key and value one length; got query, key, value of ${shapes()}`,
    );
  }
}

function sizesOf(query: Tensor, key: Tensor, value: Tensor, gqa: boolean): Sizes {
  const shapes = [query, key, value].map(({ shape }) => shape);
  const dims = Math.max(...shapes.map((shape) => shape.length));
  const counts = shapes.map((shape) => shape.at(-3) ?? 1);
  const lead = broadcast(
    shapes.map((shape) => shape.slice(0, -3)),
    "query, key and value",
  );
  const [most = 0, ...groups] = counts;
  if (gqa && groups.some((count) => count === 0 || most % count !== 0)) {
    throw new ShapeError(
      `${NAME}: Number of heads in key and value must divide the number of heads in query, got ${counts.join(", ")}`,
    );
  }
  const heads = gqa ? most : broadcast(counts.map((count) => [count])).at(0);
  if (heads === undefined) {
    throw new ShapeError(`${NAME}: query, key and value of ${counts.join(", ")} heads do not fit each other`, {
      hint: "enable_gqa: true shares heads of key and value",
    });
  }
  return {
    lead,
    batch: lead.reduce((n, size) => n * size, 1),
    heads,
    ownHeads: dims < 3 ? [] : [heads],
    steps: query.shape.at(-2)!,
    keys: key.shape.at(-2)!,
    size: value.shape.at(-1)!,
  };
}

/** The shape that all of `shapes` broadcast to; without a name for messages, empty if there is none. @throws ShapeError */
function broadcast(shapes: readonly (readonly number[])[], what?: string): readonly number[] {
  const length = Math.max(...shapes.map((shape) => shape.length));
  const result: number[] = [];
  for (let back = 1; back <= length; back++) {
    const own = shapes.map((shape) => shape[shape.length - back] ?? 1);
    const size = own.find((one) => one !== 1) ?? 1;
    if (own.some((one) => one !== 1 && one !== size)) {
      if (what === undefined) return [];
      const texts = shapes.map((shape) => shapeText(shape)).join(", ");
      throw new ShapeError(`${NAME}: the leading dims of ${what} do not broadcast: ${texts}`);
    }
    result.unshift(size);
  }
  return result;
}

function checkMask(mask: Tensor, query: Tensor, { lead, heads, steps, keys, ownHeads }: Sizes): void {
  if (mask.dtype !== "u8" && mask.dtype !== "f32" && mask.dtype !== query.dtype) {
    throw new DTypeError(
      `${NAME}: Expected attn_mask dtype to be bool or float or to match query dtype, got ${mask.dtype} for ${query.dtype}`,
      { hint: "a boolean mask is u8: 0 hides a key" },
    );
  }
  const scores = [...lead, ...(ownHeads.length > 0 ? [heads] : []), steps, keys];
  const fits = mask.shape.every((size, d) => {
    const own = scores[d - mask.shape.length + scores.length];
    return own !== undefined && (size === 1 || size === own);
  });
  if (fits) return;
  throw new ShapeError(
    `${NAME}: attn_mask of ${shapeText(mask.shape)} does not broadcast to the scores, ${shapeText(scores)}`,
  );
}

/** `x` as [B,H,T,D] with its own heads, T and D: its dims before the heads broadcast to `lead`, which becomes one dim. */
function folded(x: Tensor, lead: readonly number[]): Tensor {
  const tail = [1, 1, 1, ...x.shape].slice(-3);
  const own = x.shape.slice(0, -3);
  const batch = lead.reduce((n, size) => n * size, 1);
  if (own.length === 1 && lead.length === 1) return x.expand(batch, ...tail);
  const rows = contiguous(x);
  if (own.every((size) => size === 1)) return rows.view(1, ...tail).expand(batch, ...tail);
  const padded = [...lead.map(() => 1), ...own].slice(own.length);
  const whole = rows.view(...padded, ...tail).expand(...lead, ...tail);
  return contiguous(whole).view(batch, ...tail);
}

/** `x` with `heads` heads, of which it has as many or one. */
function withHeads(x: Tensor, heads: number): Tensor {
  return x.expand(...x.shape.with(1, heads));
}

/** Key and value with a number of heads that both share, and that divides `heads`. */
function groupsOf(k: Tensor, v: Tensor, heads: number): readonly [k: Tensor, v: Tensor] {
  if (k.shape[1] === v.shape[1]) return [k, v];
  const repeated = (x: Tensor): Tensor => {
    const [batch = 0, groups = 0, keys = 0, size = 0] = x.shape;
    const wide = contiguous(x)
      .view(batch, groups, 1, keys, size)
      .expand(batch, groups, heads / groups, keys, size);
    return contiguous(wide).view(batch, heads, keys, size);
  };
  return [repeated(k), repeated(v)];
}

/** True for a boolean mask that hides keys from all queries and heads alike. */
function isKeyMask({ dtype, shape }: Tensor, { keys }: Sizes): boolean {
  const [heads, steps, own] = [1, 1, 1, ...shape].slice(-3);
  return dtype === "u8" && heads === 1 && steps === 1 && own === keys;
}

/** u8[B,S] of a key mask. */
function keyMask(mask: Tensor, { lead, batch, keys }: Sizes): Tensor {
  return contiguous(folded(mask, lead)).view(batch, keys);
}

/** What is added to the scores, f32[B,H,T,S]: as large in memory as the mask is. */
function biasOf(mask: Tensor, { lead, batch, heads, steps, keys }: Sizes): Tensor {
  const values = mask.dtype === "u8" ? hiding(contiguous(mask)) : contiguous(mask, "f32");
  return folded(values, lead).expand(batch, heads, steps, keys);
}
