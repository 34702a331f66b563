// Suppressed tokens: in rows with and without them, in texts that are forked, resumed or guessed.

import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import { generationConfig } from "../../src/generate/config.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import { DecodeSession } from "../../src/generate/session.js";
import { FIXTURES } from "../support/fixtures.js";

let model: PreTrainedModel;
beforeAll(async () => {
  model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "llama"), { device: "cpu" });
});
afterAll(() => model.dispose());

const PROMPT = [5, 9, 3];
const STEPS = 6;

const generated = async (options: object): Promise<number[]> => {
  const [row] = await model.generate({ input_ids: [PROMPT], max_new_tokens: STEPS, eos_token_id: null, ...options });
  return row!.slice(PROMPT.length);
};

test("never, and not first", async () => {
  const plain = await generated({});
  const never = await generated({ suppress_tokens: plain });
  expect(never.filter((id) => plain.includes(id))).toEqual([]);
  const later = await generated({ begin_suppress_tokens: [plain[0]!] });
  expect(later[0]).not.toBe(plain[0]);
  // The text that begins otherwise goes on as it would by itself.
  const [row] = await model.generate({
    input_ids: [[...PROMPT, later[0]!]],
    max_new_tokens: STEPS - 1,
    eos_token_id: null,
  });
  expect(row!.slice(PROMPT.length)).toEqual(later);
});

test("rows keep their own lists, whatever the others do", async () => {
  const { device, module } = model;
  const plain = await generated({});
  const list = [plain[0]!, plain[1]!];
  const want = await generated({ suppress_tokens: list });
  const config = (options: object) =>
    generationConfig({ max_new_tokens: STEPS, eos_token_id: null, ...options }, {}, {}, PROMPT.length, 1000);
  using session = new DecodeSession(device, module, { rows: 3, capacity: 16, cache_dtype: "f32" });
  const texts: number[][] = [[], [], []];
  const run = async (steps: number): Promise<void> => {
    for (let n = 0; n < steps; n++) for (const { row, id } of (await session.step())!) texts[row]!.push(id);
  };
  await session.add([
    { row: 0, prompt: PROMPT, config: config({}) },
    { row: 1, prompt: PROMPT, config: config({ suppress_tokens: list }) },
  ]);
  await run(2);
  session.fork(1, 2, config({ suppress_tokens: list }), 0);
  texts[2]!.push(...texts[1]!);
  await run(STEPS - 2);
  expect(texts).toEqual([plain, want, want]);
  // The row is free now, and its next text has no list.
  texts[1] = [];
  await session.add([{ row: 1, prompt: PROMPT, config: config({}) }]);
  await run(STEPS);
  expect(texts[1]).toEqual(plain);
});
