// Prompt lookup: guesses, and that what it generates is greedy decoding to the token.

import { describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { OptionError } from "../../src/core/errors.js";
import { guess } from "../../src/generate/drafters/ngram.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import { ALL_DEVICES } from "../support/devices.js";
import { onModel } from "../support/suites.js";

test.each([
  [[1, 2, 3, 9, 1, 2, 3], 2, 3, [9, 1]],
  [[1, 2, 5, 1, 2, 7, 1, 2], 2, 3, [7, 1]], // the latest place counts
  [[4, 2, 8, 9, 2], 3, 3, [8, 9, 2]], // falls back to one token
  [[1, 2, 3], 3, 3, []],
  [[7], 3, 3, []],
  [[7, 7], 3, 3, [7]],
])("guess(%j, %i, %i)", (text, count, ngram, want) => {
  expect(guess(text, count, ngram)).toEqual(want);
});

describe.each(ALL_DEVICES)("%s", (name) => {
  let device: Device;
  let model: PreTrainedModel;
  onModel(name, "llama", (opened, loaded) => {
    device = opened;
    model = loaded;
  });

  const prompt = [93, 19, 56, 136, 145, 90, 155, 22, 48, 70, 19];

  test.each([1, 2, 7])("%i guesses give what greedy decoding gives", async (prompt_lookup_num_tokens) => {
    for (const eos_token_id of [null, 135]) {
      const options = { input_ids: [prompt], max_new_tokens: 40, do_sample: false, eos_token_id };
      const greedy = await model.generate(options);
      expect(await model.generate({ ...options, prompt_lookup_num_tokens })).toEqual(greedy);
    }
  });

  test("in a batch, whose rows end at their own time", async () => {
    const options = {
      input_ids: [prompt, prompt.map((id) => (id * 7 + 3) % 150)],
      max_new_tokens: 30,
      eos_token_id: 135,
    };
    const greedy = await model.generate(options);
    expect(await model.generate({ ...options, prompt_lookup_num_tokens: 3 })).toEqual(greedy);
  });

  test("fewer passes than tokens where the text repeats itself", async () => {
    const before = device.recorded;
    const options = { input_ids: [prompt], max_new_tokens: 40, do_sample: false, eos_token_id: null };
    await model.generate(options);
    const greedy = device.recorded - before;
    await model.generate({ ...options, prompt_lookup_num_tokens: 5 });
    expect(device.recorded - before - greedy).toBeLessThan(0.9 * greedy);
  });

  test("what could change the result is refused", async () => {
    const options = { input_ids: [prompt], max_new_tokens: 4, prompt_lookup_num_tokens: 3 };
    for (const more of [{ do_sample: true }, { repetition_penalty: 1.2 }, { presence_penalty: 1 }]) {
      await expect(model.generate({ ...options, ...more })).rejects.toThrow(OptionError);
    }
  });
});
