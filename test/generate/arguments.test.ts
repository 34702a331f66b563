// Inputs and options in two arguments, as they come from Python, and what is said of calls that leave something open.

import { beforeEach, describe, expect, expectTypeOf, test, vi } from "vitest";
import type { Device } from "../../src/core/device.js";
import { OptionError } from "../../src/core/errors.js";
import type { FeatureValues } from "../../src/generate/features.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import type { GenerateOutput } from "../../src/generate/options.js";
import type { PreTrainedSeq2SeqLM } from "../../src/generate/seq2seq-model.js";
import type { PreTrainedSpeechSeq2Seq } from "../../src/generate/speech-model.js";
import type { SpeechOutput } from "../../src/generate/transcribe.js";
import { onModel } from "../support/suites.js";

let device: Device;
let model: PreTrainedModel;
onModel("reference", "llama", (opened, loaded) => {
  device = opened;
  model = loaded;
});

const ids = [5, 6, 7];
const options = { max_new_tokens: 3, do_sample: false, eos_token_id: null };

async function drain(steps: AsyncIterable<{ token_ids: readonly number[] }>): Promise<number[]> {
  const tokens: number[] = [];
  for await (const { token_ids } of steps) tokens.push(token_ids[0]!);
  return tokens;
}

describe("generate(inputs, options)", () => {
  test("says what generate({ ...inputs, ...options }) says, for ids in any form", async () => {
    const wanted = await model.generate({ input_ids: [ids], ...options });
    const attention_mask = [[1, 1, 1]];
    const encoding = Object.defineProperty({ input_ids: ids, attention_mask: [1, 1, 1] }, "to", { value: () => ids });
    for (const inputs of [
      ids,
      [ids],
      Int32Array.from(ids),
      { data: Int32Array.from(ids), shape: [1, 3] },
      { input_ids: [ids], attention_mask },
      encoding,
    ]) {
      expect(await model.generate(inputs, options)).toEqual(wanted);
      expect(await drain(model.stream(inputs, options))).toEqual(wanted[0]!.slice(3));
    }
    const { max_new_tokens, ...rest } = options;
    expect(await model.generate({ input_ids: [ids], max_new_tokens }, rest)).toEqual(wanted);
    expect(model.cache_footprint([ids], options)).toEqual(model.cache_footprint({ input_ids: [ids], ...options }));
    // A mask may come second, and what is undefined is given by the other one.
    expect(await model.generate([ids], { ...options, attention_mask })).toEqual(wanted);
    expect(await model.generate({ input_ids: [ids], max_new_tokens: undefined }, options)).toEqual(wanted);
  });

  test("forward too", async () => {
    const { logits } = model.forward([ids], { logits_to_keep: 1 });
    expect(logits.shape).toEqual([1, 1, model.module.geometry.vocab]);
    logits.dispose();
  });

  test.each<[string, readonly unknown[], RegExp]>([
    [
      "an option in both",
      [{ input_ids: ids, max_new_tokens: 2 }, { max_new_tokens: 3 }],
      /`max_new_tokens` is given twice/,
    ],
    ["ids in both", [ids, { input_ids: ids }], /`input_ids` is given twice/],
    ["an unknown option in the second", [ids, { max_new_token: 3 }], /unknown option `max_new_token`; did you mean/],
    ["a number for the options", [ids, 20], /options must be an object, got number/],
    ["null for the options", [ids, null], /options must be an object, got null/],
    ["a list for the options", [ids, [20]], /options must be an object, got a list/],
    ["a third argument", [ids, {}, {}], /takes inputs and options, got 3 arguments/],
    ["a text", ["Once", options], /takes token ids, got the text "Once"\n {2}hint: a tokenizer makes them/],
    ["no input", [{}, options], /input_ids are missing/],
    ["nothing", [], /input_ids are missing/],
  ])("%s is refused", async (_, args, words) => {
    const live = device.memory.live;
    for (const name of ["generate", "stream", "forward", "cache_footprint"] as const) {
      const call = (model[name] as (...args: readonly unknown[]) => unknown).bind(model);
      if (name === "forward" && args.includes(options)) continue; // which has none of these options
      const said = name === "forward" ? new RegExp(words.source.replaceAll("max_new_token", "\\w+")) : words;
      const refusal = await Promise.resolve()
        .then(() => call(...args))
        .catch((error: unknown) => error);
      expect(refusal, name).toBeInstanceOf(OptionError);
      if (name !== "forward") expect((refusal as OptionError).message).toMatch(said);
    }
    expect(device.memory.live).toBe(live);
  });

  test("what is changed after the call changes nothing", async () => {
    const wanted = await model.generate({ input_ids: [ids], ...options });
    const given: Record<string, unknown> = { input_ids: [[...ids]], ...options };
    const running = model.generate(given as never);
    given.max_new_tokens = 1;
    (given.input_ids as number[][])[0]![0] = 0;
    expect(await running).toEqual(wanted);
  });

  test("types", () => {
    expectTypeOf(model.generate(ids, { max_new_tokens: 1 })).resolves.toEqualTypeOf<number[][]>();
    type Dict = { readonly return_dict_in_generate: true };
    const whole: Dict = { return_dict_in_generate: true };
    expectTypeOf(model.generate({ input_ids: ids, ...options, ...whole })).resolves.toEqualTypeOf<GenerateOutput>();
    expectTypeOf(model.generate(ids, { ...options, ...whole })).resolves.toEqualTypeOf<GenerateOutput>();
    expectTypeOf(model.generate({ input_ids: ids, ...whole }, options)).resolves.toEqualTypeOf<GenerateOutput>();
    // Never called: it says what calls of encoder-decoders give.
    const others = (text: PreTrainedSeq2SeqLM) =>
      [
        [text.generate({ input_ids: ids, ...whole }), text.generate({ input_ids: ids })],
        [text.generate(ids, whole), text.generate(ids, options)],
        [text.generate({ input_ids: ids, ...whole }, options), text.generate({ input_ids: ids }, options)],
      ] as const;
    const spoken = (speech: PreTrainedSpeechSeq2Seq, input_features: FeatureValues) =>
      [
        [speech.generate({ input_features, ...whole }), speech.generate({ input_features })],
        [speech.generate(input_features, whole), speech.generate(input_features, { language: "de" })],
        [speech.generate({ input_features, ...whole }, options), speech.generate({ input_features }, options)],
      ] as const;
    expectTypeOf<ReturnType<typeof others>[number]>().toEqualTypeOf<
      readonly [Promise<GenerateOutput>, Promise<number[][]>]
    >();
    expectTypeOf<ReturnType<typeof spoken>[number]>().toEqualTypeOf<
      readonly [Promise<SpeechOutput>, Promise<number[][]>]
    >();
    // @ts-expect-error no such option
    void model.generate(ids, { max_new_token: 1 }).catch(() => {});
    // @ts-expect-error no ids
    void model.generate({ max_new_tokens: 1 }).catch(() => {});
  });
});

describe("what a caller leaves open", () => {
  const warnings: string[] = [];
  beforeEach(() => {
    warnings.length = 0;
    const spy = vi.spyOn(console, "warn").mockImplementation((line: string) => void warnings.push(line));
    return () => spy.mockRestore();
  });

  test("texts that end at the default length are told once for each call", async () => {
    vi.resetModules(); // what was told is told again
    const { warnOfDefaultLength: warn } = await import("../../src/generate/config.js");
    for (let i = 0; i < 2; i++) for (const call of ["generate", "stream"]) warn(call, {}, {});
    expect(warnings).toEqual([
      "octavo: generate: without max_new_tokens a text ends at 20 tokens, its prompt included, as in Python",
      "octavo: stream: without max_new_tokens a text ends at 20 tokens, its prompt included, as in Python",
    ]);
    vi.resetModules();
    const again = await import("../../src/generate/config.js");
    warnings.length = 0;
    again.warnOfDefaultLength("generate", { max_new_tokens: 5 }, {});
    again.warnOfDefaultLength("generate", { max_length: 5 }, {});
    again.warnOfDefaultLength("generate", {}, { max_new_tokens: 5 });
    again.warnOfDefaultLength("generate", {}, { max_length: 5, max_new_tokens: null });
    expect(warnings).toEqual([]);
  });

  test("a temperature of 0 is greedy in a call as well", async () => {
    const greedy = await model.generate([ids], options);
    expect(await model.generate([ids], { ...options, do_sample: true, temperature: 0, seed: 1 })).toEqual(greedy);
    expect(await drain(model.stream([ids], { ...options, do_sample: undefined, temperature: 0 }))).toEqual(
      greedy[0]!.slice(3),
    );
    expect(warnings).toEqual([]);
  });
});
