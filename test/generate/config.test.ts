// Options of generate(): what the caller, generation_config.json and config.json say, and who is told what is wrong.

import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { ConfigError, OctavoError, OptionError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../../src/generate/auto.js";
import { fileWarnings, type GenerationOptions, generationConfig, seedWord } from "../../src/generate/config.js";
import { TextStreamer } from "../../src/generate/streamers.js";
import { WITHOUT_EFFECT } from "../../src/generate/without-effect.js";
import { openDevice, requestDevice } from "../../src/load/device.js";
import { BitsAndBytesConfig } from "../../src/quant/config.js";
import { copyOf, editJson } from "../support/checkpoints.js";
import { expectNoLeaks } from "../support/devices.js";
import { STORYTELLER } from "../support/models.js";

const VOCAB = 100;

const config = (options: object, file: object = {}, model: object = {}, prompt = 3) =>
  generationConfig(options as GenerationOptions, file as never, model as never, prompt, VOCAB);

function thrown(body: () => unknown): OctavoError {
  try {
    body();
  } catch (error) {
    expect(error).toBeInstanceOf(OctavoError);
    return error as OctavoError;
  }
  throw new Error("nothing was thrown");
}

describe("values", () => {
  test("the caller wins over generation_config.json, and that over config.json", () => {
    const file = { temperature: 0.5, top_k: 7, do_sample: true, eos_token_id: [4, 5], pad_token_id: 6 };
    const model = { eos_token_id: 8, pad_token_id: 9 };
    expect(config({}, file, model)).toMatchObject({
      temperature: 0.5,
      top_k: 7,
      eos_token_ids: [4, 5],
      pad_token_id: 6,
    });
    expect(config({ top_k: 0, eos_token_id: 1 }, file, model)).toMatchObject({ top_k: 0, eos_token_ids: [1] });
    expect(config({ eos_token_id: null }, file, model).eos_token_ids).toEqual([]);
    expect(config({}, {}, model)).toMatchObject({ eos_token_ids: [8], pad_token_id: 9 });
    expect(config({}, {}, { eos_token_id: 8 }).pad_token_id).toBe(8);
  });

  test("null in a file is as good as nothing", () => {
    const file = { max_new_tokens: null, max_length: 10, temperature: null, eos_token_id: null, top_p: null };
    expect(config({}, file, { eos_token_id: 8 })).toMatchObject({
      max_new_tokens: 7,
      temperature: 1,
      eos_token_ids: [8],
    });
  });

  test("lengths", () => {
    expect(config({}).max_new_tokens).toBe(17);
    expect(config({}, {}, {}, 30).max_new_tokens).toBe(1);
    expect(config({ max_length: 5 }).max_new_tokens).toBe(2);
    expect(config({ max_length: 5 }, { max_new_tokens: 50 }).max_new_tokens).toBe(2);
    expect(config({}, { max_new_tokens: 50 }).max_new_tokens).toBe(50);
    expect(thrown(() => config({ max_length: 3 })).message).toContain("leaves no room after a prompt of 3 tokens");
  });
});

describe("what is wrong is told to whom it belongs", () => {
  const WRONG: [keyof GenerationOptions, unknown, RegExp][] = [
    ["max_new_tokens", 0, /max_new_tokens must be a whole number above 0, got 0/],
    ["max_length", -1, /max_length must be a whole number of at least 0, got -1/],
    ["do_sample", "yes", /do_sample must be true or false, got "yes"/],
    ["temperature", -1, /temperature must be 0 \(the likeliest token\) or a number from 1e-30 to 3e38, got -1/],
    ["temperature", 1e-31, /temperature must be 0 .*, got 1e-31/],
    ["top_k", 1.5, /top_k must be a whole number of at least 0, got 1.5/],
    ["top_p", 2, /top_p must be above 0 and at most 1, got 2/],
    ["min_p", "0.1", /min_p must be between 0 and 1, got "0.1"/],
    ["repetition_penalty", -1, /repetition_penalty must be a number from 1e-30 to 1e30, got -1/],
    ["eos_token_id", VOCAB, /eos_token_id must be token ids below 100, got 100/],
    ["eos_token_id", [1, -1], /eos_token_id must be token ids below 100, got \[1,-1\]/],
    ["pad_token_id", VOCAB, /pad_token_id must be a token id below 100, got 100/],
    ["prompt_lookup_num_tokens", "many", /prompt_lookup_num_tokens must be a whole number of at least 0, got "many"/],
  ];

  test.each(WRONG)("%s: %j", (key, value, message) => {
    const mine = thrown(() => config({ [key]: value }));
    expect(mine).toBeInstanceOf(OptionError);
    expect(mine.message).toMatch(message);
    expect(mine.details.option).toBe(key);
    // Ids of the file that no token has are ignored, with a warning.
    if (key === "eos_token_id" || key === "pad_token_id") return;
    // Sampling's own fields count only where tokens are sampled.
    const theirs = thrown(() => config({}, { do_sample: true, [key]: value }));
    expect(theirs).toBeInstanceOf(ConfigError);
    expect(theirs.message).toMatch(message);
    expect(theirs.message).toMatch(/^generation_config\.json: /);
    expect(theirs.hint).toContain(`pass ${key}`);
    expect(theirs.details).toEqual({ file: "generation_config.json", key });
  });

  test("a temperature of 0 takes the likeliest token, whoever says so, and whatever do_sample says", () => {
    for (const zero of [0, -0]) {
      const greedy = { do_sample: false, temperature: 1 };
      expect(config({ temperature: zero })).toMatchObject(greedy);
      expect(config({ temperature: zero, do_sample: true, top_k: 5 })).toMatchObject(greedy);
      expect(config({ do_sample: true }, { temperature: zero })).toMatchObject(greedy);
      expect(config({}, { do_sample: true, temperature: zero })).toMatchObject(greedy);
      expect(config({ temperature: zero }, { do_sample: true, temperature: 2 })).toMatchObject(greedy);
      // What only counts where tokens are sampled does not then.
      expect(config({}, { do_sample: true, temperature: zero, typical_p: 0.5 })).toMatchObject(greedy);
    }
    expect(config({ do_sample: true, temperature: 1e-30 })).toMatchObject({ do_sample: true, temperature: 1e-30 });
  });

  test("null from the caller is named as null", () => {
    expect(thrown(() => config({ max_new_tokens: null })).message).toBe(
      "max_new_tokens must be a whole number above 0, got null",
    );
    expect(thrown(() => config({ top_k: null })).message).toMatch(/got null/);
  });

  test("what nobody uses is not looked at, and what the caller says makes up for it", () => {
    expect(config({}, { do_sample: false, temperature: 0, top_p: 5 })).toMatchObject({ temperature: 1, top_p: 1 });
    expect(config({ temperature: 2 }, { do_sample: true, temperature: 0 }).temperature).toBe(2);
  });

  test("ids of config.json that no token has end no text and pad nothing", () => {
    const model = { eos_token_id: [7, 5000], pad_token_id: -1 };
    expect(config({}, {}, model)).toMatchObject({ eos_token_ids: [7], pad_token_id: 7 });
    expect(fileWarnings({}, model as never, VOCAB)).toEqual([
      "config.json: eos_token_id 5000 is not a token id below 100; ignored",
      "config.json: pad_token_id -1 is not a token id below 100; ignored",
    ]);
  });
});

describe("ids of the files that no token has", () => {
  test.each<[object, readonly number[], number]>([
    [{ eos_token_id: [2, 128_001] }, [2], 2],
    [{ eos_token_id: VOCAB }, [], 0],
    [{ eos_token_id: -1 }, [], 0],
    [{ eos_token_id: 2, pad_token_id: -1 }, [2], 2],
    [{ eos_token_id: 2, pad_token_id: VOCAB }, [2], 2],
  ])("%j", (file, eos_token_ids, pad_token_id) => {
    expect(config({}, file)).toMatchObject({ eos_token_ids, pad_token_id });
    const warnings = fileWarnings(file as never, {}, VOCAB);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toMatch(
      /^generation_config\.json: (?:eos|pad)_token_id .* is not a token id below 100; ignored$/,
    );
  });

  test("objects in config.json are shown, not turned into text", () => {
    const model = Object.assign(Object.create(null), { eos_token_id: Object.assign(Object.create(null), { a: 1 }) });
    const [warning] = fileWarnings({}, model, VOCAB);
    expect(warning).toMatch(/^config\.json: eos_token_id \{.*a.*\} is not a token id below 100; ignored$/);
  });

  test("what is no id at all is refused", () => {
    for (const value of ["2", { id: 2 }, 1.5, true]) {
      for (const key of ["eos_token_id", "pad_token_id"]) {
        expect(
          thrown(() => config({}, { [key]: value })),
          `${key} ${value}`,
        ).toBeInstanceOf(ConfigError);
      }
    }
  });
});

describe("fields of a file", () => {
  test("are no reason to refuse where they change nothing", () => {
    config({}, { typical_p: 0.5, length_penalty: 2, early_stopping: true });
    expect(
      fileWarnings(
        { num_beams: 1, typical_p: 0.5, ...Object.fromEntries([...WITHOUT_EFFECT].map((k) => [k, 1])) },
        {},
        VOCAB,
      ),
    ).toEqual([]);
  });

  test("ways to search in a file give way to the caller's", () => {
    const file = { penalty_alpha: 0.6, top_k: 4, num_beams: 4, num_beam_groups: 2, diversity_penalty: 0.5 };
    const { beams } = config({ penalty_alpha: 0 }, file);
    expect(beams).toMatchObject({ num_beams: 4, num_beam_groups: 2, diversity_penalty: 0.5 });
    expect(config({ num_beams: 1 }, file)).toMatchObject({ mode: { contrastive: { top_k: 4, penalty_alpha: 0.6 } } });
    const sampled = config({ num_beams: 1, do_sample: true }, file);
    expect(sampled).toMatchObject({ do_sample: true, mode: { contrastive: undefined }, beams: { num_beam_groups: 1 } });
    expect(thrown(() => config({ num_beams: 3 }, file))).toBeInstanceOf(ConfigError);
    expect(thrown(() => config({ num_beams: 3, num_beam_groups: 2 }, file))).toBeInstanceOf(OptionError);
  });

  test("of a file never ask for thousands of rows; the caller may", () => {
    for (const key of ["num_beams", "num_return_sequences"]) {
      const file = { do_sample: key !== "num_beams", [key]: 257 };
      const error = thrown(() => config({}, file));
      expect(error).toBeInstanceOf(ConfigError);
      expect(String(error)).toContain(`${key} is at most 256 in a file, not 257`);
      expect(config({}, { ...file, [key]: 256 }).beams).toMatchObject({ [key]: 256 });
      expect(config({ [key]: 257 }, file).beams).toMatchObject({ [key]: 257 });
    }
  });

  test("forced ids that no token has: refused of the caller, ignored in a file with a warning", () => {
    for (const key of ["forced_bos_token_id", "forced_eos_token_id"]) {
      expect(thrown(() => config({ [key]: VOCAB }))).toBeInstanceOf(OptionError);
      expect(config({}, { [key]: VOCAB }).host).toBeUndefined();
      expect(fileWarnings({ [key]: VOCAB }, {}, VOCAB)).toEqual([
        `generation_config.json: ${key} ${VOCAB} is not a token id below ${VOCAB}; ignored`,
      ]);
      expect(config({ [key]: 0 }).host).toEqual({ [key]: 0 });
    }
    expect(config({}, { forced_eos_token_id: [VOCAB, 4] }).host).toEqual({ forced_eos_token_id: [4] });
    const words = thrown(() => config({}, { bad_words_ids: [[1], [2, VOCAB]] }));
    expect(words).toBeInstanceOf(ConfigError);
    expect(String(words)).toContain(`bad_words_ids must be token ids below ${VOCAB}`);
  });

  test("that nobody knows are a warning", () => {
    const file = { top_kk: 5, chat_format: "x", nothing: null };
    expect(fileWarnings(file, {}, VOCAB)).toEqual([
      "generation_config.json: unknown fields, ignored: top_kk, chat_format",
    ]);
  });
});

describe("models", () => {
  const device = openDevice("cpu", { threads: 1 });
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
  });
  const folderWith = (generation: object): string => {
    const folder = copyOf("models", "llama");
    writeFileSync(join(folder, "generation_config.json"), JSON.stringify(generation));
    return folder;
  };
  const inputs = { input_ids: [1, 5, 9], max_new_tokens: 2 };

  test("a bad file is a warning when it loads, and an error of the file when it is used", async () => {
    const model = await AutoModelForCausalLM.from_pretrained(folderWith({ no_repeat_ngram_size: -1, weird: 1 }), {
      device,
    });
    expect(model.warnings).toEqual([
      "generation_config.json: no_repeat_ngram_size must be a whole number of at least 0, got -1",
      "generation_config.json: unknown fields, ignored: weird",
    ]);
    await expect(model.generate(inputs)).rejects.toThrow(ConfigError);
    expect(() => model.stream(inputs)).toThrow(ConfigError);
    expect(await model.generate({ ...inputs, no_repeat_ngram_size: 0 })).toHaveLength(1);
    await expect(model.generate({ ...inputs, no_repeat_ngram_size: -1 })).rejects.toThrow(OptionError);
    model.dispose();
  });

  test("without generation_config.json, what config.json says of generation counts, as in Python", async () => {
    const folder = copyOf("models", "llama");
    editJson(join(folder, "config.json"), { bad_words_ids: [[124]], max_length: 9, no_repeat_ngram_size: null });
    const load = () => AutoModelForCausalLM.from_pretrained(folder, { device });
    const withFile = await load();
    expect(withFile.generation_config).toMatchObject({ bos_token_id: 1 });
    expect(await withFile.generate({ input_ids: [5, 9, 3], max_length: 9 })).toEqual([
      [5, 9, 3, 124, 63, 109, 109, 109, 109],
    ]);
    withFile.dispose();
    rmSync(join(folder, "generation_config.json"));
    const model = await load();
    expect(model.generation_config).toEqual({
      bad_words_ids: [[124]],
      max_length: 9,
      use_cache: true,
      _from_model_config: true,
    });
    expect(model.warnings).toEqual([]);
    // The tokens of transformers 5.18.
    expect(await model.generate({ input_ids: [5, 9, 3] })).toEqual([[5, 9, 3, 130, 135, 102, 136, 100, 2]]);
    model.dispose();
    editJson(join(folder, "config.json"), { top_k: -1, do_sample: true });
    const odd = await load();
    expect(odd.warnings).toEqual(["config.json: top_k must be a whole number of at least 0, got -1"]);
    odd.dispose();
  });

  test("ids outside the vocabulary are refused before anything runs", async () => {
    const model = await AutoModelForCausalLM.from_pretrained(copyOf("models", "llama"), { device });
    const { vocab } = model.module.geometry;
    const before = device.recorded;
    for (const wrong of [
      { ...inputs, input_ids: [1, vocab] },
      { ...inputs, input_ids: [[-1]] },
      { ...inputs, eos_token_id: vocab },
      { ...inputs, eos_token_id: [2, -5] },
      { ...inputs, pad_token_id: vocab },
    ]) {
      await expect(model.generate(wrong)).rejects.toThrow(OptionError);
      if (!("pad_token_id" in wrong || "eos_token_id" in wrong))
        expect(() => model.forward({ input_ids: wrong.input_ids })).toThrow(OptionError);
    }
    expect(device.recorded).toBe(before);
    model.dispose();
  });

  test("modules to skip that are not there are a warning, with what was meant", async () => {
    const load = (skip: string[]) =>
      AutoModelForCausalLM.from_pretrained(copyOf("models", "llama"), {
        device,
        quantization_config: { load_in_8bit: true, llm_int8_skip_modules: skip },
      });
    const odd = await load(["lm_heads", "layers.0"]);
    expect(odd.warnings).toEqual([
      "llm_int8_skip_modules matches no module of this model: lm_heads; did you mean lm_head?",
    ]);
    odd.dispose();
    const fine = await load(["lm_head", "mlp", "layers.1"]);
    expect(fine.warnings).toEqual([]);
    fine.dispose();
  });

  test("float16 products of 4 bits are exact, not bf16", async () => {
    const logits = async (bnb_4bit_compute_dtype: "float32" | "float16" | "bfloat16"): Promise<Float32Array> => {
      const quantization_config = new BitsAndBytesConfig({ load_in_4bit: true, bnb_4bit_compute_dtype });
      const model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { device, quantization_config });
      const ids = Array.from({ length: 64 }, (_, i) => i * 3);
      const { logits } = model.forward({ input_ids: ids });
      const values = await logits.readFloats();
      logits.dispose();
      model.dispose();
      return values;
    };
    expect(await logits("float16")).toEqual(await logits("float32"));
  });

  test("an unknown dtype in config.json says what to pass", async () => {
    const folder = copyOf("models", "llama");
    editJson(join(folder, "config.json"), { torch_dtype: "float12", dtype: "float12" });
    const error = await AutoModelForCausalLM.from_pretrained(folder, { device }).then(
      () => undefined,
      (e: unknown) => e as ConfigError,
    );
    expect(error).toBeInstanceOf(ConfigError);
    expect(error!.hint).toMatch(/pass dtype/);
  });

  test("threads are those of cpu and wasm, and of a device of one's own", async () => {
    expect(() => openDevice("reference", { threads: 2 })).toThrow(OptionError);
    for (const name of ["reference", "wasm"]) {
      expect(() => openDevice(name, { isa: "avx2" })).toThrow(/isa cannot be chosen for device/);
    }
    await expect(requestDevice("webgpu", { threads: 2 })).rejects.toThrow(
      /threads cannot be chosen for device "webgpu"/,
    );
    const load = (options: object) => AutoModelForCausalLM.from_pretrained(copyOf("models", "llama"), options);
    await expect(load({ device: "reference", threads: 2 })).rejects.toThrow(OptionError);
    await expect(load({ device, threads: 2 })).rejects.toThrow(/already open/);
  });
});

test("options of a TextStreamer are checked", async () => {
  const tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
  const make = (options: unknown) => () => new TextStreamer(tokenizer, options as object);
  expect(make({ skip_promt: true })).toThrow(/did you mean `skip_prompt`/);
  expect(make({ skip_prompt: 1 })).toThrow("skip_prompt must be true or false, got 1");
  expect(make({ skip_special_tokens: null })).toThrow("skip_special_tokens must be true or false, got null");
  expect(make({ write: "stdout" })).toThrow(`write must be a function, got "stdout"`);
  expect(make(null)).toThrow(OptionError);
  const pieces: string[] = [];
  const streamer = new TextStreamer(tokenizer, { skip_prompt: true, write: (text) => pieces.push(text) });
  streamer.put([5, 6]);
  streamer.put(tokenizer("Once upon").input_ids);
  streamer.end();
  expect(pieces.join("")).toContain("Once");
});

test("seeds beyond 32 bits are not cut to them", () => {
  const seeds = [
    1,
    2 ** 32 + 1,
    -(2 ** 32) + 1,
    0,
    2 ** 32,
    -1,
    2 ** 32 - 1,
    2 ** 53 - 1,
    -(2 ** 53) + 1,
    1.7e12,
    1.7e12 + 2 ** 32,
  ];
  const words = seeds.map(seedWord);
  expect(new Set(words).size).toBe(seeds.length);
  for (const word of words) expect(Int32Array.of(word)[0]).toBe(word);
  expect(seedWord(7)).toBe(7);
});
