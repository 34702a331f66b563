// How long a text may become where positions are learned: its last token has none, since nothing reads it. The ids are those of
// transformers 5.18 (fixtures' weights in f32, greedy, a prompt of 61 of 64 positions; beams: 3).

import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { OptionError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, AutoModelForSeq2SeqLM } from "../../src/generate/auto.js";
import { openDevice } from "../../src/load/device.js";
import { FIXTURES } from "../support/fixtures.js";

const folder = (name: string): string => join(FIXTURES, "models", name);
const prompt = Array.from({ length: 61 }, (_, i) => 2 + ((7 * i) % 158));
const PYTHON = [
  ["gpt2", [4, 110, 143, 88], [13, 45, 13, 3]],
  ["opt", [45, 119, 150, 23], [45, 12, 123, 123]],
  ["opt-350m-like", [2, 76, 145, 89], [2, 76, 145, 89]],
] as const;

describe.each(["cpu", "reference"] as const)("%s", (backend) => {
  test.each(PYTHON)("%s has one new token more than positions", async (name, greedy, beams) => {
    const device = openDevice(backend);
    {
      const model = await AutoModelForCausalLM.from_pretrained(folder(name), { device });
      const generate = async (options: object, ids = prompt) =>
        (await model.generate({ input_ids: [ids], eos_token_id: [], pad_token_id: 0, ...options })).map((row) =>
          row.slice(ids.length),
        );
      for (const max_new_tokens of [2, 3, 4]) {
        expect(await generate({ max_new_tokens, do_sample: false })).toEqual([greedy.slice(0, max_new_tokens)]);
      }
      const most = { max_new_tokens: 4, do_sample: false };
      expect(await generate({ ...most, num_beams: 3 })).toEqual([beams]);
      expect(await generate({ ...most, prompt_lookup_num_tokens: 5 })).toEqual([greedy]);
      expect(await generate({ ...most, assistant_model: model })).toEqual([greedy]);
      const [drawn, again] = await generate({ max_new_tokens: 4, do_sample: true, seed: 3, num_return_sequences: 2 });
      expect([drawn!.length, again!.length]).toEqual([4, 4]);
      // Contrastive search reads the last token, too, to compare it.
      const contrastive = { do_sample: false, penalty_alpha: 0.6, top_k: 3 };
      expect((await generate({ ...contrastive, max_new_tokens: 3 }))[0]).toHaveLength(3);
      await expect(generate({ ...contrastive, max_new_tokens: 4 })).rejects.toThrow(
        /4 new ones are more than the 64 pos/,
      );
      expect((await generate({ ...most, guidance_scale: 1.5 }))[0]).toHaveLength(4);
      const streamed: number[] = [];
      for await (const { token_ids } of model.stream({ input_ids: [prompt], eos_token_id: [], ...most })) {
        streamed.push(...token_ids);
      }
      expect(streamed).toEqual(greedy);
      // A prompt may fill all positions, and be no longer.
      const full = [...prompt, ...greedy.slice(0, 3)];
      expect(await generate({ ...most, max_new_tokens: 1 }, full)).toEqual([[greedy[3]]]);
      const refused = /61 tokens and 5 new ones, of which the last is not read, are more than the 64 positions/;
      await expect(generate({ max_new_tokens: 5 })).rejects.toThrow(refused);
      await expect(generate({ max_new_tokens: 1 }, [...full, 3])).rejects.toThrow(OptionError);
      model.dispose();
    }
    await device.close();
  });
});

test("the decoder of an encoder-decoder, too", async () => {
  const model = await AutoModelForSeq2SeqLM.from_pretrained(folder("bart"), { device: "cpu" });
  const generate = (max_new_tokens: number) =>
    model.generate({ input_ids: [[0, 5, 6, 7, 2]], max_new_tokens, eos_token_id: [], forced_eos_token_id: null });
  const [row] = await generate(64);
  expect(row!.slice(-4)).toEqual([8, 48, 48, 48]);
  await expect(generate(65)).rejects.toThrow(/65 tokens are more than the 64 positions of this model's decoder/);
  model.dispose();
});
