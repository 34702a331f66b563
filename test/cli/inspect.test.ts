// octavo inspect and the survey behind it: the bytes that it promises are the bytes that loading takes.

import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import { openDevice } from "../../src/load/device.js";
import { surveyModel } from "../../src/load/survey.js";
import { Disk } from "../../src/sources/disk.js";
import { octavo, READY_TIMEOUT, ROOT, ready, STORYTELLER } from "../support/cli.js";
import { FIXTURES } from "../support/fixtures.js";

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

describe("octavo inspect", () => {
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
