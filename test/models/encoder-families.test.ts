// Encoders of more families than BERT's: saved and loaded again, with weights in several places, and what optimum says of them.

import { join, relative } from "node:path";
import { describe, expect, test } from "vitest";
import { nativeAvailable } from "../../src/backends/native/addon.js";
import { OptionError } from "../../src/core/errors.js";
import {
  AutoModelForMaskedLM,
  AutoModelForQuestionAnswering,
  type FromPretrainedOptions,
} from "../../src/generate/auto.js";
import type { PreTrainedEncoder } from "../../src/generate/encoder-model.js";
import { expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference, FIXTURES, readArrays, readJson } from "../support/fixtures.js";
import { type HeadTensor, withHead } from "../support/heads.js";
import { temporary } from "../support/temporary.js";

const NAMES = ["mpnet-mlm", "electra", "albert", "deberta-v2", "deberta-v2-own"];

interface Inputs {
  input_ids: number[][];
  attention_mask?: number[][];
}
const inputsOf = (name: string): Record<"single" | "batch", Inputs> =>
  readJson<{ inputs: Record<"single" | "batch", Inputs> }>("models", name, "expected.json").inputs;

async function logitsOf(model: PreTrainedEncoder, inputs: Inputs): Promise<Float32Array> {
  const { logits } = model.forward(inputs);
  const values = await logits.readFloats();
  logits.dispose();
  return values;
}

describe.each(NAMES)("%s", (name) => {
  const folder = join(FIXTURES, "models", name);

  test.each<[string, FromPretrainedOptions]>([
    ["as they are", {}],
    ["in bf16", { dtype: "bfloat16" }],
    ["in 8 bits", { load_in_8bit: true }],
    ["in 4 bits", { load_in_4bit: true }],
  ])("weights %s, saved and loaded again", async (what, options) => {
    const device = await requestTestDevice("cpu");
    const model = await AutoModelForMaskedLM.from_pretrained(folder, { device, ...options });
    const want = await logitsOf(model, inputsOf(name).single);
    const saved = temporary("saved");
    await model.save_pretrained(saved);
    model.dispose();
    if (what === "as they are") {
      const names = (at: readonly string[]): string[] => [...readArrays(...at).keys()].sort();
      expect(names([relative(FIXTURES, saved), "model.safetensors"])).toEqual(
        names(["models", name, "model.safetensors"]),
      );
    }
    const again = await AutoModelForMaskedLM.from_pretrained(saved, { device });
    expect(again.warnings).toEqual([]);
    expect(await logitsOf(again, inputsOf(name).single)).toEqual(want);
    again.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  // Only the native add-on has logical devices.
  test.skipIf(!nativeAvailable()).each([
    ["another device", "cpu:1", {}],
    ["the disk", "disk", { offload_folder: temporary("offload") }],
  ] as const)("weights on %s", async (_, place, more) => {
    const alone = await AutoModelForMaskedLM.from_pretrained(folder, { device: "cpu:0" });
    const blocks = alone.module.blocks.flat().map(({ path }) => path);
    expect(blocks.length).toBe(name === "albert" ? 4 : 2);
    const want = await logitsOf(alone, inputsOf(name).batch);
    await alone.dispose();
    const device_map = { "": "cpu:0", ...Object.fromEntries(blocks.map((path, i) => [path, i % 2 ? "cpu:0" : place])) };
    const options = { device_map, ...more } as FromPretrainedOptions;
    const spread = await AutoModelForMaskedLM.from_pretrained(folder, options);
    expect(await logitsOf(spread, inputsOf(name).batch)).toEqual(want);
    await spread.dispose();
  });

  test("BetterTransformer, by optimum's list", async () => {
    const model = await AutoModelForMaskedLM.from_pretrained(folder, { device: "reference" });
    if (name === "electra" || name === "albert") {
      expect(model.to_bettertransformer()).toBe(model);
      expect(model.reverse_bettertransformer()).toBe(model);
    } else {
      expect(() => model.to_bettertransformer()).toThrow(OptionError);
      expect(() => model.to_bettertransformer()).toThrow(/^The model type "(mpnet|deberta-v2)" is not yet supported/);
    }
    model.dispose();
  });
});

test("ModernBERT says where answers are", async () => {
  type Answers = { start_logits: number[]; end_logits: number[] };
  const found = readJson<{ heads: Record<string, HeadTensor>; single: Answers; batch: Answers }>(
    "modernbert-answers.json",
  );
  const model = await AutoModelForQuestionAnswering.from_pretrained(withHead("modernbert", found.heads, {}), {
    device: "cpu",
  });
  expect(model.module.class_name).toBe("ModernBertForQuestionAnswering");
  const inputs = inputsOf("modernbert");
  for (const key of ["single", "batch"] as const) {
    const { start_logits, end_logits } = model.forward(inputs[key]);
    const real = inputs[key].attention_mask?.flat();
    const pick = (all: ArrayLike<number>): number[] => Array.from(all).filter((_, i) => !real || real[i] === 1);
    for (const [tensor, want] of [
      [start_logits, found[key].start_logits],
      [end_logits, found[key].end_logits],
    ] as const) {
      expect(difference(pick(await tensor.readFloats()), pick(want)).max).toBeLessThan(2e-4);
      tensor.dispose();
    }
  }
  model.dispose();
});
