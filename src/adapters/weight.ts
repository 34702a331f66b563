// A stored weight with adapters over it: LoRA (Hu et al. 2021), W + s B A, and DoRA (Liu et al. 2024), m (W + s B A) / |W + s B A|,
// and whole matrices in its place. It is a weight of its own, so no model knows of it. Which adapters work is decided by the model's
// `Choice`. A matrix that an embedding and the output head share has adapters for the one or the other.

import { ShapeError } from "../core/errors.js";
import { scope, type Tensor } from "../core/tensor.js";
import { Dropout } from "../nn/layers.js";
import type { Matrix, Parameter } from "../nn/parameter.js";
import type { FloatDType, MatrixShape, Scheme, Weight, WeightPart } from "../nn/weight.js";
import { activation } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { contiguous } from "../ops/copy.js";
import { embedding } from "../ops/embedding.js";
import { multiply } from "../ops/gated.js";
import { type LinearOptions, linear, linearBack } from "../ops/linear.js";
import { scale } from "../ops/scale.js";
import { tapes, taping } from "../ops/tape.js";
import type { Choice } from "./choice.js";
import { inverses, overColumns, overRows, rowNorms } from "./dora.js";
import { type StackLayer, stackDelta } from "./stack.js";
import type { TokensLayer } from "./tokens.js";

/** What a matrix does in a module: it multiplies (Linear), or its rows are looked up (Embedding). */
export type Role = "product" | "lookup";

/** A product of two thin matrices over a matrix W[N,K]. */
export interface LoraLayer {
  readonly kind: "lora";
  /** Of products f32[r,K]; of look-ups f32[N,r], the rows of W's entries. */
  readonly a: Parameter;
  /** Of products f32[N,r]; of look-ups f32[K,r]. */
  readonly b: Parameter;
  /** DoRA: f32, one for each output. */
  readonly magnitude: Parameter | undefined;
  readonly scale: number;
  readonly dropout: number;
}

/** A matrix that takes W's place. */
export interface WholeLayer {
  readonly kind: "whole";
  readonly matrix: Matrix;
}

export type Layer = LoraLayer | StackLayer | TokensLayer | WholeLayer;

/** What can be merged into the stored weights. */
export type MergeableLayer = Exclude<Layer, WholeLayer>;

/** Of a matrix that is no stack. */
type OneLayer = Exclude<Layer, StackLayer>;

export class Adapted implements Weight {
  readonly shape: MatrixShape;
  readonly experts = 1;
  #base: Weight;
  readonly #choice: Choice;
  readonly #layers: Readonly<Record<Role, Map<string, OneLayer>>> = { product: new Map(), lookup: new Map() };
  /** Factors of DoRA over frozen values. */
  readonly #factors = new Map<LoraLayer, Tensor>();

  /** @throws ShapeError for a stack of experts */
  constructor(base: Weight, choice: Choice) {
    if (base.experts !== 1) throw new ShapeError(`a stack of ${base.experts} experts takes no adapter`);
    this.shape = base.shape;
    this.#base = base;
    this.#choice = choice;
  }

  /** Adds a layer, which the caller owns. @throws ShapeError if it does not fit */
  set(name: string, role: Role, layer: OneLayer): void {
    const [N, K] = this.shape;
    if (layer.kind === "lora") {
      const [outputs, inputs] = role === "product" ? [N, K] : [K, N];
      const [a, b] = [role === "product" ? layer.a.shape : [...layer.a.shape].reverse(), layer.b.shape];
      if (a.length !== 2 || a[1] !== inputs || b.length !== 2 || b[0] !== outputs || a[0] !== b[1]) {
        throw new ShapeError(
          `an adapter [${b.join(", ")}] times [${a.join(", ")}] does not fit [${outputs}, ${inputs}]`,
        );
      }
    }
    this.#layers[role].set(name, layer);
  }

  /** Takes the layers of an adapter away. @returns whether any other is left */
  remove(name: string): boolean {
    for (const layers of Object.values(this.#layers)) {
      const layer = layers.get(name);
      if (layer?.kind === "lora") this.#forget(layer);
      layers.delete(name);
    }
    return this.#layers.product.size + this.#layers.lookup.size > 0;
  }

  layer(name: string, role: Role): OneLayer | undefined {
    return this.#layers[role].get(name);
  }

  get base(): Weight {
    return this.#base;
  }

  /** The weight under the adapters is another one now. */
  rebase(base: Weight): void {
    this.#base = base;
    for (const layer of [...this.#factors.keys()]) this.#forget(layer);
  }

  get scheme(): string {
    return this.#base.scheme;
  }

  get compute(): Weight["compute"] {
    return this.#base.compute;
  }

  get alike(): Scheme | undefined {
    return this.#base.alike;
  }

  /** The base's, as all that a checkpoint of the model holds: adapters are files of their own. */
  get tensors(): readonly Tensor[] {
    return this.#base.tensors;
  }

  get trainable(): readonly Tensor[] {
    const working = [...this.#working("product"), ...this.#working("lookup")];
    const own = working.flatMap(([, layer]) => {
      if (layer.kind === "whole") return layer.matrix.weight.trainable;
      if (layer.kind === "tokens") return [layer.rows.value];
      return [layer.a, layer.b, layer.magnitude].flatMap((one) => (one ? [one.value] : []));
    });
    return [...new Set(own)]; // rows of tokens have both roles
  }

  get nbytes(): number {
    return this.#base.nbytes;
  }

  get footprint(): number {
    return this.#base.footprint;
  }

  async statistics(): Promise<Readonly<Record<string, number>>> {
    return (await this.#base.statistics?.()) ?? {};
  }

  linear(x: Tensor, options: LinearOptions = {}): Tensor {
    const { loras, whole, tokens } = this.#layersAtWork("product");
    if (tokens) return tokens.product(this.#base, x, options);
    if (loras.length === 0) return (whole ?? this.#base).linear(x, options);
    const { bias, residual, act = "none" } = options;
    return scope(() => {
      const plain = act === "none" ? residual : undefined;
      const decomposed = loras.some(([, { magnitude }]) => magnitude);
      let sum: Tensor;
      if (decomposed) sum = this.#decomposed(x, loras, options);
      else {
        sum = this.#base.linear(x, { ...(bias && { bias }), ...(plain && { residual: plain }) });
        for (const [name, layer] of loras) sum = linear(this.#thin(name, layer, x), layer.b.value, { residual: sum });
      }
      const y = act === "none" ? sum : activation(sum, act);
      return residual && (decomposed || !plain) ? add(y, residual) : y;
    });
  }

  /** Of layers with magnitudes: each multiplies the sum before its bias. */
  #decomposed(x: Tensor, loras: readonly (readonly [string, LoraLayer])[], { bias }: LinearOptions): Tensor {
    let sum = this.#base.linear(x);
    for (const [name, layer] of loras) {
      const dropped = this.#dropped(layer, x);
      const product = linear(this.#thin(name, layer, dropped, true), layer.b.value);
      if (!layer.magnitude) {
        sum = add(sum, product);
        continue;
      }
      const factor = this.#factor(layer, "product");
      if (dropped === x) sum = overColumns(add(sum, product), factor);
      else {
        // Both products are of the same input: sum + (f - 1) W x' + f s B A x'.
        const base = this.#base.linear(dropped);
        sum = add(sum, add(overColumns(add(base, product), factor), scale(base, -1)));
      }
    }
    if (!bias) return sum;
    const ones = sum.shape.slice(0, -1).map(() => 1);
    return add(
      sum,
      contiguous(
        contiguous(bias, "f32")
          .view(...ones, bias.size)
          .expand(...sum.shape),
      ),
    );
  }

  /** s A x, of the rows that have the adapter. */
  #thin(name: string, layer: LoraLayer, x: Tensor, dropped = false): Tensor {
    const thin = scale(linear(dropped ? x : this.#dropped(layer, x), layer.a.value), layer.scale);
    const rows = this.#choice.rows?.get(name);
    if (!rows) return thin;
    const each = rows.size;
    const rank = thin.shape.at(-1)!;
    if (thin.size % (each * rank) !== 0) {
      throw new ShapeError(`adapter_names: an input of shape [${x.shape.join(", ")}] does not have ${each} rows`);
    }
    const all = thin.view(each, -1);
    return multiply(all, rows.view(each, 1).expand(...all.shape)).view(...thin.shape);
  }

  #dropped(layer: LoraLayer, x: Tensor): Tensor {
    // Masks are drawn on the host: a recording would repeat one. Without a gradient nobody trains.
    if (layer.dropout === 0 || !this.#choice.training || !tapes.open) return x;
    return new Dropout(layer.dropout).forward(x);
  }

  rows(ids: Tensor): Tensor {
    const { loras, whole, tokens } = this.#layersAtWork("lookup");
    if (tokens) return tokens.lookup(this.#base, ids);
    if (loras.length === 0) return (whole ?? this.#base).rows(ids);
    return scope(() => {
      let sum = this.#base.rows(ids);
      for (const [name, layer] of loras) {
        let thin = scale(embedding(layer.a.value, ids), layer.scale);
        const rows = this.#choice.rows?.get(name);
        if (rows) {
          const all = thin.view(rows.size, -1);
          thin = multiply(all, rows.view(rows.size, 1).expand(...all.shape)).view(...thin.shape);
        }
        sum = linear(thin, layer.b.value, { residual: sum });
        if (layer.magnitude) sum = overColumns(sum, this.#factor(layer, "lookup"));
      }
      return sum;
    });
  }

  /** With the adapters at work; of a shared matrix with those of its products. */
  dense(dtype: FloatDType): Tensor {
    const role = this.#layers.product.size > 0 ? "product" : "lookup";
    const { loras, whole, tokens } = this.#layersAtWork(role);
    if (tokens) return scope(() => contiguous(tokens.put(this.#base.dense("f32")), dtype));
    if (loras.length === 0) return (whole ?? this.#base).dense(dtype);
    return scope(() => {
      let rows = this.#base.dense("f32");
      for (const [, layer] of loras) rows = merged(rows, layer, role);
      return contiguous(rows, dtype);
    });
  }

  parts(name: string, at?: number, rows?: number, values?: FloatDType): Promise<readonly WeightPart[]> {
    return this.#base.parts(name, at, rows, values);
  }

  /** Its layers and its base belong to others; it frees what it keeps of them. */
  dispose(): void {
    for (const layer of [...this.#factors.keys()]) this.#forget(layer);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** What is at work of the adapters, by name. */
  #working(role: Role): (readonly [string, OneLayer])[] {
    const { active, enabled, merged, rows } = this.#choice;
    const names = rows ? [...rows.keys()] : enabled ? active : [];
    return names.flatMap((name) => {
      const layer = this.#layers[role].get(name);
      return layer && !(merged.has(name) && layer.kind !== "whole") ? [[name, layer] as const] : [];
    });
  }

  #layersAtWork(role: Role): {
    readonly loras: readonly (readonly [string, LoraLayer])[];
    readonly whole: Weight | undefined;
    readonly tokens: TokensLayer | undefined;
  } {
    const loras: (readonly [string, LoraLayer])[] = [];
    let whole: Weight | undefined;
    let tokens: TokensLayer | undefined;
    for (const [name, layer] of this.#working(role)) {
      if (layer.kind === "lora") loras.push([name, layer]);
      else if (layer.kind === "tokens") tokens = layer;
      else whole = layer.matrix.weight;
    }
    return { loras, whole, tokens };
  }

  /** m / |W + s B A|, f32[outputs]. The norms count as constants, as in the paper (section 4.3). */
  #factor(layer: LoraLayer, role: Role): Tensor {
    const known = this.#factors.get(layer);
    const { a, b, magnitude } = layer;
    const changes = [a, b, magnitude!].some((one) => one.requires_grad);
    if (known && !changes) return known;
    this.#forget(layer);
    const inverse = taping(undefined, () =>
      scope(() => inverses(normsOf(added(this.#base.dense("f32"), layer, role), role))),
    );
    const factor = multiply(magnitude!.value, inverse);
    if (!changes) this.#factors.set(layer, factor.keep());
    return factor;
  }

  #forget(layer: LoraLayer): void {
    this.#factors.get(layer)?.dispose();
    this.#factors.delete(layer);
  }
}

/** s B A, laid out as the matrix, which `rows` are of. */
function delta(layer: LoraLayer | StackLayer, role: Role, rows: Tensor): Tensor {
  const { a, b, scale: s } = layer;
  return scope(() => {
    if (layer.kind === "stack") return stackDelta(layer, rows.shape as MatrixShape);
    if (role === "product") return linearBack(scale(b.value, s), a.value);
    return linear(scale(a.value, s), b.value);
  });
}

function added(rows: Tensor, layer: LoraLayer | StackLayer, role: Role): Tensor {
  return scope(() => add(rows, delta(layer, role, rows)));
}

/** The norm of each output's weights. */
function normsOf(rows: Tensor, role: Role): Tensor {
  return scope(() => rowNorms(role === "product" ? rows : contiguous(rows.permute(1, 0))));
}

/** The norm of each output's weights with an adapter over them, f32[outputs]: the first magnitudes. */
export function magnitudes(base: Weight, layer: Omit<LoraLayer, "magnitude">, role: Role): Tensor {
  return scope(() => normsOf(added(base.dense("f32"), { ...layer, magnitude: undefined }, role), role));
}

/**
 * What a merge of a layer into `rows`, f32[N,K], is undone with: of DoRA what it multiplies each output's weights with, of rows of tokens
 * those in whose places they are.
 */
export function mergeFactor(rows: Tensor, layer: MergeableLayer, role: Role): Tensor | undefined {
  if (layer.kind === "tokens") return layer.taken(rows);
  if (layer.kind === "stack" || !layer.magnitude) return undefined;
  const { magnitude } = layer;
  return scope(() => multiply(magnitude.value, inverses(normsOf(added(rows, layer, role), role))));
}

/** Records `rows`, f32[N,K], with a layer merged into them. */
export function merged(
  rows: Tensor,
  layer: MergeableLayer,
  role: Role,
  factor: Tensor | undefined = mergeFactor(rows, layer, role),
): Tensor {
  if (layer.kind === "tokens") return layer.put(rows);
  return scope(() => {
    const sum = added(rows, layer, role);
    if (!factor) return sum;
    return role === "product" ? overRows(sum, factor) : overColumns(sum, factor);
  });
}

/** Undoes `merged`, up to the rounding of floats. */
export function unmerged(rows: Tensor, layer: MergeableLayer, role: Role, factor: Tensor | undefined): Tensor {
  if (layer.kind === "tokens") return layer.put(rows, factor);
  return scope(() => {
    let sum = rows;
    if (factor) {
      const inverse = inverses(factor);
      sum = role === "product" ? overRows(rows, inverse) : overColumns(rows, inverse);
    }
    return add(sum, scale(delta(layer, role, rows), -1));
  });
}
