// past_key_values: calls give what they give without a cache, and read only what is new.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AbortError, OptionError } from "../../src/core/errors.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import { DynamicCache } from "../../src/generate/dynamic-cache.js";
import type { GenerateOptions, PreTrainedModel } from "../../src/generate/model.js";
import { openDevice } from "../../src/load/device.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";

const device = openDevice("cpu", { threads: 2 });
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});

const open = async (name: string): Promise<PreTrainedModel> =>
  await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", name), { device });

const GREEDY = { do_sample: false, max_new_tokens: 6, eos_token_id: null, pad_token_id: 0 } as const;
const FIRST = [
  [5, 9, 2, 77, 41],
  [8, 30, 12],
];

/** Prompts of any lengths as one batch, filled from the left. */
function padded(prompts: readonly (readonly number[])[]): Pick<GenerateOptions, "input_ids" | "attention_mask"> {
  const steps = Math.max(...prompts.map(({ length }) => length));
  const fill = (ids: readonly number[], pad: number): number[] => [
    ...new Array<number>(steps - ids.length).fill(0),
    ...(pad === 1 ? ids.map(() => 1) : ids),
  ];
  return { input_ids: prompts.map((ids) => fill(ids, 0)), attention_mask: prompts.map((ids) => fill(ids, 1)) };
}

describe.each(["llama", "gemma3_text", "bloom", "phi3-longrope"])("%s", (name) => {
  let model: PreTrainedModel;
  beforeAll(async () => {
    model = await open(name);
  });
  afterAll(() => model.dispose());

  test("calls go on from the ones before, whatever their options are", async () => {
    using cache = new DynamicCache();
    const fresh = name.includes("longrope"); // its keys depend on how long a text may get
    let prompts = FIRST;
    let before = [0, 0];
    for (const [turn, options] of (
      [
        GREEDY,
        { ...GREEDY, do_sample: true, temperature: 2, seed: 3 },
        { ...GREEDY, no_repeat_ngram_size: 2 },
        { ...GREEDY, prompt_lookup_num_tokens: 3 },
        GREEDY,
      ] as const
    ).entries()) {
      const batch = padded(prompts);
      const wanted = await model.generate({ ...batch, ...options });
      const { sequences, past_key_values } = await model.generate({
        ...{ ...batch, ...options, past_key_values: cache },
        return_dict_in_generate: true,
      });
      expect(sequences).toEqual(wanted);
      expect(past_key_values).toBe(cache);
      expect(cache.batch_size).toBe(2);
      if (!fresh) expect(cache.reused, `turn ${turn}`).toEqual(before);
      // The last token that was chosen is not read: it is the first of the next call.
      const texts = sequences.map((ids, row) => ids.slice(ids.length - GREEDY.max_new_tokens - prompts[row]!.length));
      expect(texts.map((_, row) => cache.get_seq_length(row))).toEqual(texts.map(({ length }) => length - 1));
      before = texts.map(({ length }) => length - 1);
      prompts = texts.map((ids, row) => [...ids, 60 + row, 3]);
    }
  });

  test("texts that share a beginning, or nothing; crop and reset", async () => {
    using cache = new DynamicCache({ max_cache_len: 64 });
    const call = async (ids: readonly number[], options: object = {}): Promise<number> => {
      const all = { input_ids: [[...ids]], ...GREEDY, ...options };
      expect(await model.generate({ ...all, past_key_values: cache })).toEqual(await model.generate(all));
      return cache.reused[0]!;
    };
    const ids = Array.from({ length: 20 }, (_, i) => 4 + i);
    expect(await call(ids)).toBe(0);
    const fresh = name.includes("longrope"); // as above
    const shares = (shared: number, count: number): void => expect([fresh ? 0 : count, count]).toContain(shared);
    shares(await call([...ids.slice(0, 12), 89, 88]), 12);
    expect(await call([50])).toBe(0);
    await call(ids);
    cache.crop(-15); // of 25
    expect(cache.get_seq_length()).toBe(10);
    cache.crop(8);
    expect(cache.get_seq_length()).toBe(8);
    cache.crop(30);
    shares(await call(ids), 8);
    // It outgrows its room.
    expect(await call([...ids, ...ids, ...ids])).toBe(0);
    shares(await call([...ids, ...ids, ...ids, 7]), 60);
    cache.reset();
    expect([cache.batch_size, cache.nbytes, cache.get_seq_length()]).toEqual([0, 0, 0]);
    expect(await call(ids)).toBe(0);
  });
});

describe("a cache", () => {
  test("is used by one call at a time, and survives those that are cut short", async () => {
    await using model = await open("llama");
    using cache = new DynamicCache();
    const all = { input_ids: [[5, 9, 2, 77, 41]], ...GREEDY };
    const stream = model.stream({ ...all, past_key_values: cache });
    await stream.next();
    await expect(model.generate({ ...all, past_key_values: cache })).rejects.toMatchObject({ code: "ERR_IN_USE" });
    expect(() => cache.crop(1)).toThrow(/another call uses the cache/);
    expect(() => cache.dispose()).toThrow(/another call uses the cache/);
    await stream.return(undefined);
    expect(cache.get_seq_length()).toBeGreaterThanOrEqual(5);
    const wanted = await model.generate(all);
    expect(await model.generate({ ...all, past_key_values: cache })).toEqual(wanted);
    expect(cache.reused).toEqual([4]); // one token is read, for its logits
    const abort = new AbortController();
    abort.abort();
    const { signal } = abort;
    await expect(model.generate({ ...all, past_key_values: cache, signal })).rejects.toThrow(AbortError);
    const broken = {
      ...all,
      past_key_values: cache,
      logits_processor: [
        {
          process() {
            throw new Error("mine");
          },
        },
      ],
    };
    await expect(model.generate(broken)).rejects.toThrow("mine");
    expect(cache.batch_size).toBe(0); // what failed is forgotten
    expect(await model.generate({ ...all, past_key_values: cache })).toEqual(wanted);
  });

  test("belongs to one model, one batch and one dtype", async () => {
    const model = await open("llama");
    await using other = await open("bloom");
    using cache = new DynamicCache();
    const all = { input_ids: [[5, 9, 2]], ...GREEDY, past_key_values: cache };
    await model.generate(all);
    await expect(other.generate(all)).rejects.toThrow(/that of another model/);
    await expect(model.generate({ ...all, input_ids: FIRST.map((ids) => ids.slice(0, 3)) })).rejects.toThrow(
      /holds 1 texts, and the batch has 2/,
    );
    await expect(model.generate({ ...all, cache_implementation: "quantized" })).rejects.toThrow(/is in float32/);
    for (const options of [
      { num_beams: 2 },
      { do_sample: true, num_return_sequences: 2 },
      { guidance_scale: 2 },
      { penalty_alpha: 0.5, top_k: 3 },
    ]) {
      await expect(model.generate({ ...all, ...options })).rejects.toThrow(/one text of each prompt, without/);
    }
    await expect(model.generate({ ...all, past_key_values: {} as DynamicCache })).rejects.toThrow(OptionError);
    expect(() => cache.crop(0.5)).toThrow(OptionError);
    expect(() => new DynamicCache({ max_cache_len: 0 })).toThrow(OptionError);
    // The model frees it with itself.
    expect(cache.nbytes).toBeGreaterThan(0);
    model.dispose();
    expect(cache.nbytes).toBe(0);
    await other.generate(all);
  });
});
