// Prompts with pad ids and without an attention_mask: as transformers, generate() takes the pads for padding where the files
// or the caller say which id that is, and it does not end texts too.

import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { AutoModelForCausalLM, AutoModelForSeq2SeqLM } from "../../src/generate/auto.js";
import { FIXTURES } from "../support/fixtures.js";

const PAD = 0;
const PROMPT = [5, 9, 3, 7, 11];
const OTHER = [4, 5, 6, 7, 8, 9, 10, 11];
const pads = (row: readonly number[], to = OTHER.length) => [...Array<number>(to - row.length).fill(PAD), ...row];
const options = { max_new_tokens: 6, eos_token_id: 2, pad_token_id: PAD };

async function llama() {
  return AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "llama"), { device: "reference" });
}

describe("a decoder", () => {
  test("continues padded prompts as it continues them alone", async () => {
    await using model = await llama();
    const alone = await Promise.all(
      [PROMPT, OTHER].map(async (row) =>
        (await model.generate({ input_ids: [row], ...options }))[0]!.slice(row.length),
      ),
    );
    const left = await model.generate({ input_ids: [pads(PROMPT), OTHER], ...options });
    expect(left.map((row) => row.slice(OTHER.length))).toEqual(alone);
    const right = await model.generate({ input_ids: [[...PROMPT, PAD, PAD, PAD], OTHER], ...options });
    expect(right.map((row) => row.slice(OTHER.length))).toEqual(alone);
    const streamed: number[] = [];
    for await (const { token_ids } of model.stream({ input_ids: [pads(PROMPT)], ...options }))
      streamed.push(...token_ids);
    expect(streamed).toEqual(alone[0]);
  });

  test("reads ids as text where nothing says that they are padding", async () => {
    await using model = await llama();
    const ids = [pads(PROMPT)];
    const all = [Array<number>(OTHER.length).fill(1)];
    const text = await model.generate({ input_ids: ids, attention_mask: all, ...options });
    const masked = await model.generate({ input_ids: ids, ...options });
    expect(masked).not.toEqual(text);
    // The pad ends texts too.
    const same = { ...options, eos_token_id: [2, PAD] };
    expect(await model.generate({ input_ids: ids, ...same })).toEqual(
      await model.generate({ input_ids: ids, attention_mask: all, ...same }),
    );
    // A prompt of that id alone is a prompt.
    expect(await model.generate({ input_ids: [[PAD, PAD]], ...options })).toEqual(
      await model.generate({ input_ids: [[PAD, PAD]], attention_mask: [[1, 1]], ...options }),
    );
  });
});

test("an encoder does not see pads", async () => {
  await using model = await AutoModelForSeq2SeqLM.from_pretrained(join(FIXTURES, "models", "t5"), {
    device: "reference",
  });
  const given = { max_new_tokens: 5, eos_token_id: 1, pad_token_id: PAD };
  const [alone] = await model.generate({ input_ids: [PROMPT], ...given });
  const [padded] = await model.generate({
    input_ids: [
      [...PROMPT, PAD, PAD],
      [...PROMPT, 6, 6],
    ],
    ...given,
  });
  expect(padded!.slice(0, alone!.length)).toEqual(alone);
});
