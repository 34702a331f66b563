// The loop over a dataset without training: the mean loss, and what compute_metrics makes of logits and labels.

import { isList } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import { IGNORED } from "../ops/cross-entropy.js";
import type { TrainingArguments } from "./arguments.js";
import { type BatchPlan, batchesOf } from "./batches.js";
import type { Logs } from "./callbacks.js";
import type { Batch, DataCollator, Dataset } from "./data/types.js";
import { speedMetrics } from "./metrics.js";
import type { Subject } from "./subject.js";
import type { EvalPrediction, TrainerOptions } from "./types.js";

export interface EvaluationInput {
  readonly subject: Subject;
  readonly args: TrainingArguments;
  readonly collate: DataCollator;
  readonly compute_metrics: TrainerOptions["compute_metrics"];
  /** Called after each batch. */
  readonly step: () => Promise<void>;
}

export interface EvaluationResult {
  readonly metrics: Logs;
  readonly prediction: EvalPrediction | undefined;
}

/** Logits of a batch on the host. */
interface Piece {
  readonly data: Float32Array;
  readonly shape: readonly number[];
}

/** The rows of labels, typed arrays as lists. */
function rowsOf(labels: unknown): unknown[] {
  const plain = (one: unknown): unknown =>
    ArrayBuffer.isView(one) && !(one instanceof DataView) ? Array.from(one as unknown as ArrayLike<number>) : one;
  const list = plain(labels);
  return isList(list) ? Array.from(list, plain) : [list];
}

/** Batches of logits as one, whose second dim is padded with -100. @throws OptionError for shapes that do not fit together */
export function joined(pieces: readonly Piece[]): EvalPrediction["predictions"] {
  const [first] = pieces;
  if (!first) return { data: new Float32Array(0), shape: [0] };
  const tail = first.shape.slice(2);
  const rows = pieces.reduce((n, { shape }) => n + shape[0]!, 0);
  if (first.shape.length === 1) {
    const data = new Float32Array(rows);
    let at = 0;
    for (const piece of pieces) {
      data.set(piece.data, at);
      at += piece.data.length;
    }
    return { data, shape: [rows] };
  }
  const longest = pieces.reduce((most, { shape }) => Math.max(most, shape[1]!), 0);
  const width = tail.reduce((n, one) => n * one, 1);
  const data = new Float32Array(rows * longest * width).fill(IGNORED);
  let row = 0;
  for (const { data: part, shape } of pieces) {
    if (shape.slice(2).join() !== tail.join()) {
      throw new OptionError(`logits of two batches do not fit together: [${first.shape}] and [${shape}]`);
    }
    const [count = 0, steps = 0] = shape;
    for (let r = 0; r < count; r++, row++) {
      data.set(part.subarray(r * steps * width, (r + 1) * steps * width), row * longest * width);
    }
  }
  return { data, shape: [rows, longest, ...tail] };
}

/** Rows of labels padded with -100 to the longest. */
function paddedRows(rows: readonly unknown[]): unknown[] {
  const longest = rows.reduce<number>((most, row) => (isList(row) ? Math.max(most, row.length) : most), 0);
  return rows.map((row) => (isList(row) ? [...row, ...new Array<number>(longest - row.length).fill(IGNORED)] : row));
}

/** The labels of each example; of several kinds, such as both ends of answers, a list of one each. */
function labelsOf(batch: Batch, names: readonly string[]): unknown[] {
  const [first, ...more] = names.map((name) => rowsOf(batch[name]));
  if (!first || more.length === 0) return first ?? [];
  return first.map((one, i) => [one, ...more.map((rows) => rows[i])]);
}

/** Examples of a batch. */
function examplesOf(batch: Batch): number {
  for (const value of [batch.input_ids, ...Object.values(batch)]) if (isList(value)) return value.length;
  return 1;
}

/**
 * Runs over a dataset. The loss is the mean over its examples of the mean loss of their batch, as in transformers.
 * @param prefix of the metrics' names
 */
export async function evaluation(
  { subject, args, collate, compute_metrics, step }: EvaluationInput,
  dataset: Dataset,
  prefix: string,
  predicting = false,
): Promise<EvaluationResult> {
  const start = performance.now();
  if (subject.objective && predicting) {
    throw new OptionError("predict is for models whose outputs have labels, not for preferences");
  }
  const wanted = predicting || (compute_metrics !== undefined && !args.prediction_loss_only);
  const plan: BatchPlan = { size: args.per_device_eval_batch_size, drop_last: args.dataloader_drop_last };
  let [sum, counted, samples, batches] = [0, 0, 0, 0];
  const pieces: Piece[] = [];
  const labels: unknown[] = [];
  subject.train(false);
  subject.open("eval");
  for await (const features of batchesOf(dataset, plan, 0)) {
    const batch = await collate(features);
    const examples = examplesOf(batch) / (subject.objective?.rows_per_example ?? 1);
    const { loss, logits } = subject.evaluate(batch, args.label_smoothing_factor, wanted);
    try {
      if (loss) {
        sum += (await loss.readFloats())[0]! * examples;
        counted += examples;
        await subject.objective?.noted("eval");
      }
      if (logits) pieces.push({ data: (await logits.readFloats()).slice(), shape: logits.shape });
    } finally {
      loss?.dispose();
      logits?.dispose();
      subject.objective?.forget();
    }
    if (wanted) labels.push(...labelsOf(batch, subject.labelled(batch)));
    samples += examples;
    batches++;
    await step();
  }
  const metrics: Logs = counted > 0 ? { [`${prefix}_loss`]: sum / counted } : {};
  let prediction: EvalPrediction | undefined;
  if (wanted) {
    prediction = { predictions: joined(pieces), label_ids: labels.length > 0 ? paddedRows(labels) : undefined };
    if (compute_metrics && labels.length > 0) {
      const given: unknown = await compute_metrics(prediction);
      if (typeof given !== "object" || given === null) {
        throw new OptionError(`compute_metrics must give an object of numbers, got ${show(given)}`);
      }
      for (const [name, value] of Object.entries(given)) {
        metrics[name.startsWith(`${prefix}_`) ? name : `${prefix}_${name}`] = value as number;
      }
    }
  }
  return { metrics: { ...metrics, ...speedMetrics(prefix, start, samples, batches) }, prediction };
}
