// Lifetimes: models that are disposed while they generate, and failures that stay with whoever caused them.

import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { KernelError, OctavoError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, AutoModelForSeq2SeqLM } from "../../src/generate/auto.js";
import type { Parameter } from "../../src/nn/module.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";

const FOLDER = join(FIXTURES, "models", "llama");
const OPTIONS = { input_ids: [[93, 19, 56]], max_new_tokens: 12, do_sample: false, eos_token_id: null };

describe.each(ALL_DEVICES)("%s", (name) => {
  test("a model disposed while it generates ends that generation, then frees its weights", async () => {
    const device = await requestTestDevice(name);
    const model = await AutoModelForCausalLM.from_pretrained(FOLDER, { device });
    let steps = 0;
    const run = async (): Promise<void> => {
      for await (const _ of model.stream(OPTIONS)) {
        if (++steps === 3) {
          model.dispose();
          expect(device.memory.live).toBeGreaterThan(0);
        }
      }
    };
    await expect(run()).rejects.toMatchObject({ code: "ERR_DISPOSED" });
    expect(steps).toBe(3);
    model.dispose(); // twice does nothing
    expect(() => model.forward(OPTIONS)).toThrow(OctavoError);
    await expect(model.generate(OPTIONS)).rejects.toThrow("after dispose()");
    expectNoLeaks(device);
    await device.close();
  });

  test("the failure of one generation is not read by the next", async () => {
    const device = await requestTestDevice(name);
    const good = await AutoModelForCausalLM.from_pretrained(FOLDER, { device });
    const bad = await AutoModelForCausalLM.from_pretrained(FOLDER, { device });
    const want = await good.generate(OPTIONS);
    const norm = new Map(bad.module.named_parameters()).get("model.norm.weight") as Parameter;
    norm.value.write(new Float32Array(norm.shape[0]!).fill(Number.NaN));
    for (let time = 0; time < 3; time++) {
      await expect(bad.generate(OPTIONS)).rejects.toThrow(KernelError);
      expect(await good.generate(OPTIONS)).toEqual(want);
    }
    good.dispose();
    bad.dispose();
    expectNoLeaks(device);
    await device.close();
  });
});

test.each([
  ["llama", AutoModelForCausalLM],
  ["t5", AutoModelForSeq2SeqLM],
] as const)("%s: a generation begins with its call: nothing comes between", async (name, Auto) => {
  const device = await requestTestDevice("cpu");
  const model = await Auto.from_pretrained(join(FIXTURES, "models", name), { device });
  const generate = model.generate.bind(model) as (options: object) => Promise<number[][]>;
  const runs = [generate(OPTIONS), generate({ ...OPTIONS, num_beams: 2 })];
  expect("cache_bytes" in model ? model.cache_bytes : 1).toBeGreaterThan(0);
  expect(() => model.resize_token_embeddings(64)).toThrow(/generating/);
  model.dispose();
  for (const run of runs) await expect(run).rejects.toMatchObject({ code: "ERR_DISPOSED" });
  expectNoLeaks(device);
  await device.close();
});
