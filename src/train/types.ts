// What a Trainer takes and gives.

import type { Optimizer } from "../bnb/optim/optimizer.js";
import type { FolderWriter } from "../checkpoints/folder.js";
import type { Tensor } from "../core/tensor.js";
import type { Matrix, Parameter } from "../nn/module.js";
import type { Source } from "../sources/source.js";
import type { TrainingArguments } from "./arguments.js";
import type { Logs, TrainerCallback } from "./callbacks.js";
import type { DataCollator, Dataset } from "./data/types.js";
import type { TrainingOptions } from "./options.js";
import type { LRScheduler } from "./schedules.js";

/** What a forward pass gives: tensors by name, of which `loss`, f32[1], is what is trained by. The caller disposes them. */
export type ForwardOutput = Readonly<Record<string, unknown>> & { readonly loss?: Tensor };

/** A model that can be trained: one of from_pretrained, or a Module of octavo/nn whose forward takes a batch and gives a loss. */
export interface TrainableModel {
  forward(batch: never): object;
  named_parameters(): Iterable<[string, Parameter | Matrix]>;
}

/** Where checkpoints are: folders by their paths, written as a whole. In Node it is the disk. */
export interface CheckpointStore extends FolderWriter {
  /** Names of the folders in a folder; none if it is not there. */
  folders(folder: string): Promise<readonly string[]>;
  /** Opens a folder. The caller closes it. @throws NotFoundError */
  open(folder: string): Promise<Source>;
  /** Removes a folder with all that is in it. */
  remove(folder: string): Promise<void>;
}

/** What `compute_metrics` gets of an evaluation: values of all examples, padded with -100 to the same lengths. */
export interface EvalPrediction {
  /**
   * The logits (the first output that is no loss), f32, and their shape; texts of several lengths are padded to the longest. Of answers
   * [N,T,2]: of their starts and their ends.
   */
  readonly predictions: { readonly data: Float32Array; readonly shape: readonly number[] };
  /** [N][..]: the labels (of answers [N][2]), or undefined if there are none. */
  readonly label_ids: readonly unknown[] | undefined;
}

/**
 * A loss of what the model gave without labels: a sum over `num_items`, as the losses of an update's batches are added.
 * @param num_items labels that count in all batches of the update; undefined when evaluating and where batches have no labels, for the mean
 * over the batch
 */
export type LossFunction = (outputs: ForwardOutput, labels: unknown, num_items: number | undefined) => Tensor;

export interface TrainerOptions {
  readonly model: TrainableModel;
  readonly args?: TrainingArguments | TrainingOptions;
  /** By default pads to the longest with the tokenizer's padding, and makes `labels` of `label` (DataCollatorWithPadding). */
  readonly data_collator?: DataCollator;
  readonly train_dataset?: Dataset;
  /** One, or several by name: the metrics of "x" are then called eval_x_loss and so on. */
  readonly eval_dataset?: Dataset | Readonly<Record<string, Dataset>>;
  /** The tokenizer: it pads. */
  readonly processing_class?: unknown;
  /** The same, by its older name. */
  readonly tokenizer?: unknown;
  readonly compute_metrics?: (prediction: EvalPrediction) => Logs | Promise<Logs>;
  /** Instead of the model's own loss. */
  readonly compute_loss_func?: LossFunction;
  readonly callbacks?: readonly TrainerCallback[];
  /** Instead of those that `args` says: an optimizer over the model's parameters, and a schedule over it. */
  readonly optimizers?: readonly [optimizer?: Optimizer | null, lr_scheduler?: LRScheduler | null];
  /** Where checkpoints are written, if not on the disk. */
  readonly checkpoints?: CheckpointStore;
}

export interface TrainOptions {
  /** True for the last checkpoint in output_dir, or the path of one: training goes on there as if it had never ended. */
  readonly resume_from_checkpoint?: boolean | string | null;
  /** Ends the run after the update that is being made: it saves a checkpoint and throws an AbortError. */
  readonly signal?: AbortSignal;
}

export interface TrainOutput {
  readonly global_step: number;
  /** The mean of the losses of all updates. */
  readonly training_loss: number;
  readonly metrics: Logs;
}

export interface PredictionOutput extends EvalPrediction {
  readonly metrics: Logs;
}
