// An assistant model guesses for another one: what is generated is greedy decoding to the token, in batches too, and good
// guesses save passes.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { OptionError } from "../../src/core/errors.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import { PreTrainedModel } from "../../src/generate/model.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";
import { randomModel } from "../support/models.js";

const A = [93, 19, 56, 136, 145, 90, 155, 22, 48, 70, 19];
const B = [7, 8, 150];

describe.each(ALL_DEVICES)("%s", (name) => {
  let device: Device;
  let model: PreTrainedModel;
  /** The same weights in 8 bits: mostly right. */
  let good: PreTrainedModel;
  /** Random weights: always wrong. */
  let bad: PreTrainedModel;
  beforeAll(async () => {
    device = await requestTestDevice(name);
    const folder = join(FIXTURES, "models", "llama");
    model = await AutoModelForCausalLM.from_pretrained(folder, { device });
    good = await AutoModelForCausalLM.from_pretrained(folder, { device, load_in_8bit: true });
    const { vocab } = model.module.geometry;
    bad = await wrapped({ vocab_size: vocab });
  });
  afterAll(async () => {
    for (const each of [model, good, bad]) each.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  const wrapped = async (fields: object): Promise<PreTrainedModel> => {
    const sizes = { hidden_size: 16, num_hidden_layers: 1, intermediate_size: 32, num_attention_heads: 2 };
    const module = await randomModel(device, { ...sizes, ...fields }, "f32");
    const loaded = {
      model: module,
      config: {},
      generation_config: {},
      dtype: "f32",
      checkpoint_bytes: 0,
      warnings: [],
    };
    return new PreTrainedModel(loaded as unknown as ConstructorParameters<typeof PreTrainedModel>[0], device, false);
  };

  // A step of a GPU in software takes 50 ms: there only the harder cases.
  const soft = name === "webgpu";
  test.each(soft ? [4] : [1, 4])(
    "guesses of %i tokens give what greedy decoding gives, in a batch too",
    async (num_assistant_tokens) => {
      for (const eos_token_id of soft ? [135] : [null, 135]) {
        for (const inputs of [
          { input_ids: [A] },
          {
            input_ids: [A, [...new Array<number>(8).fill(0), ...B]],
            attention_mask: [A.map(() => 1), A.map((_, t) => (t < 8 ? 0 : 1))],
          },
        ]) {
          const options = { ...inputs, max_new_tokens: soft ? 10 : 24, eos_token_id };
          const want = await model.generate(options);
          for (const assistant_model of [good, bad]) {
            expect(await model.generate({ ...options, assistant_model, num_assistant_tokens })).toEqual(want);
          }
        }
      }
    },
  );

  test("steps say which tokens were guessed", async () => {
    const guesses = async (assistant_model: PreTrainedModel): Promise<number> => {
      let guessed = 0;
      const options = { input_ids: [A], max_new_tokens: 24, eos_token_id: null, assistant_model };
      for await (const step of model.stream(options)) if (step.guessed) guessed++;
      return guessed;
    };
    expect(await guesses(good)).toBeGreaterThan(12);
    expect(await guesses(bad)).toBeLessThan(4);
  });

  test("an assistant that is disposed ends the generation", async () => {
    const other = await wrapped({ vocab_size: model.module.geometry.vocab });
    const { live } = device.memory;
    const run = async (): Promise<void> => {
      const options = { input_ids: [A], max_new_tokens: 24, eos_token_id: null, assistant_model: other };
      for await (const _ of model.stream(options)) other.dispose();
    };
    await expect(run()).rejects.toMatchObject({ code: "ERR_DISPOSED" });
    expect(device.memory.live).toBeLessThan(live);
  });

  test("samples: the text of a seed is the same with and without, in a batch too, and many guesses are right", async () => {
    const options = {
      input_ids: [A, [...new Array<number>(8).fill(0), ...B]],
      attention_mask: [A.map(() => 1), A.map((_, t) => (t < 8 ? 0 : 1))],
      max_new_tokens: name === "webgpu" ? 10 : 24,
      eos_token_id: 135,
      do_sample: true,
    };
    const modes = [
      { seed: 7 },
      { seed: 8, temperature: 0.6, top_p: 0.9, num_return_sequences: 2 },
      { seed: 9, repetition_penalty: 1.3, top_k: 8 },
    ];
    // A GPU in software takes too long for all of them.
    const few = name === "webgpu";
    for (const mode of few ? modes.slice(1, 2) : modes) {
      const want = await model.generate({ ...options, ...mode });
      for (const assistant_model of few ? [good] : [good, bad]) {
        for (const schedule of ["constant", "heuristic"] as const) {
          const drafts = { num_assistant_tokens_schedule: schedule, assistant_confidence_threshold: 0.05 };
          expect(await model.generate({ ...options, ...mode, ...drafts, assistant_model })).toEqual(want);
        }
      }
    }
    if (few) return;
    const seen: number[] = [];
    const stopping_criteria = [(ids: readonly number[]) => seen.push(ids.length) > 20];
    const one = { input_ids: [A], max_new_tokens: 12, eos_token_id: null, do_sample: true, seed: 7, stopping_criteria };
    await model.generate({ ...one, assistant_model: good });
    // Guesses are no text.
    expect(seen).toEqual(Array.from({ length: 12 }, (_, n) => A.length + n + 1));
    const guesses = async (assistant_model: PreTrainedModel, more: object = {}): Promise<number> => {
      let guessed = 0;
      const alone = { input_ids: [A], max_new_tokens: 24, eos_token_id: null, do_sample: true, seed: 7 };
      for await (const step of model.stream({ ...alone, ...more, assistant_model })) if (step.guessed) guessed++;
      return guessed;
    };
    // Weights in 8 bits give nearly the same distributions.
    expect(await guesses(good)).toBeGreaterThan(10);
    expect(await guesses(bad)).toBeLessThan(6);
    expect(await guesses(good, { assistant_confidence_threshold: 1 })).toBeLessThanOrEqual(12);
  });

  test("what cannot guess for the model is refused", async () => {
    const options = { input_ids: [A], max_new_tokens: 4, assistant_model: good };
    const more = [{ prompt_lookup_num_tokens: 2 }, { penalty_alpha: 0.5, top_k: 3 }, { guidance_scale: 2 }];
    for (const each of more) await expect(model.generate({ ...options, ...each })).rejects.toThrow(OptionError);
    await expect(model.generate({ ...options, assistant_model: {} as PreTrainedModel })).rejects.toThrow(
      "assistant_model must be a model",
    );
    const other = await wrapped({ vocab_size: 31 });
    await expect(model.generate({ ...options, assistant_model: other })).rejects.toThrow("vocabulary of 31 tokens");
    other.dispose();
  });
});
