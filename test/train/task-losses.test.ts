// Losses of models with heads for tasks, and their gradients, against transformers' (test/fixtures/make_task_losses.py).

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
  type FromPretrainedOptions,
} from "../../src/index.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { FIXTURES, readArrays, readJson } from "../support/fixtures.js";

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
  named_parameters(): Iterable<[string, { grad?: Tensor | undefined; shape: readonly number[] }]>;
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

  /** A case of each kind that is small also runs elsewhere. */
  const also = ["bert-tokens", "bert-answers", "wav2vec2-stable", "t5"];
  const runs = CASES.flatMap((one, n) =>
    [
      "cpu",
      ...(also.includes(one.model)
        ? ALL_DEVICES.filter((d) => d === "reference" || d === "wasm" || d === "webgpu")
        : []),
    ].map((name) => [name, `${n} ${one.model} ${one.kind} ${Object.keys(one.config)}`, one] as const),
  );
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
});
