// How much memory a model takes in each precision, as accelerate's command estimates it: the size in float32 divided by what a dtype
// saves, and training with Adam.

import type { MetaModel } from "../meta.js";
import { largestLayer, moduleSizes, topEntries } from "./sizes.js";
import { treeOf } from "./tree.js";

export const ESTIMATED_DTYPES = ["float32", "float16", "int8", "int4"] as const;
export type EstimatedDType = (typeof ESTIMATED_DTYPES)[number];

/** Bytes of one precision. */
export interface Estimate {
  readonly dtype: EstimatedDType;
  /** Of the largest layer: a block, or a table beside them. */
  readonly largest_layer: number;
  readonly total: number;
  /** Of each part of a training step; undefined for codes, which are not trained. */
  readonly training: { readonly model: number; readonly gradients: number; readonly optimizer: number } | undefined;
  /** Most that a training step holds at a time, as accelerate counts it. */
  readonly training_peak: number | undefined;
}

const PARTS: Readonly<Record<EstimatedDType, number>> = { float32: 1, float16: 2, int8: 4, int4: 8 };

/** @param model declared in float32 */
export function estimateMemory(model: MetaModel, dtypes: readonly EstimatedDType[] = ESTIMATED_DTYPES): Estimate[] {
  const tree = treeOf(model);
  const sizes = moduleSizes(tree, { dtype: "float32" });
  const total = sizes.get("") ?? 0;
  const { bytes: largest } = largestLayer(topEntries(tree), sizes, model.no_split_module_classes);
  return dtypes.map((dtype) => ({
    dtype,
    largest_layer: largest / PARTS[dtype],
    total: total / PARTS[dtype],
    ...trainingOf(total, dtype),
  }));
}

function trainingOf(total: number, dtype: EstimatedDType): Pick<Estimate, "training" | "training_peak"> {
  if (dtype === "float32") {
    return { training: { model: total, gradients: total, optimizer: 2 * total }, training_peak: 4 * total };
  }
  if (dtype !== "float16") return { training: undefined, training_peak: undefined };
  // Weights in both precisions; the largest part counts, because the parts follow one another.
  const gradients = total + Math.floor(total / 2);
  return { training: { model: total, gradients, optimizer: 2 * total }, training_peak: 2 * total };
}
