// Rows of a matrix that an adapter has of its own (`trainable_token_indices` of PEFT): the embeddings of new tokens, which are trained
// and saved without the rest of the table. A head that shares the table multiplies with the same rows.

import { ShapeError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { withoutEntry } from "../nn/module.js";
import type { Parameter } from "../nn/parameter.js";
import type { Weight } from "../nn/weight.js";
import { activation } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { embedding } from "../ops/embedding.js";
import { fillInto } from "../ops/fill.js";
import { multiply } from "../ops/gated.js";
import { type LinearOptions, linear } from "../ops/linear.js";
import { recordAs } from "../ops/tape.js";

/** Rows in the place of some of W[N,K]. */
export class TokensLayer {
  readonly kind = "tokens";
  /** f32[n,K] */
  readonly rows: Parameter;
  /** The rows of W whose place they take, in order. */
  readonly indices: readonly number[];
  /** All modules that use W have these rows: they can be merged. */
  readonly for_all: boolean;
  /** f32[N,1]: 0 for a row of W's own, 1 + i for the row i of these. A look-up has no integers of tables, so these are floats. */
  readonly #slots: Tensor;
  /** f32[N,1]: 1 for a row of W's own, else 0. */
  readonly #own: Tensor;
  /** The row of padding, which look-ups do not train. */
  readonly #padding: number | undefined;

  /**
   * @param entries N
   * @param how whether all users of W have these rows, and an entry whose look-ups have no gradient
   * @throws ShapeError; OutOfMemoryError
   */
  constructor(
    rows: Parameter,
    indices: readonly number[],
    entries: number,
    { for_all, padding }: { readonly for_all: boolean; readonly padding: number | undefined },
  ) {
    if (rows.shape.length !== 2 || rows.shape[0] !== indices.length) {
      throw new ShapeError(`rows [${rows.shape.join(", ")}] are not ${indices.length} rows`);
    }
    this.rows = rows;
    this.indices = indices;
    this.for_all = for_all;
    const slots = new Float32Array(entries);
    for (const [i, row] of indices.entries()) slots[row] = i + 1;
    const { device } = rows.value;
    this.#slots = Tensor.from(device, slots, [entries, 1], "f32", "adapter").keep();
    try {
      const own = slots.map((slot) => Number(slot === 0));
      this.#own = Tensor.from(device, own, [entries, 1], "f32", "adapter").keep();
    } catch (error) {
      this.#slots.dispose();
      throw error;
    }
    const at = padding === undefined ? -1 : indices.indexOf(padding);
    this.#padding = at < 0 ? undefined : at + 1;
  }

  /** Bytes on the device beside its rows. */
  static bytes(entries: number): number {
    return 8 * entries;
  }

  get entries(): number {
    return this.#own.size;
  }

  /** Records W's rows of `ids`, with these in their places. */
  lookup(base: Weight, ids: Tensor): Tensor {
    return scope(() => {
      const all = padded(this.rows.value);
      const slots = contiguous(embedding(this.#slots, ids).view(...ids.shape), "i32");
      const own = base.rows(ids);
      const ours =
        this.#padding === undefined
          ? embedding(all, slots)
          : recordAs("embedding", [all], withoutEntry(this.#padding, all.shape[0]!), () => {
              return { outputs: [embedding(all, slots)], saved: [slots] };
            })[0]!;
      return add(multiply(own, embedding(this.#own, ids).expand(...own.shape)), ours);
    });
  }

  /** Records x Wᵀ, with these rows in their places. */
  product(base: Weight, x: Tensor, { bias, residual, act = "none" }: LinearOptions): Tensor {
    return scope(() => {
      const own = base.linear(x);
      const count = own.size / this.entries;
      const flat = [count, this.entries] as const;
      const thin = linear(x.view(count, -1), this.rows.value);
      // Its columns as rows, of which each output takes one.
      const columns = padded(thin.permute(1, 0));
      const slots = contiguous(this.#slots.view(-1), "i32");
      const ours = contiguous(embedding(columns, slots).permute(1, 0));
      let sum = add(multiply(own.view(...flat), this.#own.view(1, -1).expand(...flat)), ours);
      if (bias)
        sum = add(
          sum,
          contiguous(
            contiguous(bias, "f32")
              .view(1, -1)
              .expand(...flat),
          ),
        );
      const y = (act === "none" ? sum : activation(sum, act)).view(...own.shape);
      return residual ? add(y, residual) : y;
    });
  }

  /** Records W, f32[N,K], with these rows, or others of theirs, in their places. */
  put(matrix: Tensor, rows: Tensor = this.rows.value): Tensor {
    return scope(() => {
      const all = Tensor.empty(matrix.device, matrix.shape, "f32", "adapter");
      copyInto(matrix, all);
      for (const [at, i, count] of runs(this.indices)) copyInto(rows.narrow(0, i, count), all.narrow(0, at, count));
      return all;
    });
  }

  /** Records the rows of W, f32[N,K], in whose places these are. */
  taken(matrix: Tensor): Tensor {
    return scope(() => {
      const all = Tensor.empty(matrix.device, this.rows.shape, "f32", "adapter");
      for (const [at, i, count] of runs(this.indices)) copyInto(matrix.narrow(0, at, count), all.narrow(0, i, count));
      return all;
    });
  }

  /** Frees what it made; its rows belong to the adapter. */
  dispose(): void {
    this.#slots.dispose();
    this.#own.dispose();
  }
}

/** A row of zeros, and x[n,K] below it. */
function padded(x: Tensor): Tensor {
  const [n = 0, K = 0] = x.shape;
  const all = Tensor.empty(x.device, [n + 1, K], "f32", "adapter");
  fillInto(all.narrow(0, 0, 1), 0);
  copyInto(x, all.narrow(0, 1, n));
  return all;
}

/** Neighbouring rows that stay neighbours: the first of W's, the first of the layer's, and how many. */
function runs(indices: readonly number[]): [at: number, i: number, count: number][] {
  const found: [number, number, number][] = [];
  for (const [i, at] of indices.entries()) {
    const last = found.at(-1);
    if (last && last[0] + last[2] === at) last[2]++;
    else found.push([at, i, 1]);
  }
  return found;
}
