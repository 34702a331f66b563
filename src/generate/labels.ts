// What models of tokens learn from: labels of the positions of a batch (of a causal language model, the label of each position's next
// one), and the mean loss over those that count.

import { OptionError, ShapeError } from "../core/errors.js";
import { show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import type { CausalLM } from "../nn/decoder.js";
import { headLoss, headOf, textLosses } from "../nn/head-loss.js";
import type { Seq2SeqLM } from "../nn/seq2seq.js";
import { crossEntropy, IGNORED } from "../ops/cross-entropy.js";
import { scale } from "../ops/scale.js";
import { sumRows } from "../ops/sum-rows.js";
import { type Batch, type Ids, table } from "./inputs.js";

export interface NextLabels {
  /** i32[B·T] */
  readonly targets: Int32Array;
  /** How many of them count. */
  readonly count: number;
  /** The loss is that of each row, [B], summed over its labels. */
  readonly each?: boolean;
}

/**
 * Targets i32[B·T] of logits at each position, from the labels of a batch: the label of the next position, and none of the last one.
 * @param some at least one must count
 * @throws ShapeError, OptionError for labels outside the vocabulary, or if none counts
 */
export function nextLabels({ rows, steps }: Batch, labels: Ids, vocab: number, some = true): NextLabels {
  const all = table("labels", labels);
  if (all.length !== rows || all.some((row) => row.length !== steps)) {
    throw new ShapeError(`labels must have the shape of input_ids, [${rows}, ${steps}]`);
  }
  const targets = new Int32Array(rows * steps).fill(IGNORED);
  let count = 0;
  all.forEach((row, r) => {
    row.forEach((label, t) => {
      if (label !== IGNORED && !(Number.isSafeInteger(label) && label >= 0 && label < vocab)) {
        throw new OptionError(`labels[${r}][${t}] is ${show(label)}; they are ids 0 to ${vocab - 1}, or ${IGNORED}`);
      }
      if (t === 0 || label === IGNORED) return;
      targets[r * steps + t - 1] = label;
      count++;
    });
  });
  if (count > 0 || !some) return { targets, count };
  throw new OptionError("labels: none of them counts, so there is no loss", {
    hint: "the first token of a row has no prediction: a row needs two",
  });
}

/**
 * Targets i32[B·T] of what a model says of each token of a batch itself.
 * @param name of the shape that labels must have, in messages
 * @param outcomes labels are below this
 * @param some at least one must count
 * @throws ShapeError, OptionError for labels that are none, for those of padding, or if none counts
 */
export function tokenLabels(
  { rows, steps, mask }: Pick<Batch, "rows" | "steps" | "mask">,
  given: Ids,
  outcomes: number,
  some = true,
): NextLabels {
  const all = table("labels", given);
  if (all.length !== rows || all.some((row) => row.length !== steps)) {
    throw new ShapeError(`labels must have one number for each token, [${rows}, ${steps}]`);
  }
  const targets = Int32Array.from(all.flat(), (label, at) => {
    const where = `labels[${Math.floor(at / steps)}][${at % steps}]`;
    if (label === IGNORED) return label;
    if (!(Number.isSafeInteger(label) && label >= 0 && label < outcomes)) {
      throw new OptionError(`${where} is ${show(label)}; they are 0 to ${outcomes - 1}, or ${IGNORED}`);
    }
    if (mask?.[at] !== 0) return label;
    throw new OptionError(`${where} is ${label}, of a token that is padding`, {
      hint: `labels of padding are ${IGNORED}: DataCollatorForTokenClassification makes them`,
    });
  });
  const count = targets.reduce((n, label) => n + Number(label !== IGNORED), 0);
  if (count > 0 || !some) return { targets, count };
  throw new OptionError("labels: none of them counts, so there is no loss");
}

/** How losses of tokens become one. */
export interface LossReduction {
  /** What their sum is divided by; by default the labels that count (1 if none does). */
  readonly num_items_in_batch?: number | undefined;
  readonly label_smoothing?: number | undefined;
}

/** The mean loss of logits [..,V] against targets, [1]. */
export function lossOf(logits: Tensor, { targets, count }: NextLabels, how: LossReduction = {}): Tensor {
  return scope(() => {
    const rows = targets.length;
    const labels = Tensor.from(logits.device, targets, [rows]);
    const { loss } = crossEntropy(logits.view(rows, -1), labels, how.label_smoothing);
    return scale(sumRows(loss.view(rows, 1)), 1 / (how.num_items_in_batch ?? Math.max(1, count)));
  });
}

/** The same of hidden states [B,T,K], whose logits are made by pieces of rows. */
export function lossOfStates(
  model: CausalLM | Seq2SeqLM,
  hidden: Tensor,
  { targets, count, each }: NextLabels,
  how: LossReduction,
): Tensor {
  return scope(() => {
    const labels = Tensor.from(hidden.device, targets, [targets.length]);
    if (each) return textLosses(hidden, headOf(model), labels);
    const items = how.num_items_in_batch ?? Math.max(1, count);
    return headLoss(hidden, headOf(model), labels, { items, smoothing: how.label_smoothing ?? 0 });
  });
}
