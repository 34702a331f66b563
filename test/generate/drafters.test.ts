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

  test("samples and processors: the text is that without guesses", async () => {
    const modes = [
      { do_sample: true, seed: 4, temperature: 0.3 },
      { do_sample: true, seed: 5, temperature: 0.7, top_k: 5, repetition_penalty: 1.1, num_return_sequences: 2 },
      { repetition_penalty: 1.2 },
      { presence_penalty: 1, frequency_penalty: 0.5, suppress_tokens: [19, 56], begin_suppress_tokens: [136] },
      { no_repeat_ngram_size: 3, min_new_tokens: 5 },
      {
        do_sample: true,
        seed: 6,
        typical_p: 0.8,
        logits_processor: [{ process: (own: Float32Array) => void own.fill(0, 9, 12) }],
      },
    ];
    const options = { input_ids: [prompt, prompt.map((id) => id + 1)], max_new_tokens: 12, eos_token_id: null };
    // A GPU in software takes too long for all of them.
    for (const mode of name === "webgpu" ? modes.slice(1, 2) : modes) {
      const want = await model.generate({ ...options, ...mode });
      expect(await model.generate({ ...options, ...mode, prompt_lookup_num_tokens: 3 })).toEqual(want);
    }
    if (name === "webgpu") return;
    // One row ends before the other.
    const eos_token_id = (await model.generate(options))[0]!.at(-6)!;
    const kept = { ...options, eos_token_id, return_dict_in_generate: true, output_scores: true } as const;
    const [want, found] = [await model.generate(kept), await model.generate({ ...kept, prompt_lookup_num_tokens: 3 })];
    expect(found.sequences).toEqual(want.sequences);
    for (const [step, rows] of want.scores!.entries()) {
      for (const [row, scores] of rows.entries()) {
        // A pass over several tokens may sum in another order.
        const same = (one: number, other: number): boolean =>
          Number.isNaN(one) ? Number.isNaN(other) : Math.abs(one - other) <= 1e-3;
        expect(scores.filter((one, id) => !same(one, found.scores![step]![row]![id]!))).toHaveLength(0);
      }
    }
  });

  test("searches that take none", async () => {
    const options = { input_ids: [prompt], max_new_tokens: 4, prompt_lookup_num_tokens: 3 };
    for (const more of [{ guidance_scale: 2 }, { penalty_alpha: 0.5, top_k: 3 }]) {
      await expect(model.generate({ ...options, ...more })).rejects.toThrow(OptionError);
    }
  });
});
