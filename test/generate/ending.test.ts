// What ends texts beside their length, against transformers (test/fixtures/generation/endings.json); several samples of a prompt; beams
// that are drawn; the caller's say in which tokens follow.

import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { OctavoError, OptionError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer } from "../../src/generate/auto.js";
import type { GenerateOptions } from "../../src/generate/model.js";
import { NoBadWordsLogitsProcessor } from "../../src/generate/processors/host/index.js";
import { MaxLengthCriteria } from "../../src/generate/stopping.js";
import { openDevice } from "../../src/load/device.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES, readJson } from "../support/fixtures.js";
import { STORYTELLER } from "../tokenizer/golden.js";

const device = openDevice("cpu", { threads: 2 });
const model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { device, dtype: "float32" });
const tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
const llama = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "llama"), { device });
afterAll(async () => {
  for (const one of [model, llama]) one.dispose();
  expectNoLeaks(device);
  await device.close();
});

interface Case {
  readonly stop_strings: string[];
  readonly num_beams: number;
  readonly input_ids: number[][];
  readonly attention_mask: number[][];
  readonly sequences: number[][];
}
interface Scored {
  readonly options: Record<string, unknown>;
  readonly input_ids: number[][];
  readonly sequences: number[][];
  readonly beam_indices: number[][] | null;
  readonly transitions: number[][][];
  readonly scores: number[][];
  readonly logits: number[][];
}
const { cases, max_new_tokens, scored } = readJson<{ cases: Case[]; max_new_tokens: number; scored: Scored[] }>(
  "generation",
  "endings.json",
);
const greedy = { do_sample: false, max_new_tokens };
const fox = tokenizer(["The old king"]);

describe("stop strings", () => {
  test.each(cases.map((one) => [one.stop_strings.join("|"), one.num_beams, one] as const))(
    "%j, %i beams",
    async (_, num_beams, { stop_strings, input_ids, attention_mask, sequences }) => {
      const options = { ...greedy, num_beams, stop_strings, tokenizer };
      expect(await model.generate({ input_ids, attention_mask }, options)).toEqual(sequences);
      if (num_beams > 1 || input_ids.length > 1) return;
      const guessed = await model.generate({ input_ids }, { ...options, prompt_lookup_num_tokens: 4 });
      expect(guessed).toEqual(sequences);
    },
  );

  test("a stream says so, and its texts are not cut", async () => {
    const steps = [];
    for await (const step of model.stream(fox, { ...greedy, stop_strings: ["ki"], tokenizer })) steps.push(step);
    expect(steps.at(-1)!.finish_reasons).toEqual(["stop"]);
    expect(steps.map(({ text }) => text).join("")).toBe(", and the king");
  });

  test("what is no string, or has no tokenizer, is refused", async () => {
    for (const odd of [[], "", [""], [3], 7]) {
      await expect(model.generate(fox, { stop_strings: odd as never, tokenizer })).rejects.toThrow(/stop_strings/);
    }
    await expect(model.generate(fox, { stop_strings: "a" })).rejects.toThrow(/need the tokenizer/);
    await expect(model.generate(fox, { stop_strings: "a", tokenizer: {} as never })).rejects.toThrow(OptionError);
    expect((await model.generate(fox, { ...greedy, stop_strings: null }))[0]).toHaveLength(
      fox.input_ids[0]!.length + max_new_tokens,
    );
  });
});

describe("time and criteria", () => {
  const reasons = async (options: object): Promise<[count: number, reason: unknown]> => {
    let count = 0;
    let reason: unknown;
    for await (const step of model.stream(fox, { ...greedy, ...options })) {
      count++;
      [reason] = step.finish_reasons;
    }
    return [count, reason];
  };

  test("there is a token however little time there is", async () => {
    expect(await reasons({ max_time: 1e-6 })).toEqual([1, "time"]);
    expect(await reasons({ max_time: 3600 })).toEqual([max_new_tokens, "length"]);
    const { length } = fox.input_ids[0]!;
    for (const num_beams of [1, 3]) {
      expect((await model.generate(fox, { ...greedy, num_beams, max_time: 1e-6 }))[0]).toHaveLength(length + 1);
    }
    for (const odd of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, "1"]) {
      await expect(model.generate(fox, { max_time: odd as number })).rejects.toThrow(/max_time/);
    }
  });

  test("of the caller's", async () => {
    const { length } = fox.input_ids[0]!;
    expect(await reasons({ stopping_criteria: [new MaxLengthCriteria(length + 5)] })).toEqual([5, "stop"]);
    const seen: number[][] = [];
    const rule = (ids: readonly number[]): boolean => seen.push([...ids]) === 4;
    expect(await reasons({ stopping_criteria: [rule, () => false] })).toEqual([4, "stop"]);
    expect(seen.map((ids) => ids.length)).toEqual([1, 2, 3, 4].map((n) => length + n));
    // Each row ends for itself.
    const rows = await model.generate(
      { input_ids: [...fox.input_ids, [...fox.input_ids[0]!.slice(1), 40]] },
      { ...greedy, stopping_criteria: [(ids) => ids.includes(40)], pad_token_id: 7 },
    );
    expect(rows[1]!.slice(length + 1)).toEqual(new Array(max_new_tokens - 1).fill(7));
    expect(rows[0]).not.toContain(7);
    for (const odd of [3, [3], {}, [{}]]) {
      await expect(model.generate(fox, { stopping_criteria: odd as never })).rejects.toThrow(OptionError);
    }
    await expect(model.generate(fox, { stopping_criteria: [() => 1 as never] })).rejects.toThrow(/true or false/);
    await expect(
      model.generate(fox, {
        stopping_criteria: [
          () => {
            throw new RangeError("mine");
          },
        ],
      }),
    ).rejects.toThrow("mine");
  });
});

describe("several samples of a prompt", () => {
  const prompts = [
    [5, 9, 2, 77],
    [31, 8, 40, 11, 4, 60, 2],
  ];
  const input_ids = prompts.map((ids) => [...new Array(7 - ids.length).fill(0), ...ids]);
  const attention_mask = prompts.map((ids) => [...new Array(7 - ids.length).fill(0), ...new Array(ids.length).fill(1)]);
  const twice = <T>(rows: T[]): T[] => rows.flatMap((row) => [row, row, row]);
  const options = { do_sample: true, temperature: 1.5, seed: 11, max_new_tokens: 9, pad_token_id: 0 };

  test("are those of a batch that repeats each prompt", async () => {
    const samples = await llama.generate(
      { input_ids, attention_mask },
      { ...options, num_return_sequences: 3, repetition_penalty: 1.2 },
    );
    expect(samples).toEqual(
      await llama.generate(
        { input_ids: twice(input_ids), attention_mask: twice(attention_mask) },
        { ...options, repetition_penalty: 1.2 },
      ),
    );
    expect(new Set(samples.map(String)).size).toBe(6);
    const { bytes } = llama.cache_footprint({ input_ids }, { ...options, num_return_sequences: 3 });
    expect(bytes).toBe(llama.cache_footprint({ input_ids: twice(input_ids) }, options).bytes);
    let rows = 0;
    for await (const { token_ids } of llama.stream({ input_ids }, { ...options, num_return_sequences: 3 })) {
      rows = token_ids.length;
    }
    expect(rows).toBe(6);
  });

  test("of an encoder-decoder", async () => {
    await using t5 = await AutoModelForSeq2SeqLM.from_pretrained(join(FIXTURES, "models", "t5"), { device });
    const many = await t5.generate({ input_ids, attention_mask }, { ...options, num_return_sequences: 3 });
    expect(many).toEqual(
      await t5.generate({ input_ids: twice(input_ids), attention_mask: twice(attention_mask) }, options),
    );
  });

  test("need sampling, or beams", async () => {
    const same = { input_ids, do_sample: false, num_return_sequences: 2 };
    await expect(llama.generate(same)).rejects.toThrow(/would be the same/);
    await expect(llama.generate({ ...same, num_beams: 2, num_return_sequences: 3 })).rejects.toThrow(/as many beams/);
  });
});

describe("beams that are drawn", () => {
  const prompt = [5, 9, 2, 77];
  const beams = { num_beams: 2, do_sample: true, top_k: 0, pad_token_id: 0, eos_token_id: null };

  test("the better of two draws without replacement, as often as it should", async () => {
    const rows = 400;
    const logits = llama.forward({ input_ids: [prompt], logits_to_keep: 1 });
    const values = await logits.logits.readFloats();
    logits.logits.dispose();
    const temperature = 2;
    const weights = values.map((value) => Math.exp(value / temperature));
    const sum = weights.reduce((all, one) => all + one, 0);
    const p = [...weights].map((weight) => weight / sum);
    const wanted = p.map((own) =>
      p.reduce((all, other) => all + (other < own ? (own * other) / (1 - own) + (other * own) / (1 - other) : 0), 0),
    );
    expect(wanted.reduce((all, one) => all + one, 0)).toBeCloseTo(1, 5);
    const counts = new Array<number>(p.length).fill(0);
    const draws = 10 * rows;
    for (let seed = 0; seed < draws / rows; seed++) {
      const texts = await llama.generate(
        { input_ids: Array.from({ length: rows }, () => prompt) },
        { ...beams, temperature, seed, max_new_tokens: 1 },
      );
      for (const ids of texts) counts[ids.at(-1)!]!++;
    }
    // Tokens that are rare count together.
    const rare = (n: number): boolean => wanted[n]! * draws < 8;
    const bins: [number, number][] = [[0, 0]];
    wanted.forEach((share, n) => {
      if (rare(n)) {
        bins[0]![0] += share * draws;
        bins[0]![1] += counts[n]!;
      } else bins.push([share * draws, counts[n]!]);
    });
    const chi = bins.reduce((all, [want, got]) => all + (want > 0 ? (got - want) ** 2 / want : 0), 0);
    // Five standard deviations above the mean of a χ² of that many degrees.
    expect(chi).toBeLessThan(bins.length + 5 * Math.sqrt(2 * bins.length));
  });

  test("cold ones are those of the search, and the seed decides", async () => {
    const input_ids = [prompt, [31, 8, 40, 11]];
    const options: Partial<GenerateOptions> = { ...beams, num_beams: 3, max_new_tokens: 6 };
    const found = await llama.generate({ input_ids }, { ...options, do_sample: false });
    expect(await llama.generate({ input_ids }, { ...options, temperature: 1e-4, seed: 1 })).toEqual(found);
    const hot = { ...options, temperature: 3, num_return_sequences: 2 };
    const first = await llama.generate({ input_ids }, { ...hot, seed: 5 });
    expect(first).toEqual(await llama.generate({ input_ids }, { ...hot, seed: 5 }));
    expect(first).not.toEqual(await llama.generate({ input_ids }, { ...hot, seed: 6 }));
    expect((await llama.generate({ input_ids: [prompt] }, { ...hot, seed: 5 })).map(String)).toEqual(
      first.slice(0, 2).map(String),
    );
    // Fewer tokens than draws.
    const few = { ...options, top_k: 1, max_new_tokens: 4 };
    expect(await llama.generate({ input_ids }, { ...few, seed: 1 })).toHaveLength(2);
  });
});

describe("scores", () => {
  const near = (got: readonly number[], want: readonly number[]): void => {
    expect(got.length).toBe(want.length);
    for (const [n, value] of want.entries()) expect(Math.abs(got[n]! - value)).toBeLessThan(1e-4);
  };
  test.each(scored.map((one) => [JSON.stringify(one.options), one] as const))("%s", async (_, one) => {
    const { input_ids, options, sequences, beam_indices, transitions } = one;
    const output = await llama.generate(
      { input_ids },
      { ...options, return_dict_in_generate: true, output_scores: true, output_logits: true },
    );
    expect(output.sequences).toEqual(sequences);
    expect(output.beam_indices).toEqual(beam_indices ?? undefined);
    const some = (row: Float32Array): number[] => [...row.filter((_, n) => n % 9 === 0)];
    expect([output.scores!.length, output.logits!.length]).toEqual([one.scores.length, one.logits.length]);
    one.scores.forEach((want, step) => {
      near(some(output.scores![step]![1]!), want);
    });
    one.logits.forEach((want, step) => {
      near(some(output.logits![step]![1]!), want);
    });
    for (const [n, normalize_logits] of [false, true].entries()) {
      const own = { beam_indices: output.beam_indices, normalize_logits };
      const got = llama.compute_transition_scores(output.sequences, output.scores!, own);
      got.forEach((row, r) => {
        near(row, transitions[n]![r]!);
      });
    }
    const alone = await llama.generate({ input_ids }, { ...options, return_dict_in_generate: true });
    expect(Object.keys(alone)).toEqual(["sequences"]);
  });

  test("of samples are what is drawn from; of rows that have ended there are none", async () => {
    const input_ids = [
      [5, 9],
      [31, 8],
    ];
    const how = { do_sample: true, top_k: 3, seed: 2, max_new_tokens: 6, pad_token_id: 0 };
    const plain = await llama.generate({ input_ids }, how);
    const [ends] = plain[0]!.slice(3, 4);
    const { sequences, scores } = await llama.generate(
      { input_ids },
      { ...how, eos_token_id: ends!, return_dict_in_generate: true, output_scores: true },
    );
    expect(sequences[0]!.slice(0, 4)).toEqual(plain[0]!.slice(0, 4));
    expect(scores![0]![0]!.filter((score) => score > Number.NEGATIVE_INFINITY).length).toBe(3);
    expect(scores!.at(-1)![0]!.every(Number.isNaN)).toBe(true);
    const own = llama.compute_transition_scores(sequences, scores!, { normalize_logits: true });
    expect(own[1]!.every((score) => score <= 0 && score > Math.log(1e-6))).toBe(true);
    for (const odd of [[[1]], 3, [[new Float32Array(2)]]]) {
      expect(() => llama.compute_transition_scores(sequences, odd as never)).toThrow(OctavoError);
    }
  });
});

describe("which tokens follow", () => {
  test.each([
    { do_sample: false },
    { do_sample: true, num_return_sequences: 2, seed: 3 },
    { num_beams: 3, num_return_sequences: 2, do_sample: false },
  ])("prefix_allowed_tokens_fn with %j", async (options) => {
    const input_ids = [
      [5, 9],
      [31, 8],
    ];
    const texts = await llama.generate(
      { input_ids },
      {
        ...options,
        max_new_tokens: 4,
        eos_token_id: null,
        pad_token_id: 0,
        // The first prompt goes on with its length of so far, the second with that of 50 more or 90.
        prefix_allowed_tokens_fn: (item, ids) => (item === 0 ? [ids.length] : [50 + ids.length, 90]),
      },
    );
    const half = texts.length / 2;
    for (const ids of texts.slice(0, half)) expect(ids.slice(2)).toEqual([2, 3, 4, 5]);
    for (const ids of texts.slice(half)) {
      expect(ids.slice(2).filter((id, n) => id !== 52 + n && id !== 90)).toEqual([]);
    }
  });

  test("a class of logits processors", async () => {
    const plain = await llama.generate({ input_ids: [[5, 9]] }, { do_sample: false, max_new_tokens: 3 });
    const banned = plain[0]![2]!;
    const other = await llama.generate(
      { input_ids: [[5, 9]] },
      { do_sample: false, max_new_tokens: 3, logits_processor: [new NoBadWordsLogitsProcessor([[banned]])] },
    );
    expect(other[0]!.slice(2)).not.toContain(banned);
    const odd = { input_ids: [[5, 9]], prefix_allowed_tokens_fn: 3 as never };
    await expect(llama.generate(odd)).rejects.toThrow(OptionError);
    for (const none of [[], [5000]]) {
      const nothing = { prefix_allowed_tokens_fn: () => none, max_new_tokens: 2 };
      await expect(llama.generate({ input_ids: [[5, 9]] }, nothing)).rejects.toThrow(/allows no token/);
    }
  });
});
