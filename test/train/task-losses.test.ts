// Losses of models with heads for tasks, and their gradients, against transformers' (test/fixtures/make_task_losses.py).

import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import type { Tensor } from "../../src/core/tensor.js";
import {
  AutoModelForCTC,
  AutoModelForImageClassification,
  AutoModelForMaskedLM,
  AutoModelForQuestionAnswering,
  AutoModelForSeq2SeqLM,
  AutoModelForSequenceClassification,
  AutoModelForSpeechSeq2Seq,
  AutoModelForTokenClassification,
  AutoTokenizer,
  type FromPretrainedOptions,
  type PreTrainedTokenizer,
} from "../../src/index.js";
import type { Matrix, Parameter } from "../../src/nn/index.js";
import {
  DataCollatorForSeq2Seq,
  DataCollatorForTokenClassification,
  DataCollatorWithPadding,
  Trainer,
} from "../../src/train.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { FIXTURES, readArrays, readJson } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

interface Case {
  readonly model: string;
  readonly kind: keyof typeof KINDS;
  readonly inputs: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly labels?: number[] | number[][];
  readonly start_positions?: number[];
  readonly end_positions?: number[];
  /** The decoder reads the inputs' ids, not the labels. */
  readonly own?: boolean;
  readonly loss: number;
  readonly tolerance: number;
  readonly gradients: Readonly<Record<string, { norm: number; dot: number }>>;
}

const KINDS = {
  MaskedLM: AutoModelForMaskedLM,
  TokenClassification: AutoModelForTokenClassification,
  SequenceClassification: AutoModelForSequenceClassification,
  QuestionAnswering: AutoModelForQuestionAnswering,
  ImageClassification: AutoModelForImageClassification,
  CTC: AutoModelForCTC,
  Seq2SeqLM: AutoModelForSeq2SeqLM,
  SpeechSeq2Seq: AutoModelForSpeechSeq2Seq,
} as const;

type Inputs = Record<string, unknown>;
/** What this file needs of a model of any kind. */
interface Learner {
  forward(inputs: Inputs): { loss: Tensor } & Record<string, Tensor>;
  backward(loss: Tensor): Promise<number>;
  requires_grad_(on: boolean): unknown;
  named_parameters(): Iterable<[string, Parameter | Matrix]>;
  zero_grad(): void;
  readonly config: Record<string, unknown>;
  dispose(): void;
}

const CASES = readJson<Case[]>("torch", "task_losses.json");

function inputsOf({ model, inputs, labels, start_positions, end_positions, own }: Case): Inputs {
  const { inputs: all } = readJson<{ inputs: Record<string, Record<string, unknown>> }>(
    "models",
    model,
    "expected.json",
  );
  const given = Object.entries(all[inputs]!).flatMap(([name, value]): [string, unknown][] => {
    if (name === "decoder_input_ids" && !own) return [];
    if (Array.isArray(value)) return [[name, value]];
    const { values, shape } = readArrays("models", model, "expected.safetensors").get(
      (value as { tensor: string }).tensor,
    )!;
    return [[name, { data: values, shape }]];
  });
  const learned = Object.entries({ labels, start_positions, end_positions }).filter(([, value]) => value !== undefined);
  return Object.fromEntries([...given, ...learned]);
}

/** A tokenizer that pads with 0. */
function tokenizer(): Promise<PreTrainedTokenizer> {
  const folder = temporary("words");
  mkdirSync(folder, { recursive: true });
  copyFileSync(join(FIXTURES, "tokenizers", "words-vocab.txt"), join(folder, "vocab.txt"));
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify({ tokenizer_class: "BertTokenizer" }));
  return AutoTokenizer.from_pretrained(folder, { padding_side: "right" });
}

/** As in the fixture: the norm, and the sum of g[i] sin(i + 1). */
function summary(g: Float32Array): { norm: number; dot: number } {
  let [squares, dot] = [0, 0];
  for (const [i, one] of g.entries()) {
    squares += one * one;
    dot += one * Math.sin(i + 1);
  }
  return { norm: Math.sqrt(squares), dot };
}

describe("losses of tasks", () => {
  let device: Device;
  let model: Learner | undefined;
  const load = async (name: string, one: Pick<Case, "model" | "kind" | "config">): Promise<Learner> => {
    device = await requestTestDevice(name);
    const options: FromPretrainedOptions = { device };
    model = (await KINDS[one.kind].from_pretrained(join(FIXTURES, "models", one.model), options)) as unknown as Learner;
    Object.assign(model.config, one.config);
    return model;
  };
  afterEach(async () => {
    model?.dispose();
    model = undefined;
    if (!device) return;
    expectNoLeaks(device);
    await device.close();
  });

  // The ops have tests on all devices; here a model with attention to padding, and models with relative positions.
  const also: Readonly<Record<string, readonly string[]>> = {
    "bert-answers single": ["reference"],
    "t5 own": ["wasm"],
    "deberta-v2 batch": ["reference", "wasm", "webgpu"],
  };
  const runs = CASES.flatMap((one, n) => {
    const more = also[`${one.model} ${one.own ? "own" : one.inputs}`] ?? [];
    const names = ["cpu", ...ALL_DEVICES.filter((name) => more.includes(name))];
    return names.map((name) => [name, `${n} ${one.model} ${one.kind} ${Object.keys(one.config)}`, one] as const);
  });
  test.each(runs)("%s: %s", async (name, _, one) => {
    const learner = await load(name, one);
    learner.requires_grad_(true);
    const outputs = learner.forward(inputsOf(one));
    expect(Math.abs((await learner.backward(outputs.loss)) / one.loss - 1)).toBeLessThan(one.tolerance);
    for (const output of Object.values(outputs)) output.dispose();
    let compared = 0;
    for (const [parameter, { grad, shape }] of learner.named_parameters()) {
      const golden = one.gradients[parameter];
      if (!golden) continue;
      const got = summary(await grad!.readFloats());
      expect(Math.abs(got.norm - golden.norm), parameter).toBeLessThan(one.tolerance * golden.norm);
      // Kernels of convolutions are stored in another order.
      if (shape.length <= 2)
        expect(Math.abs(got.dot - golden.dot), parameter).toBeLessThan(one.tolerance * golden.norm);
      compared++;
    }
    expect(compared).toBeGreaterThanOrEqual(3);
    learner.zero_grad();
  });

  interface Run {
    readonly model: string;
    readonly kind: "TokenClassification" | "SequenceClassification" | "QuestionAnswering" | "Seq2SeqLM";
    readonly examples: [ids: number[], labels: number | number[]][];
    readonly args: Readonly<Record<string, number>>;
    readonly losses: number[];
    readonly eval_loss: number;
  }

  test.each(readJson<Run[]>("torch", "task_trainer.json"))("the Trainer over $model, $args", async (run) => {
    const { kind, examples, args } = run;
    const learner = await load("cpu", { ...run, config: {} });
    const words = await tokenizer();
    const data_collator =
      kind === "TokenClassification"
        ? new DataCollatorForTokenClassification(words)
        : kind === "Seq2SeqLM"
          ? new DataCollatorForSeq2Seq(words, { model: learner })
          : new DataCollatorWithPadding(words);
    const data = examples.map(([input_ids, labels]) =>
      kind === "QuestionAnswering"
        ? { input_ids, start_positions: (labels as number[])[0], end_positions: (labels as number[])[1] }
        : { input_ids, labels },
    );
    const shapes: (readonly number[])[] = [];
    const trainer = new Trainer({
      model: learner,
      data_collator,
      train_dataset: data,
      eval_dataset: data,
      compute_metrics: ({ predictions: { shape }, label_ids }) => {
        shapes.push(shape);
        return { labels: label_ids!.length };
      },
      args: {
        learning_rate: 1e-3,
        num_train_epochs: 4,
        logging_steps: 1,
        lr_scheduler_type: "constant",
        optim: "adamw_torch",
        save_strategy: "no",
        ...args,
      },
    });
    await trainer.train();
    const losses = trainer.state.log_history.flatMap((log) => (log.loss === undefined ? [] : [log.loss]));
    // Adam divides by the root of squares, so that the smallest gradients, whose bits differ, move as far as the largest.
    const tolerance = 2e-3;
    expect(losses).toHaveLength(run.losses.length);
    for (const [i, loss] of losses.entries()) expect(Math.abs(loss / run.losses[i]! - 1)).toBeLessThan(tolerance);
    const { eval_loss, eval_labels } = await trainer.evaluate();
    expect(Math.abs(eval_loss! / run.eval_loss - 1)).toBeLessThan(tolerance);
    expect(eval_labels).toBe(3);
    const longest = (at: 0 | 1): number => Math.max(...examples.map((one) => [one[at]].flat().length));
    const golden = {
      TokenClassification: [3, longest(0), 4],
      SequenceClassification: [3, 5],
      QuestionAnswering: [3, longest(0), 2],
      Seq2SeqLM: [3, longest(1), 160],
    };
    expect(shapes).toEqual([golden[kind]]);
    const { predictions } = await trainer.predict(data);
    expect(predictions.shape).toEqual(golden[kind]);
  });

  test("a batch to evaluate on of which no label counts counts nothing, and has logits", async () => {
    const learner = await load("cpu", { model: "bert-tokens", kind: "TokenClassification", config: {} });
    const none = { input_ids: [9, 10, 11], labels: [-100, -100, -100] };
    const one = { input_ids: [5, 6, 7], labels: [1, -100, 2] };
    const metrics = async (rows: object[], more: object = {}) => {
      const args = { per_device_eval_batch_size: 1, save_strategy: "no" } as const;
      const trainer = new Trainer({ model: learner, eval_dataset: rows as never, args, ...more });
      return trainer.evaluate();
    };
    const { eval_loss } = await metrics([one]);
    expect((await metrics([none, one, none])).eval_loss).toBe(eval_loss);
    expect(await metrics([none])).not.toHaveProperty("eval_loss");
    const compute_metrics = ({
      predictions,
      label_ids,
    }: {
      predictions: { shape: readonly number[] };
      label_ids: unknown;
    }) => {
      return { rows: predictions.shape[0]! * (label_ids as unknown[]).length };
    };
    expect(await metrics([none, one], { compute_metrics })).toMatchObject({ eval_loss, eval_rows: 4 });
    await expect(metrics([{ ...none, labels: [-100, -100] }])).rejects.toThrow(/one number for each token/);
  });

  const ids = [5, 6, 7];
  test.each<[string, Case["kind"], object, object]>([
    ["bert-classifier", "SequenceClassification", { input_ids: ids, labels: -100 }, { input_ids: ids, labels: 2 }],
    [
      "bert-answers",
      "QuestionAnswering",
      { input_ids: ids, start_positions: 0, end_positions: 3 },
      { input_ids: ids, start_positions: 0, end_positions: 2 },
    ],
  ])("the same of %s: no class, or no answer in the text", async (model, kind, none, one) => {
    const learner = await load("cpu", { model, kind, config: {} });
    const evaluate = (rows: object[]) => {
      const args = { per_device_eval_batch_size: 1, save_strategy: "no" } as const;
      return new Trainer({ model: learner, eval_dataset: rows as never, args }).evaluate();
    };
    const { eval_loss } = await evaluate([one]);
    expect(eval_loss).toBeGreaterThan(0);
    expect((await evaluate([none, one])).eval_loss).toBe(eval_loss);
    expect(await evaluate([none])).not.toHaveProperty("eval_loss");
  });

  test("labels that are none are refused before anything is recorded", async () => {
    const ids = { input_ids: [[5, 6, 7]] };
    const tokens = await load("cpu", { model: "bert-tokens", kind: "TokenClassification", config: {} });
    const refused = (given: Inputs, message: RegExp): void =>
      expect(() => (model as Learner).forward({ ...ids, ...given })).toThrow(message);
    refused({ labels: [[1, 2]] }, /one number for each token, \[1, 3\]/);
    refused({ labels: [[1, 2, 9]] }, /labels\[0\]\[2\] is 9; they are 0 to 3/);
    refused({ labels: [[-100, -100, -100]] }, /none of them counts/);
    refused({ labels: [[1, 2, 3]], attention_mask: [[1, 1, 0]] }, /labels\[0\]\[2\] is 3, of a token that is padding/);
    refused(
      { start_positions: [1], end_positions: [2] },
      /start_positions: a model for token-classification gives no answers/,
    );
    refused({ label_smoothing: 0.1 }, /label_smoothing: it is about a loss/);
    tokens.dispose();
    await device.close();
    const texts = await load("cpu", { model: "bert-classifier", kind: "SequenceClassification", config: {} });
    refused({ labels: [1, 2] }, /1 rows want one label each, or \[1, 5\], got 2 numbers/);
    refused({ labels: [7] }, /is 7; they are 0 to 4/);
    refused({ labels: [[0, 1, 0, 0, 1]], label_smoothing: 0.1 }, /it is for one class of several/);
    Object.assign(texts.config, { problem_type: "regression" });
    refused({ labels: [1] }, /regression of 5 wants \[1, 5\]/);
    Object.assign(texts.config, { problem_type: "ranking" });
    refused({ labels: [1] }, /problem_type is "ranking"/);
    texts.dispose();
    await device.close();
    const answers = await load("cpu", { model: "bert-answers", kind: "QuestionAnswering", config: {} });
    refused({ start_positions: [1] }, /end_positions is missing/);
    refused({ start_positions: [3], end_positions: [1] }, /all of them are behind the 3 tokens/);
    refused({ start_positions: [-1], end_positions: [1] }, /start_positions\[0\] is -1/);
    refused({ labels: [1] }, /answers are learned from start_positions/);
    answers.dispose();
    await device.close();
    const sound = { input_values: { data: new Float32Array(600), shape: [1, 600] } };
    await load("cpu", { model: "wav2vec2-stable", kind: "CTC", config: {} });
    const heard = (labels: number[][], message: RegExp): void =>
      expect(() => model!.forward({ ...sound, labels })).toThrow(message);
    heard([new Array<number>(40).fill(5)], /40 of them need at least 79 frames, and the sound has \d+/);
    heard([[5, 20]], /labels\[0\]\[1\] is 20; they are ids 0 to 19/);
    heard([[5], [6]], /1 rows of sound, and 2 of labels/);
  });
});
