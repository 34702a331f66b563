// Beam search and the host's processors give what transformers gives (test/fixtures/generation), whatever the batch.

import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { AbortError, OptionError } from "../../src/core/errors.js";
import { Tensor } from "../../src/core/tensor.js";
import { AutoModelForCausalLM, AutoModelForSeq2SeqLM } from "../../src/generate/auto.js";
import * as host from "../../src/generate/processors/host/index.js";
import { EosTokenCriteria, MaxLengthCriteria, StopStringCriteria } from "../../src/generate/stopping.js";
import { openDevice } from "../../src/load/device.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES, type Golden, readArrays, readJson } from "../support/fixtures.js";

const device = openDevice("cpu", { threads: 2 });
const llama = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "llama"), { device });
afterAll(async () => {
  llama.dispose();
  expectNoLeaks(device);
  await device.close();
});

interface Case {
  readonly name: string;
  readonly generation_config: Record<string, unknown>;
  readonly input_ids: number[][];
  readonly sequences: number[][];
  readonly sequences_scores: number[];
}
interface Search {
  readonly beam: Case[];
  readonly greedy: Case[];
  readonly pad_token_id: number;
  readonly default_eos_token_id: number;
  readonly tolerance: { readonly sequences_scores: number };
}
const search = readJson<Search>("generation", "search.json");
const { pad_token_id, default_eos_token_id: eos_token_id } = search;

describe("beam search", () => {
  test.each(search.beam.map((one) => [one.name, one] as const))(
    "%s",
    async (_, { generation_config, input_ids, ...want }) => {
      const { sequences, sequences_scores } = await llama.generate(
        { input_ids },
        { pad_token_id, eos_token_id, ...generation_config, return_dict_in_generate: true, output_scores: true },
      );
      expect(sequences).toEqual(want.sequences);
      sequences_scores!.forEach((score, n) => {
        expect(Math.abs(score - want.sequences_scores[n]!)).toBeLessThanOrEqual(search.tolerance.sequences_scores);
      });
    },
  );

  test("a text's beams do not depend on the texts beside it, padded ones included", async () => {
    const options = { num_beams: 4, max_new_tokens: 8, num_return_sequences: 2, pad_token_id, eos_token_id: 109 };
    const [one, other] = [
      [5, 9, 2, 77],
      [31, 8, 40, 11, 4, 60, 2],
    ];
    const alone = [
      await llama.generate({ input_ids: [one!], ...options }),
      await llama.generate({ input_ids: [other!], ...options }),
    ];
    const padded = [...new Array<number>(3).fill(pad_token_id), ...one!];
    const attention_mask = [[0, 0, 0, 1, 1, 1, 1], new Array<number>(7).fill(1)];
    const both = await llama.generate({ input_ids: [padded, other!], attention_mask, ...options });
    const tail = (row: number[], prompt: number): number[] => row.slice(prompt);
    const cut = (row: number[]): number[] => row.slice(0, row.indexOf(109) + 1 || undefined);
    expect(both.map((row) => cut(tail(row, 7)))).toEqual([
      ...alone[0]!.map((row) => cut(tail(row, 4))),
      ...alone[1]!.map((row) => cut(tail(row, 7))),
    ]);
  });

  test.each(["t5", "t5-v1_1-like"])("an encoder-decoder: %s", async (name) => {
    interface Beam {
      readonly num_beams: number;
      readonly length_penalty: number;
      readonly early_stopping: boolean;
      readonly sequences: number[][];
    }
    const { inputs, generation } = readJson<{
      inputs: Record<string, { input_ids: number[][]; attention_mask: number[][] }>;
      generation: { case: string; max_new_tokens: number; pad_token_id: number; eos_token_id: number; beam: Beam };
    }>("models", name, "expected.json");
    const { num_beams, length_penalty, early_stopping, sequences } = generation.beam;
    const { max_new_tokens, pad_token_id: pad, eos_token_id: eos } = generation;
    await using model = await AutoModelForSeq2SeqLM.from_pretrained(join(FIXTURES, "models", name), { device });
    const { input_ids, attention_mask } = inputs[generation.case]!;
    const ends = { pad_token_id: pad, eos_token_id: eos };
    const options = { max_new_tokens, num_beams, length_penalty, early_stopping, ...ends };
    expect(await model.generate({ input_ids, attention_mask, ...options })).toEqual(sequences);
  });

  test("progress of prompts is told; who listens may end the search", async () => {
    const beams = { num_beams: 2, max_new_tokens: 3, pad_token_id };
    const events: unknown[] = [];
    const input_ids = Array.from({ length: 5 }, (_, row) =>
      Array.from({ length: 110 }, (_, n) => 4 + ((n + row) % 90)),
    );
    const told = await llama.generate(input_ids, {
      ...beams,
      progress_callback: ({ status, loaded, total }) => events.push([status, loaded, total]),
    });
    expect(events).toEqual([
      ["initiate", 0, 550],
      ["progress", 512, 550],
      ["done", 550, 550],
    ]);
    expect(told).toEqual(await llama.generate(input_ids, beams));
    for (const status of ["initiate", "progress", "done"]) {
      const problem = new Error("enough");
      const progress_callback = (event: { status: string }) => {
        if (event.status === status) throw problem;
      };
      await expect(llama.generate(input_ids, { ...beams, progress_callback })).rejects.toBe(problem);
      const abort = new AbortController();
      const aborts = (event: { status: string }) => {
        if (event.status === status) abort.abort();
      };
      const aborted = llama.generate(input_ids, { ...beams, progress_callback: aborts, signal: abort.signal });
      await expect(aborted).rejects.toBeInstanceOf(AbortError);
    }
  });

  test("what does not go with beams is refused; an abort ends the search", async () => {
    const input_ids = [[5, 9, 2]];
    const beams = { input_ids, num_beams: 2, max_new_tokens: 4 };
    const refused: [object, RegExp][] = [
      [{ ...beams, num_return_sequences: 3 }, /needs as many beams/],
      [{ ...beams, streamer: { put() {}, end() {} } }, /streamer cannot be used with beams/],
      [{ ...beams, prompt_lookup_num_tokens: 2 }, /take no guesses/],
      [{ ...beams, early_stopping: "soon" }, /early_stopping must be true, false or "never"/],
    ];
    for (const [options, message] of refused) await expect(llama.generate(options as never)).rejects.toThrow(message);
    expect(() => llama.stream(beams as never)).toThrow(/cannot be streamed/);
    // The beams may be those of generation_config.json.
    const one = { hint: expect.stringContaining("pass num_beams: 1") };
    for (const more of [{ streamer: { put() {}, end() {} } }, { prompt_lookup_num_tokens: 2 }]) {
      await expect(llama.generate({ ...beams, ...more })).rejects.toMatchObject(one);
    }
    expect(() => llama.stream(beams as never)).toThrow(expect.objectContaining(one));
    const abort = new AbortController();
    abort.abort();
    await expect(llama.generate({ ...beams, signal: abort.signal })).rejects.toBeInstanceOf(AbortError);
  });
});

describe("greedy decoding with processors of the host", () => {
  test.each(search.greedy.map((one) => [one.name, one] as const))(
    "%s",
    async (_, { generation_config, input_ids, sequences }) => {
      const options = { pad_token_id, eos_token_id, ...generation_config };
      const found = await llama.generate({ input_ids, ...options });
      expect(found).toEqual(sequences);
    },
  );
});

type Arguments = Record<string, never> & { input?: string };
/** Constructor arguments by place. */
const PLACES: Readonly<Record<string, readonly string[]>> = {
  SequenceBiasLogitsProcessor: ["sequence_bias"],
  RepetitionPenaltyLogitsProcessor: ["penalty"],
  EncoderRepetitionPenaltyLogitsProcessor: ["penalty", "encoder_input_ids"],
  NoRepeatNGramLogitsProcessor: ["ngram_size"],
  EncoderNoRepeatNGramLogitsProcessor: ["ngram_size", "encoder_input_ids"],
  NoBadWordsLogitsProcessor: ["bad_words_ids", "eos_token_id"],
  MinLengthLogitsProcessor: ["min_length", "eos_token_id"],
  MinNewTokensLengthLogitsProcessor: ["prompt_length", "min_new_tokens", "eos_token_id"],
  ForcedBOSTokenLogitsProcessor: ["bos_token_id"],
  ForcedEOSTokenLogitsProcessor: ["max_length", "eos_token_id"],
  InfNanRemoveLogitsProcessor: [],
  SuppressTokensLogitsProcessor: ["suppress_tokens"],
  SuppressTokensAtBeginLogitsProcessor: ["tokens", "begin_index"],
  TemperatureLogitsWarper: ["temperature"],
  MinPLogitsWarper: ["min_p"],
  EpsilonLogitsWarper: ["epsilon"],
  EtaLogitsWarper: ["epsilon"],
  LogitNormalization: [],
  ClassifierFreeGuidanceLogitsProcessor: ["guidance_scale"],
};

interface Callable {
  call(ids: number[][], scores: Tensor): Promise<Tensor>;
}

function make(name: string, args: Arguments): Callable {
  const all = host as unknown as Record<string, new (...args: readonly unknown[]) => Callable>;
  const Processor = all[name]!;
  const keep = { min_tokens_to_keep: args.min_tokens_to_keep };
  if (name === "PrefixConstrainedLogitsProcessor") {
    return new Processor((row: number) => (args.allowed_per_row as unknown as number[][])[row], args.num_beams);
  }
  if (name === "ExponentialDecayLengthPenalty") {
    return new Processor([args.start, args.decay_factor], args.eos_token_id, args.prompt_length);
  }
  const first = { TopKLogitsWarper: args.top_k, TopPLogitsWarper: args.top_p, TypicalLogitsWarper: args.mass }[name];
  return first === undefined ? new Processor(...PLACES[name]!.map((key) => args[key])) : new Processor(first, keep);
}

interface Processors {
  readonly input_ids: number[][];
  readonly encoder_input_ids: number[][];
  readonly cases: { name: string; processor: string; arguments: Arguments; input_length?: number }[];
  readonly chains: { name: string; generation_config: host.ProcessorConfig; order: string[] }[];
  readonly tolerance: { readonly finite: number };
}

describe("processors by themselves", () => {
  const golden = readJson<Processors>("generation", "processors.json");
  const arrays = readArrays("generation", "processors.safetensors");
  const check = async (processor: Callable, ids: number[][], scores: Golden, want: Golden): Promise<void> => {
    using given = Tensor.from(device, Float32Array.from(scores.values), scores.shape as number[]);
    using made = await processor.call(ids, given);
    const got = await made.readFloats();
    expect(got.length).toBe(want.values.length);
    const far = [...got].filter((value, i) => {
      const wanted = want.values[i]!;
      return value !== wanted && !(Math.abs(value - wanted) <= golden.tolerance.finite);
    });
    expect(far).toEqual([]);
  };

  test.each(golden.cases.map((one) => [one.name, one] as const))("%s", async (name, one) => {
    const ids = one.input_length ? golden.input_ids.map((row) => row.slice(0, one.input_length)) : golden.input_ids;
    const scores = arrays.get(one.arguments.input ?? "scores")!;
    await check(make(one.processor, one.arguments), ids, scores, arrays.get(`out.${name}`)!);
  });

  test.each(golden.chains.map((one) => [one.name, one] as const))("%s: in transformers' order", async (name, one) => {
    const { encoder_input_ids, input_ids } = golden;
    const list = host.getLogitsProcessor(one.generation_config, {
      input_ids_seq_length: input_ids[0]!.length,
      encoder_input_ids,
    });
    expect([...list].map((processor) => processor.constructor.name)).toEqual(one.order);
    await check(list, input_ids, arrays.get("scores")!, arrays.get(`out.${name}`)!);
  });

  test("values that make no sense are refused", () => {
    expect(() => new host.TopPLogitsWarper(2)).toThrow(OptionError);
    expect(() => new host.NoRepeatNGramLogitsProcessor(0)).toThrow(/ngram_size must be a whole number of at least 1/);
    expect(() => new host.LogitsProcessorList([{}] as never)).toThrow(/list of logits processors/);
  });
});

describe("stopping criteria", () => {
  const { vocab, sequences, stop_strings, batch, eos, max_length } = readJson<{
    vocab: string[];
    sequences: number[][];
    stop_strings: { stop_strings: string[]; done: boolean[] }[];
    batch: number[][];
    eos: { eos_token_id: number[]; done: boolean[] }[];
    max_length: { max_length: number; done: boolean[] }[];
  }>("generation", "stopping.json");
  const tokenizer = {
    batch_decode: (rows: readonly (readonly number[])[]) => rows.map((ids) => ids.map((id) => vocab[id]).join("")),
  };

  test.each(stop_strings.map((one) => [one.stop_strings.join(), one] as const))("stop strings %j", (_, one) => {
    const criterion = new StopStringCriteria(tokenizer, one.stop_strings);
    expect(sequences.map((row) => criterion.call([row])[0])).toEqual(one.done);
  });

  test("ends and lengths", () => {
    for (const { eos_token_id: ids, done } of eos) expect(new EosTokenCriteria(ids).call(batch)).toEqual(done);
    for (const { max_length: most, done } of max_length) expect(new MaxLengthCriteria(most).call(batch)).toEqual(done);
    expect(() => new StopStringCriteria({} as never, "stop")).toThrow(/need a tokenizer/);
  });
});
