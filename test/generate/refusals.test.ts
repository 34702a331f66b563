import { expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { OptionError } from "../../src/core/errors.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import type { GenerateOptions, PreTrainedModel } from "../../src/generate/model.js";
import { onModel } from "../support/suites.js";

let device: Device;
let model: PreTrainedModel;
onModel("reference", "llama", (opened, loaded) => {
  device = opened;
  model = loaded;
});

const prompt = { input_ids: [[93, 19, 56]], eos_token_id: null };

test.each([undefined, null, 5])("options that are %s", async (options) => {
  const given = options as unknown as GenerateOptions;
  await expect(model.generate(given)).rejects.toThrow(OptionError);
  expect(() => model.stream(given)).toThrow(OptionError);
});

test.each([{}, null, "now"])("a signal that is %j", async (signal) => {
  const given = { ...prompt, signal } as unknown as GenerateOptions;
  await expect(model.generate(given)).rejects.toThrow("signal must be an AbortSignal");
  expect(() => model.stream(given)).toThrow(OptionError);
});

test("logprobs that are no flag", async () => {
  await expect(model.generate({ ...prompt, logprobs: 1 as unknown as boolean })).rejects.toThrow("logprobs must be");
});

test.each([1e9, 2 ** 53 - 1])("%d new tokens", async (max_new_tokens) => {
  const live = device.memory.live;
  // The reason is the length, not the memory: quantizing would not help.
  await expect(model.generate({ ...prompt, max_new_tokens })).rejects.toThrow(OptionError);
  expect(() => model.stream({ ...prompt, max_new_tokens })).toThrow(
    `the model reads 128 tokens; ${(max_new_tokens + 3).toLocaleString("en-US")} were asked for`,
  );
  expect(device.memory.live).toBe(live);
  // What it would take can be asked all the same.
  expect(model.cache_footprint({ ...prompt, max_new_tokens }).bytes).toBeGreaterThan(1e10);
});

test.each([5, null, undefined, ""])("a model called %j", async (name) => {
  const loading = AutoModelForCausalLM.from_pretrained(name as string);
  await expect(loading).rejects.toThrow(`or a folder, got ${name === "" ? '""' : name}`);
  await expect(loading).rejects.toThrow(OptionError);
});
