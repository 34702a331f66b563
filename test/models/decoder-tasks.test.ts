// Decoders as features, and as judges of texts and of tokens, against transformers (fixtures/make_decoder_tasks.py).

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { OptionError } from "../../src/core/errors.js";
import {
  AutoModel,
  AutoModelForSequenceClassification,
  AutoModelForTokenClassification,
} from "../../src/generate/auto.js";
import { copyOf } from "../support/checkpoints.js";
import { difference, FIXTURES, readJson } from "../support/fixtures.js";
import { type HeadTensor, withHead } from "../support/heads.js";
import { temporary } from "../support/temporary.js";

interface Inputs {
  input_ids: number[][];
  attention_mask?: number[][];
}
interface Case {
  name: string;
  pad_token_id: number;
  texts: number[][];
  padded: Inputs;
  left: Inputs;
  last_hidden_state: number[][];
  class: string;
  score: number[];
  logits: number[][];
  batch: number[];
  loss: number;
  tagger?: { class: string; head: string; weight: number[]; bias: number[] };
  tags?: number[][];
}
const cases = readJson<Case[]>("decoder-tasks.json");
/** The decoders' own tolerances in f32 are 1e-4 and more; their heads here add numbers of about 1. */
const BOUND = 2e-4;

const LABELS = { id2label: { 0: "A", 1: "B", 2: "C" } };
/** Of three labels. */
const matrix = (values: number[]): HeadTensor => ({ shape: [3, values.length / 3], values });

describe.each(cases.map((one) => [one.name, one] as const))("%s", (name, one) => {
  test("states", async () => {
    const model = await AutoModel.from_pretrained(join(FIXTURES, "models", name), { device: "cpu" });
    for (const inputs of [one.padded, one.left]) {
      const { last_hidden_state } = model.forward(inputs as never);
      const [, steps = 0, width = 0] = last_hidden_state.shape;
      const values = await last_hidden_state.readFloats();
      for (const [row, want] of one.last_hidden_state.entries()) {
        const first = inputs.attention_mask![row]!.indexOf(1);
        const from = (row * steps + first) * width;
        expect(difference(values.subarray(from, from + want.length), want).max).toBeLessThan(BOUND);
      }
      last_hidden_state.dispose();
    }
    model.dispose();
  });

  test.each(["cpu", "reference"] as const)("judges texts on %s", async (device) => {
    const folder = withHead(name, { "score.weight": matrix(one.score) }, { ...LABELS, pad_token_id: one.pad_token_id });
    const model = await AutoModelForSequenceClassification.from_pretrained(folder, { device });
    expect(model.module.class_name).toBe(one.class);
    for (const inputs of [one.padded, one.left]) {
      const { logits, loss } = model.forward({ ...inputs, labels: [2, 0, 1] });
      const values = await logits.readFloats();
      if (inputs === one.padded) expect(difference(values, one.batch).max).toBeLessThan(BOUND);
      expect(difference(values, one.logits.flat()).max).toBeLessThan(BOUND);
      expect((await loss!.readFloats())[0]).toBeCloseTo(one.loss, 4);
      for (const tensor of [logits, loss!]) tensor.dispose();
    }
    model.dispose();
  });

  test.skipIf(!one.tagger)("judges tokens", async () => {
    const { head, weight, bias, class: named } = one.tagger!;
    const tensors = { [`${head}.weight`]: matrix(weight), [`${head}.bias`]: { shape: [3], values: bias } };
    const folder = withHead(name, tensors, LABELS);
    const model = await AutoModelForTokenClassification.from_pretrained(folder, { device: "cpu" });
    expect(model.module.class_name).toBe(named);
    const { logits } = model.forward(one.padded);
    const values = await logits.readFloats();
    const steps = one.padded.input_ids[0]!.length;
    for (const [row, want] of one.tags!.entries()) {
      const part = values.subarray(3 * row * steps, 3 * row * steps + want.length);
      expect(difference(part, want).max).toBeLessThan(BOUND);
    }
    logits.dispose();
    model.dispose();
  });
});

test("a judge in 8 bits keeps its head, and is saved and loaded again", async () => {
  const one = cases[0]!;
  const folder = withHead(
    one.name,
    { "score.weight": matrix(one.score) },
    { ...LABELS, pad_token_id: one.pad_token_id },
  );
  const model = await AutoModelForSequenceClassification.from_pretrained(folder, { device: "cpu", load_in_8bit: true });
  expect(model.quantized_modules.some((path) => path.includes("score"))).toBe(false);
  expect(model.quantized_modules.length).toBeGreaterThan(5);
  const read = async (of: typeof model) => {
    const { logits } = of.forward(one.padded);
    const values = await logits.readFloats();
    logits.dispose();
    return values;
  };
  const values = await read(model);
  const out = temporary("judge");
  await model.save_pretrained(out);
  model.dispose();
  const again = await AutoModelForSequenceClassification.from_pretrained(out, { device: "cpu" });
  expect(await read(again)).toEqual(values);
  again.dispose();
});

test("several texts need padding to be known", async () => {
  const one = cases[0]!;
  const folder = withHead(one.name, { "score.weight": matrix(one.score) }, { ...LABELS, pad_token_id: null });
  const model = await AutoModelForSequenceClassification.from_pretrained(folder, { device: "cpu" });
  expect(() => model.forward(one.padded)).toThrow(OptionError);
  const { logits } = model.forward({ input_ids: [one.texts[0]!] });
  expect(difference(await logits.readFloats(), one.logits[0]!).max).toBeLessThan(BOUND);
  logits.dispose();
  model.dispose();
});

test("the last token's state is a text's vector where modules.json says so", async () => {
  const one = cases.find(({ name }) => name === "qwen3")!;
  const folder = copyOf("models", one.name);
  const type = (kind: string) => `sentence_transformers.models.${kind}`;
  const modules = [
    { idx: 0, name: "0", path: "", type: type("Transformer") },
    { idx: 1, name: "1", path: "1_Pooling", type: type("Pooling") },
    { idx: 2, name: "2", path: "2_Normalize", type: type("Normalize") },
  ];
  writeFileSync(join(folder, "modules.json"), JSON.stringify(modules));
  mkdirSync(join(folder, "1_Pooling"));
  const pooling = { pooling_mode_cls_token: false, pooling_mode_mean_tokens: false, pooling_mode_lasttoken: true };
  writeFileSync(join(folder, "1_Pooling", "config.json"), JSON.stringify(pooling));
  const model = await AutoModel.from_pretrained(folder, { device: "cpu" });
  for (const inputs of [one.padded, one.left]) {
    const { last_hidden_state, sentence_embedding } = model.forward(inputs as never);
    const values = await sentence_embedding!.readFloats();
    const width = values.length / one.texts.length;
    for (const [row, states] of one.last_hidden_state.entries()) {
      const last = states.slice(-width);
      const norm = Math.hypot(...last);
      const want = last.map((x) => x / norm);
      expect(difference(values.subarray(row * width, (row + 1) * width), want).max).toBeLessThan(1e-5);
    }
    for (const tensor of [last_hidden_state, sentence_embedding!]) tensor.dispose();
  }
  model.dispose();
});
