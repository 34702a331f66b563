// token_healing gives the prompts that transformers' heal_tokens gives (5.18, the storyteller in float32).

import { afterAll, expect, test } from "vitest";
import { OptionError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../../src/generate/auto.js";
import { openDevice } from "../../src/load/device.js";
import { expectNoLeaks } from "../support/devices.js";
import { STORYTELLER } from "../support/models.js";

const HEALED: readonly (readonly [prompt: string, ids: number[]])[] = [
  ["Once upon a ti", [2416, 674, 259, 257, 3417]],
  // transformers looks for "Ġgi" under " gi", finds nothing, and leaves the token; what it means to do gives "girl" and "want".
  ["The little gi", [333, 465, 796]],
  ['  He said, "I wa', [840, 347, 12, 323, 41, 736]],
  ["The dog ran to the ", [333, 1390, 896, 275, 260]],
  ["They went to the pa", [1275, 488, 275, 260, 292, 2190]],
  // From bos, as transformers does it in a padded batch; alone it leaves such a prompt.
  ["a", [739]],
];

const device = openDevice("cpu", { threads: 2 });
const model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { device, dtype: "float32" });
const tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
afterAll(async () => {
  model.dispose();
  expectNoLeaks(device);
  await device.close();
});

test("the last token is chosen anew among those that begin with it", async () => {
  for (const [prompt, ids] of HEALED) {
    expect(await model.heal_tokens([tokenizer.encode(prompt)], tokenizer)).toEqual([ids]);
  }
});

test("generate goes on from healed prompts, of several lengths too", async () => {
  const prompts = [HEALED[0]!, HEALED[4]!];
  const batch = tokenizer(
    prompts.map(([prompt]) => prompt),
    { padding: true, padding_side: "left" },
  );
  const call = { max_new_tokens: 4, tokenizer, do_sample: false };
  const rows = await model.generate({ ...batch, ...call, token_healing: true });
  for (const [n, [, ids]] of prompts.entries()) {
    const [alone] = await model.generate({ input_ids: [ids], ...call });
    expect(rows[n]!.slice(-alone!.length)).toEqual(alone);
  }
});

test("what cannot be healed is refused", async () => {
  const call = { input_ids: [[333, 465, 825]], max_new_tokens: 2, token_healing: true };
  await expect(model.generate(call)).rejects.toThrow(/token_healing needs the tokenizer/);
  expect(() => model.stream({ ...call, tokenizer })).toThrow(/heal_tokens/);
  await expect(model.heal_tokens([[5]], {} as never)).rejects.toThrow(OptionError);
  await expect(model.heal_tokens([[99_999]], tokenizer)).rejects.toThrow(OptionError);
});
