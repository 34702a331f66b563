// Processors that the device applies give the texts that the host's give, which do everything where scores are kept; and typical, epsilon
// and eta sampling draw as often as they should.

import { describe, expect, test } from "vitest";
import { WatermarkLogitsProcessor } from "../../src/anywhere.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import type { GenerateOptions } from "../../src/generate/options.js";
import { Edits } from "../../src/generate/processors/host/edits.js";
import { getLogitsProcessor } from "../../src/generate/processors/host/list.js";
import { isAmong, randperm } from "../../src/generate/processors/host/randperm.js";
import type { HostProcessor } from "../../src/generate/processors/host-processor.js";
import { DEVICES } from "../support/devices.js";
import { uniforms } from "../support/random.js";
import { onModel } from "../support/suites.js";

const PADDED = {
  input_ids: [
    [0, 0, 0, 5, 9, 2],
    [93, 19, 56, 136, 93, 19],
    [0, 0, 0, 0, 0, 44],
  ],
  attention_mask: [
    [0, 0, 0, 1, 1, 1],
    [1, 1, 1, 1, 1, 1],
    [0, 0, 0, 0, 0, 1],
  ],
  max_new_tokens: 14,
  seed: 7,
};

const OPTIONS: readonly Partial<GenerateOptions>[] = [
  {
    sequence_bias: [
      [[5], -2],
      [[93, 19], 6],
      [[7], 0.3],
    ],
    repetition_penalty: 1.7,
  },
  { encoder_repetition_penalty: 1.6, repetition_penalty: 1.2, presence_penalty: 0.25 },
  { no_repeat_ngram_size: 2 },
  { no_repeat_ngram_size: 1, suppress_tokens: [4, 6] },
  { encoder_no_repeat_ngram_size: 2, begin_suppress_tokens: [9, 12] },
  { bad_words_ids: [[5], [6, 7], Array.from({ length: 3 }, (_, n) => n)] },
  { bad_words_ids: Array.from({ length: 90 }, (_, n) => [n + 20]) },
  { min_length: 12 },
  { min_new_tokens: 9, exponential_decay_length_penalty: [3, 1.4] },
  { forced_bos_token_id: 17, forced_eos_token_id: 2 },
  { forced_eos_token_id: [2, 3], bad_words_ids: [[3]] },
  { watermarking_config: { bias: 3 }, no_repeat_ngram_size: 3 },
  { watermarking_config: { bias: -1.5, context_width: 2 }, renormalize_logits: true },
];
const SAMPLED: readonly Partial<GenerateOptions>[] = [
  { typical_p: 0.7, top_k: 0 },
  { typical_p: 0.4, top_k: 30, temperature: 1.4 },
  { epsilon_cutoff: 0.004, top_p: 0.95 },
  { eta_cutoff: 0.02, top_k: 0, min_p: 0.001 },
  { typical_p: 0.9, epsilon_cutoff: 0.001, eta_cutoff: 0.01, no_repeat_ngram_size: 2 },
  ...OPTIONS,
];

describe.each(DEVICES)("%s", (name) => {
  let model: PreTrainedModel;
  onModel(name, "llama", (_, loaded) => (model = loaded));

  const both = async (options: Partial<GenerateOptions>): Promise<void> => {
    const call = { ...PADDED, ...options } as GenerateOptions;
    const kept = { return_dict_in_generate: true, output_scores: true } as const;
    const want = await model.generate({ ...call, ...kept });
    expect(await model.generate(call)).toEqual((want as unknown as { sequences: number[][] }).sequences);
  };

  test.each(OPTIONS.map((one) => [JSON.stringify(one).slice(0, 100), one] as const))("greedy: %s", (_, options) =>
    both({ ...options, do_sample: false, eos_token_id: 2 }),
  );

  test.each(SAMPLED.map((one) => [JSON.stringify(one).slice(0, 100), one] as const))("sampled: %s", (_, options) =>
    both({ ...options, do_sample: true, eos_token_id: 2 }),
  );

  test("several texts of a prompt, beside a processor of the caller's own", async () => {
    const ban: HostProcessor = { process: (logits) => void (logits[12] = Number.NEGATIVE_INFINITY) };
    await both({
      ...{ do_sample: true, num_return_sequences: 3, logits_processor: [ban], typical_p: 0.8 },
      ...{ no_repeat_ngram_size: 2, min_new_tokens: 5, eos_token_id: 2 },
    });
  });
});

test("a token's place in a permutation is followed as the whole is shuffled", () => {
  const next = uniforms(5);
  for (let round = 0; round < 60; round++) {
    const [size, seed] = [1 + Math.floor(next() * 90), BigInt(Math.floor(next() * 2 ** 32))];
    const count = Math.floor(next() * (size + 1));
    const first = new Set(randperm(size, seed, count));
    for (let id = 0; id < size; id++) expect(isAmong(size, seed, count, id)).toBe(first.has(id));
  }
  const marks = new WatermarkLogitsProcessor(160, { seeding_scheme: "selfhash", context_width: 3 });
  for (let round = 0; round < 5; round++) {
    const scores = Float32Array.from({ length: 160 }, next);
    const ids = [7, 9, round];
    const changed = scores.slice();
    marks.change(changed, ids);
    const order = [...scores.keys()].sort((a, b) => scores[b]! - scores[a]! || a - b).slice(0, 40);
    const green = order.filter((id) => marks.greenlist([...ids, id]).includes(id));
    expect([...scores.keys()].filter((id) => changed[id] !== scores[id]).sort((a, b) => a - b)).toEqual(
      green.sort((a, b) => a - b),
    );
  }
});

test("what is forced is there though it was forbidden; what is forbidden does not grow", () => {
  const edits = new Edits(4);
  edits.ban([1, 9]);
  edits.grow(1, 2);
  edits.add(0, 1.5);
  edits.penalize(0, 2);
  const scores = Float32Array.of(-2, 5, 3, 4);
  edits.apply(scores);
  expect([...scores]).toEqual([-1, Number.NEGATIVE_INFINITY, 3, 4]);
  edits.force([1, 7], 0);
  edits.ban([1]);
  edits.apply(scores);
  expect([...scores]).toEqual([2, 0, 3, 4].map((_, id) => (id === 1 ? 0 : Number.NEGATIVE_INFINITY)));
});

describe("how often tokens are drawn", () => {
  let model: PreTrainedModel;
  onModel("cpu", "llama", (_, loaded) => (model = loaded));

  test.each([
    { typical_p: 0.6 },
    { epsilon_cutoff: 0.006 },
    { eta_cutoff: 0.03 },
    { watermarking_config: { bias: 2 } },
  ])("%j", async (options) => {
    const prompt = [93, 19, 56, 136];
    const { logits } = model.forward({ input_ids: [prompt] });
    const all = await logits.readFloats();
    const vocab = logits.shape[2]!;
    logits.dispose();
    const scores = all.slice(-vocab);
    const config = { ...options, do_sample: true, temperature: 1.3, top_k: 0 };
    getLogitsProcessor(config, { input_ids_seq_length: 4, vocab_size: vocab }).change(scores, prompt, 0);
    const top = Math.max(...scores);
    const weights = [...scores].map((score) => Math.exp(score - top));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const N = 4000;
    const counts = new Float64Array(vocab);
    const call = { input_ids: [prompt], max_new_tokens: 1, num_return_sequences: 500, eos_token_id: null };
    for (let seed = 0; seed < N / 500; seed++) {
      for (const row of await model.generate({ ...call, ...config, seed })) counts[row.at(-1)!]!++;
    }
    // Tokens that are expected fewer than ten times are one class.
    let [statistic, classes, rest, seen] = [0, 0, 0, 0];
    const add = (want: number, got: number): void => {
      statistic += (got - want) ** 2 / want;
      classes++;
    };
    for (const [id, weight] of weights.entries()) {
      const want = (N * weight) / total;
      if (want === 0) expect(counts[id]).toBe(0);
      else if (want < 10) [rest, seen] = [rest + want, seen + counts[id]!];
      else add(want, counts[id]!);
    }
    if (rest > 0) add(rest, seen);
    expect(classes).toBeGreaterThan(5);
    // The mean of chi-squared is its degrees of freedom, the variance twice that: five deviations, of fixed seeds.
    expect(statistic).toBeLessThan(classes - 1 + 5 * Math.sqrt(2 * (classes - 1)));
  });
});
