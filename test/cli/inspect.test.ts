// octavo inspect and the survey behind it: the bytes that it promises are the bytes that loading takes.

import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { NotFoundError } from "../../src/core/errors.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import { openDevice } from "../../src/load/device.js";
import { surveyModel } from "../../src/load/survey.js";
import { Disk } from "../../src/sources/disk.js";
import { octavo, READY_TIMEOUT, ROOT, ready, STORYTELLER } from "../support/cli.js";
import { FIXTURES, readJson } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

beforeAll(ready, READY_TIMEOUT);

describe("survey", () => {
  const models = ["llama", "bloom", "opt", "opt-350m-like", "gpt2"].map((name) => join(FIXTURES, "models", name));
  const cases: [folder: string, device: string][] = models.map((folder) => [folder, "reference"]);
  cases.push([join(ROOT, STORYTELLER), "cpu"]);
  it.each(cases)("is what loading takes: %s on %s", async (folder, name) => {
    const survey = await surveyModel(new Disk(folder));
    await using device = openDevice(name);
    for (const { name, options, bytes } of survey.sizes) {
      await using model = await AutoModelForCausalLM.from_pretrained(folder, { ...options, device });
      expect(bytes, name).toBe(model.weight_bytes);
      expect(survey.checkpoint_bytes).toBe(model.checkpoint_bytes);
    }
    expect(device.memory.live).toBe(0);
  });
});

describe("survey of config.json alone", () => {
  /** Facts of published models: their configs, and their parameters as transformers counts them (on the meta device). */
  const PUBLISHED =
    readJson<Record<string, { parameters: number; config: Record<string, unknown> }>>("published_configs.json");
  const alone = (name: string, config: unknown): Disk => {
    const folder = temporary(name);
    mkdirSync(folder);
    writeFileSync(join(folder, "config.json"), JSON.stringify(config));
    return new Disk(folder);
  };

  it("what a trainer or an adapter leaves beside it holds no weights of the model", async () => {
    const folder = alone("trainer", PUBLISHED[Object.keys(PUBLISHED)[0]!]!.config);
    for (const name of ["training_args.bin", "adapter_model.safetensors"]) {
      writeFileSync(join(folder.location, name), "x");
    }
    expect((await surveyModel(folder)).files).toEqual([]);
    await expect(surveyModel(folder, { weights: "required" })).rejects.toThrow("is the download complete");
  });

  it.each(Object.keys(PUBLISHED))("%s", async (name) => {
    const { parameters, config } = PUBLISHED[name]!;
    const survey = await surveyModel(alone(name, config));
    expect(survey.parameters).toBe(parameters);
    expect(survey.files).toEqual([]);
    const { num_hidden_layers, n_layer, num_layers } = config; // those of ALBERT share their weights
    expect(survey.stacks[0]).toBe(num_hidden_layers ?? n_layer ?? num_layers);
    const sizes = Object.fromEntries(survey.sizes.map(({ name: scheme, bytes }) => [scheme, bytes]));
    expect(sizes.float32).toBe(4 * parameters);
    expect(sizes.bfloat16).toBe(2 * parameters);
    // What is not quantized stays f32 where a file names it, or nothing: the tables of ALBERT and NLLB are about half of them.
    const wide = (config.torch_dtype ?? "float32") === "float32";
    expect(sizes.int8).toBeLessThan((wide ? sizes.float32 : sizes.bfloat16)!);
    expect(sizes.nf4).toBeLessThan(sizes.int8!);
  });

  it("gives what the weights themselves give", async () => {
    const others: string[] = [];
    for (const name of readdirSync(join(FIXTURES, "models"))) {
      const folder = new Disk(join(FIXTURES, "models", name));
      const config = readJson<Record<string, unknown>>("models", name, "config.json");
      const { sizes, parameters } = await surveyModel(alone(name, config));
      const whole = await surveyModel(folder);
      expect(whole.files.length, name).toBeGreaterThan(0);
      expect({ name, parameters }).toEqual({ name, parameters: whole.parameters });
      if (!whole.sizes.every(({ bytes }, i) => bytes === sizes[i]!.bytes)) others.push(name);
    }
    // Its file lacks a part that files may lack, which counts without a file.
    expect(others).toEqual(["dinov2-swiglu"]);
  });

  it("is an error where weights are required", async () => {
    const source = alone("required", PUBLISHED["t5-11b"]!.config);
    await expect(surveyModel(source, { weights: "required" })).rejects.toThrow(NotFoundError);
  });
});

describe("octavo inspect", () => {
  /** Tasks by the fixtures' names for them. */
  const TASKS: Readonly<Record<string, string>> = {
    causal: "causal-lm",
    seq2seq: "seq2seq-lm",
    "speech-seq2seq": "speech-seq2seq",
    "masked-lm": "masked-lm",
    "seq-cls": "sequence-classification",
    "token-cls": "token-classification",
    qa: "question-answering",
    "image-cls": "image-classification",
    "audio-cls": "audio-classification",
    ctc: "ctc",
    clip: "base", // AutoModel loads it, as in Python
    sentence: "base",
    features: "base",
  };
  it.each(readdirSync(join(FIXTURES, "models")))("knows the task of %s", async (name) => {
    const named = (folder: string) =>
      readJson<{ task?: string; same_outputs_as?: string }>("models", folder, "expected.json");
    const own = named(name);
    const { task } = own.same_outputs_as ? named(basename(own.same_outputs_as)) : own;
    expect((await surveyModel(new Disk(join(FIXTURES, "models", name)))).task).toBe(TASKS[task!]);
  });

  it("shows the storyteller in words", async () => {
    const { code, stdout, stderr } = await octavo(["inspect", STORYTELLER]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatch(/architecture +llama, 6 layers, hidden size 256, 8 heads of 32 sharing 4 key-value heads/);
    expect(stdout).toMatch(/parameters +5,475,584/);
    expect(stdout).toMatch(/model\.safetensors +11\.0 MB/);
    for (const scheme of ["float32", "bfloat16", "int8", "nf4", "nf4 double quant", "fp4"]) {
      expect(stdout).toMatch(new RegExp(`^  ${scheme} +[\\d.]+ MB +[\\d.]+ x +[\\d,]+$`, "m"));
    }
    expect(stdout).toMatch(/key-value cache: 3\.07 MB per 1000 tokens in bfloat16/);
  });

  it("gives numbers as JSON that hold on the default device", async () => {
    const { code, stdout } = await octavo(["inspect", STORYTELLER, "--json"]);
    expect(code).toBe(0);
    const got = JSON.parse(stdout) as {
      parameters: number;
      weights: { scheme: string; bytes: number }[];
      files: unknown[];
      kv_cache: { bytes_per_token: number };
    };
    expect(got.parameters).toBe(5_475_584);
    expect(got.files).toEqual([{ file: "model.safetensors", bytes: 10_957_216 }]);
    expect(got.kv_cache.bytes_per_token).toBe(2 * 6 * 4 * 32 * 2);
    await using model = await AutoModelForCausalLM.from_pretrained(join(ROOT, STORYTELLER), { load_in_8bit: true });
    expect(got.weights.find(({ scheme }) => scheme === "int8")?.bytes).toBe(model.weight_bytes);
  });
});
