// Adapters into the stored weights, and out of them again. What is stored as codes is decoded, changed and quantized anew, which adds
// an error of its own: it is measured. The weights before are freed: taking adapters out subtracts them, up to rounding.

import { FormatError } from "../core/errors.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { Matrix, Parameter } from "../nn/module.js";
import type { FloatDType, Weight } from "../nn/weight.js";
import { add } from "../ops/add.js";
import { contiguous } from "../ops/copy.js";
import { multiply } from "../ops/gated.js";
import { scale } from "../ops/scale.js";
import { sumRows } from "../ops/sum-rows.js";
import { taping } from "../ops/tape.js";
import type { Adapter, Place } from "./adapter.js";
import { checkChangeable, storedAs } from "./matrices.js";
import type { Adapters } from "./set.js";
import { type MergeableLayer, merged, mergeFactor, unmerged, type WholeLayer } from "./weight.js";

/** What quantizing merged weights anew has cost. */
export interface MergeError {
  /** Path of the module. */
  readonly module: string;
  /** How it is stored. */
  readonly scheme: string;
  /** Root mean square of the error beside that of the weights. */
  readonly error: number;
  /** The same beside what the adapters changed: at 1 their change is drowned. */
  readonly of_change: number;
}

/** A layer that is in a matrix. */
interface Step {
  readonly place: Place;
  readonly factor: Tensor | undefined;
}

/** Squares to be read: of the error, of the weights, of the change. */
interface Measured {
  readonly module: string;
  readonly scheme: string;
  readonly sums: readonly Tensor[];
}

export class Merging {
  readonly #adapters: Adapters;
  /** Layers that are in each matrix, in order. */
  readonly #merged = new Map<Matrix, readonly Step[]>();

  constructor(adapters: Adapters) {
    this.#adapters = adapters;
    adapters.onDispose = () => this.keep();
  }

  /** Names of the adapters in the stored weights. */
  get names(): readonly string[] {
    return [...this.#adapters.choice.merged];
  }

  /** Those of `names` that are not in the weights yet, and the layers of each matrix. */
  #work(names: readonly string[]): { readonly added: readonly Adapter[]; readonly work: Map<Matrix, Place[]> } {
    const added = this.#adapters.together(names).filter(({ name }) => !this.names.includes(name));
    return { added, work: groupsOf(added) };
  }

  /**
   * Checks that adapters can be merged, and changes nothing.
   * @param safe look for values that would be no numbers; always with float16
   * @param over their whole modules are to become the model's as well
   * @throws OctavoError for matrices that two modules share, or kinds of codes that nothing is quantized to; FormatError for weights
   * that would be no numbers; OutOfMemoryError
   */
  async check(names: readonly string[], safe: boolean, over: boolean): Promise<void> {
    const { work } = this.#work(names);
    this.#check(work.keys(), work);
    if (over) this.#check(names.flatMap((name) => wholeOf(this.#adapters.get(name)).map(({ matrix }) => matrix)));
    for (const [matrix, places] of work) {
      if (safe || matrix.inner!.tensors[0]!.dtype === "f16") await this.#checkNumbers(matrix, places);
    }
  }

  /**
   * Merges adapters, in this order. What that cost is measured after it is done.
   * @throws as `check`; the weights are then as they were, but for what taking adapters out rounds
   */
  merge(names: readonly string[]): Promise<readonly MergeError[]> {
    const { added, work } = this.#work(names);
    this.#check(work.keys(), work);
    const done: (readonly [Matrix, readonly Place[]])[] = [];
    const measured: Measured[] = [];
    try {
      for (const [matrix, places] of work) {
        const one = taping(undefined, () => this.#mergeInto(matrix, places));
        done.push([matrix, places]);
        if (one) measured.push(one);
      }
    } catch (error) {
      for (const [matrix, places] of done) this.#takeOut(matrix, places.length);
      for (const { sums } of measured) for (const sum of sums) sum.dispose();
      throw error;
    }
    this.#adapters.holds([...this.names, ...added.map(({ name }) => name)]);
    return Promise.all(measured.map(errorOf));
  }

  /** Takes all adapters out of the stored weights. @throws OutOfMemoryError; they are in there then, as before */
  unmerge(): void {
    const done: (readonly [Matrix, readonly Place[]])[] = [];
    try {
      for (const [matrix, steps] of [...this.#merged]) {
        this.#takeOut(matrix, steps.length);
        done.push([matrix, steps.map(({ place }) => place)]);
      }
    } catch (error) {
      for (const [matrix, places] of done) taping(undefined, () => this.#mergeInto(matrix, places, false));
      throw error;
    }
    this.#adapters.holds([]);
  }

  /** Lets the stored weights be as they are: they are the model's now. */
  keep(): void {
    for (const steps of this.#merged.values()) for (const { factor } of steps) factor?.dispose();
    this.#merged.clear();
    this.#adapters.holds([]);
  }

  /** @throws OctavoError */
  #check(matrices: Iterable<Matrix>, work?: ReadonlyMap<Matrix, readonly Place[]>): void {
    // Rows of a table that the head shares are for both.
    const forAll = (matrix: Matrix): boolean => work?.get(matrix)?.every(({ layer }) => isForAll(layer)) ?? false;
    checkChangeable(this.#adapters.model, matrices, "an adapter of one is not merged", forAll);
  }

  async #checkNumbers(matrix: Matrix, places: readonly Place[]): Promise<void> {
    const { dtype } = matrix.inner!.tensors[0]!;
    // What is no number stays none when it is multiplied by 0.
    using sum = taping(undefined, () =>
      scope(() => {
        let rows = matrix.inner!.dense("f32");
        for (const { layer, role } of places) rows = merged(rows, layer as MergeableLayer, role);
        const stored = dtype === "f16" ? contiguous(contiguous(rows, "f16"), "f32") : rows;
        return sumRows(scale(stored, 0).view(-1, 1));
      }),
    );
    if (Number.isFinite((await sum.readFloats())[0])) return;
    throw new FormatError(`the weights of ${moduleOf(places[0]!)} would be no numbers if the adapter were merged`, {
      details: { module: moduleOf(places[0]!) },
      hint: "the adapter seems to be broken, or too large for float16",
    });
  }

  /** @param measured what that cost is wanted, where it costs anything */
  #mergeInto(matrix: Matrix, places: readonly Place[], measured = true): Measured | undefined {
    const { inner } = matrix;
    const result = scope(() => {
      const before = inner!.dense("f32");
      const steps: Step[] = [];
      let rows = before;
      for (const place of places) {
        const { role } = place;
        const layer = place.layer as MergeableLayer;
        const factor = mergeFactor(rows, layer, role);
        steps.push({ place, factor });
        rows = merged(rows, layer, role, factor);
      }
      const weight = storedAs(inner!, rows, moduleOf(places[0]!));
      let sums: Tensor[] = [];
      try {
        if (measured && inner!.scheme !== "dense") sums = measure(weight, rows, before);
      } catch (error) {
        weight.dispose(); // outlives scopes
        throw error;
      }
      for (const { factor } of steps) factor?.keep();
      for (const sum of sums) sum.keep();
      return { weight, sums, steps };
    });
    const { steps, sums } = result;
    matrix.refill(result.weight);
    this.#merged.set(matrix, [...(this.#merged.get(matrix) ?? []), ...steps]);
    return sums.length === 0 ? undefined : { module: moduleOf(places[0]!), scheme: inner!.scheme, sums };
  }

  /** Takes the last `count` layers out of a matrix. */
  #takeOut(matrix: Matrix, count: number): void {
    const steps = this.#merged.get(matrix)!;
    const { inner } = matrix;
    const weight = taping(undefined, () =>
      scope(() => {
        let rows = inner!.dense("f32");
        for (const { place, factor } of steps.slice(steps.length - count).reverse()) {
          rows = unmerged(rows, place.layer as MergeableLayer, place.role, factor);
        }
        return storedAs(inner!, rows, "unmerged");
      }),
    );
    matrix.refill(weight);
    for (const { factor } of steps.slice(steps.length - count)) factor?.dispose();
    const left = steps.slice(0, steps.length - count);
    if (left.length > 0) this.#merged.set(matrix, left);
    else this.#merged.delete(matrix);
  }

  /** The modules that adapters have whole become the model's, as `check` allows. */
  takeOver(names: readonly string[]): void {
    for (const name of names) {
      const adapter = this.#adapters.get(name);
      for (const { matrix, layer, path } of wholeOf(adapter)) {
        const { inner } = matrix;
        const rows = layer.matrix.weight.dense("f32");
        try {
          matrix.refill(taping(undefined, () => storedAs(inner!, rows, path)));
        } finally {
          rows.dispose();
        }
      }
      for (const { base, own } of [...adapter.replaced, ...adapter.biases]) takeValue(base, own);
    }
  }
}

function isForAll(layer: Place["layer"]): boolean {
  return layer.kind === "tokens" && layer.for_all;
}

function moduleOf({ module, path }: Place): string {
  return module ?? path;
}

function wholeOf({ places }: Adapter): readonly (Place & { readonly layer: WholeLayer })[] {
  return places.filter((place): place is Place & { readonly layer: WholeLayer } => place.layer.kind === "whole");
}

/** The value of a parameter in the dtype of another, which gets it. */
function takeValue(base: Parameter, own: Parameter): void {
  const dtype = base.own!.dtype as FloatDType;
  const value = taping(undefined, () => scope(() => contiguous(own.value, dtype).alias()));
  base.fill(value);
}

/** Layers by their matrices, in the order of the adapters. */
function groupsOf(adapters: readonly Adapter[]): Map<Matrix, Place[]> {
  const groups = new Map<Matrix, Place[]>();
  for (const { places } of adapters) {
    for (const place of places) {
      if (place.layer.kind === "whole" || place.tied) continue;
      groups.set(place.matrix, [...(groups.get(place.matrix) ?? []), place]);
    }
  }
  return groups;
}

/** Sums of squares: of what quantizing changed, of the weights, of what the adapters changed. */
function measure(weight: Weight, wanted: Tensor, before: Tensor): Tensor[] {
  const squares = (x: Tensor): Tensor => sumRows(sumRows(multiply(x, x)).view(-1, 1));
  return [
    squares(add(weight.dense("f32"), scale(wanted, -1))),
    squares(wanted),
    squares(add(wanted, scale(before, -1))),
  ];
}

async function errorOf({ module, scheme, sums }: Measured): Promise<MergeError> {
  try {
    const [error = 0, weights = 0, change = 0] = await Promise.all(
      sums.map(async (sum) => (await sum.readFloats())[0]!),
    );
    // An adapter that changes nothing has nothing rounded, either.
    const of_change = error === 0 ? 0 : Math.sqrt(error / change);
    return { module, scheme, error: Math.sqrt(error / weights), of_change };
  } finally {
    for (const sum of sums) sum.dispose();
  }
}
