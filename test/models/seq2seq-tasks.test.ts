// Encoder-decoders as features, and as judges of texts, of tokens and of where answers are, against transformers
// (fixtures/make_seq2seq_tasks.py).

import { readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { describe, expect, test } from "vitest";
import { OptionError } from "../../src/core/errors.js";
import type { Tensor } from "../../src/core/tensor.js";
import {
  AutoModel,
  AutoModelForMaskedLM,
  AutoModelForQuestionAnswering,
  AutoModelForSeq2SeqLM,
  AutoModelForSequenceClassification,
  AutoModelForTokenClassification,
  type FromPretrainedOptions,
} from "../../src/generate/auto.js";
import type { PreTrainedEncoder } from "../../src/generate/encoder-model.js";
import { architectureOf, taskFor } from "../../src/models/index.js";
import { copyOf, editJson } from "../support/checkpoints.js";
import { expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference, FIXTURES, largest, readArrays, readJson } from "../support/fixtures.js";
import { expectQuantized, QUANTIZED, type Tolerance } from "../support/golden.js";
import { type HeadTensor, withHead } from "../support/heads.js";
import { temporary } from "../support/temporary.js";

interface Inputs {
  input_ids: number[][];
  attention_mask?: number[][];
}
type Gradients = Record<string, { norm: number; dot: number }>;
type Outputs = Record<string, number[]>;
interface Case {
  name: string;
  task: keyof typeof CLASSES;
  class: string;
  heads: Record<string, HeadTensor>;
  inputs: Record<"single" | "batch", Inputs>;
  outputs: string[];
  labels: object;
  loss?: number;
  gradients?: Gradients;
  tolerance_fp32: number;
  quantized_modules: string[];
  /** Names in a file of transformers. */
  stored: string[];
  single: Outputs;
  batch: Outputs;
  quantized: Record<string, { values: number[]; suggested_tolerance?: Record<string, Tolerance> }>;
}
const CLASSES = {
  base: AutoModel,
  "sequence-classification": AutoModelForSequenceClassification,
  "token-classification": AutoModelForTokenClassification,
  "question-answering": AutoModelForQuestionAnswering,
};
const { tasks: cases, umt5 } = readJson<{
  tasks: Case[];
  umt5: { inputs: Record<string, number[][]>; loss: number; gradients: Gradients };
}>("seq2seq-tasks.json");
const LABELS = { id2label: { 0: "A", 1: "B", 2: "C" } };

const folderOf = (one: Case): string =>
  withHead(one.name, one.heads, one.task.endsWith("classification") ? LABELS : {});
const load = (one: Case, folder: string, options: FromPretrainedOptions): Promise<PreTrainedEncoder> =>
  CLASSES[one.task].from_pretrained(folder, options) as Promise<PreTrainedEncoder>;

async function run(model: PreTrainedEncoder, one: Case, inputs: Inputs): Promise<Record<string, Float32Array>> {
  const results = model.forward(inputs) as unknown as Record<string, Tensor>;
  const found: Record<string, Float32Array> = {};
  for (const output of one.outputs) found[output] = await results[output]!.readFloats();
  for (const tensor of Object.values(results)) tensor.dispose();
  return found;
}

/** What stands at real tokens; all of an output that has one place for each text. */
function real(values: ArrayLike<number>, { input_ids, attention_mask }: Inputs): number[] {
  const mask = attention_mask?.flat();
  const places = input_ids.flat().length;
  if (!mask || values.length % places !== 0) return Array.from(values);
  const width = values.length / places;
  return Array.from(values).filter((_, i) => mask[Math.floor(i / width)] === 1);
}

/** What is asked of a model of any kind that learns. */
interface Learner {
  forward(inputs: object): Record<string, Tensor>;
  backward(loss: Tensor): Promise<number>;
  requires_grad_(on: boolean): unknown;
  zero_grad(): void;
  named_parameters(): Iterable<[string, { grad?: Tensor | undefined }]>;
}

/** The fixture's are those of float64; f32 has some seven digits, and gradients are sums of many numbers. */
async function expectGradients(model: Learner, inputs: object, loss: number, gradients: Gradients): Promise<void> {
  model.requires_grad_(true);
  const results = model.forward(inputs);
  expect((await model.backward(results.loss!)) / loss).toBeCloseTo(1, 4);
  for (const tensor of Object.values(results)) tensor.dispose();
  const parameters = new Map(model.named_parameters());
  expect(Object.keys(gradients).length).toBeGreaterThanOrEqual(5);
  for (const [name, { norm, dot }] of Object.entries(gradients)) {
    const g = await parameters.get(name)!.grad!.readFloats();
    expect(Math.abs(Math.hypot(...g) - norm), name).toBeLessThan(2e-4 * norm);
    const sum = g.reduce((all, one, i) => all + one * Math.sin(i + 1), 0);
    expect(Math.abs(sum - dot), name).toBeLessThan(2e-4 * norm);
  }
  model.zero_grad();
}

test("umt5 learns", async () => {
  const device = await requestTestDevice("cpu");
  const model = await AutoModelForSeq2SeqLM.from_pretrained(join(FIXTURES, "models", "umt5"), { device });
  await expectGradients(model as unknown as Learner, umt5.inputs, umt5.loss, umt5.gradients);
  model.dispose();
  expectNoLeaks(device);
  await device.close();
});

describe.each(cases.map((one) => [one.class, one] as const))("%s", (name, one) => {
  test.each(["cpu", "reference", "wasm"] as const)("f32 on %s", async (where) => {
    const device = await requestTestDevice(where);
    const model = await load(one, folderOf(one), { device });
    expect(model.module.class_name).toBe(name);
    if (/T5/.test(name)) expect(model.warnings).toEqual([]);
    for (const key of ["single", "batch"] as const) {
      const got = await run(model, one, one.inputs[key]);
      for (const output of one.outputs) {
        const [ours, theirs] = [got[output]!, one[key][output]!].map((x) => real(x, one.inputs[key]));
        expect(difference(ours!, theirs!).max, output).toBeLessThan(one.tolerance_fp32);
      }
    }
    if (one.gradients) {
      await expectGradients(
        model as unknown as Learner,
        { ...one.inputs.batch, ...one.labels },
        one.loss!,
        one.gradients,
      );
    }
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  test("rows of a padded batch are those of each text alone, on either side", async () => {
    const model = await load(one, folderOf(one), { device: "cpu" });
    const { input_ids, attention_mask } = one.inputs.batch;
    const texts = input_ids.map((ids, row) => ids.filter((_, t) => attention_mask![row]![t] === 1));
    const longest = Math.max(...texts.map(({ length }) => length));
    const left: Inputs = {
      input_ids: texts.map((ids) => [...new Array<number>(longest - ids.length).fill(3), ...ids]),
      attention_mask: texts.map((ids) => Array.from({ length: longest }, (_, t) => Number(t >= longest - ids.length))),
    };
    // A decoder reads the padding before a text, in transformers too, and BART's positions count it.
    const sides =
      one.task === "base" || one.task === "token-classification" ? [one.inputs.batch, left] : [one.inputs.batch];
    for (const batch of sides) {
      const together = await run(model, one, batch);
      for (const output of one.outputs) {
        const alone: number[] = [];
        for (const ids of texts) alone.push(...(await run(model, one, { input_ids: [ids] }))[output]!);
        expect(difference(real(together[output]!, batch), alone).max).toBeLessThan(one.tolerance_fp32);
      }
    }
    model.dispose();
  });

  test.each(Object.keys(one.quantized))("%s, saved and loaded again", async (scheme) => {
    const options = { device: "cpu", quantization_config: QUANTIZED[scheme]! } as const;
    const model = await load(one, folderOf(one), options);
    expect([...model.quantized_modules].sort()).toEqual([...one.quantized_modules].sort());
    const last = one.outputs.at(-1)!;
    const got = await run(model, one, one.inputs.single);
    const { values, suggested_tolerance } = one.quantized[scheme]!;
    expectQuantized(got[last]!, values, one.single[last]!, suggested_tolerance?.single, one.tolerance_fp32);
    const saved = temporary("judge");
    await model.save_pretrained(saved);
    model.dispose();
    const again = await load(one, saved, { device: "cpu" });
    expect(again.warnings).toEqual([]);
    expect((await run(again, one, one.inputs.single))[last]).toEqual(got[last]);
    again.dispose();
  });

  test("is saved under transformers' names, and is known by them", async () => {
    const model = await load(one, folderOf(one), { device: "reference" });
    const saved = temporary("judge");
    await model.save_pretrained(saved);
    model.dispose();
    const bytes = readFileSync(join(saved, "model.safetensors"));
    const header = JSON.parse(bytes.toString("utf8", 8, 8 + Number(bytes.readBigUInt64LE(0)))) as object;
    const names = Object.keys(header).filter((key) => key !== "__metadata__");
    expect(names.sort()).toEqual([...one.stored].sort());
    const config = { ...JSON.parse(readFileSync(join(saved, "config.json"), "utf8")), architectures: [one.class] };
    expect(taskFor(config, await architectureOf(config))).toBe(one.task);
  });
});

const judges = cases.filter(({ task }) => task === "sequence-classification");
test.each(judges.map((one) => [one.class, one] as const))("%s refuses texts without an end", async (_, one) => {
  const model = await load(one, folderOf(one), { device: "reference" });
  const input_ids = one.inputs.single.input_ids.map((ids) => ids.map((id) => (id <= 2 ? 5 : id)));
  expect(() => model.forward({ input_ids })).toThrow(OptionError);
  model.dispose();
});

// The fixtures of these have the logits of both stacks; what the decoder of a judge reads, the tests above say.
test.each(["bart", "mbart"])("%s fills masks by the decoder's state before them", async (name) => {
  const folder = join(FIXTURES, "models", name);
  const { single, batch } = readJson<{ inputs: Record<"single" | "batch", Inputs> }>(
    "models",
    name,
    "expected.json",
  ).inputs;
  const pad = 1;
  const seq2seq = await AutoModelForSeq2SeqLM.from_pretrained(folder, { device: "cpu" });
  const masked = await AutoModelForMaskedLM.from_pretrained(folder, { device: "cpu" });
  expect([masked.module.class_name, masked.warnings]).toEqual([seq2seq.module.class_name, []]);
  for (const { input_ids, attention_mask } of [single, batch]) {
    const decoder_input_ids = input_ids.map((ids) => {
      const first = name === "bart" ? 2 : ids.filter((id) => id !== pad).at(-1)!;
      return [first, ...ids.slice(0, -1)];
    });
    const given = { input_ids, ...(attention_mask ? { attention_mask } : {}) };
    const want = seq2seq.forward({ ...given, decoder_input_ids });
    const got = masked.forward(given);
    expect(got.logits.shape).toEqual(want.logits.shape);
    expect(difference(await got.logits.readFloats(), await want.logits.readFloats()).max).toBeLessThan(1e-5);
    for (const tensor of [want.logits, want.encoder_last_hidden_state, got.logits]) tensor.dispose();
  }
  const saved = temporary("masked");
  await masked.save_pretrained(saved);
  const stored = (at: string) => readArrays(relative(FIXTURES, at), "model.safetensors");
  expect(stored(saved)).toEqual(stored(folder));
  masked.dispose();
  seq2seq.dispose();
});

describe("class names in config.json", () => {
  test.each([
    ["t5", "T5Model", "seq2seq-lm"],
    ["t5", "T5WithLMHeadModel", "seq2seq-lm"],
    ["t5", "T5EncoderModel", "base"],
    ["umt5", "UMT5EncoderModel", "base"],
    ["bart", "BartModel", "seq2seq-lm"],
    ["marian", "MarianMTModel", "seq2seq-lm"],
    ["bert", "BertModel", "base"],
  ])("%s: %s is %s", async (model_type, name, task) => {
    const config = { model_type, architectures: [name] };
    expect(taskFor(config, await architectureOf(config))).toBe(task);
  });
});

interface Read {
  readonly values: number[];
  readonly weight_bytes: number;
  readonly warnings: readonly string[];
}

async function read(folder: string, options: FromPretrainedOptions = {}): Promise<Read> {
  const model = await AutoModelForSeq2SeqLM.from_pretrained(folder, { device: "reference", ...options });
  const { logits, encoder_last_hidden_state } = model.forward({ input_ids: [[5, 9, 1]], decoder_input_ids: [[0, 7]] });
  const values = [...(await logits.readFloats())];
  for (const tensor of [logits, encoder_last_hidden_state]) tensor.dispose();
  const { weight_bytes, warnings } = model;
  model.dispose();
  return { values, weight_bytes, warnings };
}

// Files of T5 1.1, mT5 and UMT5 say so, and have a head of their own; transformers ties what a file does not have.
test.each([
  ["mt5", 1],
  ["umt5", Math.sqrt(16)], // whose states are made smaller before a shared head alone, as the models were trained
])("%s without a head shares the embedding, whatever config.json says", async (name, factor) => {
  const folder = copyOf("models", name);
  editJson(join(folder, "config.json"), { tie_word_embeddings: false });
  for (const options of [{}, { load_in_8bit: true }]) {
    const { values, ...rest } = await read(folder, options);
    const shared = await read(join(FIXTURES, "models", name), options);
    expect(rest).toEqual({ weight_bytes: shared.weight_bytes, warnings: [] });
    const want = shared.values.map((value) => value * factor);
    expect(difference(values, want).max).toBeLessThan(factor === 1 ? Number.MIN_VALUE : 2e-6 * largest(want));
  }
});
