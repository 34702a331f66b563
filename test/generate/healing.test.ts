// token_healing gives the prompts that transformers' heal_tokens gives (5.18, the storyteller in float32).

import { afterAll, expect, test, vi } from "vitest";
import { AbortError, OptionError } from "../../src/core/errors.js";
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

test("what generation_config.json says of searching and of ends is not for the one token", async () => {
  const [[prompt, ids], call] = [HEALED[0]!, { max_new_tokens: 4, tokenizer, do_sample: false }];
  const plain = await model.generate({ input_ids: [ids], ...call });
  const file = {
    ...{ token_healing: true, num_beams: 3, num_return_sequences: 2, force_words_ids: [[9]], guidance_scale: 2 },
    ...{ forced_bos_token_id: 9, forced_eos_token_id: 9, stop_strings: ["."], dola_layers: "low", penalty_alpha: 0.6 },
  };
  const own = model.generation_config as Record<string, unknown>;
  Object.assign(own, file);
  const warned = vi.spyOn(console, "warn").mockReturnValue();
  try {
    for (const [text, want] of HEALED) {
      expect(await model.heal_tokens([tokenizer.encode(text)], tokenizer)).toEqual([want]);
    }
    for (const name of Object.keys(file)) if (name !== "token_healing") delete own[name];
    const input_ids = [tokenizer.encode(prompt)];
    expect(await model.generate({ input_ids, ...call })).toEqual(plain);
    // A stream gives the prompt as it is, and says once that it does.
    const once = { max_new_tokens: 1, do_sample: false };
    const steps: number[] = [];
    for (let time = 0; time < 2; time++) {
      for await (const { token_ids } of model.stream({ input_ids, ...once })) steps.push(...token_ids);
    }
    const [whole] = await model.generate({ input_ids, ...once, token_healing: false });
    expect(steps).toEqual([whole!.at(-1), whole!.at(-1)]);
    expect(warned.mock.calls.flat().filter((text) => String(text).includes("token_healing"))).toHaveLength(1);
    await expect(model.generate({ input_ids })).rejects.toThrow(/token_healing needs the tokenizer/);
  } finally {
    warned.mockRestore();
    for (const name of Object.keys(file)) delete own[name];
  }
});

test("the model is held, and an abort heard, from the first prompt to the last token", async () => {
  const call = { input_ids: [tokenizer.encode("They went to the pa")], max_new_tokens: 2, tokenizer } as const;
  const running = model.generate({ ...call, token_healing: true });
  expect(() => model.resize_token_embeddings(5000)).toThrow(/generating/);
  await running;
  const stop = new AbortController();
  const aborted = model.generate({ ...call, token_healing: true, signal: stop.signal });
  stop.abort();
  await expect(aborted).rejects.toThrow(AbortError);
});

test("what cannot be healed is refused", async () => {
  const call = { input_ids: [[333, 465, 825]], max_new_tokens: 2, token_healing: true };
  await expect(model.generate(call)).rejects.toThrow(/token_healing needs the tokenizer/);
  expect(() => model.stream({ ...call, tokenizer })).toThrow(/heal_tokens/);
  await expect(model.heal_tokens([[5]], {} as never)).rejects.toThrow(OptionError);
  await expect(model.heal_tokens([[333, 465], tokenizer.encode("  ")], tokenizer)).rejects.toThrow(/prompt 1 is blank/);
  await expect(model.heal_tokens([[99_999]], tokenizer)).rejects.toThrow(OptionError);
});
