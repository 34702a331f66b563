// BART's classifier against the real library: logits of single and padded texts, 8 and 4 bits, saved and reloaded; a loss.

import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { OptionError } from "../../src/core/errors.js";
import { AutoModelForSequenceClassification } from "../../src/generate/auto.js";
import { difference, FIXTURES, readArrays, readJson } from "../support/fixtures.js";
import { expectQuantized, QUANTIZED, type Tolerance } from "../support/golden.js";
import { temporary } from "../support/temporary.js";

const NAME = "bart-classifier";
const FOLDER = join(FIXTURES, "models", NAME);
interface Case {
  input_ids: number[][];
  attention_mask?: number[][];
}
const expected = readJson<{
  inputs: Record<"batch" | "single", Case>;
  tolerance_fp32: number;
  quantized_modules: string[];
  quantized: Record<string, { suggested_tolerance?: Record<string, Tolerance> }>;
}>("models", NAME, "expected.json");
const arrays = readArrays("models", NAME, "expected.safetensors");
const golden = (key: string) => arrays.get(key)!.values;
const { batch, single } = expected.inputs;

type Model = Awaited<ReturnType<typeof AutoModelForSequenceClassification.from_pretrained>>;

async function logitsOf(model: Model, inputs: Case): Promise<Float32Array> {
  const { logits } = model.forward({ ...inputs });
  const values = await logits.readFloats();
  logits.dispose();
  return values;
}

describe.each(["cpu", "reference", "wasm"] as const)("on %s", (device) => {
  test("logits, and each text of a batch as alone", async () => {
    const model = await AutoModelForSequenceClassification.from_pretrained(FOLDER, { device });
    expect([model.module.class_name, model.warnings]).toEqual(["BartForSequenceClassification", []]);
    const bound = expected.tolerance_fp32;
    expect(difference(await logitsOf(model, single), golden("fp32.single.logits")).max).toBeLessThan(bound);
    const together = await logitsOf(model, batch);
    expect(difference(together, golden("fp32.batch.logits")).max).toBeLessThan(bound);
    for (const [row, ids] of batch.input_ids.entries()) {
      const alone = ids.filter((_, t) => batch.attention_mask![row]![t] === 1);
      const part = together.subarray(3 * row, 3 * row + 3);
      expect(difference(await logitsOf(model, { input_ids: [alone] }), part).max).toBeLessThan(bound);
    }
    model.dispose();
  });
});

test.each(Object.keys(expected.quantized))("%s", async (scheme) => {
  const quantization_config = QUANTIZED[scheme]!;
  const model = await AutoModelForSequenceClassification.from_pretrained(FOLDER, {
    device: "cpu",
    quantization_config,
  });
  expect([...model.quantized_modules].sort()).toEqual([...expected.quantized_modules].sort());
  const [stored, full] = [golden(`${scheme}.single.logits`), golden("fp32.single.logits")];
  const tolerance = expected.quantized[scheme]!.suggested_tolerance?.single;
  const logits = await logitsOf(model, single);
  expectQuantized(logits, stored, full, tolerance, expected.tolerance_fp32);
  const folder = temporary("judge");
  await model.save_pretrained(folder);
  model.dispose();
  const again = await AutoModelForSequenceClassification.from_pretrained(folder, { device: "cpu" });
  expect(await logitsOf(again, single)).toEqual(logits);
  again.dispose();
});

test("the loss of labels", async () => {
  const model = await AutoModelForSequenceClassification.from_pretrained(FOLDER, { device: "reference" });
  const labels = [2, 0, 1];
  const { logits, loss } = model.forward({ ...batch, labels });
  const rows = Array.from(golden("fp32.batch.logits"));
  const want = labels.reduce((sum, label, row) => {
    const own = rows.slice(3 * row, 3 * row + 3);
    return sum + Math.log(own.reduce((all, x) => all + Math.exp(x), 0)) - own[label]!;
  }, 0);
  expect((await loss!.readFloats())[0]).toBeCloseTo(want / 3, 5);
  for (const tensor of [logits, loss!]) tensor.dispose();
  model.dispose();
});

test("texts without an end, or with different numbers of them, are refused, and so are hidden states", async () => {
  const model = await AutoModelForSequenceClassification.from_pretrained(FOLDER, { device: "cpu" });
  for (const input_ids of [
    [[5, 6, 7]],
    [
      [5, 2, 2],
      [5, 6, 2],
    ],
  ]) {
    expect(() => model.forward({ input_ids })).toThrow(/same number of <eos> tokens/);
  }
  expect(() => model.forward({ ...single, output_hidden_states: true })).toThrow(OptionError);
  expect(() => model.forward({ ...single, output_attentions: true })).toThrow(OptionError);
  model.dispose();
});
