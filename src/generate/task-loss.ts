// What models with heads for a task learn from, and their losses, as transformers has them: classes of whole inputs and of tokens, numbers,
// answers in a text, texts of sounds. Labels are read and checked before anything is recorded.

import { OptionError, ShapeError } from "../core/errors.js";
import { show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import { labelCount } from "../models/_config.js";
import type { ConfigJson } from "../nn/architecture.js";
import { ctcLoss } from "../nn/ctc.js";
import { mse_loss } from "../nn/functional.js";
import { add } from "../ops/add.js";
import { copyInto } from "../ops/copy.js";
import { crossEntropy, IGNORED } from "../ops/cross-entropy.js";
import { filled } from "../ops/fill.js";
import { multiply } from "../ops/gated.js";
import { scale } from "../ops/scale.js";
import { sumRows } from "../ops/sum-rows.js";
import { type Batch, type Ids, table } from "./inputs.js";
import { type LossReduction, lossOf, tokenLabels } from "./labels.js";

/** Records the loss of a model's outputs, f32[1]. */
export type Loss = (outputs: Readonly<Record<string, Tensor>>) => Tensor;

/** What a call says about its loss. */
export interface LossInputs extends LossReduction {
  readonly labels?: Ids | undefined;
  readonly start_positions?: Ids | undefined;
  readonly end_positions?: Ids | undefined;
}

/** The shape of a batch of inputs. */
type Shape = Pick<Batch, "rows" | "steps" | "mask">;

/** @throws OptionError for options of a loss that a call does not have */
function refuseLossOptions(inputs: LossInputs, names: readonly (keyof LossInputs)[], why: string): void {
  const given = names.find((name) => inputs[name] !== undefined);
  if (given) throw new OptionError(`forward: ${given}: ${why}`, { details: { option: given } });
}

/** A model that a loss is about. */
interface TaskModel {
  readonly task: string;
  readonly config: ConfigJson;
}

const REDUCTION = ["num_items_in_batch", "label_smoothing"] as const;

/**
 * The loss of an encoder for a task; undefined if nothing is given to learn from.
 * @throws ShapeError, OptionError
 */
export function encoderLoss(model: TaskModel, inputs: LossInputs, shape: Shape, vocab: number): Loss | undefined {
  const { task, config } = model;
  if (task === "question-answering") {
    refuseLossOptions(inputs, ["labels", ...REDUCTION], "answers are learned from start_positions and end_positions");
    return answerLoss(inputs, shape);
  }
  refuseLossOptions(inputs, ["start_positions", "end_positions"], `a model for ${task} gives no answers`);
  if (inputs.labels === undefined) {
    refuseLossOptions(inputs, REDUCTION, "it is about a loss: pass labels");
    return undefined;
  }
  switch (task) {
    case "masked-lm":
    case "token-classification":
      return tokenLoss(inputs.labels, shape, task === "masked-lm" ? vocab : labelCount(config), inputs);
    case "sequence-classification":
      return classLoss(config, inputs.labels, shape.rows, inputs);
    default:
      throw noHead(task);
  }
}

/** @throws OptionError for labels of a model that has no head for a task */
function noHead(task: string): OptionError {
  return new OptionError(`forward: labels: a model for ${task} has no head that learns from them`, {
    details: { option: "labels" },
    hint: "load it for a task, by AutoModelForSequenceClassification and the like",
  });
}

/**
 * The loss of a model of images or sound for a task; undefined if nothing is given to learn from.
 * @param lengths positions of each row that count, of sound
 * @throws ShapeError, OptionError
 */
export function featureLoss(
  { task, config }: TaskModel,
  inputs: LossInputs,
  rows: number,
  lengths: () => readonly number[],
): Loss | undefined {
  if (inputs.labels === undefined) {
    refuseLossOptions(inputs, REDUCTION, "it is about a loss: pass labels");
    return undefined;
  }
  switch (task) {
    case "image-classification":
      return classLoss(config, inputs.labels, rows, inputs);
    case "audio-classification":
      return classLoss({ ...config, problem_type: "single_label_classification" }, inputs.labels, rows, inputs);
    case "ctc":
      refuseLossOptions(inputs, REDUCTION, "config.json says how the losses of texts become one: ctc_loss_reduction");
      return soundLoss(config, inputs.labels, lengths());
    default:
      throw noHead(task);
  }
}

function tokenLoss(given: Ids, shape: Shape, outcomes: number, how: LossReduction): Loss {
  const learned = tokenLabels(shape, given, outcomes, how.num_items_in_batch === undefined);
  return ({ logits }) => lossOf(logits!, learned, how);
}

/** Where answers begin and end. */
function answerLoss({ start_positions, end_positions }: LossInputs, { rows, steps }: Shape): Loss | undefined {
  if (start_positions === undefined && end_positions === undefined) return undefined;
  const [starts, ends] = Object.entries({ start_positions, end_positions }).map(([name, given]) => {
    if (given === undefined) throw new OptionError(`forward: ${name} is missing beside the other end of the answers`);
    const values = table(name, given).flat();
    if (values.length !== rows)
      throw new ShapeError(`${name}: ${rows} rows want ${rows} positions, got ${values.length}`);
    // A position behind the text has no place here, and does not count.
    const targets = Int32Array.from(values, (value, row) => {
      if (Number.isSafeInteger(value) && value >= 0) return value >= steps ? IGNORED : value;
      throw new OptionError(`${name}[${row}] is ${show(value)}; positions are whole numbers of at least 0`);
    });
    const count = targets.filter((target) => target !== IGNORED).length;
    if (count > 0) return { targets, count };
    throw new OptionError(`${name}: all of them are behind the ${steps} tokens of the texts, so there is no loss`);
  });
  return ({ start_logits, end_logits }) =>
    scope(() => scale(add(lossOf(start_logits!, starts!), lossOf(end_logits!, ends!)), 0.5));
}

const PROBLEMS = ["regression", "single_label_classification", "multi_label_classification"] as const;
type Problem = (typeof PROBLEMS)[number];

/**
 * What a classifier's numbers mean: as config.json says, else numbers if there is one label, one class of several if each row has one
 * label, and any of them if it has as many as there are.
 * @throws ConfigError, OptionError
 */
function problemOf(config: ConfigJson, outcomes: number, wide: boolean): Problem {
  const { problem_type: said } = config;
  if (said === undefined || said === null) {
    if (outcomes === 1) return "regression";
    return wide ? "multi_label_classification" : "single_label_classification";
  }
  if ((PROBLEMS as readonly unknown[]).includes(said)) return said as Problem;
  throw new OptionError(`config.json: problem_type is ${show(said)}; it is one of ${PROBLEMS.join(", ")}`);
}

/** Whether labels of whole inputs are classes, of which -100 is none; of numbers it is one. */
export function hasClasses({ task, config }: TaskModel): boolean {
  if (task === "audio-classification") return true;
  if (task !== "sequence-classification" && task !== "image-classification") return false;
  return problemOf(config, labelCount(config), false) === "single_label_classification";
}

/**
 * The loss of a classifier of whole inputs: cross-entropy, its binary kind for each label, or the mean squared error.
 * @param given one label for each row, or [B,labels]
 * @throws ShapeError, OptionError
 */
function classLoss(config: ConfigJson, given: Ids, rows: number, how: LossReduction): Loss {
  const outcomes = labelCount(config);
  const read = table("labels", given);
  const flat = read.flat();
  const single = flat.length === rows && (outcomes === 1 || read.length === 1 || read[0]!.length === 1);
  const wide = !single && read.length === rows && read.every((row) => row.length === outcomes);
  if (!single && !wide) {
    throw new ShapeError(
      `labels: ${rows} rows want one label each, or [${rows}, ${outcomes}], got ${flat.length} numbers`,
    );
  }
  const problem = problemOf(config, outcomes, wide);
  if (problem === "single_label_classification") {
    if (wide && outcomes > 1)
      throw new ShapeError(`labels: of ${outcomes} classes each row has one, got [${rows}, ${outcomes}]`);
    return tokenLoss(flat, { rows: 1, steps: rows, mask: undefined }, outcomes, how);
  }
  refuseLossOptions(how, REDUCTION, `it is for one class of several, and this is a ${problem.replaceAll("_", " ")}`);
  if (!wide && outcomes > 1) {
    throw new ShapeError(`labels: a ${problem.replaceAll("_", " ")} of ${outcomes} wants [${rows}, ${outcomes}]`);
  }
  const at = flat.findIndex((value) => !Number.isFinite(value));
  if (at >= 0) throw new OptionError(`labels: number ${at} is ${show(flat[at])}`);
  const values = Float32Array.from(flat);
  return ({ logits }) =>
    scope(() => {
      const targets = Tensor.from(logits!.device, values, logits!.shape);
      return problem === "regression" ? mse_loss(logits!, targets) : binaryLoss(logits!, values);
    });
}

/** Of logits f32 of something that is 1 or 0: -log σ(x), the surprise that it is 1, or -log σ(-x), that it is 0. As many in one dim. */
export function surprise(logits: Tensor, outcome: 0 | 1): Tensor {
  return scope(() => {
    const { device, size } = logits;
    // σ(x) is the softmax of x beside 0.
    const both = filled(device, [size, 2], 0);
    copyInto(logits.view(size, 1), both.narrow(1, 1, 1));
    return crossEntropy(both, Tensor.from(device, new Int32Array(size).fill(outcome), [size])).loss;
  });
}

/** The mean over labels y of -y log σ(x) - (1 - y) log σ(-x). */
function binaryLoss(logits: Tensor, labels: Float32Array): Tensor {
  return scope(() => {
    const { device, size } = logits;
    const weighed = (outcome: 0 | 1, weights: Float32Array): Tensor =>
      multiply(surprise(logits, outcome), Tensor.from(device, weights, [size]));
    const no = labels.map((label) => 1 - label);
    return scale(sumRows(add(weighed(0, no), weighed(1, labels)).view(size, 1)), 1 / size);
  });
}

/**
 * The loss of a recognizer of letters in sound.
 * @param lengths frames of each row that count
 * @throws ShapeError, OptionError
 */
function soundLoss(config: ConfigJson, given: Ids, lengths: readonly number[]): Loss {
  const vocab = Number(config.vocab_size); // checked when the model was built
  const rows = table("labels", given);
  if (rows.length !== lengths.length)
    throw new ShapeError(`labels: ${lengths.length} rows of sound, and ${rows.length} of labels`);
  const blank = config.pad_token_id ?? 0;
  if (typeof blank !== "number" || !Number.isSafeInteger(blank) || blank < 0 || blank >= vocab) {
    throw new OptionError(`config.json: pad_token_id, the blank between letters, is ${show(config.pad_token_id)}`);
  }
  const texts = rows.map((row, r) =>
    row.filter((label, t) => {
      if (label === IGNORED) return false;
      if (Number.isSafeInteger(label) && label >= 0 && label < vocab) return true;
      throw new OptionError(`labels[${r}][${t}] is ${show(label)}; they are ids 0 to ${vocab - 1}, or ${IGNORED}`);
    }),
  );
  const { ctc_loss_reduction: reduction = "sum", ctc_zero_infinity = false } = config;
  if (reduction !== "sum" && reduction !== "mean") {
    throw new OptionError(`config.json: ctc_loss_reduction is ${show(reduction)}; it is "sum" or "mean"`);
  }
  const options = { blank, reduction, zero_infinity: ctc_zero_infinity === true } as const;
  return ({ logits }) => ctcLoss(logits!, texts, lengths, options);
}
