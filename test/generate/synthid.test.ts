// The watermark of SynthID-Text gives the bits, scores and texts of transformers (test/fixtures/make_synthid.py).

import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import {
  SynthIDTextWatermarkingConfig,
  type SynthIDTextWatermarkingOptions,
  SynthIDTextWatermarkLogitsProcessor,
} from "../../src/anywhere.js";
import { OptionError } from "../../src/core/errors.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import { openDevice } from "../../src/load/device.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES, readJson } from "../support/fixtures.js";

/** Null is minus infinity. */
type Scores = (number | null)[][];
interface Fixture {
  readonly steps: {
    readonly config: SynthIDTextWatermarkingOptions;
    readonly calls: { readonly input_ids: number[][]; readonly scores: Scores; readonly processed: Scores }[];
    readonly texts: number[][];
    readonly g_values: number[][][];
    readonly contexts: number[][];
    readonly ends: number[][];
    readonly expected: number;
  }[];
  readonly generated: {
    readonly input_ids: number[][];
    readonly attention_mask: number[][];
    readonly options: Record<string, unknown>;
    readonly sequences: number[][];
  }[];
}
const { steps, generated } = readJson<Fixture>("generation", "synthid.json");
const device = openDevice("cpu", { threads: 2 });
const llama = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "llama"), { device });
afterAll(async () => {
  llama.dispose();
  expectNoLeaks(device);
  await device.close();
});

const floats = (row: readonly (number | null)[]): Float32Array =>
  Float32Array.from(row, (score) => score ?? Number.NEGATIVE_INFINITY);

describe.each(steps.map((one) => [JSON.stringify(one.config), one] as const))("%s", (_, one) => {
  test("scores, step by step", () => {
    const processor = new SynthIDTextWatermarkLogitsProcessor(one.config);
    let changed = 0;
    for (const { input_ids, scores, processed } of one.calls) {
      for (const [row, ids] of input_ids.entries()) {
        const [given, want] = [floats(scores[row]!), floats(processed[row]!)];
        const own = given.slice();
        processor.change(own, ids, row);
        if (own.some((score, i) => score !== given[i])) changed++;
        for (const [i, score] of own.entries()) {
          // torch multiplies shares in f32, one factor for each key: they are compared, not their logarithms. Scores that are
          // not marked are the same.
          if (want[i] === given[i]) expect(score).toBe(want[i]);
          else expect(Math.abs(Math.exp(score) - Math.exp(want[i]!))).toBeLessThan(2e-6);
        }
        if (!one.config.debug_mode) expect(own[3], "a token that cannot follow").toBe(want[3]);
      }
    }
    expect(changed).toBeGreaterThan(0);
  });

  test("bits and masks of texts", () => {
    const processor = new SynthIDTextWatermarkLogitsProcessor(one.config);
    expect(processor.compute_g_values(one.texts)).toEqual(one.g_values);
    expect(processor.compute_context_repetition_mask(one.texts)).toEqual(one.contexts);
    expect(processor.compute_eos_token_mask(one.texts, 2)).toEqual(one.ends);
    expect(processor.expected_mean_g_value(24, 0.3)).toBeCloseTo(one.expected, 14);
  });
});

test.each(generated.map((one) => [JSON.stringify(one.options), one] as const))("generate() with %s", async (_, one) => {
  const { input_ids, attention_mask, options, sequences } = one;
  expect(await llama.generate({ input_ids, attention_mask, ...options })).toEqual(sequences);
});

test("sampled texts hold more set bits than others", async () => {
  const watermarking_config = new SynthIDTextWatermarkingConfig({ ngram_len: 4, keys: [11, 7, 1999, 23] });
  const processor = new SynthIDTextWatermarkLogitsProcessor(watermarking_config);
  const options = { do_sample: true, max_new_tokens: 120, eos_token_id: null, seed: 5, num_return_sequences: 2 };
  const share = (texts: readonly number[][]): number => {
    const bits = processor.compute_g_values(texts.map((ids) => ids.slice(4))).flat(2);
    return bits.reduce((sum, bit) => sum + bit, 0) / bits.length;
  };
  const prompt = { input_ids: [[5, 9, 2, 77]], ...options };
  const plain = share(await llama.generate(prompt));
  const marked = share(await llama.generate({ ...prompt, watermarking_config }));
  // 2 x 117 x 4 bits: the standard deviation of an unmarked text's share is 0.016.
  expect(plain).toBeLessThan(0.55);
  expect(marked).toBeGreaterThan(0.6);
});

test("what cannot be", async () => {
  const prompt = { input_ids: [[5, 9, 2]], max_new_tokens: 2 };
  await expect(llama.generate({ ...prompt, watermarking_config: { ngram_len: 5, keys: [] } })).rejects.toThrow(
    /watermarking_config.keys must be a list of whole numbers/,
  );
  expect(() => new SynthIDTextWatermarkingConfig({ keys: [1] } as never)).toThrow("needs ngram_len and keys");
  expect(() => new SynthIDTextWatermarkingConfig({ ngram_len: 5, keys: [1.5] })).toThrow(OptionError);
  expect(
    () => new SynthIDTextWatermarkLogitsProcessor({ ngram_len: 5, keys: [1], sampling_table_size: 2 ** 24 + 1 }),
  ).toThrow("from 1 to 2^24");
  const { expected_mean_g_value } = new SynthIDTextWatermarkLogitsProcessor({ ngram_len: 5, keys: [1] });
  expect(() => expected_mean_g_value(24, 2)).toThrow("coinflip_prob");
});
