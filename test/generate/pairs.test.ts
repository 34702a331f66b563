// Any options together: tokens of the vocabulary as many as were asked for, or one typed error; never a hang, and nothing left behind.

import { join } from "node:path";
import fc from "fast-check";
import { afterAll, expect, test } from "vitest";
import { OctavoError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, AutoModelForSeq2SeqLM } from "../../src/generate/auto.js";
import type { GenerateOptions } from "../../src/generate/model.js";
import type { GenerateOutput } from "../../src/generate/options.js";
import { openDevice } from "../../src/load/device.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";

const device = openDevice("cpu", { threads: 2 });
const llama = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "llama"), { device });
const t5 = await AutoModelForSeq2SeqLM.from_pretrained(join(FIXTURES, "models", "t5"), { device });
afterAll(async () => {
  for (const model of [llama, t5]) model.dispose();
  expectNoLeaks(device);
  await device.close();
});

const VOCAB = 160;
const id = fc.integer({ min: 0, max: VOCAB - 1 });
const ids = fc.array(id, { minLength: 1, maxLength: 4 });
const one = <T>(...values: readonly T[]): fc.Arbitrary<T> => fc.constantFrom(...values);

/** Each option at its ends, and in between. */
const OPTIONS: Readonly<Record<string, fc.Arbitrary<unknown>>> = {
  do_sample: fc.boolean(),
  temperature: one(0, 1e-30, 0.5, 1, 50, 1e30),
  top_k: one(0, 1, 2, VOCAB, 10 * VOCAB),
  top_p: one(1e-9, 0.5, 1),
  min_p: one(0, 1e-9, 0.5, 1),
  typical_p: one(1e-9, 0.5, 1),
  epsilon_cutoff: one(0, 1e-9, 0.5, 0.999),
  eta_cutoff: one(0, 1e-9, 0.5, 0.999),
  repetition_penalty: one(1e-30, 0.5, 1, 2, 1e30),
  encoder_repetition_penalty: one(1e-3, 1, 5),
  presence_penalty: one(-1e30, 0, 1, 1e30),
  frequency_penalty: one(-1e30, 0, 1, 1e30),
  no_repeat_ngram_size: one(0, 1, 2, 100),
  encoder_no_repeat_ngram_size: one(0, 1, 2),
  bad_words_ids: one<unknown>(
    null,
    [[5]],
    [[5, 6], [7]],
    Array.from({ length: VOCAB }, (_, n) => [n]),
  ),
  sequence_bias: one<unknown>(null, [[[5], 10]], [[[5, 6], -1e9]]),
  min_length: one(0, 1, 30),
  min_new_tokens: one(0, 1, 30),
  forced_bos_token_id: one<unknown>(null, 3),
  forced_eos_token_id: one<unknown>(null, 4, [4, 5]),
  exponential_decay_length_penalty: one<unknown>(null, [0, 1.5], [1, 1e9], [100, 0]),
  remove_invalid_values: fc.boolean(),
  renormalize_logits: fc.boolean(),
  suppress_tokens: one<unknown>(
    null,
    [],
    [1, 2],
    Array.from({ length: VOCAB }, (_, n) => n),
  ),
  begin_suppress_tokens: one<unknown>(null, [1, 2]),
  eos_token_id: one<unknown>(
    null,
    2,
    [2, 3, 4],
    Array.from({ length: VOCAB }, (_, n) => n),
  ),
  pad_token_id: one(0, 7),
  seed: one(0, 1, 2 ** 53 - 1, -5),
  num_beams: one(1, 2, 4),
  num_return_sequences: one(1, 2, 4),
  length_penalty: one(-100, 0, 1, 100),
  early_stopping: one<unknown>(true, false, "never"),
  max_time: one(1e-6, 100),
  stopping_criteria: one<unknown>([], [() => false], [(text: readonly number[]) => text.length > 6]),
  logits_processor: one<unknown>(
    [],
    [{ process: (logits: Float32Array) => void logits.fill(Number.NEGATIVE_INFINITY) }],
  ),
  prefix_allowed_tokens_fn: one<unknown>(
    undefined,
    () => [9, 10],
    () => [],
    () => [VOCAB + 5],
  ),
  prompt_lookup_num_tokens: one(0, 3),
  cache_implementation: one("dynamic", "quantized"),
  logprobs: fc.boolean(),
  return_dict_in_generate: fc.boolean(),
  output_scores: fc.boolean(),
};

const some = fc
  .uniqueArray(fc.constantFrom(...Object.keys(OPTIONS)), { minLength: 0, maxLength: 7 })
  .chain((names) => fc.record(Object.fromEntries(names.map((name) => [name, OPTIONS[name]!]))));

test("llama and T5, whatever is asked", { timeout: 300_000 }, async () => {
  let done = 0;
  let refused = 0;
  const rows = fc.array(ids, { minLength: 1, maxLength: 3 });
  const length = fc.integer({ min: 1, max: 5 });
  await fc.assert(
    fc.asyncProperty(rows, length, fc.boolean(), some, async (prompts, max_new_tokens, encodes, options) => {
      const longest = Math.max(...prompts.map((prompt) => prompt.length));
      const padded = prompts.map((prompt) => [...new Array<number>(longest - prompt.length).fill(0), ...prompt]);
      const attention_mask = prompts.map((prompt) => padded[0]!.map((_, n) => Number(n >= longest - prompt.length)));
      const model = (encodes ? t5 : llama) as typeof llama; // they differ in options that are not here
      let output: unknown;
      try {
        output = await model.generate({
          input_ids: padded,
          attention_mask,
          ...options,
          max_new_tokens,
        } as GenerateOptions);
      } catch (error) {
        expect(error).toBeInstanceOf(OctavoError);
        refused++;
        return;
      }
      done++;
      const sequences = (Array.isArray(output) ? output : (output as GenerateOutput).sequences) as number[][];
      const start = encodes ? 1 : longest;
      expect(sequences).toHaveLength(prompts.length * Number(options.num_return_sequences ?? 1));
      for (const sequence of sequences) {
        expect(sequence.length).toBeGreaterThan(start);
        expect(sequence.length).toBeLessThanOrEqual(start + max_new_tokens);
        expect(sequence.filter((token) => !(Number.isInteger(token) && token >= 0 && token < VOCAB))).toEqual([]);
      }
    }),
    { numRuns: 1500, seed: 14 },
  );
  console.log(`pairs of options: ${done} generated, ${refused} refused`);
  expect(done).toBeGreaterThan(500);
});
