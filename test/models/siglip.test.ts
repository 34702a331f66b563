// SigLIP against what transformers computed (fixtures/make_media.py): embeddings and scores of both towers, 8 and 4 bits, saved and loaded
// again, the image processor, and the pipeline, which judges each label by itself.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { PreTrainedClipModel } from "../../src/generate/clip-model.js";
import {
  AutoImageProcessor,
  AutoModel,
  AutoModelForImageClassification,
  AutoTokenizer,
  type FromPretrainedOptions,
  pipeline,
} from "../../src/index.js";
import { buildModel } from "../../src/models/index.js";
import { copyOf, editJson } from "../support/checkpoints.js";
import { expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference, FIXTURES, readArrays, readJson } from "../support/fixtures.js";
import { expectQuantized, QUANTIZED, type Tolerance } from "../support/golden.js";
import { type HeadTensor, withHead } from "../support/heads.js";
import { temporary } from "../support/temporary.js";

const FOLDER = join(FIXTURES, "models", "siglip");
const expected = readJson<{
  inputs: Record<"single" | "batch", { input_ids: number[][]; attention_mask?: number[][] }>;
  tolerance_fp32: number;
  quantized_modules: string[];
  quantized: Record<string, { suggested_tolerance?: Record<string, Tolerance> }>;
  parameters: number;
  judge: { heads: Record<string, HeadTensor>; logits: number[]; loss: number; labels: number[] };
}>("models", "siglip", "expected.json");
const arrays = readArrays("models", "siglip", "expected.safetensors");
const golden = (key: string) => arrays.get(key)!.values;

const load = (options: FromPretrainedOptions, folder = FOLDER): Promise<PreTrainedClipModel> =>
  AutoModel.from_pretrained<PreTrainedClipModel>(folder, options);

async function run(model: PreTrainedClipModel, key: "single" | "batch"): Promise<Record<string, Float32Array>> {
  const { values, shape } = arrays.get(`inputs.${key}.pixel_values`)!;
  const pixel_values = { data: values as Float32Array, shape };
  const found: Record<string, Float32Array> = {};
  for (const [name, tensor] of Object.entries(model.forward({ ...expected.inputs[key], pixel_values }))) {
    found[name] = await tensor.readFloats();
    tensor.dispose();
  }
  return found;
}

test.each(["cpu", "reference", "wasm"] as const)("f32 on %s", async (where) => {
  const device = await requestTestDevice(where);
  const model = await load({ device });
  expect([model.module.class_name, model.warnings]).toEqual(["SiglipModel", []]);
  for (const key of ["single", "batch"] as const) {
    const found = await run(model, key);
    for (const name of ["logits_per_text", "text_embeds", "image_embeds"]) {
      const { max } = difference(found[name]!, golden(`fp32.${key}.${name}`));
      expect(max, `${key} ${name}`).toBeLessThan(expected.tolerance_fp32);
    }
  }
  model.dispose();
  expectNoLeaks(device);
  await device.close();
});

test.each(Object.keys(expected.quantized))("%s, saved and loaded again", async (scheme) => {
  const model = await load({ device: "cpu", quantization_config: QUANTIZED[scheme]! });
  expect([...model.quantized_modules].sort()).toEqual([...expected.quantized_modules].sort());
  const found = await run(model, "single");
  const got = [...found.text_embeds!, ...found.image_embeds!];
  const tolerance = expected.quantized[scheme]!.suggested_tolerance?.single;
  expectQuantized(
    got,
    golden(`${scheme}.single.embeds`),
    golden("fp32.single.embeds"),
    tolerance,
    expected.tolerance_fp32,
  );
  const saved = temporary("siglip");
  await model.save_pretrained(saved);
  model.dispose();
  const again = await load({ device: "cpu" }, saved);
  expect(again.warnings).toEqual([]);
  expect(await run(again, "single")).toEqual(found);
  again.dispose();
});

test("parameters are counted as in transformers", async () => {
  const model = await buildModel(readJson("models", "siglip", "config.json"), "clip");
  const shared = new Set([...model.named_parameters()].map(([, parameter]) => parameter));
  const count = [...shared].reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  expect(count).toBe(expected.parameters);
});

test("images are judged by their patches", async () => {
  const { heads, logits: want, loss: wanted, labels } = expected.judge;
  const folder = withHead("siglip", heads, { id2label: { 0: "A", 1: "B", 2: "C" } });
  const { values, shape } = arrays.get("inputs.batch.pixel_values")!;
  for (const options of [{}, { load_in_8bit: true }]) {
    const model = await AutoModelForImageClassification.from_pretrained(folder, { device: "cpu", ...options });
    expect([model.module.class_name, model.warnings]).toEqual(["SiglipForImageClassification", []]);
    expect(model.quantized_modules.filter((path) => /head|classifier/.test(path))).toEqual([]);
    const { logits, loss } = model.forward({ pixel_values: { data: values as Float32Array, shape }, labels });
    const got = await logits.readFloats();
    if (options.load_in_8bit) expect(difference(got, want).max).toBeGreaterThan(0);
    else {
      expect(difference(got, want).max).toBeLessThan(1e-4);
      expect((await loss!.readFloats())[0]).toBeCloseTo(wanted, 4);
    }
    for (const tensor of [logits, loss!]) tensor.dispose();
    const saved = temporary("judge");
    await model.save_pretrained(saved);
    model.dispose();
    const again = await AutoModelForImageClassification.from_pretrained(saved, { device: "cpu" });
    const same = again.forward({ pixel_values: { data: values as Float32Array, shape } });
    expect(await same.logits.readFloats()).toEqual(got);
    same.logits.dispose();
    again.dispose();
  }
});

test("towers of different widths are refused", async () => {
  const folder = copyOf("models", "siglip");
  const { text_config } = readJson<{ text_config: object }>("models", "siglip", "config.json");
  editJson(join(folder, "config.json"), { text_config: { ...text_config, projection_size: 8 } });
  await expect(load({ device: "cpu" }, folder)).rejects.toThrow(/texts have 8 features, and images 12/);
});

describe("images and texts", () => {
  const picture = join(FIXTURES, "processors", "rgb.png");

  test("the processor makes transformers' pixels", async () => {
    const processor = await AutoImageProcessor.from_pretrained(FOLDER);
    const { pixel_values } = await processor(picture);
    expect(pixel_values.shape).toEqual([1, 3, 12, 12]);
    expect(difference(pixel_values.data, golden("inputs.single.pixel_values")).max).toBeLessThan(1e-5);
  });

  test("the pipeline judges each label by itself, over texts of full length", async () => {
    const folder = temporary("words");
    const { mkdirSync, writeFileSync } = await import("node:fs");
    mkdirSync(folder, { recursive: true });
    const words = readFileSync(join(FIXTURES, "tokenizers", "words-vocab.txt"), "utf8")
      .split("\n")
      .slice(0, 60);
    writeFileSync(join(folder, "vocab.txt"), words.join("\n"));
    writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify({ tokenizer_class: "BertTokenizer" }));
    const tokenizer = await AutoTokenizer.from_pretrained(folder);
    const labels = ["a", "the b", "c d e"];
    const pipe = await pipeline("zero-shot-image-classification", FOLDER, { device: "cpu", tokenizer });
    const found = await pipe(picture, { candidate_labels: labels, hypothesis_template: "{}" });
    const { input_ids } = tokenizer(labels, { padding: "max_length", max_length: 10 });
    const model = pipe.model as unknown as PreTrainedClipModel;
    const processor = await AutoImageProcessor.from_pretrained(FOLDER);
    const outputs = model.forward({ input_ids, ...(await processor(picture)) });
    const scores = await outputs.logits_per_image.readFloats();
    for (const tensor of Object.values(outputs)) tensor.dispose();
    for (const [n, label] of labels.entries()) {
      const { score } = (found as { label: string; score: number }[]).find((one) => one.label === label)!;
      expect(score).toBeCloseTo(1 / (1 + Math.exp(-scores[n]!)), 5);
    }
    await pipe[Symbol.asyncDispose]();
  });
});
