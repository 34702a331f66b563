// Decoding modes beside greedy search and beams give what transformers gives (test/fixtures/make_modes.py): watermarks, guidance,
// groups of beams, words that texts must hold (make_constrained.py), contrastive search, DoLa (make_dola.py).

import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import {
  DisjunctiveConstraint,
  PhrasalConstraint,
  WatermarkDetector,
  WatermarkingConfig,
  WatermarkLogitsProcessor,
} from "../../src/anywhere.js";
import { AbortError, OptionError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, AutoModelForSeq2SeqLM } from "../../src/generate/auto.js";
import { generationConfig } from "../../src/generate/config.js";
import { Constraints } from "../../src/generate/constraints.js";
import { contrastiveSteps } from "../../src/generate/contrastive.js";
import { candidateLayers } from "../../src/generate/dola.js";
import { readBatch } from "../../src/generate/inputs.js";
import type { DolaLayers } from "../../src/generate/mode-options.js";
import { randperm } from "../../src/generate/processors/host/randperm.js";
import type { WatermarkingOptions } from "../../src/generate/processors/host/watermark.js";
import { openDevice } from "../../src/load/device.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES, readJson } from "../support/fixtures.js";

interface Case {
  readonly model: "llama" | "gpt2" | "t5";
  readonly input_ids: number[][];
  readonly attention_mask: number[][];
  readonly options: Record<string, unknown>;
  readonly sequences: number[][];
}
interface Modes {
  readonly permutations: { readonly seed: string; readonly numbers: number[] }[];
  readonly green: {
    readonly config: WatermarkingOptions;
    readonly input_ids: number[][];
    readonly scores: number[][];
    readonly processed: number[][];
  }[];
  readonly detected: ({ readonly config: WatermarkingOptions; readonly input_ids: number[][] } & Record<
    string,
    unknown
  >)[];
  readonly marked: Case[];
  readonly guided: Case[];
  readonly contrastive: Case[];
  readonly diverse: ScoredCase[];
}
type ScoredCase = Case & { readonly sequences_scores: number[] };
const modes = readJson<Modes>("generation", "modes.json");
const device = openDevice("cpu", { threads: 2 });
const at = (name: string): string => join(FIXTURES, "models", name);
const llama = await AutoModelForCausalLM.from_pretrained(at("llama"), { device });
const gpt2 = await AutoModelForCausalLM.from_pretrained(at("gpt2"), { device });
const t5 = await AutoModelForSeq2SeqLM.from_pretrained(at("t5"), { device });
const models = { llama, gpt2, t5 };
afterAll(async () => {
  for (const model of Object.values(models)) model.dispose();
  expectNoLeaks(device);
  await device.close();
});

const named = (cases: readonly Case[]) =>
  cases.map((one) => [`${one.model} ${JSON.stringify(one.options)}`, one] as const);
const generated = ({ model, input_ids, attention_mask, options }: Case): Promise<number[][]> =>
  model === "t5"
    ? t5.generate({ input_ids, attention_mask, ...options })
    : models[model].generate({ input_ids, attention_mask, ...options });

describe("watermarks", () => {
  test.each(modes.permutations)("torch's permutation of seed $seed", ({ seed, numbers }) => {
    expect([...randperm(700, BigInt(seed), 40)]).toEqual(numbers);
    expect([...randperm(700, BigInt(seed))].sort((a, b) => a - b)).toEqual(Array.from({ length: 700 }, (_, i) => i));
  });

  test.each(modes.green.map((one) => [JSON.stringify(one.config), one] as const))("green tokens: %s", (_, one) => {
    const processor = new WatermarkLogitsProcessor(160, one.config);
    for (const [row, ids] of one.input_ids.entries()) {
      const scores = Float32Array.from(one.scores[row]!);
      processor.change(scores, ids);
      expect([...scores]).toEqual(one.processed[row]);
    }
  });

  test.each(named(modes.marked))("%s", async (_, one) => {
    expect(await generated(one)).toEqual(one.sequences);
  });

  test.each(modes.detected.map((one) => [JSON.stringify(one.config), one] as const))("found: %s", (_, one) => {
    const { config, input_ids, ...want } = one;
    const detector = new WatermarkDetector({ model_config: llama.config, watermarking_config: config });
    const found = detector.call(input_ids, { return_dict: true });
    expect(Object.keys(found).sort()).toEqual(Object.keys(want).sort());
    for (const [key, values] of Object.entries(found)) {
      values.forEach((value: number | boolean, row: number) => {
        // Both compute in f64, from whole counts.
        expect(Number(value)).toBeCloseTo(Number((want[key] as (number | boolean)[])[row]), 12);
      });
    }
    expect(detector.call(input_ids)).toEqual(want.prediction);
    expect(detector.call(input_ids, { z_threshold: -100 })).toEqual([true, true, true]);
  });

  test("sampled texts are marked; windows that repeat count once if asked", async () => {
    const watermarking_config = new WatermarkingConfig({ bias: 6, greenlist_ratio: 0.3 });
    const prompt = { input_ids: [[5, 9, 2, 77]], max_new_tokens: 40, eos_token_id: null, do_sample: true, seed: 3 };
    const [own] = await llama.generate({ ...prompt, watermarking_config });
    const detector = new WatermarkDetector({ model_config: llama.config, watermarking_config });
    expect(detector.call([own!.slice(4)])).toEqual([true]);
    const once = { ignore_repeated_ngrams: true, model_config: llama.config, watermarking_config };
    const twice = [[...own!.slice(4), ...own!.slice(4)]];
    const { num_tokens_scored } = new WatermarkDetector(once).call(twice, { return_dict: true });
    expect(num_tokens_scored[0]).toBeLessThanOrEqual(40);
  });

  test("what cannot be", async () => {
    const prompt = { input_ids: [[5, 9, 2]], max_new_tokens: 2 };
    await expect(llama.generate({ ...prompt, watermarking_config: { bias: "2" } as never })).rejects.toThrow(
      /watermarking_config must be a WatermarkingConfig, a SynthIDTextWatermarkingConfig or the fields of one[\s\S]*watermarking_config.bias must be a number, got "2"/,
    );
    expect(() => new WatermarkingConfig({ greenlist_ratio: 1 })).toThrow("above 0 and below 1");
    const detector = new WatermarkDetector({ model_config: llama.config, watermarking_config: {} });
    expect(() => detector.call([[7]])).toThrow("too short");
  });
});

describe("guidance", () => {
  test.each(named(modes.guided))("%s", async (_, one) => {
    expect(await generated(one)).toEqual(one.sequences);
  });

  const prompt = { input_ids: [[5, 9, 2, 77]], max_new_tokens: 8, eos_token_id: null, guidance_scale: 2 };
  const negative_prompt_ids = [[31, 8, 40]];

  test("samples, alone and beside others, several of a prompt, as steps", async () => {
    const options = { ...prompt, do_sample: true, seed: 5, negative_prompt_ids };
    const [alone] = await llama.generate(options);
    const two = {
      input_ids: [prompt.input_ids[0]!, [6, 6, 3, 1]],
      negative_prompt_ids: [
        [31, 8, 40],
        [9, 9, 9],
      ],
    };
    expect((await llama.generate({ ...options, ...two }))[0]).toEqual(alone);
    const copies = await llama.generate({ ...options, num_return_sequences: 2 });
    expect(copies).toHaveLength(2);
    expect(copies[0]).toEqual(alone);
    expect(copies[1]).not.toEqual(alone);
    const steps: number[] = [];
    for await (const { token_ids } of llama.stream({ ...options, logprobs: true })) steps.push(...token_ids);
    expect(steps).toEqual(alone!.slice(4));
  });

  test("scores are those with guidance, logits those without", async () => {
    const kept = { return_dict_in_generate: true, output_scores: true, output_logits: true } as const;
    const plain = await llama.generate({ ...prompt, guidance_scale: 1, max_new_tokens: 1, ...kept });
    const { scores, logits } = await llama.generate({ ...prompt, negative_prompt_ids, max_new_tokens: 1, ...kept });
    expect(logits![0]).toEqual(plain.logits![0]);
    const [other] = (await llama.generate({ input_ids: negative_prompt_ids, max_new_tokens: 1, ...kept })).logits!;
    const shares = (own: Float32Array): number[] => {
      const sum = own.reduce((all, one) => all + Math.exp(one), 0);
      return [...own].map((one) => one - Math.log(sum));
    };
    const [given, without] = [shares(logits![0]![0]!), shares(other![0]!)];
    // f32 scores of some tens; sums in another order.
    for (const [id, one] of given.entries()) {
      expect(scores![0]![0]![id]).toBeCloseTo(without[id]! + 2 * (one - without[id]!), 4);
    }
  });

  test("what cannot be", async () => {
    const refused: [object, RegExp][] = [
      [{ negative_prompt_ids: [[5], [6]] }, /negative_prompt_ids: 2 rows, but input_ids have 1/],
      [{ guidance_scale: undefined, negative_prompt_ids }, /without guidance_scale/],
      [{ negative_prompt_attention_mask: [[1]] }, /there are no negative_prompt_ids/],
      [{ negative_prompt_ids, negative_prompt_attention_mask: [[1]] }, /negative_prompt_attention_mask must have/],
      [
        { negative_prompt_ids, negative_prompt_attention_mask: [[0, 0, 0]] },
        /row 0 of negative_prompt_ids is all padding/,
      ],
      [{ negative_prompt_ids: [[160]] }, /vocabulary has ids 0 to 159/],
      [{ guidance_scale: Number.NaN }, /guidance_scale must be a number/],
      [{ prompt_lookup_num_tokens: 2 }, /cannot be combined with guidance_scale/],
    ];
    for (const [options, message] of refused) {
      await expect(llama.generate({ ...prompt, ...options })).rejects.toThrow(message);
    }
    await expect(t5.generate({ ...prompt })).rejects.toThrow(/guidance_scale is for models without an encoder/);
    const long = { input_ids: [[5]], max_new_tokens: 8, guidance_scale: 2 };
    const negative = { negative_prompt_ids: [new Array<number>(gpt2.module.geometry.max_positions - 6).fill(5)] };
    await expect(gpt2.generate({ ...long, ...negative })).rejects.toThrow(/positions of this model/);
    const rows = llama.cache_footprint(prompt).bytes / llama.cache_footprint({ ...prompt, guidance_scale: 1 }).bytes;
    expect(rows).toBe(2);
  });
});

describe("layers compared with the last one (DoLa)", () => {
  const dola = readJson<Case[]>("generation", "dola.json");
  test.each(named(dola))("%s", async (_, one) => {
    expect(await generated(one)).toEqual(one.sequences);
  });

  test("sampled, scored and streamed, alone and in a batch", async () => {
    const { input_ids, attention_mask } = dola[0]!;
    const call = { max_new_tokens: 4, dola_layers: "low", do_sample: true, seed: 3, eos_token_id: [] } as const;
    const batch = await llama.generate({ input_ids, attention_mask, ...call });
    const alone: number[] = [];
    for await (const { token_ids } of llama.stream({ input_ids: [input_ids[0]!.slice(3)], ...call })) {
      alone.push(...token_ids);
    }
    expect(batch[0]!.slice(-4)).toEqual(alone);
    const vocab = llama.config.vocab_size as number;
    const kept = { ...call, return_dict_in_generate: true, output_scores: true, output_logits: true } as const;
    const { sequences, scores, logits } = await llama.generate({ input_ids, attention_mask, ...kept });
    expect(sequences).toEqual(batch);
    expect([scores!.length, scores![0]![0]!.length, logits![0]![0]!.length]).toEqual([4, vocab, vocab]);
  });

  test("layers of deep and of shallow models, as transformers counts them", () => {
    const of = (layers: DolaLayers, blocks: number, tied: boolean) => candidateLayers(layers, { blocks, tied });
    expect(of("low", 32, false)).toEqual([0, 2, 4, 6, 8, 10, 12, 14]);
    expect(of("low", 32, true)).toEqual([2, 4, 6, 8, 10, 12, 14]);
    expect(of("high", 6, true)).toEqual([3, 5]);
    expect(of("high", 80, true).slice(0, 3)).toEqual([60, 62, 64]);
    expect(of("low", 80, false)).toEqual([0, 2, 4, 6, 8, 10, 12, 14, 16, 18]);
    expect([of("low", 2, true), of("low", 4, true), of("low", 1, true)]).toEqual([[1], [2], [0]]);
  });

  test("what cannot be", async () => {
    const call = { input_ids: [[5, 9, 2]], max_new_tokens: 2 };
    for (const [options, message] of [
      [{ dola_layers: "middle" }, /dola_layers must be "low", "high", or a list/],
      [{ dola_layers: [] }, /dola_layers must be/],
      [{ dola_layers: [9] }, /none of 9 is below 2/],
      [{ dola_layers: "low", num_beams: 2 }, /cannot be combined with num_beams/],
      [{ dola_layers: "low", penalty_alpha: 0.6 }, /cannot be combined with penalty_alpha/],
      [{ dola_layers: "low", prompt_lookup_num_tokens: 3 }, /dola_layers/],
    ] as const) {
      await expect(llama.generate({ ...call, ...options } as never)).rejects.toThrow(message);
    }
    await expect(t5.generate({ ...call, dola_layers: "low" })).rejects.toThrow(/only models without an encoder/);
  });
});

const constrained = readJson<ScoredCase[]>("generation", "constrained.json");

describe("beams in groups, and beams that must hold words", () => {
  test.each(named([...modes.diverse, ...constrained]))("%s", async (_, one) => {
    const { model, input_ids, attention_mask, options, sequences } = one;
    const given = {
      input_ids,
      attention_mask,
      ...options,
      return_dict_in_generate: true,
      output_scores: true,
    } as const;
    const found = await (model === "t5" ? t5.generate(given) : models[model].generate(given));
    expect(found.sequences).toEqual(sequences);
    const { sequences_scores: want } = one as ScoredCase;
    // f32 against f64, sums of eight log-probabilities.
    for (const [n, score] of found.sequences_scores!.entries()) expect(score).toBeCloseTo(want[n]!, 4);
  });

  test("constraints as objects, sent ones too, are force_words_ids; none are none", async () => {
    const call = { input_ids: [[5, 9, 2]], max_new_tokens: 6, num_beams: 3, eos_token_id: [] };
    const force_words_ids = [
      [12, 13],
      [[33], [34, 35]],
    ];
    const constraints = [new PhrasalConstraint([12, 13]), new DisjunctiveConstraint([[33], [34, 35]])];
    const want = await llama.generate({ ...call, force_words_ids });
    expect(await llama.generate({ ...call, constraints })).toEqual(want);
    expect(await llama.generate({ ...call, constraints: structuredClone(constraints) })).toEqual(want);
    const free = await llama.generate(call);
    expect(want).not.toEqual(free);
    expect(await llama.generate({ ...call, constraints: null, force_words_ids: [] })).toEqual(free);
    // A word as long as a book, and as many words as there are tokens.
    const long = Array.from({ length: 200_000 }, (_, n) => n % 7);
    expect(() => new DisjunctiveConstraint([long, [8]])).not.toThrow();
    expect(() => new DisjunctiveConstraint([long, long.slice(0, -1)])).toThrow(OptionError);
    expect(new Constraints([new DisjunctiveConstraint(long.map((_, n) => [n]))]).begin([5]).complete).toBe(1);
    for (const wrong of [[], [[]], 5, null, [[1], [1, 2]], [[1.5]]]) {
      expect(() => new DisjunctiveConstraint(wrong as never)).toThrow(OptionError);
      expect(() => new PhrasalConstraint(wrong as never)).toThrow(OptionError);
    }
  });

  test("a prompt that is done is not looked at again, and keeps its scores", async () => {
    const asked: number[] = [];
    // The first prompt has its word and ends, the second does not end.
    const processor = {
      process(scores: Float32Array, { ids }: { readonly ids: readonly number[] }) {
        if (ids[0] !== 5) scores[2] = Number.NEGATIVE_INFINITY;
        else {
          asked.push(ids.length);
          for (let id = 0; id < scores.length; id++) if (id !== 2) scores[id]! -= 100;
        }
      },
    };
    const call = {
      ...{ max_new_tokens: 9, num_beams: 2, early_stopping: true, force_words_ids: [[12]], eos_token_id: 2 },
      ...{ output_scores: true, logits_processor: [processor] },
      return_dict_in_generate: true,
    } as const;
    const alone = await llama.generate({ ...call, input_ids: [[5, 12, 3]] });
    const steps = alone.scores!.length;
    expect(steps).toBeLessThan(8);
    asked.length = 0;
    const both = await llama.generate({
      ...call,
      input_ids: [
        [5, 12, 3],
        [7, 7, 3],
      ],
    });
    expect(Math.max(...asked)).toBe(3 + steps - 1);
    expect(both.sequences[0]!.slice(0, 4)).toEqual([5, 12, 3, 2]);
    expect(both.scores).toHaveLength(9);
    for (const [step, rows] of both.scores!.entries()) {
      const own = alone.scores![step];
      for (const row of [0, 1]) {
        if (own)
          expect(rows[row]![12]).toBeCloseTo(own[row]![12]!, 4); // f32, other shapes
        else expect(rows[row]![12]).toBeNaN();
      }
      expect(rows[2]![12]).not.toBeNaN();
    }
  });

  test("what cannot be", async () => {
    const beams = { input_ids: [[5, 9, 2]], max_new_tokens: 2, num_beams: 4 };
    const refused: [object, RegExp][] = [
      [{ num_beam_groups: 3, diversity_penalty: 1 }, /num_beam_groups 3 must divide num_beams, which is 4/],
      [{ num_beam_groups: 2 }, /groups would be the same/],
      [{ diversity_penalty: 1 }, /there are no groups/],
      [{ num_beam_groups: 2, diversity_penalty: 1, do_sample: true }, /cannot be combined with do_sample/],
      [{ num_beam_groups: 0 }, /a whole number above 0/],
      [{ force_words_ids: [[[5], [5, 6]]] }, /none is the beginning of another/],
      [{ force_words_ids: [[]] }, /force_words_ids must be/],
      [{ force_words_ids: [[400_000]] }, /token id 400000 is not below/],
      [{ force_words_ids: [[5]], do_sample: true }, /cannot be combined with do_sample/],
      [{ force_words_ids: [[5]], num_beams: 1 }, /needs num_beams above 1/],
      [{ constraints: [{}] }, /a list of PhrasalConstraint/],
      [{ constraints: [new PhrasalConstraint([5])], num_beam_groups: 2, diversity_penalty: 1 }, /num_beam_groups/],
    ];
    for (const [options, message] of refused)
      await expect(llama.generate({ ...beams, ...options })).rejects.toThrow(message);
    const plain = await llama.generate(beams);
    expect(await llama.generate({ ...beams, num_beam_groups: 1, diversity_penalty: 0 })).toEqual(plain);
  });
});

describe("contrastive search", () => {
  test.each(named(modes.contrastive))("%s", async (_, one) => {
    expect(await generated(one)).toEqual(one.sequences);
  });

  const prompt = { input_ids: [[5, 9, 2, 77]], max_new_tokens: 6, eos_token_id: null, penalty_alpha: 0.6, top_k: 4 };

  test("as steps, with scores; a prompt in several chunks", async () => {
    const [whole] = await llama.generate(prompt);
    const steps: number[] = [];
    for await (const { token_ids, scores } of llama.stream({ ...prompt, logprobs: true })) {
      steps.push(...token_ids);
      expect(scores![0]).toBeLessThan(0);
    }
    expect(steps).toEqual(whole!.slice(4));
    const { sequences, scores, logits } = await llama.generate({
      ...prompt,
      return_dict_in_generate: true,
      output_scores: true,
      output_logits: true,
    });
    expect(sequences).toEqual([whole]);
    expect(scores).toHaveLength(6);
    expect(logits![0]![0]).toEqual(scores![0]![0]);
    const config = generationConfig(prompt, {}, {}, 4, 160);
    const batch = readBatch(prompt.input_ids, undefined, 160);
    const found: number[] = [];
    for await (const { token_ids } of contrastiveSteps(device, llama.module, batch, {
      config,
      cache_dtype: "f32",
      chunk: 3,
    })) {
      found.push(...token_ids);
    }
    expect(found).toEqual(steps);
  });

  test("a token that may not come is not taken, however unlike the text it is", async () => {
    const [text] = await llama.generate({ ...prompt, penalty_alpha: 0.95, prefix_allowed_tokens_fn: () => [7] });
    expect(text!.slice(4)).toEqual(new Array(6).fill(7));
  });

  test("penalties of tokens that were generated, which the device has otherwise", async () => {
    const input_ids = [[5, 9, 2, 77]];
    const options = { input_ids, max_new_tokens: 12, eos_token_id: null, presence_penalty: 40 };
    const modes = [{}, { num_beams: 3 }, { guidance_scale: 2 }, { penalty_alpha: 0.1, top_k: 3 }];
    for (const mode of modes) {
      const [text] = await llama.generate({ ...options, ...mode });
      expect(new Set(text!.slice(4)).size).toBe(12);
    }
    const [plain] = await llama.generate({ ...options, frequency_penalty: -3 });
    // A guide that says nothing else: the same text.
    const guided = { guidance_scale: 1.5, negative_prompt_ids: input_ids, frequency_penalty: -3 };
    expect((await llama.generate({ ...options, ...guided }))[0]).toEqual(plain);
  });

  test("one candidate is the likeliest token; what cannot be", async () => {
    const plain = await llama.generate({ ...prompt, penalty_alpha: 0 });
    expect(await llama.generate({ ...prompt, top_k: 1 })).toEqual(plain);
    expect(await llama.generate({ ...prompt, penalty_alpha: null })).toEqual(plain);
    const refused: [object, RegExp][] = [
      [{ do_sample: true }, /penalty_alpha cannot be combined with do_sample/],
      [{ num_beams: 2 }, /penalty_alpha cannot be combined with num_beams/],
      [{ guidance_scale: 2 }, /penalty_alpha cannot be combined with guidance_scale/],
      [{ top_k: 0 }, /top_k must be a number of candidates above 0/],
      [{ penalty_alpha: -1 }, /penalty_alpha must be a number of at least 0/],
      [{ prompt_lookup_num_tokens: 2 }, /cannot be combined with penalty_alpha/],
    ];
    for (const [options, message] of refused) {
      await expect(llama.generate({ ...prompt, ...options })).rejects.toThrow(message);
    }
    const abort = new AbortController();
    abort.abort();
    await expect(llama.generate({ ...prompt, signal: abort.signal })).rejects.toBeInstanceOf(AbortError);
    const rows = llama.cache_footprint(prompt).bytes / llama.cache_footprint({ ...prompt, penalty_alpha: 0 }).bytes;
    expect(rows).toBe(4);
  });
});
